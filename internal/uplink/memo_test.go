package uplink

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/wire"
)

func memoCommand(id string, iat time.Time, life time.Duration) *wire.Command {
	return &wire.Command{Key: "city", Node: "riverside.gw1", ID: id, Verb: "write", IssuedAt: iat, ExpiresAt: iat.Add(life)}
}

func openMemo(t *testing.T, dir string, now time.Time) *memo {
	t.Helper()
	m, err := loadMemo(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m
}

func mustBegin(t *testing.T, m *memo, c *wire.Command, now time.Time) {
	t.Helper()
	if known, _ := m.lookup(c); known || m.forgotten(c, now) {
		t.Fatalf("%s is known", c.ID)
	}
	if err := m.begin(c, now); err != nil {
		t.Fatal(err)
	}
}

func TestMemoOutlivesTheProcess(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1790000000, 0)
	m := openMemo(t, dir, now)
	a, b := memoCommand("a", now, time.Hour), memoCommand("b", now, time.Hour)
	mustBegin(t, m, a, now)
	if err := m.end(a, []byte(`{"id":"a","state":"done"}`)); err != nil {
		t.Fatal(err)
	}
	mustBegin(t, m, b, now)
	if known, reply := m.lookup(b); !known || reply != nil {
		t.Errorf("being carried out: %v %s", known, reply)
	}
	m = openMemo(t, dir, now)
	if known, reply := m.lookup(a); !known || string(reply) != `{"id":"a","state":"done"}` {
		t.Errorf("a: %v %s", known, reply)
	}
	if known, reply := m.lookup(b); !known || !strings.Contains(string(reply), `"state":"unknown"`) || !strings.Contains(string(reply), `"id":"b"`) {
		t.Errorf("b: %v %s", known, reply)
	}
	// The same id of another key is another command.
	other := memoCommand("a", now, time.Hour)
	other.Key = "ops"
	mustBegin(t, m, other, now)
	// A reply that is long is kept without its result.
	if err := m.end(other, []byte(`{"id":"a","state":"done","result":"`+strings.Repeat("x", 2000)+`"}`)); err != nil {
		t.Fatal(err)
	}
	if _, reply := m.lookup(other); len(reply) > maxKept || !strings.Contains(string(reply), "done") {
		t.Errorf("%s", reply)
	}
}

// A torn line was not acted upon; any other damage makes commands from before it unwelcome, and only those.
func TestMemoOfADamagedFile(t *testing.T) {
	now := time.Unix(1790000000, 0)
	for name, test := range map[string]struct {
		spoil   func([]byte) []byte
		damaged bool
	}{
		"torn":      {func(b []byte) []byte { return b[:len(b)-7] }, false},
		"bit":       {func(b []byte) []byte { b[20] ^= 1; return b }, true},
		"checksum":  {func(b []byte) []byte { b[0] = 'z'; return b }, true},
		"zeros":     {func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, false},
		"zero line": {func(b []byte) []byte { return append(append(b, make([]byte, 100)...), '\n') }, true},
		"long line": {func(b []byte) []byte { return append(append(b, make([]byte, 40<<10)...), '\n') }, true},
		"no JSON":   {func(b []byte) []byte { return append(b, memoSum([]byte("x"))+" x\n"...) }, true},
	} {
		dir := t.TempDir()
		m := openMemo(t, dir, now)
		for _, id := range []string{"a", "b", "c"} {
			mustBegin(t, m, memoCommand(id, now, time.Hour), now)
		}
		m.close()
		path := filepath.Join(dir, memoName)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, test.spoil(b), 0o600); err != nil {
			t.Fatal(err)
		}
		later := now.Add(time.Minute)
		for _, clock := range []time.Time{later, {}} { // also where the clock is set only afterwards
			m, err = loadMemo(dir, clock)
			if (err != nil) != test.damaged {
				t.Fatalf("%s: %v", name, err)
			}
			before, after := memoCommand("x", now, time.Hour), memoCommand("y", later.Add(time.Second), time.Hour)
			if m.forgotten(before, later) != test.damaged || m.forgotten(after, later) {
				t.Errorf("%s: from before %v, from afterwards %v", name, m.forgotten(before, later), m.forgotten(after, later))
			}
			if known, _ := m.lookup(memoCommand("b", now, time.Hour)); !known {
				t.Errorf("%s: what could be read is forgotten", name)
			}
		}
		// The floor outlives the next process.
		mustBegin(t, m, memoCommand("y", later.Add(time.Second), time.Hour), later)
		m.close()
		m = openMemo(t, dir, later)
		if known, _ := m.lookup(memoCommand("y", later, time.Hour)); !known || m.forgotten(memoCommand("x", now, time.Hour), later) != test.damaged {
			t.Errorf("%s: forgotten by the next process", name)
		}
		m.close()
	}
}

