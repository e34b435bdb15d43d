package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// tenFrames writes ten frames of ten samples in one segment, and returns its path and the offsets of its frames.
// When it is not sealed the process is as good as killed.
func tenFrames(t *testing.T, cfg journal.Config, sealed bool) (path string, at []int) {
	t.Helper()
	j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
	h := newHistory(t)
	for range 10 {
		h.append(j, 10)
		h.commit(j)
	}
	if sealed {
		closeJournal(t, j)
	} else {
		j.Kill()
	}
	names, err := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+4 <= len(b); i++ {
		if string(b[i:i+4]) == "LJF1" {
			at = append(at, i)
		}
	}
	if len(at) != 10 {
		t.Fatalf("%d frames in the file, want 10", len(at))
	}
	return names[0], at
}

// TestInvariantDamageIsContained damages a segment by hand in many ways: what must survive does, what is gone is
// told once and counted, the damaged file is set aside, and numbers are not used twice.
func TestInvariantDamageIsContained(t *testing.T) {
	flip := func(k int, d int) func(b []byte, at []int) []byte {
		return func(b []byte, at []int) []byte { b[at[k]+d] ^= 0x40; return b }
	}
	tests := map[string]struct {
		sealed  bool
		damage  func(b []byte, at []int) []byte
		survive int // frames
		lost    []journal.Loss
		next    uint64 // of the next frame, before the tombstones
		damaged uint64
		aside   bool
	}{
		"none":               {damage: func(b []byte, at []int) []byte { return b }, survive: 10, next: 11},
		"none, sealed":       {sealed: true, damage: func(b []byte, at []int) []byte { return b }, survive: 10, next: 11},
		"cut in a frame":     {damage: func(b []byte, at []int) []byte { return b[:at[9]] }, survive: 9, next: 10},
		"zeros at the end":   {damage: func(b []byte, at []int) []byte { clear(b[at[8]:]); return b }, survive: 8, next: 9},
		"cut after a header": {damage: func(b []byte, at []int) []byte { return b[:at[0]] }, survive: 0, next: 1},
		"torn in a frame": {damage: func(b []byte, at []int) []byte { return b[:at[9]+80] }, survive: 9, next: 11,
			lost: []journal.Loss{{Reason: "torn", FirstSeq: 10, LastSeq: 10}}},
		"flipped bit in the last frame": {damage: flip(9, 60), survive: 9, next: 11,
			lost: []journal.Loss{{Reason: "torn", FirstSeq: 10, LastSeq: 10}}},
		"flipped bits in the last two frames": {damage: func(b []byte, at []int) []byte { return flip(8, 60)(flip(9, 60)(b, at), at) }, survive: 8, next: 11,
			lost: []journal.Loss{{Reason: "torn", FirstSeq: 9, LastSeq: 10}}},
		"flipped bit in a payload": {damage: flip(4, 70), survive: 9, next: 11, damaged: 1, aside: true,
			lost: []journal.Loss{{Reason: "damage", FirstSeq: 5, LastSeq: 5}}},
		"flipped bit in a magic": {damage: flip(4, 0), survive: 9, next: 11, damaged: 1, aside: true,
			lost: []journal.Loss{{Reason: "damage", FirstSeq: 5, LastSeq: 5}}},
		"flipped bit in a length": {damage: flip(4, 14), survive: 9, next: 11, damaged: 1, aside: true,
			lost: []journal.Loss{{Reason: "damage", FirstSeq: 5, LastSeq: 5}}},
		"a block of zeros": {damage: func(b []byte, at []int) []byte { clear(b[at[3]+10 : at[6]]); return b }, survive: 7, next: 11, damaged: 3, aside: true,
			lost: []journal.Loss{{Reason: "damage", FirstSeq: 4, LastSeq: 6}}},
		"flipped bit in the header":           {damage: func(b []byte, at []int) []byte { b[42] ^= 1; return b }, survive: 10, next: 11},
		"flipped bit in the header's magic":   {damage: func(b []byte, at []int) []byte { b[3] ^= 1; return b }, survive: 10, next: 11},
		"flipped bit in the header's version": {damage: func(b []byte, at []int) []byte { b[8] ^= 4; return b }, survive: 10, next: 11},
		"flipped bit in the header's CRC":     {damage: func(b []byte, at []int) []byte { b[127] ^= 0x80; return b }, survive: 10, next: 11},
		"the header": {damage: func(b []byte, at []int) []byte { b[42] ^= 3; return b }, survive: 0, next: 11, damaged: 10, aside: true,
			lost: []journal.Loss{{Count: 100, Reason: "damage", FirstSeq: 1, LastSeq: 10}}},
		"the header, sealed":               {sealed: true, damage: func(b []byte, at []int) []byte { b[30] ^= 1; return b }, survive: 10, next: 11},
		"the footer, sealed":               {sealed: true, damage: func(b []byte, at []int) []byte { b[len(b)-40] ^= 1; return b }, survive: 10, next: 11},
		"the footer's end cut off, sealed": {sealed: true, damage: func(b []byte, at []int) []byte { return b[:len(b)-5] }, survive: 10, next: 11},
		"flipped bit in a payload, sealed": {sealed: true, damage: flip(4, 70), survive: 9, next: 11, damaged: 1, aside: true,
			lost: []journal.Loss{{Count: 10, Reason: "damage", FirstSeq: 5, LastSeq: 5}}},
		"flipped bit in the first frame and the footer, sealed": {sealed: true, damage: func(b []byte, at []int) []byte { b[len(b)-40] ^= 1; return flip(0, 70)(b, at) },
			// The first frame held the dictionary, the footer its copy.
			survive: 0, next: 11, damaged: 10, aside: true, lost: []journal.Loss{{Reason: "damage", FirstSeq: 1, LastSeq: 1}, {Count: 90, Reason: "damage", FirstSeq: 2, LastSeq: 10}}},
		"nothing but noise": {damage: func(b []byte, at []int) []byte {
			for i := range b {
				b[i] = byte(i*7 + i>>8)
			}
			return b
		}, survive: 0, next: 2, damaged: 1, aside: true, lost: []journal.Loss{{Reason: "damage", FirstSeq: 1, LastSeq: 1}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := journal.Config{Dir: t.TempDir()}
			path, at := tenFrames(t, cfg, tt.sealed)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.damage(b, at), 0o600); err != nil {
				t.Fatal(err)
			}
			inv := textInventory()
			j := mustOpen(t, cfg, inv, newClock("boot1"))
			epoch := j.Epoch()
			frames := readAll(t, j)
			if len(frames) != tt.survive {
				t.Errorf("%d frames survive, want %d", len(frames), tt.survive)
			}
			if _, next := j.Bounds(); next != tt.next {
				t.Errorf("next %d, want %d", next, tt.next)
			}
			h := newHistory(t)
			h.append(j, 1)
			commit(t, j)
			checkLosses := func() {
				t.Helper()
				var got []journal.Loss
				for _, f := range readAll(t, j) {
					if f.Lost != nil {
						got = append(got, *f.Lost)
					}
				}
				if !slices.Equal(got, tt.lost) {
					t.Errorf("losses told %v, want %v", got, tt.lost)
				}
			}
			checkLosses()
			if s := j.Stats(); s.DamagedFrames != tt.damaged {
				t.Errorf("%d frames counted as damaged, want %d", s.DamagedFrames, tt.damaged)
			}
			aside, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.damaged"))
			if (len(aside) == 1) != tt.aside {
				t.Errorf("set aside: %v, want %v", aside, tt.aside)
			}
			// Opened again, nothing is told twice, nothing more is lost and nothing new.
			for range 2 {
				closeJournal(t, j)
				j = mustOpen(t, cfg, inv, newClock("boot1"))
				n := 0
				for _, f := range readAll(t, j) {
					if f.Lost == nil {
						n++
					}
				}
				if n != tt.survive+1 {
					t.Errorf("opened again: %d frames, want %d", n, tt.survive+1)
				}
				commit(t, j)
				checkLosses()
				if j.Epoch() != epoch {
					t.Error("a new epoch")
				}
			}
			closeJournal(t, j)
		})
	}
}

