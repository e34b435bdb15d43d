package gpio_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"linli/drivers"
	"linli/drivers/gpio"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/testservers"
)

// output: a line that others pull the other way has its level from the first moment on.
func (v *vm) output(t *testing.T) {
	for _, on := range []bool{false, true} {
		state := firmwareconfig.OutputOff
		if on {
			state = firmwareconfig.OutputOn
		}
		v.set(t, 3, on) // Undriven it looks like the state wanted; a glitch would show as the other.
		var glitch, stop atomic.Bool
		done := make(chan int)
		go func() {
			n := 0
			for !stop.Load() {
				if level, err := v.sim.Value(3); err == nil && level != on {
					glitch.Store(true)
				}
				n++
			}
			done <- n
		}()
		for range 20 {
			r := v.start(t, firmwareconfig.GPIOLine{ID: "siren", Line: "siren", Kind: outputs, OnStart: state, OnStop: state})
			r.close()
		}
		stop.Store(true)
		if n := <-done; glitch.Load() || n < 100 {
			t.Errorf("on_start %v: glitch %v in %d looks", state, glitch.Load(), n)
		}
	}
	v.set(t, 3, true)
	r := v.start(t, firmwareconfig.GPIOLine{ID: "siren", Line: "siren", Kind: outputs, OnStart: firmwareconfig.OutputOff})
	if v.value(t, 3) {
		t.Error("on_start off is high")
	}
	for _, level := range []bool{true, false, true} {
		if err := r.write(0, telemetry.BoolValue(level)); err != nil {
			t.Error(err)
		}
		if v.value(t, 3) != level {
			t.Errorf("written %v, the line is not", level)
		}
		until(t, r, 0, telemetry.Good, telemetry.BoolValue(level))
	}
	r.close()
	low := v.start(t, firmwareconfig.GPIOLine{ID: "siren", Line: "siren", Kind: outputs, OnStart: firmwareconfig.OutputOn, ActiveLow: true})
	if v.value(t, 3) {
		t.Error("active low, on: the line is high")
	}
	until(t, low, 0, telemetry.Good, yes)
}

// hold: an output keeps the level it has. (A line of gpio-sim that is let go stays an output, at its pull's level.)
func (v *vm) hold(t *testing.T) {
	line := firmwareconfig.GPIOLine{ID: "lamp", Line: "lamp", Kind: outputs}
	v.set(t, 4, true)
	r := v.start(t, line)
	if v.value(t, 4) {
		t.Error("a line that was no output starts on")
	}
	r.close()
	for _, level := range []bool{true, false, true} {
		v.set(t, 4, level)
		r := v.start(t, line)
		until(t, r, 0, telemetry.Good, telemetry.BoolValue(level))
		v.set(t, 4, !level) // It must be driven, not merely read.
		if v.value(t, 4) != level {
			t.Errorf("an output at %v does not keep its level", level)
		}
		if err := r.write(0, telemetry.BoolValue(!level)); err != nil || v.value(t, 4) == level {
			t.Errorf("write to a kept output: %v", err)
		}
		r.close()
	}
}

func (v *vm) feedback(t *testing.T) {
	v.set(t, 12, false)
	r := v.start(t, firmwareconfig.GPIOLine{ID: "siren", Line: "siren", Kind: outputs, OnStart: firmwareconfig.OutputOff, Feedback: "12"})
	until(t, r, 0, telemetry.Good, no)
	time.AfterFunc(100*time.Millisecond, func() { v.sim.Set(12, true) })
	if err := r.write(0, yes); err != nil {
		t.Errorf("write: %v", err)
	}
	until(t, r, 0, telemetry.Good, yes)
	var notTaken *drivers.NotTakenError
	if err := r.write(0, no); !errors.As(err, &notTaken) {
		t.Errorf("write without feedback: %v", err)
	}
	until(t, r, 0, telemetry.BadSensor, telemetry.Value{})
	v.set(t, 12, false)
	until(t, r, 0, telemetry.Good, no)
}

