package modbus_test

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// ptyRig is a bus on a real pty. Time is advanced by hand, so that nothing is slept away between polls: what is due
// is decided by the moment that Step is told.
type ptyRig struct {
	*rig
	now telemetry.Mono
}

func newPtyRig(t *testing.T, line firmwareconfig.Line, units []firmwareconfig.Unit, handle func(c io.ReadWriteCloser, r request) bool) *ptyRig {
	t.Helper()
	master, slave := openPty(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(master, true, 0, handle)
	}()
	r := &rig{t: t, clock: telemetry.NewClock("test", 0, time.Time{}), last: map[telemetry.PointID]telemetry.Sample{}}
	bus, err := modbus.New(modbus.Config{Name: "pty", Transport: modbus.RTU, Device: slave, Line: line, Units: units, Clock: r.clock})
	if err != nil {
		t.Fatal(err)
	}
	r.bus = bus
	t.Cleanup(func() {
		_ = bus.Close()
		_ = master.Close()
		<-done
	})
	return &ptyRig{rig: r}
}

func (r *ptyRig) steps(n int) {
	for range n {
		var s []telemetry.Sample
		s, r.next = r.bus.Step(r.t.Context(), r.now, nil)
		for _, x := range s {
			r.last[x.Point] = x
		}
		r.all = append(r.all, s...)
		r.now = max(r.next, r.now.Add(time.Microsecond))
	}
}

var fast = firmwareconfig.Line{Baud: 115200, Format: "8N1"}

func TestM3LateAnswerIsNoValueRTU(t *testing.T) {
	u, d := countingBlocks("a", 1, 0)
	v, e := countingBlocks("b", 2, 10)
	for _, p := range []*firmwareconfig.Profile{u.Profile, v.Profile} {
		p.Timing.Timeout = 150 * time.Millisecond
		for i := range p.Channels {
			p.Channels[i].Every = 50 * time.Millisecond
		}
	}
	master, slave := openPty(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		serve(master, true, 0, func(c io.ReadWriteCloser, r request) bool {
			ans := r.frame(true, map[byte]*tables{1: d, 2: e}[r.unit].answer(r.pdu))
			if r.nth%17 == 3 {
				// 50 ms after the timeout: while the next request is on the line.
				time.AfterFunc(200*time.Millisecond, func() { _, _ = c.Write(ans) })
				return true
			}
			_, _ = c.Write(ans)
			return true
		})
	})
	clock := telemetry.NewClock("test", 0, time.Time{})
	bus, err := modbus.New(modbus.Config{Name: "pty", Transport: modbus.RTU, Device: slave, Line: fast, Units: []firmwareconfig.Unit{u, v}, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	// Under load any answer may be late: what is counted are right values, until there are enough and the peer has
	// been late often enough.
	var got []telemetry.Sample
	right := 0
	if err := drivers.Supervise(ctx, clock, bus, func(s []telemetry.Sample) {
		got = append(got, s...)
		for _, x := range s {
			if !x.Quality.Bad() {
				right++
			}
		}
		h := bus.Health()
		if right >= 240 && h.Units[0].Timeouts+h.Units[1].Timeouts >= 8 && h.Units[0].Late+h.Units[1].Late > 0 {
			cancel()
		}
	}, nil); err != nil {
		t.Fatal(err)
	}
	_ = master.Close()
	wg.Wait()
	a, b := checkCounting(t, got, 0, 1), checkCounting(t, got, 10, 2)
	h := bus.Health()
	t.Logf("%d and %d right values, %+v", a, b, h.Units)
	if n := h.Units[0].Timeouts + h.Units[1].Timeouts; n < 8 || a+b < 240 {
		t.Errorf("only %d right values and %d timeouts within a minute", a+b, n)
	}
	if h.Units[0].Late+h.Units[1].Late == 0 {
		t.Error("no late frame was seen: the test shows nothing")
	}
}

func TestM3LateAnswerIsNoValueInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		v, e := countingBlocks("b", 2, 10)
		var late atomic.Int32
		p := &peer{serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
			ans := r.frame(true, map[byte]*tables{1: d, 2: e}[r.unit].answer(r.pdu))
			if r.nth%7 == 3 {
				n := late.Add(1)
				// The timeout is 300 ms; up to twice that, nothing tells a late answer from a fresh one but the
				// rest that the unit is given.
				time.AfterFunc(310*time.Millisecond+time.Duration(n%14)*20*time.Millisecond, func() { _, _ = c.Write(ans) })
				return true
			}
			_, _ = c.Write(ans)
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: fast, Units: []firmwareconfig.Unit{u, v}}, p)
		r.run(5 * time.Minute)
		a, b := checkCounting(t, r.all, 0, 1), checkCounting(t, r.all, 10, 2)
		t.Logf("%d and %d right values, %d late answers, %+v %+v", a, b, late.Load(), r.unit(0), r.unit(1))
		if a+b < 1500 || late.Load() < 200 || p.dials != 1 {
			t.Errorf("%d right values, %d late, %d opens", a+b, late.Load(), p.dials)
		}
	})
}

