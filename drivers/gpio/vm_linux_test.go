package gpio_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	periph "periph.io/x/conn/v3/gpio"

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

// bootClock is a clock as the gateway's, of a box that has slept for an hour: the kernel dates edges by CLOCK_MONOTONIC,
// which does not go on in sleep, the gateway's samples by CLOCK_BOOTTIME, which does.
func bootClock(t *testing.T) *telemetry.Clock {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return telemetry.NewClock("vm", telemetry.Mono(ts.Nano()).Add(time.Hour), time.Unix(0, 0))
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
