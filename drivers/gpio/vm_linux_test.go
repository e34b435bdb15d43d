package gpio_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	periph "periph.io/x/conn/v3/gpio"

	"linli/drivers"
	"linli/drivers/gpio"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/testservers"
)

// childJob is the environment variable that makes TestInVM the child process of one of its subtests.
const childJob = "LINLI_GPIO_CHILD"

// TestInVM runs the driver against a real kernel's character device and simulated chips.
func TestInVM(t *testing.T) {
	if !testservers.InsideVM(t, 3*time.Minute, map[string]string{
		"/etc/group": "testdata/group", "/etc/passwd": "testdata/passwd",
		"/bin/linli": "go:linli/gateway", "/etc/linli/site.yaml": "testdata/site.yaml",
	}) {
		return
	}
	if job := os.Getenv(childJob); job != "" {
		child(t, job)
		return
	}
	names := map[int]string{0: "door", 1: "GPIO5", 2: "GPIO6", 3: "siren", 4: "lamp", 5: "twice", 6: "twice"}
	sim, err := testservers.NewSimChip("bench", "pinctrl-sim", names, 16)
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{t: t, sim: sim, clock: bootClock(t)}
	t.Run("finding", v.finding)
	t.Run("permission", v.permission)
	t.Run("input", v.input)
	t.Run("bias", v.bias)
	t.Run("debounce", v.debounce)
	t.Run("pair", v.pair)
	t.Run("counter", v.counter)
	t.Run("lost edges", v.lost)
	t.Run("reader", v.reader)
	t.Run("output", v.output)
	t.Run("hold", v.hold)
	t.Run("busy", v.busy)
	t.Run("feedback", v.feedback)
	t.Run("kill and safe", v.kill)
	t.Run("gateway", v.gateway)
	t.Run("unplug", v.unplug)
}

type vm struct {
	t     *testing.T
	sim   *testservers.SimChip
	clock *telemetry.Clock
}

// bootClock is a clock on CLOCK_BOOTTIME, as the gateway's.
func bootClock(t *testing.T) *telemetry.Clock {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return telemetry.NewClock("vm", telemetry.Mono(ts.Nano()), time.Unix(0, 0))
}

// start drives a Bus with the lines.
func (v *vm) start(t *testing.T, lines ...firmwareconfig.GPIOLine) *rig {
	t.Helper()
	c := config(lines...)
	c.Chip, c.Clock = "pinctrl-sim", v.clock
	r := startRig(t, c)
	testservers.Eventually(t, 10*time.Second, "all lines are ours", func() bool { return r.bus.Health().Units[0].Online })
	return r
}

func (v *vm) set(t *testing.T, line int, level bool) {
	t.Helper()
	if err := v.sim.Set(line, level); err != nil {
		t.Fatal(err)
	}
}

func (v *vm) value(t *testing.T, line int) bool {
	t.Helper()
	level, err := v.sim.Value(line)
	if err != nil {
		t.Fatal(err)
	}
	return level
}

// until waits until the last sample of a point is as wanted, and returns it.
func until(t *testing.T, r *rig, point telemetry.PointID, q telemetry.Quality, value telemetry.Value) telemetry.Sample {
	t.Helper()
	var last telemetry.Sample
	testservers.Eventually(t, 10*time.Second, fmt.Sprintf("point %d is %v %v", point, q, value), func() bool {
		all := r.of(point)
		if len(all) == 0 {
			return false
		}
		last = all[len(all)-1]
		return last.Quality == q && last.Value == value
	})
	return last
}

