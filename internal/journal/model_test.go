package journal_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"linli/internal/journal"
)

// TestModel runs random operations against a journal and, beside it, the numbers of the samples that must be in it.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := newMemFS()
		h := newHistory(t)
		cfg := smallSegments
		boot := "boot1"
		open := func() *journal.Journal {
			j, err := journal.OpenFS(cfg, textInventory(), newClock(boot), fs)
			if err != nil {
				rt.Fatal(err)
			}
			return j
		}
		j := open()
		var must []int // committed: has to be there
		var may []int  // appended since: is there, or gone with a crash
		// All of must, and of may some, in order: of a commit of several frames a power cut may leave any.
		check := func() {
			numbers, _ := h.read(j)
			if len(numbers) < len(must) || !slices.Equal(numbers[:len(must)], must) {
				rt.Fatalf("%v, want %v first", numbers, must)
			}
			k := 0
			for _, n := range numbers[len(must):] {
				for k < len(may) && may[k] != n {
					k++
				}
				if k == len(may) {
					rt.Fatalf("%v after %v, want some of %v", numbers[len(must):], must, may)
				}
			}
			// What has been read stays. What has not may come with a later commit.
			may = slices.DeleteFunc(slices.Clone(may), func(n int) bool { return slices.Contains(numbers, n) })
			must = numbers
		}
		appendSome := func(rt *rapid.T) {
			n := rapid.IntRange(1, 120).Draw(rt, "n")
			for i := range n {
				may = append(may, h.appended+i)
			}
			h.append(j, n)
		}
		crash := func() {
			check()
			may = nil
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append":  appendSome,
			"append2": appendSome,
			"commit": func(rt *rapid.T) {
				if err := j.Commit(); err != nil {
					rt.Fatal(err)
				}
				must, may = append(must, may...), nil
			},
			"failing commit": func(rt *rapid.T) {
				// The fault may also hit what is done after the samples are safe.
				fs.failAt = fs.ops + rapid.IntRange(0, 6).Draw(rt, "op")
				if j.Commit() == nil {
					must, may = append(must, may...), nil
				}
				fs.failAt = -1
			},
			"release": func(rt *rapid.T) {
				first, next := j.Bounds()
				j.Release(rapid.Uint64Range(first, next).Draw(rt, "seq"))
			},
			"stop": func(rt *rapid.T) {
				if err := j.Commit(); err != nil {
					rt.Fatal(err)
				}
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				must, may = append(must, may...), nil
				j = open()
			},
			"kill": func(rt *rapid.T) {
				j = open()
				crash()
			},
			"power cut": func(rt *rapid.T) {
				// A power cut in the middle of a commit.
				fs.crashAt = fs.ops + rapid.IntRange(0, 8).Draw(rt, "op")
				_ = j.Commit()
				fs = fs.powerCut(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1)))
				boot += "x"
				j = open()
				crash()
			},
			"": func(*rapid.T) { check() },
		})
	})
}
