package modbus_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// The benchmarks here run on a pty whose bytes take the time of a real serial line (paced). They take as long as they
// need, whatever -benchtime says, and report ratios to what the line allows.

// slowLine is a paced line with its units and the bus that reads them.
type slowLine struct {
	line  firmwareconfig.Line
	turn  time.Duration
	units []firmwareconfig.Unit
	dev   map[byte]*tables
	dead  map[byte]bool
	// seen is called for each request as it arrives, may be nil.
	seen func(r request, at time.Time)
	bus  *modbus.Bus
	far  *paced
}

// charTime is one character of 8N1.
func charTime(baud int) time.Duration { return 10 * time.Second / time.Duration(baud) }

// took is what one read of n registers costs at the least: request, turnaround, answer, and the silence before the next.
func (s *slowLine) took(n int) time.Duration {
	return time.Duration(8+5+2*n)*charTime(s.line.Baud) + s.turn + modbus.QuietTime(s.line.Baud)
}

// open starts the far end and builds the bus.
func (s *slowLine) open(b *testing.B) {
	b.Helper()
	master, slave := openPty(b)
	s.far = &paced{pty: master, char: charTime(s.line.Baud), turn: s.turn}
	go serve(s.far, true, 0, func(c io.ReadWriteCloser, r request) bool {
		if s.seen != nil {
			s.seen(r, time.Now())
		}
		if d := s.dev[r.unit]; d != nil && !s.dead[r.unit] {
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
		}
		return true
	})
	bus, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.RTU, Device: slave, Line: s.line, Units: s.units})
	if err != nil {
		b.Fatal(err)
	}
	s.bus = bus
	b.Cleanup(func() { _ = bus.Close() })
}

// supervise drives the bus until the returned function is called; emit gets the samples.
func (s *slowLine) supervise(b *testing.B, emit func([]telemetry.Sample)) (*drivers.Line, func()) {
	line := drivers.NewLine(s.bus)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = drivers.Supervise(ctx, telemetry.NewClock("bench", 0, time.Time{}), line, emit, nil)
	})
	return line, func() { cancel(); wg.Wait() }
}

// reading returns a unit of n registers at address, read every so often.
func reading(address, n int, every time.Duration, life bool) (firmwareconfig.Unit, *tables) {
	d := newTables()
	var chs []firmwareconfig.Channel
	for a := range n {
		c := u16("r"+strconv.Itoa(a), a)
		c.Every = every
		chs = append(chs, c)
		d.set(a, uint16(address<<8|a))
	}
	u := unitOf("u"+strconv.Itoa(address), address, telemetry.PointID(100*address), chs...)
	u.Profile.Timing.ReadDelay = 10 * time.Millisecond
	for i := range u.Bindings {
		u.Bindings[i].Def.LifeSafety = life
	}
	return u, d
}