func (v *vm) finding(t *testing.T) {
	host := gpio.KernelHost(v.clock)
	name := strings.TrimPrefix(v.sim.Dev(), "/dev/")
	if err := os.Symlink(name, "/dev/expander"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pinctrl-sim", name, v.sim.Dev(), "expander", "/dev/expander"} {
		chip, err := host.Open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, line := range []string{"door", "0", "5"} {
			lines, err := chip.Request(gpio.Request{Lines: []string{line}})
			if err != nil {
				t.Errorf("%s: line %s: %v", name, line, err)
				continue
			}
			lines.Close()
		}
		for line, want := range map[string]string{
			"window": "no line window on " + v.sim.Dev()[5:] + " (pinctrl-sim, 16 lines)",
			"twice":  "are named twice: numbers 5 6; use the number",
			"16":     "has the lines 0 to 15",
			"-1":     "has the lines 0 to 15",
		} {
			if _, err := chip.Request(gpio.Request{Lines: []string{line}}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("line %s: %v, want %q", line, err, want)
			}
		}
		chip.Close()
	}
	if _, err := host.Open("pinctrl-bcm2835"); err == nil || !strings.Contains(err.Error(), "there is "+name+" (pinctrl-sim, 16 lines)") {
		t.Errorf("wrong label: %v", err)
	}
	if _, err := host.Open("/dev/null"); err == nil {
		t.Error("took /dev/null for a chip")
	}
	twin, err := testservers.NewSimChip("twin", "pinctrl-sim", nil, 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Open("pinctrl-sim"); err == nil || !strings.Contains(err.Error(), "2 chips are labelled") {
		t.Errorf("two of one label: %v", err)
	}
	if chip, err := host.Open(name); err != nil {
		t.Errorf("by name: %v", err)
	} else {
		chip.Close()
	}
	if err := twin.Close(); err != nil {
		t.Fatal(err)
	}
}

// permission runs as another user, which may not open the device.
func (v *vm) permission(t *testing.T) {
	if err := errors.Join(os.Chown(v.sim.Dev(), 0, 997), os.Chmod(v.sim.Dev(), 0o660)); err != nil {
		t.Fatal(err)
	}
	cmd := v.child("open")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 998, Gid: 998}}
	out, err := cmd.CombinedOutput()
	want := v.sim.Dev() + " belongs to group gpio, which user linli is not in"
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%v: %s\nwant %s", err, out, want)
	}
}

// child returns this program as another process with a job.
func (v *vm) child(job string) *exec.Cmd {
	// Without a timeout's timer the Go runtime would take the waiting process for a deadlock.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInVM$", "-test.timeout=1m", "-test.v")
	cmd.Env = append(os.Environ(), childJob+"="+job)
	return cmd
}

