package inplace

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzHalves: no bytes are too strange, and what a file holds whole is what is written next to it, over the older half.
func FuzzHalves(f *testing.F) {
	const most = 100
	h := NewHalves(filepath.Join(f.TempDir(), "file"), "HALF", most)
	for _, text := range []string{"", "one", "another"} {
		if err := h.Write([]byte(text)); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(h.path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	h.Close()
	f.Add([]byte("HALF"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		h := NewHalves(path, "HALF", most)
		defer h.Close()
		before, whole, err := h.Read()
		if err != nil {
			t.Fatal(err)
		}
		if whole && !bytes.Contains(b, before) || !whole && !bytes.Equal(b, before) {
			t.Errorf("%q is read of %q", before, b)
		}
		for _, text := range []string{"first", "second"} {
			if err := h.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if got, whole, err := NewHalves(path, "HALF", most).Read(); err != nil || !whole || string(got) != text {
				t.Errorf("%q, %v, %v, want %q", got, whole, err, text)
			}
		}
		// The half that was written last is torn: the one before counts.
		now, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		now[bytes.Index(now, []byte("second"))] ^= 1
		if got, number := newerHalf(now, "HALF"); number == 0 || string(got) != "first" {
			t.Errorf("%q, number %d where the last one is torn", got, number)
		}
	})
}
