package uplink

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// saved has the states written one after another and returns the file's contents after each.
func saved(t *testing.T, dir string, states ...*state) (files [][]byte) {
	t.Helper()
	f := newStateFile(dir)
	if _, err := f.load(states[0].epoch); err != nil {
		t.Fatal(err)
	}
	f.start()
	for _, s := range states {
		<-f.put(s.encode())
		if err, known := f.outcome(); err != nil || !known {
			t.Fatalf("not saved: %v", err)
		}
		b, err := os.ReadFile(filepath.Join(dir, stateName))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	f.stop(10 * time.Second)
	return files
}

func loaded(t *testing.T, dir string) *state {
	t.Helper()
	s, err := newStateFile(dir).load(0xc0ffee)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func someStates() []*state {
	return []*state{
		{epoch: 0xc0ffee, next: 10, unacked: spans{{3, 5}, {7, 10}}},
		{epoch: 0xc0ffee, next: 1 << 63, unacked: spans{{3, 5}}, gone: spans{{1, 3}}},
		{epoch: 0xc0ffee, next: 12},
	}
}

// TestStateIsTheOldOrTheNewOne: a write that a power cut has torn anywhere leaves the state before it, or the new one.
func TestStateIsTheOldOrTheNewOne(t *testing.T) {
	states := someStates()
	files := saved(t, t.TempDir(), states...)
	for n := 1; n < len(files); n++ {
		before, after := files[n-1], files[n]
		if len(before) != len(after) {
			t.Fatalf("the file is %d and then %d bytes: it needs room on a full disk", len(before), len(after))
		}
		for from := range before {
			if before[from] == after[from] {
				continue
			}
			for _, torn := range [][]byte{
				append(bytes.Clone(before[:from]), after[from:]...),
				append(bytes.Clone(after[:from]), before[from:]...),
			} {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, stateName), torn, 0o600); err != nil {
					t.Fatal(err)
				}
				if s := loaded(t, dir); !reflect.DeepEqual(s, states[n-1]) && !reflect.DeepEqual(s, states[n]) {
					t.Fatalf("torn at %d of write %d: %+v", from, n, s)
				}
			}
		}
	}
}

// TestStateFileIsMadeAnew where it is of an earlier version, where somebody has deleted it, and where it is cut off.
func TestStateFileIsMadeAnew(t *testing.T) {
	states := someStates()
	dir := t.TempDir()
	path := filepath.Join(dir, "not", "there", "yet", stateName)
	saved(t, filepath.Dir(path), states[0])
	if s := loaded(t, filepath.Dir(path)); !reflect.DeepEqual(s, states[0]) {
		t.Errorf("in a new directory: %+v", s)
	}
	path = filepath.Join(dir, stateName)
	if err := os.WriteFile(path, states[0].encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := loaded(t, dir); !reflect.DeepEqual(s, states[0]) {
		t.Errorf("of an earlier version: %+v", s)
	}
	saved(t, dir, states[1])
	if s := loaded(t, dir); !reflect.DeepEqual(s, states[1]) {
		t.Errorf("after an earlier version: %+v", s)
	}

	f := newStateFile(dir)
	if _, err := f.load(0xc0ffee); err != nil {
		t.Fatal(err)
	}
	for i, spoil := range []func() error{
		func() error { return nil },
		func() error { return os.Remove(path) },
		func() error { return os.Truncate(path, 100) },
		func() error { return os.Rename(path, path+".away") },
		func() error { return nil },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		want := states[i%len(states)]
		if err := f.file.Write(want.encode()); err != nil {
			t.Fatal(err)
		}
		if s := loaded(t, dir); !reflect.DeepEqual(s, want) {
			t.Errorf("case %d: %+v, want %+v", i, s, want)
		}
	}
	f.file.Close()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 3 { // not, uplink.state, uplink.state.away
		t.Errorf("left behind: %v", left)
	}
}

// TestStateThatCannotBeWritten is told, again and again, and written when it can be.
func TestStateThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, stateName), 0o700); err != nil {
		t.Fatal(err)
	}
	f := newStateFile(dir)
	states := someStates()
	for range 2 {
		if err := f.file.Write(states[0].encode()); err == nil {
			t.Error("a directory was written")
		}
	}
	if err := os.Remove(filepath.Join(dir, stateName)); err != nil {
		t.Fatal(err)
	}
	if err := f.file.Write(states[1].encode()); err != nil {
		t.Error(err)
	}
	f.file.Close()
	if s := loaded(t, dir); !reflect.DeepEqual(s, states[1]) {
		t.Errorf("%+v", s)
	}
	long := make([]byte, stateMost+1)
	if err := f.file.Write(long); err == nil {
		t.Error("more than there is room for was written")
	}
	most := &state{epoch: 1<<64 - 1, next: 1<<64 - 1}
	for i := range uint64(maxSpans) {
		most.unacked = most.unacked.add(1<<63+2*i, 1<<63+2*i+1)
		most.gone = most.gone.add(1<<63+1000+2*i, 1<<63+1000+2*i+1)
	}
	if n := len(most.encode()); n > stateMost {
		t.Errorf("the longest state is %d bytes", n)
	}
}

// TestSlowDiskIsTold: nobody waits for the file, and somebody is told.
func TestSlowDiskIsTold(t *testing.T) {
	f := newStateFile(t.TempDir())
	f.since = time.Now().Add(-stateSlow - time.Second)
	if err, known := f.outcome(); !known || err == nil {
		t.Errorf("%v %v, want to be told", err, known)
	}
	if err, known := f.outcome(); known {
		t.Errorf("told twice: %v", err)
	}
	f.done = true
	if err, known := f.outcome(); !known || err != nil {
		t.Errorf("%v %v, want the good end", err, known)
	}
}

func TestTaken(t *testing.T) {
	dir := t.TempDir()
	if _, next, err := Taken(dir); next != 0 || err != nil {
		t.Errorf("without a state: next %d, %v", next, err)
	}
	path := filepath.Join(dir, stateName)
	if err := os.WriteFile(path, (&state{epoch: 7, next: 9}).encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	if epoch, next, err := Taken(dir); epoch != 7 || next != 9 || err != nil {
		t.Errorf("epoch %d, next %d, %v", epoch, next, err)
	}
	if err := os.WriteFile(path, []byte("nothing of the kind"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Taken(dir); err == nil {
		t.Error("a damaged state is read without an error")
	}
}