// child is what the other process does.
func child(t *testing.T, job string) {
	v := &vm{t: t, clock: bootClock(t)}
	switch job {
	case "open":
		_, err := gpio.KernelHost(v.clock).Open("pinctrl-sim")
		fmt.Println(err)
	case "drive":
		r := v.start(t, sirens()...)
		for _, p := range []telemetry.PointID{0, 1} {
			if err := r.write(p, yes); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Println("driving")
		select {} // until killed
	}
}

// input: an edge is told with its own time, however late it is fetched.
func (v *vm) input(t *testing.T) {
	c := config(
		firmwareconfig.GPIOLine{ID: "door", Line: "door", Kind: input},
		firmwareconfig.GPIOLine{ID: "low", Line: "7", Kind: input, ActiveLow: true},
	)
	c.Chip, c.Clock = "pinctrl-sim", v.clock
	bus, err := gpio.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	samples, _ := bus.Step(t.Context(), v.clock.Mono(), nil)
	if len(samples) != 2 || samples[0].Value != no || samples[1].Value != yes {
		t.Fatalf("at first: %v", samples)
	}
	for i := range 20 {
		level := i%2 == 0
		before := v.clock.Mono()
		v.set(t, 0, level)
		v.set(t, 7, level)
		after := v.clock.Mono()
		<-time.After(10 * time.Millisecond) // fetched late
		var got []telemetry.Sample
		testservers.Eventually(t, 5*time.Second, "both edges", func() bool {
			got, _ = bus.Step(t.Context(), v.clock.Mono(), got)
			return len(got) >= 2
		})
		for _, s := range got {
			want := level != (s.Point == 1)
			if s.Value.Bool() != want || s.Quality != telemetry.Good || s.Time < before || s.Time > after {
				t.Errorf("level %v: %+v, want %v between %v and %v", level, s, want, before, after)
			}
		}
	}
	if got := bus.Stats(); got.Edges != 40 || got.Lost != 0 || got.Repaired != 0 {
		t.Errorf("stats: %+v", got)
	}
}

func (v *vm) bias(t *testing.T) {
	v.set(t, 7, false)
	r := v.start(t,
		firmwareconfig.GPIOLine{ID: "up", Line: "7", Kind: input, Bias: firmwareconfig.GPIOPullUp},
		firmwareconfig.GPIOLine{ID: "down", Line: "8", Kind: input, Bias: firmwareconfig.GPIOPullDown},
	)
	until(t, r, 0, telemetry.Good, yes)
	until(t, r, 1, telemetry.Good, no)
}

func (v *vm) debounce(t *testing.T) {
	v.set(t, 0, false)
	r := v.start(t, firmwareconfig.GPIOLine{ID: "door", Line: "door", Kind: input, Debounce: 200 * time.Millisecond})
	until(t, r, 0, telemetry.Good, no)
	r.forget()
	var closed telemetry.Mono
	for i := range 9 {
		v.set(t, 0, i%2 == 0)
		closed = v.clock.Mono()
		<-time.After(5 * time.Millisecond)
	}
	got := until(t, r, 0, telemetry.Good, yes)
	if d := got.Time.Sub(closed).Abs(); d > 50*time.Millisecond {
		t.Errorf("dates %v from the last bounce", got.Time.Sub(closed))
	}
	if told := r.bus.Stats().Edges; told != 1 {
		t.Errorf("%d edges, want 1: the kernel debounces", told)
	}
	for _, s := range r.of(0) {
		if s.Time > got.Time && !s.Value.Bool() {
			t.Errorf("goes back: %+v", s)
		}
	}
}

func (v *vm) pair(t *testing.T) {
	v.set(t, 1, true)
	v.set(t, 2, false)
	r := v.start(t, firmwareconfig.GPIOLine{ID: "loop", Line: "GPIO5", Second: "GPIO6", Kind: pair, Debounce: 30 * time.Millisecond})
	until(t, r, 0, telemetry.Good, no)
	v.set(t, 1, false)
	v.set(t, 2, true)
	until(t, r, 0, telemetry.Good, yes)
	for _, s := range r.of(0) {
		if s.Quality != telemetry.Good {
			t.Errorf("a contact under way: %+v", s)
		}
	}
	v.set(t, 2, false)
	until(t, r, 0, telemetry.BadSensor, telemetry.Value{})
	v.set(t, 1, true)
	until(t, r, 0, telemetry.Good, no)
}

func (v *vm) counter(t *testing.T) {
	v.set(t, 9, false)
	r := v.start(t, firmwareconfig.GPIOLine{ID: "water", Line: "9", Kind: counter})
	for range 3000 {
		v.set(t, 9, true)
		v.set(t, 9, false)
	}
	until(t, r, 0, telemetry.Good, telemetry.IntValue(3000))
	r.close()

	r = v.start(t, firmwareconfig.GPIOLine{ID: "water", Line: "9", Kind: counter, Edge: firmwareconfig.GPIOBoth})
	for range 50 {
		v.set(t, 9, true)
		v.set(t, 9, false)
	}
	until(t, r, 0, telemetry.Good, telemetry.IntValue(100))
}

// lost: the kernel throws away the oldest edges and says how many.
func (v *vm) lost(t *testing.T) {
	chip, err := gpio.KernelHost(v.clock).Open("pinctrl-sim")
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	lines, err := chip.Request(gpio.Request{Lines: []string{"9"}, Edge: periph.RisingEdge})
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		v.set(t, 9, true)
		v.set(t, 9, false)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var told, lost int
	edges := make([]gpio.Edge, 100)
	for {
		n, err := lines.Wait(ctx, edges)
		for _, e := range edges[:n] {
			told++
			lost += int(e.Lost)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if told != 1024 || lost != 3000-1024 {
		t.Errorf("%d told and %d lost of 3000", told, lost)
	}
	// Close ends a wait that has no end of its own.
	ended := make(chan error)
	go func() {
		_, err := lines.Wait(context.Background(), edges)
		ended <- err
	}()
	if err := lines.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("Wait ends without an error after Close")
	}
}

func (v *vm) reader(t *testing.T) {
	v.set(t, 10, true)
	v.set(t, 11, true)
	r := v.start(t, firmwareconfig.GPIOLine{
		ID: "reader", Line: "10", Second: "11", Kind: wiegand, Key: key, Bias: firmwareconfig.GPIOPullUp,
	})
	frame := func(bits string) {
		for _, c := range bits {
			line := 10 + int(c-'0')
			v.set(t, line, false)
			v.set(t, line, true)
		}
		<-time.After(100 * time.Millisecond)
	}
	var want []string
	for _, payload := range []string{"011101100000011001000011", strings.Repeat("1001", 8), strings.Repeat("10110", 7)} {
		bits := framed(payload)
		code, n, verdict := gpio.Decode(burst(bits), []int{26, 34, 37})
		if verdict != "good" {
			t.Fatal(verdict)
		}
		want = append(want, gpio.CardHash(key, code, n))
		frame(bits)
		bad := []byte(bits)
		bad[3] ^= 1
		frame(string(bad))
	}
	testservers.Eventually(t, 10*time.Second, "three cards and three bad frames", func() bool {
		s := r.bus.Stats()
		return s.Cards == 3 && s.BadFrames == 3
	})
	var got []string
	for _, s := range r.of(0) {
		got = append(got, s.Value.Text())
	}
	if !slices.Equal(got, want) {
		t.Errorf("cards %v, want %v", got, want)
	}
}

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

func (v *vm) busy(t *testing.T) {
	chip, err := gpio.KernelHost(v.clock).Open("pinctrl-sim")
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	other, err := chip.Request(gpio.Request{Lines: []string{"door"}, Consumer: "bad-daemon"})
	if err != nil {
		t.Fatal(err)
	}
	c := config(
		firmwareconfig.GPIOLine{ID: "door", Line: "door", Kind: input},
		firmwareconfig.GPIOLine{ID: "low", Line: "7", Kind: input},
	)
	c.Chip, c.Clock = "pinctrl-sim", v.clock
	r := startRig(t, c)
	until(t, r, 0, telemetry.BadComm, telemetry.Value{})
	u := r.bus.Health().Units[0]
	if want := `line door: in use by "bad-daemon"`; u.Online || !strings.Contains(u.LastError, want) {
		t.Errorf("health: %+v, want %s", u, want)
	}
	v.set(t, 7, true)
	until(t, r, 1, telemetry.Good, yes)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, r, 0, telemetry.Good, telemetry.BoolValue(v.value(t, 0)))
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

// unplug takes the chip away under a running Bus and brings it back. It is last: the chip is another one then.
func (v *vm) unplug(t *testing.T) {
	v.set(t, 0, true)
	v.set(t, 9, false)
	r := v.start(t,
		firmwareconfig.GPIOLine{ID: "door", Line: "door", Kind: input},
		firmwareconfig.GPIOLine{ID: "siren", Line: "siren", Kind: outputs, OnStart: firmwareconfig.OutputOff},
		firmwareconfig.GPIOLine{ID: "water", Line: "9", Kind: counter},
	)
	until(t, r, 0, telemetry.Good, yes)
	if err := r.write(1, yes); err != nil {
		t.Fatal(err)
	}
	v.set(t, 9, true)
	until(t, r, 2, telemetry.Good, telemetry.IntValue(1))
	if err := v.sim.Close(); err != nil {
		t.Fatal(err)
	}
	for p := range telemetry.PointID(3) {
		until(t, r, p, telemetry.BadComm, telemetry.Value{})
	}
	testservers.Eventually(t, 10*time.Second, "the bus is down and says why", func() bool {
		h := r.bus.Health()
		return !h.Up && strings.Contains(h.LastError, `no GPIO chip "pinctrl-sim"`)
	})
	sim, err := testservers.NewSimChip("again", "pinctrl-sim", map[int]string{0: "door", 3: "siren"}, 16)
	if err != nil {
		t.Fatal(err)
	}
	v.sim = sim
	until(t, r, 0, telemetry.Good, no)
	until(t, r, 1, telemetry.Good, yes)
	until(t, r, 2, telemetry.Good, telemetry.IntValue(1))
	if !v.value(t, 3) {
		t.Error("the siren has stopped")
	}
	if n := r.calls(); n > 2000 {
		t.Errorf("%d Steps: it spins", n)
	}
}