func TestM3LateAnswerIsNoValueRTUOverTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if r.nth%7 == 3 {
				time.Sleep(time.Second)
			}
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTUOverTCP, Units: []firmwareconfig.Unit{u}}, p)
		r.run(time.Minute)
		n := checkCounting(t, r.all, 0, 1)
		if h := r.unit(0); n < 150 || h.Timeouts < 20 {
			t.Errorf("%d right values, health %+v", n, h)
		}
	})
}

func TestM4ManyCallersGetTheirOwnAnswers(t *testing.T) {
	u, d := countingBlocks("a", 1, 0)
	v := unitOf("b", 2, 20)
	e := newTables()
	for i := range 4 {
		c := u16("w"+string(rune('a'+i)), 100*i)
		c.Writable = true
		w := unitOf("b", 2, telemetry.PointID(20+i), c)
		v.Profile.Channels = append(v.Profile.Channels, c)
		w.Bindings[0].Channel = i
		v.Bindings = append(v.Bindings, w.Bindings[0])
	}
	master, slave := openPty(t)
	go serve(master, true, 0, answering(true, map[byte]*tables{1: d, 2: e}))
	clock := telemetry.NewClock("test", 0, time.Time{})
	bus, err := modbus.New(modbus.Config{Name: "pty", Transport: modbus.RTU, Device: slave, Line: fast, Units: []firmwareconfig.Unit{u, v}, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	line := drivers.NewLine(bus)
	ctx, cancel := context.WithCancel(t.Context())
	var got []telemetry.Sample
	ended := make(chan error, 1)
	go func() {
		ended <- drivers.Supervise(ctx, clock, line, func(s []telemetry.Sample) { got = append(got, s...) }, nil)
	}()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				if err := line.Write(t.Context(), telemetry.PointID(20+i), telemetry.FloatValue(float64(1000*i+n))); err != nil {
					t.Errorf("writer %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for i := range 4 {
		if w := uint16(1000*i + 19); e.regs[100*i] != w {
			t.Errorf("register %d = %d, want %d", 100*i, e.regs[100*i], w)
		}
	}
	checkCounting(t, got, 0, 1)
	for _, s := range got {
		if i := int(s.Point) - 20; i >= 0 && !s.Quality.Bad() && s.Value.Float() != 0 && int(s.Value.Float())/1000 != i {
			t.Errorf("point %d = %v", s.Point, s.Value)
		}
	}
}

func TestM5HangUpEndsAtOnceWithoutSpinning(t *testing.T) {
	master, slave := openPty(t)
	bus, err := modbus.New(modbus.Config{Name: "pty", Transport: modbus.RTU, Device: slave, Line: fast, Timeout: 10 * time.Second,
		Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = readRequest(master, true)
		_ = master.Close() // the adapter is pulled while we wait for the answer
	}()
	cpu := cpuTime(t)
	start := time.Now()
	_, next := bus.Step(t.Context(), 0, nil)
	s, next := bus.Step(t.Context(), max(next, telemetry.Mono(2*time.Second)), nil)
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("the hang-up was noticed after %v", d)
	}
	if len(s) != 1 || s[0].Quality != telemetry.BadComm {
		t.Errorf("samples %v, want the point bad: the device is gone", s)
	}
	for range 20 { // it stays away
		_, next = bus.Step(t.Context(), next, nil)
	}
	if next < telemetry.Mono(3*time.Minute) {
		t.Errorf("20 attempts within %v: no backoff", time.Duration(next))
	}
	if d := cpuTime(t) - cpu; d > 500*time.Millisecond {
		t.Errorf("burnt %v of CPU", d)
	}
	if h := bus.Health(); h.Up || h.LastError == "" {
		t.Errorf("health %+v", h)
	}
}

func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestM5DeviceIsReopened(t *testing.T) {
	dir := t.TempDir()
	link := dir + "/tty"
	u, d := countingBlocks("a", 1, 0)
	first, slave := openPty(t)
	if err := os.Symlink(slave, link); err != nil {
		t.Fatal(err)
	}
	go serve(first, true, 0, answering(true, map[byte]*tables{1: d}))
	bus, err := modbus.New(modbus.Config{Name: "pty", Transport: modbus.RTU, Device: link, Line: fast, Units: []firmwareconfig.Unit{u}})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	r := &ptyRig{rig: &rig{t: t, bus: bus, last: map[telemetry.PointID]telemetry.Sample{}}}
	r.steps(10)
	r.want(4, 5001, telemetry.Good)
	_ = first.Close()
	_ = os.Remove(link)
	r.steps(6)
	r.want(4, 0, telemetry.BadComm)
	second, slave := openPty(t)
	if err := os.Symlink(slave, link); err != nil {
		t.Fatal(err)
	}
	go serve(second, true, 0, answering(true, map[byte]*tables{1: d}))
	r.steps(7)
	r.want(0, 1001, telemetry.Good)
	r.want(4, 5001, telemetry.Good)
}

func TestM6ExceptionInTwoReads(t *testing.T) {
	u, d := countingBlocks("a", 1, 0)
	r := newPtyRig(t, fast, []firmwareconfig.Unit{u}, func(c io.ReadWriteCloser, r request) bool {
		if int(r.pdu[1])<<8|int(r.pdu[2]) == 2000 {
			f := r.frame(true, []byte{r.pdu[0] | 0x80, 2})
			_, _ = c.Write(f[:4])
			time.AfterFunc(5*time.Millisecond, func() { _, _ = c.Write(f[4:]) })
			return true
		}
		_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
		return true
	})
	r.steps(30)
	checkCounting(t, r.all, 0, 1)
	r.want(1, 0, telemetry.BadSensor)
	if h := r.unit(0); h.Exceptions == 0 || h.Errors+h.Timeouts != 0 {
		t.Errorf("health %+v, want exceptions and no errors", h)
	}
}

func TestM7DeadlineIsOverTheWholeExchange(t *testing.T) {
	for _, transport := range []string{modbus.TCP, modbus.RTU} {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
					for range 100 { // a byte every 100 ms
						if _, err := c.Write([]byte{r.unit}); err != nil {
							return false
						}
						time.Sleep(100 * time.Millisecond)
					}
					return true
				}}
				r := newRig(t, modbus.Config{Transport: transport, Timeout: 150 * time.Millisecond, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}}, p)
				start := time.Now()
				r.step()
				if d := time.Since(start); d > 200*time.Millisecond {
					t.Errorf("a trickling device held the line for %v at a timeout of 150 ms", d)
				}
			})
		})
	}
}

