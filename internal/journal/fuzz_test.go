package journal_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

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
		j.Mark(1, journal.Mark{Kind: journal.MarkStart, Rules: "r1", Resumed: true, Snapshot: 7, SnapshotBoot: "boot0", By: time.Hour})
		for i := range 3 {
			appendStep(j, mixed(inv, 20, telemetry.Mono(i)*1e9))
			j.Mark(telemetry.Mono(i)*1e9+5, journal.Mark{Kind: journal.MarkClosed, Closed: []telemetry.Identity{{Alert: "A", Subject: "s"}}})
			j.Append(telemetry.Now{Mono: telemetry.Mono(i)*1e9 + 5e8, Wall: time.Unix(1_800_000_000, 0)}, nil)
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
			r := j.Replay(lo, hi, func(telemetry.Series) telemetry.PointID { return 1 })
			for {
				var it journal.Item
				if err := r.Next(&it); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := j.Starts(); err != nil {
				t.Fatal(err)
			}
			if _, err := j.Losses(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, res := range []journal.Resolution{journal.Samples, journal.Minutes, journal.Hours} {
				if err := j.Range(t.Context(), everything, res, func(*journal.Row) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
			j.NoPause()
			if err := j.Rollup(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		read()
		appendStep(j, mixed(inv, 5, 0))
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
	r, err := journal.Verify(t.Context(), cfg.Dir, nil)
	if err != nil || r.Segments != 1 || r.Frames != 10 || r.Samples != 100 || r.Missing != 0 || len(r.Problems) != 0 {
		t.Errorf("%+v %v: want ten good frames", r, err)
	}
	b, _ := os.ReadFile(path)
	b[at[5]+70] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err = journal.Verify(t.Context(), cfg.Dir, nil)
	if err != nil || r.Frames != 9 || r.Missing != 1 || len(r.Problems) != 1 {
		t.Errorf("%+v %v: want one frame missing", r, err)
	}
}

// FuzzSteps decodes arbitrary bytes as the steps of a frame: they take in all its samples, or are refused.
func FuzzSteps(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add([]byte{1, 2, 1, 3, 0, 6, 8, 3, 2, 4, 1, 1, 'r', 2}, 5)
	f.Add([]byte{0xe8, 7, 0, 1, 1, 0, 10, 9, 0, 4, 9, 2, 5, 1, 1, 'A', 1, 's'}, 5)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 1000 {
			return
		}
		if got, ok := journal.DecodeSteps(b, n); ok && got != n {
			t.Errorf("%d samples of %d", got, n)
		}
	})
}

// FuzzRollup reads arbitrary bytes as a rollup file, with its checksums made right. Nothing may panic or ask for absurd memory.
func FuzzRollup(f *testing.F) {
	fs := newMemFS()
	j, err := journal.OpenFS(smallSegments, newInventory(2), newClock("boot1"), fs)
	if err != nil {
		f.Fatal(err)
	}
	blocks := journal.RollBlocks()
	for _, b := range blocks {
		f.Add(b.File, b.Raw)
	}
	f.Add([]byte("LINLIROL"), []byte{1})
	path := filepath.Join("j", "2026-05-04T10.minutes")
	span := everything
	f.Fuzz(func(t *testing.T, file, raw []byte) {
		if len(file) > 1<<16 || len(raw) > 1<<16 {
			return
		}
		if n := journal.DecodeRollBlock(raw); n > len(raw) {
			t.Errorf("%d intervals in %d bytes", n, len(raw))
		}
		fs.cur[path] = &inode{data: journal.FixRollChecksums(file, "2026-05-04T10.minutes"), dirty: map[int]bool{}}
		fs.cur[filepath.Join("j", "x")] = nil
		delete(fs.cur, filepath.Join("j", "x"))
		delete(fs.cur, path+".damaged")
		if _, err := journal.VerifyFS("j", fs); err != nil {
			t.Fatal(err)
		}
		k, err := journal.OpenFS(smallSegments, newInventory(2), newClock("boot1"), fs)
		if err != nil {
			t.Fatal(err)
		}
		k.NoPause()
		for _, res := range []journal.Resolution{journal.Minutes, journal.Hours} {
			_ = k.Range(t.Context(), span, res, func(r *journal.Row) error { return nil })
		}
		k.Kill()
	})
	j.Kill()
}
