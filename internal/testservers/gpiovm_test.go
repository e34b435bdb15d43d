package testservers_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warthog618/go-gpiocdev"

	"linli/internal/testservers"
)

func TestSimulatedLines(t *testing.T) {
	files := map[string]string{
		"/bin/again":       "go:linli/internal/testservers/testdata/vminit",
		"/etc/linli/a.txt": "gpiovm_test.go",
	}
	if !testservers.InsideVM(t, 30*time.Second, files) {
		return
	}
	if dev := os.Getenv(holdOutput); dev != "" {
		hold(t, dev)
	}
	for name, want := range map[string]os.FileMode{"/bin/again": 0o111, "/etc/linli/a.txt": 0} {
		if info, err := os.Stat(name); err != nil {
			t.Error(err)
		} else if info.Size() == 0 || info.Mode()&0o111 != want {
			t.Errorf("%s has %d bytes and mode %v, want mode x to be %v", name, info.Size(), info.Mode(), want)
		}
	}
	chip, err := testservers.NewSimChip("bench", "test-bench", map[int]string{0: "door", 3: "siren"}, 8)
	if err != nil {
		t.Fatal(err)
	}
	info, err := gpiocdev.NewChip(chip.Dev())
	if err != nil {
		t.Fatal(err)
	}
	if info.Label != "test-bench" || info.Lines() != 8 {
		t.Errorf("chip has label %q and %d lines, want test-bench and 8", info.Label, info.Lines())
	}
	if line, err := info.LineInfo(3); err != nil || line.Name != "siren" {
		t.Errorf("line 3 is %q (%v), want siren", line.Name, err)
	}
	info.Close()

	t.Run("edges of an input", func(t *testing.T) {
		events := make(chan gpiocdev.LineEvent, 8)
		door, err := gpiocdev.RequestLine(chip.Dev(), 0, gpiocdev.WithBothEdges,
			gpiocdev.WithEventHandler(func(e gpiocdev.LineEvent) { events <- e }))
		if err != nil {
			t.Fatal(err)
		}
		defer door.Close()
		for i, level := range []bool{true, false, true} {
			if err := chip.Set(0, level); err != nil {
				t.Fatal(err)
			}
			want := gpiocdev.LineEventFallingEdge
			if level {
				want = gpiocdev.LineEventRisingEdge
			}
			select {
			case e := <-events:
				if e.Type != want || e.LineSeqno != uint32(i+1) {
					t.Errorf("event %d has type %v, want %v as number %d", e.LineSeqno, e.Type, want, i+1)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("no event after level %v", level)
			}
		}
	})

	t.Run("levels of an output", func(t *testing.T) {
		siren, err := gpiocdev.RequestLine(chip.Dev(), 3, gpiocdev.AsOutput(1))
		if err != nil {
			t.Fatal(err)
		}
		check(t, chip, 3, true)
		if err := siren.SetValue(0); err != nil {
			t.Fatal(err)
		}
		check(t, chip, 3, false)
		if err := chip.Set(3, true); err != nil {
			t.Fatal(err)
		}
		check(t, chip, 3, false) // driven
		siren.Close()
		check(t, chip, 3, true) // free
	})

	t.Run("output of a killed process", func(t *testing.T) {
		if err := chip.Set(5, false); err != nil {
			t.Fatal(err)
		}
		// Without a timeout's timer the Go runtime would take the waiting child for a deadlock and end it.
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSimulatedLines$", "-test.timeout=1m")
		cmd.Env = append(os.Environ(), holdOutput+"="+chip.Dev())
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testservers.Eventually(t, 10*time.Second, "the child drives line 5", func() bool {
			high, err := chip.Value(5)
			return err == nil && high
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("the child ended with %v, want killed", err)
		}
		check(t, chip, 5, false)
	})

	if err := chip.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(chip.Dev()); err == nil {
		t.Errorf("%s is still there after Close", chip.Dev())
	}
	if _, err := testservers.NewSimChip("bad", "bad", map[int]string{4: "x"}, 4); err == nil {
		t.Error("a chip of four lines has a line 4")
	}
	again, err := testservers.NewSimChip("bad", "good", nil, 4)
	if err != nil {
		t.Fatalf("a chip that failed has left something behind: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// holdOutput is the environment variable that makes a child of the test binary drive line 5 of the chip it names.
const holdOutput = "TEST_HOLD_OUTPUT"

// hold drives line 5 until it is killed.
func hold(t *testing.T, dev string) {
	line, err := gpiocdev.RequestLine(dev, 5, gpiocdev.AsOutput(1))
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	<-t.Context().Done()
}

func check(t *testing.T, chip *testservers.SimChip, line int, want bool) {
	t.Helper()
	if got, err := chip.Value(line); err != nil || got != want {
		t.Errorf("line %d has level %v (%v), want %v", line, got, err, want)
	}
}

// failure is a testing.TB that keeps the message of its failure.
type failure struct {
	testing.TB
	message string
}

func (f *failure) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	panic(f)
}

// runInVM runs what must fail and returns the failure's message.
func runInVM(t *testing.T, timeout time.Duration, files map[string]string, args ...string) (message string) {
	f := &failure{TB: t}
	defer func() {
		if v := recover(); v != nil && v != any(f) {
			panic(v)
		}
		message = f.message
	}()
	testservers.RunInVM(f, timeout, files, args...)
	return ""
}

func TestMachineFailures(t *testing.T) {
	// No kernel runs this, neither as a program nor as the first process.
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		timeout time.Duration
		files   map[string]string
		args    []string
		want    string
	}{
		"no program":       {time.Minute, nil, []string{"A=b"}, "no program is named"},
		"no such file":     {time.Minute, map[string]string{"/x": "/no/such/file"}, []string{"/x"}, "no such file"},
		"a directory":      {time.Minute, map[string]string{"/x": "/tmp"}, []string{"/x"}, "not a regular file"},
		"cannot be run":    {time.Minute, map[string]string{"/a/b": text}, []string{"/a/b"}, "exit code 125"},
		"too little time":  {100 * time.Millisecond, map[string]string{"/x": text}, []string{"/x"}, "not off within 100ms"},
		"no first process": {time.Minute, map[string]string{"/init": text}, []string{"/x"}, "ended before"},
	} {
		t.Run(name, func(t *testing.T) {
			if message := runInVM(t, c.timeout, c.files, c.args...); !strings.Contains(message, c.want) {
				t.Errorf("failed with %q, want %q", message, c.want)
			}
		})
	}
}
