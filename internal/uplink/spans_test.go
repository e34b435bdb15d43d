package uplink

import (
	"testing"

	"pgregory.net/rapid"
)

// The set against a map of numbers, and its bound.
func TestSpansModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s spans
		model := map[uint64]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			from := rapid.Uint64Range(0, 80).Draw(t, "from")
			end := from + rapid.Uint64Range(0, 12).Draw(t, "length")
			adding := rapid.Bool().Draw(t, "adding")
			if adding {
				s = s.add(from, end)
			} else {
				s = s.remove(from, end)
			}
			for i := from; i < end; i++ {
				if adding {
					model[i] = true
				} else {
					delete(model, i)
				}
			}
			check(t, s, model)
		}
		b := append(spans(nil), s...).bounded(3)
		if len(b) > 3 {
			t.Fatalf("%d ranges after bounded(3)", len(b))
		}
		for i := range model {
			if len(b.remove(i, i+1)) == len(b) && b.count() == b.remove(i, i+1).count() {
				t.Fatalf("bounding lost frame %d", i)
			}
		}
	})
}

func check(t *rapid.T, s spans, model map[uint64]bool) {
	if s.count() != uint64(len(model)) {
		t.Fatalf("%v counts %d, want %d", s, s.count(), len(model))
	}
	for i, r := range s {
		if r.from >= r.end || i > 0 && s[i-1].end >= r.from {
			t.Fatalf("%v is not sorted, disjoint and apart", s)
		}
		for n := r.from; n < r.end; n++ {
			if !model[n] {
				t.Fatalf("%v holds %d", s, n)
			}
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add((&state{epoch: 7, next: 30, unacked: spans{{3, 5}, {9, 30}}}).encode())
	f.Add([]byte("linli-uplink 1\nepoch 0\nnext 1\ncrc 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := decodeState(s.encode())
		if err != nil || again.epoch != s.epoch || again.next != s.next || again.unacked.count() != s.unacked.count() {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}