func TestM13NoSleepForTheExpectedLength(t *testing.T) {
	d := newTables()
	var chs []firmwareconfig.Channel
	for a := range 125 {
		d.set(a, uint16(a))
		chs = append(chs, u16("c"+string(rune('a'+a%26))+string(rune('a'+a/26)), a))
	}
	r := newPtyRig(t, fast, []firmwareconfig.Unit{unitOf("a", 1, 0, chs...)}, answering(true, map[byte]*tables{1: d}))
	start := time.Now()
	r.steps(20)
	each := time.Since(start) / 20
	r.want(124, 124, telemetry.Good)
	t.Logf("%v for each read of 125 registers at 115200 on a pty (goburrow: 200 ms)", each)
	if each > 60*time.Millisecond {
		t.Errorf("%v for each read of 125 registers", each)
	}
}

func TestM13QuietBetweenFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		var end time.Time
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if g := time.Since(end); !end.IsZero() && g < modbus.QuietTime(9600) {
				t.Errorf("request %d came %v after the last answer, want 4 ms of silence", r.nth, g)
			}
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			end = time.Now()
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u}}, p)
		r.run(10 * time.Second)
		checkCounting(t, r.all, 0, 1)
	})
}

func TestNoiseAndForeignFramesAreSkipped(t *testing.T) {
	u, d := countingBlocks("a", 1, 0)
	r := newPtyRig(t, fast, []firmwareconfig.Unit{u}, func(c io.ReadWriteCloser, r request) bool {
		ans := r.frame(true, d.answer(r.pdu))
		switch r.nth % 6 {
		case 1:
			_, _ = c.Write(append([]byte{0xFF, 0x00, 0x01, 0x37}, ans...)) // noise before the frame
		case 2: // another unit's late answer
			_, _ = c.Write(append(modbus.AppendRTU(nil, 9, []byte{3, 2, 0xDE, 0xAD}), ans...))
		case 3: // another master's request
			_, _ = c.Write(append(modbus.AppendRTU(nil, 9, []byte{3, 0, 0, 0, 1}), ans...))
		case 4: // damaged
			ans[3] ^= 1
			_, _ = c.Write(ans)
		default:
			_, _ = c.Write(ans)
		}
		return true
	})
	r.steps(60)
	n := checkCounting(t, r.all, 0, 1)
	h := r.unit(0)
	t.Logf("%d values, %+v", n, h)
	if n < 45 || r.bus.Health().Foreign < 20 || h.Late > 5 || h.Errors < 8 || h.Timeouts > 2 || !h.Online {
		t.Errorf("%d values, health %+v", n, h)
	}
}