// A file that is missing in a state directory that is not new was lost: commands from before are refused, and only those,
// also by the process after the next.
func TestMemoOfAMissingFile(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1790000000, 0)
	openMemo(t, dir, now)
	if err := os.WriteFile(filepath.Join(dir, stateName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if m := openMemo(t, dir, now.Add(time.Second)); m.forgotten(memoCommand("x", now, time.Hour), now) {
		t.Error("a gateway that took nothing has forgotten something")
	}
	later := now.Add(time.Minute)
	before, after := memoCommand("x", now, time.Hour), memoCommand("y", later.Add(time.Second), time.Hour)
	if err := os.Remove(filepath.Join(dir, memoName)); err != nil {
		t.Fatal(err)
	}
	for _, clock := range []time.Time{{}, later} { // also where the clock is set only afterwards
		m, err := loadMemo(dir, clock)
		if err == nil || !m.forgotten(before, later) || m.forgotten(after, later) {
			t.Errorf("%v: %v, from before %v, from afterwards %v", clock, err, m.forgotten(before, later), m.forgotten(after, later))
		}
	}
	if m := openMemo(t, dir, later.Add(time.Hour)); !m.forgotten(before, later) || m.forgotten(after, later) {
		t.Error("forgotten by the next process, or more is")
	}
}

// An older copy of the file does not know what another record does.
func TestMemoOfAnOlderCopy(t *testing.T) {
	now := time.Unix(1790000000, 0)
	m := openMemo(t, t.TempDir(), now)
	m.began = func(c *wire.Command) bool { return c.ID == "a" }
	if known, reply := m.lookup(memoCommand("a", now, time.Hour)); !known || !strings.Contains(string(reply), `"state":"unknown"`) {
		t.Errorf("a: %v %s", known, reply)
	}
	mustBegin(t, m, memoCommand("b", now, time.Hour), now)
}

// What has expired makes room, and does not come to life when the clock is set back.
func TestMemoIsBounded(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1790000000, 0)
	m := openMemo(t, dir, now)
	for i := range maxRemembered {
		c := memoCommand(fmt.Sprint(i), now, time.Hour)
		if i < 10 {
			c = memoCommand(fmt.Sprint(i), now, time.Minute)
		}
		if err := m.begin(c, now); err != nil {
			t.Fatal(err)
		}
		if i != 0 { // the first is still being carried out
			if err := m.end(c, []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.begin(memoCommand("more", now, time.Hour), now); !errors.Is(err, errMemoFull) {
		t.Fatalf("one more: %v", err)
	}
	later := now.Add(2 * time.Minute)
	for i := range 9 {
		mustBegin(t, m, memoCommand(fmt.Sprintf("more%d", i), later, time.Hour), later)
	}
	if err := m.begin(memoCommand("again", later, time.Hour), later); !errors.Is(err, errMemoFull) {
		t.Fatalf("the one in hand was forgotten: %v", err)
	}
	for _, m := range []*memo{m, openMemo(t, dir, now)} {
		if !m.forgotten(memoCommand("5", now, time.Minute), now) {
			t.Error("an expired command would be carried out again")
		}
		if m.forgotten(memoCommand("new", later, time.Hour), later) {
			t.Error("a new command is refused")
		}
	}
	// The file stays small however many commands there are.
	for i := range 2500 {
		at := later.Add(2*time.Hour + time.Duration(i)*time.Second)
		c := memoCommand(fmt.Sprintf("c%d", i), at, time.Minute)
		if err := m.begin(c, at); err != nil {
			t.Fatal(err)
		}
		if err := m.end(c, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, memoName))
	if err != nil || info.Size() > 1<<20 || m.lines > rewriteAt+1 {
		t.Errorf("%d bytes, %d lines, %v", info.Size(), m.lines, err)
	}
}

// A disk that takes nothing: nothing is taken. When it works again, what was refused may come again.
func TestMemoWithoutADisk(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "gone"), time.Unix(1790000000, 0)
	m := openMemo(t, dir, now)
	c := memoCommand("a", now, time.Hour)
	if err := m.begin(c, now); err == nil {
		t.Fatal("remembered where there is no directory")
	}
	if known, _ := m.lookup(c); known {
		t.Error("a refused command counts as taken")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mustBegin(t, m, c, now)
	if known, _ := openMemo(t, dir, now).lookup(c); !known {
		t.Error("forgotten")
	}
}
