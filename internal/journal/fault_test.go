package journal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

var smallSegments = journal.Config{Dir: "j", SegmentBytes: 16 << 10, MaxBytes: 4 << 20}

// textInventory has one point, of text, so that a few samples fill a segment.
func textInventory() *telemetry.Inventory {
	inv := &telemetry.Inventory{Site: "s1", Gateway: "g1"}
	z := inv.AddZone(telemetry.Zone{ID: "b1", Parent: -1})
	d := inv.AddDevice(telemetry.Device{ID: "door1", Class: &telemetry.Class{ID: "door", Points: []telemetry.PointDef{{Name: "card", Kind: telemetry.KindText}}}, Zone: z})
	inv.ProvidePoint(d, 0)
	return inv
}

// numbered returns sample number n, about 100 bytes that do not compress well.
func numbered(n int) telemetry.Sample {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	return telemetry.Sample{Time: telemetry.Mono(n) * 1e6, Value: telemetry.TextValue(fmt.Sprintf("%d %x %x %x %x %x %x", n, r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()))}
}

func numberOf(t testing.TB, r journal.Record) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(r.Value.Text(), "%d ", &n); err != nil {
		t.Fatalf("sample %q: %v", r.Value.Text(), err)
	}
	if want := numbered(n); r.Value != want.Value || r.Time != want.Time {
		t.Fatalf("sample %d changed", n)
	}
	return n
}

// history is what a reader saw over the life of a journal, with what the invariants say about it.
type history struct {
	t         testing.TB
	appended  int // samples 0 to appended-1
	committed int // of these, for certain
	epoch     uint64
	frames    map[uint64]string // what each seq was read as
	errs      []error
}

func newHistory(t testing.TB) *history { return &history{t: t, frames: map[uint64]string{}} }

func (h *history) append(j *journal.Journal, n int) {
	for range n {
		appendStep(j, []telemetry.Sample{numbered(h.appended)})
		h.appended++
	}
}

func (h *history) commit(j *journal.Journal) {
	if err := j.Commit(); err != nil {
		h.errs = append(h.errs, err)
	} else {
		h.committed = h.appended
	}
	if s := j.Stats().LastError; s != "" {
		h.errs = append(h.errs, errors.New(s))
	}
}

// read reads everything, and checks that no seq has changed its meaning.
func (h *history) read(j *journal.Journal) (numbers []int, losses []journal.Loss) {
	h.t.Helper()
	if len(h.frames) == 0 { // An epoch of which nothing was ever read is nobody's.
		h.epoch = j.Epoch()
	}
	first, next := j.Bounds()
	for seq := first; seq < next; seq++ {
		var f journal.Frame
		if err := j.Read(seq, &f); err != nil {
			h.errs = append(h.errs, err)
			continue
		}
		if h.epoch != j.Epoch() {
			h.t.Fatalf("epoch changed from %x to %x", h.epoch, j.Epoch())
		}
		text := fmt.Sprint(f.T0, f.T1, f.Boot)
		if f.Lost != nil {
			text += fmt.Sprint(*f.Lost)
			losses = append(losses, *f.Lost)
		}
		if wall, ok := f.Wall(f.T0); ok {
			text += wall.String()
		}
		for _, r := range f.Records {
			n := numberOf(h.t, r)
			numbers = append(numbers, n)
			text += fmt.Sprint(" ", n)
		}
		if old, ok := h.frames[seq]; ok && old != text {
			h.t.Fatalf("frame %d changed:\n%s\n%s", seq, old, text)
		}
		h.frames[seq] = text
	}
	return numbers, losses
}

// check checks what a healthy journal shows at the end: everything committed, once, in order, and every frame that
// was ever read.
func (h *history) check(j *journal.Journal) {
	h.t.Helper()
	before := len(h.frames)
	seen := make(map[uint64]bool)
	for seq := range h.frames {
		seen[seq] = true
	}
	numbers, losses := h.read(j)
	if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
		h.t.Fatalf("samples are not in order, or twice: %v", numbers)
	}
	for n := range h.committed {
		if _, ok := slices.BinarySearch(numbers, n); !ok {
			h.t.Fatalf("sample %d was committed (of %d) and is gone; losses told: %v", n, h.committed, losses)
		}
	}
	for seq := range seen {
		var f journal.Frame
		if err := j.Read(seq, &f); err != nil {
			h.t.Fatalf("frame %d was read before (%d were) and is gone: %v", seq, before, err)
		}
	}
}

// scenario is the scripted run of the fault tests: commits, rotation, reading, release, a clean stop, a new start.
func (h *history) scenario(fs *memFS, boot string) {
	inv := textInventory()
	for life := range 2 {
		j, err := journal.OpenFS(smallSegments, inv, newClock(boot), fs)
		if err != nil {
			h.errs = append(h.errs, err)
			if j, err = journal.OpenFS(smallSegments, inv, newClock(boot), fs); err != nil {
				return // more than one fault: crashed
			}
		}
		for step := range 5 {
			h.append(j, 40)
			h.commit(j)
			if step%2 == 1 {
				h.read(j)
				_, next := j.Bounds()
				j.Release(next / 2)
			}
		}
		h.commit(j)
		if life == 0 {
			if err := j.Close(); err != nil {
				h.errs = append(h.errs, err)
			}
		}
	}
}