func TestCutFrameResynchronises(t *testing.T) {
	u, d := countingBlocks("a", 1, 0)
	u.Profile.Timing.Timeout = 40 * time.Millisecond
	r := newPtyRig(t, fast, []firmwareconfig.Unit{u}, func(c io.ReadWriteCloser, r request) bool {
		ans := r.frame(true, d.answer(r.pdu))
		if r.nth%5 == 0 {
			ans = ans[:len(ans)-2]
		}
		_, _ = c.Write(ans)
		return true
	})
	r.steps(50)
	if n := checkCounting(t, r.all, 0, 1); n < 35 || !r.unit(0).Online {
		t.Errorf("%d values of 50, health %+v", n, r.unit(0))
	}
}

func TestS1WritesAreComplete(t *testing.T) {
	master, slave := openPty(t)
	p, err := modbus.OpenSerial(slave, 115200, "8N1")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const size = 1 << 20
	var got int
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for got < size {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			got += n
		}
	}()
	_ = p.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := p.Write(make([]byte, size)); n != size || err != nil {
		t.Fatalf("wrote %d of %d bytes, %v", n, size, err)
	}
	<-done
	if got != size {
		t.Errorf("%d bytes arrived", got)
	}
}

func TestS2DescriptorsAbove1024(t *testing.T) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if lim.Cur < 1200 {
		lim.Cur = min(lim.Max, 4096)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
			t.Fatal(err)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range 1100 {
		fd, err := unix.Dup(int(null.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	u, d := countingBlocks("a", 1, 0)
	r := newPtyRig(t, fast, []firmwareconfig.Unit{u}, answering(true, map[byte]*tables{1: d}))
	r.steps(10)
	if n := checkCounting(t, r.all, 0, 1); n != 10 {
		t.Errorf("%d values of 10, health %+v", n, r.unit(0))
	}
}

func TestS3LineSettingsAreApplied(t *testing.T) {
	for _, c := range []struct {
		baud        int
		format      string
		parity, odd bool
		twoStop     bool
	}{
		{9600, "8N1", false, false, false},
		{19200, "8E1", true, false, false},
		{9600, "8O1", true, true, false},
		{4800, "8N2", false, false, true},
		{56000, "8N1", false, false, false}, // no constant exists for this rate
	} {
		_, slave := openPty(t)
		p, err := modbus.OpenSerial(slave, c.baud, c.format)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(slave, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err == nil {
			tio, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS2)
			if err != nil {
				t.Fatal(err)
			}
			// A pty driver has no parity and clears the bits, so speed, stop bits and raw mode are what can be seen.
			if int(tio.Ospeed) != c.baud || (tio.Cflag&unix.CSTOPB != 0) != c.twoStop || tio.Lflag != 0 || tio.Cc[unix.VMIN] != 1 {
				t.Errorf("%d %s: termios %+v", c.baud, c.format, tio)
			}
			_ = f.Close()
		}
		_ = p.Close()
	}
	_, slave := openPty(t)
	if _, err := modbus.OpenSerial(slave, 9600, "7E1"); err == nil {
		t.Error("7 data bits were accepted")
	}
}

func TestS4CloseWakesABlockedRead(t *testing.T) {
	_, slave := openPty(t)
	p, err := modbus.OpenSerial(slave, 9600, "8N1")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		_, err := p.Read(make([]byte, 1))
		ended <- err
	}()
	<-started
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("read ended without an error")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("read is still blocked")
	}
}

func TestM11CancelOnAPty(t *testing.T) {
	_, slave := openPty(t)
	bus, err := modbus.New(modbus.Config{Name: "pty", Transport: modbus.RTU, Device: slave, Timeout: time.Minute,
		Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	bus.Step(ctx, 0, nil)
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("cancel took %v", d)
	}
	if err := bus.Close(); err != nil {
		t.Error(err)
	}
}