func TestMissingSegmentIsTold(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir(), SegmentBytes: 16 << 10}
	j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
	h := newHistory(t)
	for range 20 {
		h.append(j, 40)
		h.commit(j)
	}
	closeJournal(t, j)
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	if len(names) < 4 {
		t.Fatalf("%d segments, want more", len(names))
	}
	slices.Sort(names)
	if err := os.Remove(names[2]); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, cfg, textInventory(), newClock("boot1"))
	defer j.Close()
	commit(t, j)
	_, losses := newHistory(t).read(j)
	if len(losses) != 1 || losses[0].Reason != journal.LossDamage || losses[0].LastSeq < losses[0].FirstSeq {
		t.Errorf("losses %v, want one of reason damage", losses)
	}
}

// A loss is told with the times between which the frames were written that are not there, also where those beside them are of
// other boots.
func TestLossesHaveTheTimesOfTheirFrames(t *testing.T) {
	zero := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // of the bubbles' clocks
	wall := func(k, i int) time.Time {
		return zero.Add(time.Duration(k)*10*time.Minute + time.Duration(i)*time.Millisecond)
	}
	// Boot k begins at wall(k, 0) with another monotonic clock.
	boot := func(k int) *telemetry.Clock {
		time.Sleep(time.Until(wall(k, 0)))
		return telemetry.NewClock(fmt.Sprint("boot", k), telemetry.Mono(k*k)*1e9, longAgo)
	}
	write := func(t *testing.T, cfg journal.Config, k int) {
		t.Helper()
		clock := boot(k)
		j := mustOpen(t, cfg, textInventory(), clock)
		for i := range 5 {
			s := numbered(i)
			s.Time = clock.Mono()
			appendStep(j, []telemetry.Sample{s})
			commit(t, j)
			time.Sleep(time.Millisecond)
		}
		closeJournal(t, j)
	}
	noise := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, bytes.Repeat([]byte("noise"), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	now := wall(9, 0)
	tests := map[string]struct {
		spoil    func(t *testing.T, path string)
		segment  int
		skip     uint64
		from, to time.Time
	}{
		"a segment in the middle deleted": {spoil: remove, segment: 1, from: wall(1, 4), to: wall(3, 0)},
		"one damaged as a whole":          {spoil: noise, segment: 1, from: wall(1, 4), to: wall(3, 0)},
		"the first damaged as a whole":    {spoil: noise, segment: 0, from: wall(2, 0), to: wall(2, 0)},
		"the last damaged as a whole":     {spoil: noise, segment: 2, from: wall(2, 4), to: now},
		"numbers passed over":             {skip: 100, from: wall(3, 4), to: now},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := journal.Config{Dir: t.TempDir()}
			synctest.Test(t, func(t *testing.T) {
				for k := range 3 {
					write(t, cfg, k+1)
				}
				if tt.spoil != nil {
					names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
					slices.Sort(names)
					tt.spoil(t, names[tt.segment])
				}
				j := mustOpen(t, cfg, textInventory(), boot(9))
				defer j.Close()
				if tt.skip > 0 {
					if _, err := j.Skip(tt.skip); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				commit(t, j)
				told, err := j.Losses(t.Context())
				if err != nil || len(told) != 1 {
					t.Fatalf("told %+v, %v", told, err)
				}
				if l := told[0]; !l.From.Equal(tt.from) || !l.To.Equal(tt.to) {
					t.Errorf("from %v to %v, want %v to %v", l.From, l.To, tt.from, tt.to)
				}
			})
		})
	}
}