func (h *history) reopen(fs *memFS, boot string) *journal.Journal {
	h.t.Helper()
	j, err := journal.OpenFS(smallSegments, textInventory(), newClock(boot), fs)
	if err != nil {
		h.t.Fatal(err)
	}
	return j
}

// TestEveryOperationFailsOnce fails the first operation, the second, and so on, until none is left: each time the
// fault is reported, and nothing is lost, not even in the same life.
func TestEveryOperationFailsOnce(t *testing.T) {
	for n := 0; ; n++ {
		fs := newMemFS()
		fs.failAt = n
		h := newHistory(t)
		h.scenario(fs, "boot1")
		if !fs.failed {
			t.Logf("%d operations", n)
			if n < 50 {
				t.Errorf("only %d operations: the scenario does not do much", n)
			}
			return
		}
		fault := slices.ContainsFunc(h.errs, func(err error) bool { return strings.Contains(err.Error(), errFault.Error()) })
		if !fault && !strings.Contains("open read size", fs.lastOp) { // reading is tried again by itself
			t.Errorf("operation %d (%s): the fault was not reported", n, fs.lastOp)
		}
		// All was committed by the end of each life, whatever failed.
		if h.committed != h.appended {
			t.Errorf("operation %d: %d of %d samples committed at the end", n, h.committed, h.appended)
		}
		h.t = t
		j := h.reopen(fs.restart(), "boot1")
		h.check(j)
		h.append(j, 3)
		h.commit(j)
		h.check(j)
		if t.Failed() {
			t.Fatalf("with operation %d failing", n)
		}
	}
}

// TestPowerCutAfterEveryOperation cuts the power after every operation, with several choices of what the disk had
// got, and then once more while recovering.
func TestPowerCutAfterEveryOperation(t *testing.T) {
	for n := 0; ; n++ {
		done := false
		for seed := range uint64(3) {
			fs := newMemFS()
			fs.crashAt = n
			h := newHistory(t)
			h.scenario(fs, "boot1")
			done = fs.ops <= n
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			disk := fs.powerCut(r)
			j := h.reopen(disk, "boot2")
			if h.committed == 0 && len(h.frames) == 0 {
				h.epoch = 0
			}
			h.check(j)
			h.appended += 1000 // what was in memory is gone; its numbers must not confuse
			h.append(j, 10)
			h.commit2(j)
			h.read(j)

			j = h.reopen(disk.powerCut(r), "boot3")
			h.read(j)
			h.append(j, 10)
			h.commit2(j)
			h.read(j)
			if t.Failed() {
				t.Fatalf("power cut after operation %d, seed %d", n, seed)
			}
		}
		if done {
			t.Logf("%d operations", n)
			return
		}
	}
}

// commit2 commits where earlier samples may be gone.
func (h *history) commit2(j *journal.Journal) {
	h.t.Helper()
	if err := j.Commit(); err != nil {
		h.t.Fatal(err)
	}
}

// TestFailedSyncThenKillThenPowerCut: after a failed sync the kernel shows the frame although the disk never got it.
// The next process may show it only once that has changed.
func TestFailedSyncThenKillThenPowerCut(t *testing.T) {
	for seed := range uint64(8) {
		fs := newMemFS()
		h := newHistory(t)
		j := h.reopen(fs, "boot1")
		h.append(j, 1)
		h.commit(j)
		h.append(j, 1)
		fs.failAt = fs.ops + 1 // the sync, after the write
		if err := j.Commit(); !errors.Is(err, errFault) {
			t.Fatalf("got %v, want the fault", err)
		}
		j = h.reopen(fs.restart(), "boot1")
		if n, _ := h.read(j); len(n) != 2 {
			t.Errorf("%d samples after the restart, want 2", len(n))
		}
		j = h.reopen(fs.powerCut(rand.New(rand.NewPCG(seed, 1))), "boot2")
		h.committed = 2
		h.check(j)
	}
}

// TestWrittenAgainIsReadOnce: a batch whose sync failed is in two segments, with the same numbers. One more fault
// keeps the first from being cut to what counts.
func TestWrittenAgainIsReadOnce(t *testing.T) {
	for op := range 16 {
		fs := newMemFS()
		h := newHistory(t)
		j := h.reopen(fs, "boot1")
		h.append(j, 1)
		h.commit(j)
		h.append(j, 10)
		fs.failAt = fs.ops + 1
		if err := j.Commit(); !errors.Is(err, errFault) {
			t.Fatalf("got %v, want the fault", err)
		}
		h.append(j, 1)
		fs.failAt = fs.ops + op
		h.commit(j)
		h.read(j)
		j = h.reopen(fs.restart(), "boot1")
		h.check(j)
		if n, losses := h.read(j); len(n) < 11 || len(losses) != 0 {
			t.Errorf("operation %d: %d samples, losses %v", op, len(n), losses)
		}
	}
}