// sirens are outputs whose undriven level on the bench is the unsafe one.
func sirens() []firmwareconfig.GPIOLine {
	return []firmwareconfig.GPIOLine{
		{ID: "siren", Line: "siren", Kind: outputs, OnStart: firmwareconfig.OutputOff, OnStop: firmwareconfig.OutputOff},
		{ID: "magnet", Line: "13", Kind: outputs, OnStart: firmwareconfig.OutputOff, OnStop: firmwareconfig.OutputOn},
	}
}

// kill: what outputs do after SIGKILL, and that Safe sets them to their on_stop states.
func (v *vm) kill(t *testing.T) {
	v.set(t, 3, false)
	v.set(t, 13, false)
	cmd := v.child("drive")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testservers.Eventually(t, 20*time.Second, "the child drives both outputs", func() bool {
		return v.value(t, 3) && v.value(t, 13)
	})
	c := config(sirens()...)
	c.Chip, c.Clock = "pinctrl-sim", v.clock
	if err := gpio.Safe(t.Context(), c); err == nil || !strings.Contains(err.Error(), `in use by "linli siren"`) {
		t.Errorf("while it runs: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the child ended with %v", err)
	}
	if v.value(t, 3) || v.value(t, 13) {
		t.Error("gpio-sim keeps the level of a line that was let go, so this tests nothing")
	}
	// The states show while Safe holds the lines. On this chip they go with it: see the package comment.
	v.set(t, 3, true)
	shown := map[string]bool{}
	c.Host = watched{gpio.KernelHost(v.clock), func(line string) {
		shown[line] = v.value(t, map[string]int{"siren": 3, "13": 13}[line])
	}}
	if err := gpio.Safe(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if siren, ok := shown["siren"]; siren || !ok || !shown["13"] {
		t.Errorf("set to %v, want the siren off and line 13 on", shown)
	}
}

// gateway: the product itself drives the lines of testdata/site.yaml, and is killed.
func (v *vm) gateway(t *testing.T) {
	v.set(t, 3, false)
	state := t.TempDir()
	run := func(cmd *exec.Cmd) {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testservers.Eventually(t, 60*time.Second, "the gateway switches the siren on (on_start)", func() bool { return v.value(t, 3) })
	}
	safe := func() (string, error) {
		out, err := exec.Command("/bin/linli", "outputs", "safe", "--json", "-c", "/etc/linli/site.yaml").CombinedOutput()
		return string(out), err
	}
	killed := exec.Command("/bin/linli", "run", "-c", "/etc/linli/site.yaml", "--state", state)
	run(killed)
	if out, err := safe(); err == nil {
		t.Errorf("outputs safe takes the lines of a running gateway: %s", out)
	}
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed.Wait()
	if v.value(t, 3) {
		t.Error("gpio-sim keeps the level of a line that was let go")
	}
	v.set(t, 3, true) // The siren sounds while nobody drives the line.
	out, err := safe()
	if err != nil || !strings.Contains(strings.Join(strings.Fields(out), ""), `"set":true`) {
		t.Errorf("outputs safe: %v\n%s", err, out)
	}

	v.set(t, 3, false)
	stopped := exec.Command("/bin/linli", "run", "-c", "/etc/linli/site.yaml", "--state", state)
	run(stopped)
	if err := stopped.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := stopped.Wait(); err != nil {
		t.Errorf("the gateway's end: %v", err)
	}
}

// watched is a Host that tells before lines are let go.
type watched struct {
	gpio.Host
	closing func(line string)
}

func (h watched) Open(name string) (gpio.Chip, error) {
	chip, err := h.Host.Open(name)
	return watchedChip{chip, h.closing}, err
}

type watchedChip struct {
	gpio.Chip
	closing func(line string)
}

func (c watchedChip) Request(r gpio.Request) (gpio.Lines, error) {
	lines, err := c.Chip.Request(r)
	if err != nil {
		return nil, err
	}
	return watchedLines{lines, func() { c.closing(r.Lines[0]) }}, nil
}

type watchedLines struct {
	gpio.Lines
	closing func()
}

func (l watchedLines) Close() error {
	l.closing()
	return l.Lines.Close()
}