// BenchmarkLineUse saturates a line with reads of 16 registers from eight units: the share of the time that reads took
// which they need at this speed, with a turnaround of 5 ms. The limit is 95 %.
func BenchmarkLineUse(b *testing.B) {
	for _, baud := range []int{4800, 9600, 19200, 115200} {
		b.Run(strconv.Itoa(baud), func(b *testing.B) {
			s := &slowLine{line: firmwareconfig.Line{Baud: baud, Format: "8N1"}, turn: 5 * time.Millisecond, dev: map[byte]*tables{}}
			for a := 1; a <= 8; a++ {
				u, d := reading(a, 16, time.Millisecond, false)
				s.units, s.dev[byte(a)] = append(s.units, u), d
			}
			s.open(b)
			var reads int
			var from, to time.Time
			values, failed := 0, 0
			for start := time.Now(); time.Since(start) < 6*time.Second; {
				samples, _ := s.bus.Step(b.Context(), telemetry.Mono(time.Since(start)), nil)
				if len(samples) != 16 {
					failed++ // A machine that stood still for longer than the timeout: time that the line was not used.
					continue
				}
				values += len(samples)
				if from.IsZero() {
					from = time.Now() // The first read opens the port.
					continue
				}
				reads, to = reads+1, time.Now()
			}
			use := float64(reads) * float64(s.took(16)) / float64(to.Sub(from))
			b.ReportMetric(100*use, "%line")
			b.ReportMetric(float64(failed), "reads-failed")
			b.ReportMetric(float64(values)/to.Sub(from).Seconds(), "values/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkDeadUnits reads 32 units at 9600 baud, four of them life-safety each second, on a line that is 90 % busy,
// with some of the ordinary ones dead: the rate that the live units keep, and how old a life-safety point was at worst.
// Limit: 90 % with ten dead.
func BenchmarkDeadUnits(b *testing.B) {
	const settle, window = 20 * time.Second, 40 * time.Second
	for _, dead := range []int{0, 1, 10, 31} {
		b.Run(strconv.Itoa(dead), func(b *testing.B) {
			s := &slowLine{line: firmwareconfig.Line{Baud: 9600, Format: "8N1"}, turn: 10 * time.Millisecond, dev: map[byte]*tables{}, dead: map[byte]bool{}}
			ordinary := 28 * s.took(10) * 100 / (90 - 100*4*s.took(10)/time.Second)
			for a := 1; a <= 32; a++ {
				every, life := ordinary, false
				if a <= 4 {
					every, life = time.Second, true
				}
				u, d := reading(a, 10, every, life)
				s.units, s.dev[byte(a)] = append(s.units, u), d
				s.dead[byte(a)] = a > 32-dead
			}
			s.open(b)
			var mu sync.Mutex
			start := time.Now()
			last := map[int]time.Time{}
			good, worst, wrong := 0, time.Duration(0), 0
			_, stop := s.supervise(b, func(samples []telemetry.Sample) {
				mu.Lock()
				defer mu.Unlock()
				now := time.Now()
				for _, x := range samples {
					if x.Quality != telemetry.Good || now.Sub(start) < settle {
						continue
					}
					unit, reg := int(x.Point)/100, int(x.Point)%100
					if int(x.Value.Float()) != unit<<8|reg {
						wrong++
					}
					good++
					if reg == 0 && unit <= 4 {
						if t, ok := last[unit]; ok {
							worst = max(worst, now.Sub(t))
						}
						last[unit] = now
					}
				}
			})
			time.Sleep(settle + window)
			stop()
			mu.Lock()
			defer mu.Unlock()
			want := 0.0
			for a := 1; a <= 32-dead; a++ {
				every := ordinary
				if a <= 4 {
					every = time.Second
				}
				want += 10 * float64(window) / float64(every)
			}
			if wrong > 0 {
				b.Errorf("%d wrong values", wrong)
			}
			b.ReportMetric(100*float64(good)/want, "%rate")
			b.ReportMetric(worst.Seconds(), "s-worst-life-safety")
			b.ReportMetric(100*float64(28*s.took(10))/float64(ordinary)+400*s.took(10).Seconds(), "%busy-without-dead")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkChangeToRelay is the time from a contact that closes at one unit to the relay's frame at another, complete
// on the wire: 32 units at 9600 baud, ten of them dead, the line 90 % busy. The decision between is one comparison; that
// of the rules engine is measured in package rules. Limit: 2 s at the 99th percentile, 10 s always.
func BenchmarkChangeToRelay(b *testing.B) {
	const trials = 100
	s := &slowLine{line: firmwareconfig.Line{Baud: 9600, Format: "8N1"}, turn: 10 * time.Millisecond, dev: map[byte]*tables{}, dead: map[byte]bool{}}
	ordinary := 28 * s.took(10) * 100 / (90 - 100*4*s.took(10)/time.Second)
	for a := 1; a <= 32; a++ {
		u, d := reading(a, 10, ordinary, false)
		if a <= 4 {
			u, d = reading(a, 10, time.Second, true)
		}
		if a == 20 {
			relay := firmwareconfig.Channel{Name: "relay", Table: firmwareconfig.Coil, Address: 0, Encoding: firmwareconfig.EncBool, Writable: true, Every: ordinary}
			u = unitOf("relay", 20, 2000, relay)
		}
		s.units, s.dev[byte(a)] = append(s.units, u), d
		s.dead[byte(a)] = a > 22
	}
	wrote := make(chan time.Time, 16)
	s.seen = func(r request, at time.Time) {
		if r.unit == 20 && r.pdu[0] == 5 {
			wrote <- at
		}
	}
	s.open(b)
	changed := make(chan bool, 64)
	line, stop := s.supervise(b, func(samples []telemetry.Sample) {
		for _, x := range samples {
			if x.Point == 103 && x.Quality == telemetry.Good {
				changed <- x.Value.Float() == 1
			}
		}
	})
	go func() {
		was := false
		for {
			select {
			case on := <-changed:
				if on != was {
					was = on
					_ = line.Write(b.Context(), 2000, telemetry.BoolValue(on))
				}
			case <-b.Context().Done():
				return
			}
		}
	}()
	defer stop()
	time.Sleep(15 * time.Second) // the dead are found
	var all []time.Duration
	rnd := rand.New(rand.NewPCG(1, 2))
	on := false
	for range trials {
		time.Sleep(time.Duration(rnd.Int64N(int64(time.Second))))
		for len(wrote) > 0 {
			<-wrote
		}
		on = !on
		start := time.Now()
		v := uint16(0)
		if on {
			v = 1
		}
		s.dev[1].set(3, v)
		select {
		case at := <-wrote:
			all = append(all, at.Sub(start))
		case <-time.After(30 * time.Second):
			b.Fatal("no relay frame within 30 s")
		}
	}
	report(b, all)
}

// BenchmarkWriteLatency is the time from a write being asked for to its frame, complete on the wire, and to its
// confirmation by reading back, while reads saturate a line of 9600 baud.
func BenchmarkWriteLatency(b *testing.B) {
	s := &slowLine{line: firmwareconfig.Line{Baud: 9600, Format: "8N1"}, turn: 10 * time.Millisecond, dev: map[byte]*tables{}}
	for a := 1; a <= 16; a++ {
		u, d := reading(a, 10, time.Millisecond, a <= 4)
		if a == 16 {
			u = unitOf("relay", 16, 2000, firmwareconfig.Channel{Name: "relay", Table: firmwareconfig.Coil, Address: 0, Encoding: firmwareconfig.EncBool, Writable: true})
		}
		s.units, s.dev[byte(a)] = append(s.units, u), d
	}
	wrote := make(chan time.Time, 16)
	s.seen = func(r request, at time.Time) {
		if r.unit == 16 && r.pdu[0] == 5 {
			wrote <- at
		}
	}
	s.open(b)
	line, stop := s.supervise(b, func([]telemetry.Sample) {})
	defer stop()
	time.Sleep(2 * time.Second)
	var frame, confirmed []time.Duration
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		time.Sleep(time.Duration(rnd.Int64N(int64(100 * time.Millisecond))))
		start := time.Now()
		if err := line.Write(b.Context(), 2000, telemetry.BoolValue(i%2 == 0)); err != nil {
			b.Fatal(err)
		}
		confirmed = append(confirmed, time.Since(start))
		frame = append(frame, (<-wrote).Sub(start))
	}
	report(b, frame)
	slices.Sort(confirmed)
	b.ReportMetric(confirmed[len(confirmed)*99/100].Seconds()*1000, "ms-p99-confirmed")
}

// report adds the percentiles of all to the benchmark's figures.
func report(b *testing.B, all []time.Duration) {
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(all[len(all)/2]), "ms-p50")
	b.ReportMetric(ms(all[len(all)*99/100]), "ms-p99")
	b.ReportMetric(ms(all[len(all)-1]), "ms-max")
	b.ReportMetric(0, "ns/op")
	b.Logf("%s", fmt.Sprint(len(all), " trials"))
}
