package inplace

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"linli/internal/testservers"
)

// TestAsWritten: what is read is what was written, whatever the order, the places and the lengths, on a disk with sectors of
// 512 bytes and past the cache, on one with larger sectors, and in memory, where all is ordinary.
func TestAsWritten(t *testing.T) {
	for _, c := range []struct {
		name   string
		dir    func() string
		direct bool // while it is written
	}{
		{"512", func() string { return testservers.StartDisk(t, 32).Dir }, true},
		{"4096", func() string { return testservers.StartDisk(t, 32, "--sector-size", "4096").Dir }, false},
		{"memory", func() string { return memory(t) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.dir()
			for seed := range uint64(20) {
				asWritten(t, filepath.Join(dir, "file"), rand.New(rand.NewPCG(seed, 1)), c.direct)
			}
		})
	}
}

func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "inplace-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func asWritten(t *testing.T, path string, r *rand.Rand, direct bool) {
	t.Helper()
	size := int64(200<<10 + r.IntN(100<<10))
	f, err := Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	if err := f.Allocate(size); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	write := func(at, n int) {
		t.Helper()
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(1 + r.IntN(255))
		}
		if n, err := f.WriteAt(p, int64(at)); n != len(p) || err != nil {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), at, n, err)
		}
		if need := at + n; need > len(want) {
			want = append(want, make([]byte, need-len(want))...)
		}
		copy(want[at:], p)
	}
	same := func(when string) {
		t.Helper()
		if r.IntN(3) == 0 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
		if err != nil || !bytes.Equal(got, want) {
			at := 0
			for at < min(len(got), len(want)) && got[at] == want[at] {
				at++
			}
			t.Fatalf("%s: %d bytes, want %d; they differ at %d (%v)", when, len(got), len(want), at, err)
		}
	}
	pos := 0
	for range 60 {
		switch n := 1 + r.IntN(4000); {
		case r.IntN(10) == 0:
			write(r.IntN(int(size)-n), n) // anywhere
		case r.IntN(30) == 0 && pos+100_000 < int(size):
			write(pos, 100_000)
			pos += 100_000
		case pos+n < int(size):
			write(pos, n)
			pos += n
		}
		same("written")
	}
	if got := f.direct != nil; got != direct {
		t.Errorf("past the cache: %v, want %v", got, direct)
	}
	write(int(size)-10, 10)
	same("to the end")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	if f, err = Open(path); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		n := 1 + r.IntN(1500)
		write(r.IntN(int(size)-n), n)
		same("opened again")
	}
	cut := r.IntN(int(size))
	if err := f.Truncate(int64(cut)); err != nil {
		t.Fatal(err)
	}
	want = want[:cut]
	same("cut off")
	write(cut, 700)
	same("written behind")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFewBytes: small pieces at the end of a growing log, each synced, cost little more than themselves.
func TestFewBytes(t *testing.T) {
	disk := testservers.StartDisk(t, 32)
	write := func(f interface {
		io.WriterAt
		Sync() error
	}) float64 {
		const pieces, each = 200, 1000
		disk.Sync()
		before := disk.Written()
		for i := range int64(pieces) {
			if _, err := f.WriteAt(bytes.Repeat([]byte{1}, each), 128+i*each); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		disk.Sync()
		return float64(disk.Written()-before) / (pieces * each)
	}
	f, err := Create(filepath.Join(disk.Dir, "log"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Allocate(1 << 20); err != nil {
		t.Fatal(err)
	}
	ours := write(f)
	other, err := Create(filepath.Join(disk.Dir, "ordinary"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Allocate(1 << 20); err != nil {
		t.Fatal(err)
	}
	other.ordinary()
	ordinary := write(other)
	t.Logf("%.1f bytes at the device for each byte, an ordinary file %.1f", ours, ordinary)
	if ours > 4 || ours > ordinary/2 {
		t.Errorf("%.1f bytes at the device for each byte, want at most 4, and half of an ordinary file's %.1f", ours, ordinary)
	}
}
