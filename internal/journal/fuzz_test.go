package journal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// FuzzSegment opens a directory whose only segment holds arbitrary bytes, with its checksums made right so that the
// decoders behind them are reached, and reads everything in it. Nothing may panic or ask for absurd memory.
func FuzzSegment(f *testing.F) {
	inv := newInventory(3)
	for _, sealed := range []bool{false, true} {
		dir := f.TempDir()
		j, err := journal.OpenFS(journal.Config{Dir: dir, SegmentBytes: 16 << 10, MaxBytes: 1 << 20}, inv, newClock("boot1"), noSync{})
		if err != nil {
			f.Fatal(err)
		}
		for i := range 3 {
			j.Append(mixed(inv, 20, telemetry.Mono(i)*1e9))
			if err := j.Commit(); err != nil {
				f.Fatal(err)
			}
		}
		if sealed {
			j.Close()
		} else {
			j.Kill()
		}
		names, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
		b, err := os.ReadFile(names[0])
		if err != nil {
			f.Fatal(err)
		}
		b = bytes.TrimRight(b, "\x00") // the fuzzer is slow with long inputs
		f.Add(b)
		f.Add(b[:len(b)/2])
		// The same with payloads that are not packed, so that a changed byte reaches the columns.
		f.Add(journal.Unpacked(b, names[0]))
	}
	f.Add([]byte("LINLIJNL"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		const epoch, first = 0x1122334455667788, 5
		fs := newMemFS()
		node := &inode{data: journal.FixChecksums(b, epoch, first), dirty: map[int]bool{}}
		fs.cur[filepath.Join("j", fmt.Sprintf("%016x-%020d.seg", uint64(epoch), first))] = node
		if _, err := journal.VerifyFS("j", fs); err != nil {
			t.Fatal(err)
		}
		j, err := journal.OpenFS(smallSegments, inv, newClock("boot1"), fs)
		if err != nil {
			return // a newer version
		}
		read := func() {
			lo, hi := j.Bounds()
			if hi < lo || hi-lo > uint64(len(b))+10_000 {
				t.Fatalf("bounds %d to %d of a file of %d bytes", lo, hi, len(b))
			}
			var f journal.Frame
			for seq := lo; seq < hi; seq++ {
				if j.Read(seq, &f) == nil {
					f.Wall(f.T0)
				}
			}
		}
		read()
		j.Append(mixed(inv, 5, 0))
		if err := j.Commit(); err != nil {
			t.Fatal(err)
		}
		read()
		j.Close()
	})
}

func TestVerify(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	path, at := tenFrames(t, cfg, true)
	r, err := journal.Verify(cfg.Dir)
	if err != nil || r.Segments != 1 || r.Frames != 10 || r.Samples != 100 || r.Missing != 0 || len(r.Problems) != 0 {
		t.Errorf("%+v %v: want ten good frames", r, err)
	}
	b, _ := os.ReadFile(path)
	b[at[5]+70] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err = journal.Verify(cfg.Dir)
	if err != nil || r.Frames != 9 || r.Missing != 1 || len(r.Problems) != 1 {
		t.Errorf("%+v %v: want one frame missing", r, err)
	}
}