func TestNewerVersionIsLeftAlone(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	path, _ := tenFrames(t, cfg, true)
	b, _ := os.ReadFile(path)
	b[8], b[50] = 2, 'x' // and whatever else that version has there
	b[100] = 'y'
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := journal.Open(cfg, textInventory(), newClock("boot1"))
	if err == nil || !strings.Contains(err.Error(), "newer version") || !strings.Contains(err.Error(), filepath.Base(path)) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestOneWriter(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
	if _, err := journal.Open(cfg, textInventory(), newClock("boot1")); err == nil {
		t.Error("opened a second time for writing")
	}
	h := newHistory(t)
	h.append(j, 10)
	h.commit(j)
	ro := cfg
	ro.ReadOnly = true
	r := mustOpen(t, ro, nil, nil)
	h.check(r)
	h.append(r, 10) // does nothing
	if err := r.Commit(); err != nil {
		t.Error(err)
	}
	closeJournal(t, r)
	h.appended = 10
	h.append(j, 10)
	h.commit(j)
	h.check(j)
	closeJournal(t, j)
	if _, err := journal.Open(ro, textInventory(), newClock("boot1")); err != nil {
		t.Error(err)
	}
	ro.Dir += "/nothing"
	if _, err := journal.Open(ro, textInventory(), newClock("boot1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opening nothing to look at: %v", err)
	}
}
