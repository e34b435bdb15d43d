package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/journal"
	"linli/internal/simulate"
	"linli/internal/telemetry"
	"linli/internal/wire"
)

// tenfold is the demo's community ten times over, as one site: 520 devices that live through a day, read at the intervals of
// their profiles, with what the gateway says of 390 units and their buses.
type tenfold struct {
	base  *plan
	inv   *telemetry.Inventory
	parts []tenthPart
	reads []unitRead
}

// tenthPart is one of the communities.
type tenthPart struct {
	sim    *simulate.Community
	day    *simulate.Day
	points *busPoints
	first  telemetry.PointID // of its points in tenfold.inv
	health []drivers.BusHealth
}

// unitRead is one reading of a unit: what of it has one interval.
type unitRead struct {
	part     int
	every    time.Duration
	phase    time.Duration
	bindings []firmwareconfig.Binding
	profile  *firmwareconfig.Profile
}

func newTenfold(tb testing.TB) *tenfold {
	tb.Helper()
	p, err := resolvePlan("site.yaml", simulate.SiteFile(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	from := p.site.Inventory
	w := &tenfold{base: p, inv: &telemetry.Inventory{Site: from.Site, Gateway: from.Gateway, Location: from.Location}}
	r := rand.New(rand.NewPCG(1, 1))
	for k := range 10 {
		id := func(s string) string { return fmt.Sprintf("%s_%d", s, k) }
		zones, devices := len(w.inv.Zones), len(w.inv.Devices)
		for _, z := range from.Zones {
			z.ID = id(z.ID)
			if z.Parent >= 0 {
				z.Parent += zones
			}
			w.inv.AddZone(z)
		}
		for _, d := range from.Devices {
			d.ID = id(d.ID)
			if d.Zone >= 0 {
				d.Zone += zones
			}
			w.inv.AddDevice(d)
		}
		part := tenthPart{first: telemetry.PointID(len(w.inv.Points)), sim: simulate.New(from)}
		for i := range from.Points {
			if q := &from.Points[i]; q.Device >= 0 {
				w.inv.ProvidePoint(devices+q.Device, slices.Index(from.Devices[q.Device].Points, telemetry.PointID(i)))
			}
		}
		var states []func(*drivers.BusHealth)
		for i := range p.site.Buses {
			b := &p.site.Buses[i]
			part.sim.AddBus(b.ID, b.Units)
			h := drivers.BusHealth{Bus: b.ID, Up: true}
			for _, u := range b.Units {
				h.Units = append(h.Units, drivers.UnitHealth{Unit: u.ID, Online: true})
				w.plan(k, &u, r)
			}
			part.health = append(part.health, h)
			states = append(states, func(h *drivers.BusHealth) { *h = w.parts[k].health[i] })
		}
		part.day = simulate.NewDay(part.sim, uint64(k))
		part.points = newBusPoints(p.site, states, newClock())
		w.parts = append(w.parts, part)
	}
	return w
}

// plan adds the readings of a unit.
func (w *tenfold) plan(part int, u *firmwareconfig.Unit, r *rand.Rand) {
	groups := map[time.Duration]*unitRead{}
	var order []time.Duration
	for _, b := range u.Bindings {
		every := u.Profile.Channels[b.Channel].Every
		switch {
		case every == 0 && b.Def.LifeSafety:
			every = time.Second
		case every == 0:
			every = 5 * time.Second
		}
		if groups[every] == nil {
			groups[every] = &unitRead{part: part, every: every, phase: time.Duration(r.Int64N(int64(every))), profile: u.Profile}
			order = append(order, every)
		}
		groups[every].bindings = append(groups[every].bindings, b)
	}
	for _, every := range order {
		w.reads = append(w.reads, *groups[every])
	}
}

// live has the communities live from one moment, local time, until another, and gives each reading to take.
func (w *tenfold) live(tb testing.TB, from time.Time, d time.Duration, take func(now telemetry.Now, batch []telemetry.Sample)) (read int) {
	tb.Helper()
	r := rand.New(rand.NewPCG(2, 2))
	next := make([]time.Duration, len(w.reads))
	for i := range next {
		next[i] = w.reads[i].phase
	}
	const boot = time.Hour
	moment := func(at time.Duration) telemetry.Now {
		at = at.Truncate(time.Microsecond)
		return telemetry.Now{Mono: telemetry.Mono(boot + at), Wall: from.Add(at)}
	}
	last := time.Duration(0)
	batch := []telemetry.Sample{}
	for tick := time.Duration(0); tick < d; tick += time.Second {
		for k := range w.parts {
			w.parts[k].day.Step(from.Add(tick))
		}
		order := make([]int, 0, len(w.reads))
		for i := range w.reads {
			if next[i] < tick+time.Second {
				order = append(order, i)
			}
		}
		slices.SortFunc(order, func(a, b int) int { return int(next[a] - next[b]) })
		for _, i := range order {
			u := &w.reads[i]
			part := &w.parts[u.part]
			at := max(next[i], last)
			batch = batch[:0]
			for _, b := range u.bindings {
				s := w.base.site.Inventory.Series(b.Point)
				raw, err := part.sim.Raw(s.Device, s.Point)
				if err != nil {
					tb.Fatal(err)
				}
				batch = append(batch, telemetry.Sample{Point: part.first + b.Point, Time: moment(at).Mono, Value: decoded(&b, &u.profile.Channels[b.Channel], raw)})
			}
			last = at + time.Duration(20+r.IntN(200))*time.Microsecond
			next[i] += u.every
			read += len(batch)
			take(moment(last), batch)
		}
		for k := range w.parts { // Once a second is enough for what says something every ten.
			part := &w.parts[k]
			for i := range part.health {
				part.health[i].Busy = 0.3 + 0.1*r.Float64()
				for n := range part.health[i].Units {
					u := &part.health[i].Units[n]
					u.Answers += 2
					u.RoundTrip = time.Duration(30_000+r.IntN(9000)) * time.Microsecond
				}
			}
			last = max(last, tick+time.Duration(k)*100*time.Millisecond)
			batch = part.points.look(moment(last).Mono, batch[:0])
			for n := range batch {
				batch[n].Point += part.first
			}
			last += 50 * time.Microsecond
			read += len(batch)
			if len(batch) > 0 {
				take(moment(last), batch)
			}
		}
	}
	return read
}

// decoded is what a driver would make of the registers of a point, near enough.
func decoded(b *firmwareconfig.Binding, ch *firmwareconfig.Channel, raw []uint16) telemetry.Value {
	var bits uint64
	for i, word := range raw {
		if ch.LittleWords {
			word = raw[len(raw)-1-i]
		}
		bits = bits<<16 | uint64(word)
	}
	if ch.Width > 0 || ch.Encoding == firmwareconfig.EncBool && !ch.Table.Bits() {
		bits = bits >> ch.Bit & (1<<max(ch.Width, 1) - 1)
	}
	v := float64(bits)
	switch ch.Encoding {
	case firmwareconfig.EncS16:
		v = float64(int16(bits))
	case firmwareconfig.EncS32:
		v = float64(int32(bits))
	case firmwareconfig.EncF32:
		v = float64(math.Float32frombits(uint32(bits)))
	}
	v = v*ch.Scale + ch.Offset
	if b.Map != nil {
		v = b.Map.At(v)
	} else if b.UnitFactor != 0 {
		v = v*b.UnitFactor + b.UnitOffset
	}
	switch b.Def.Kind {
	case telemetry.Bool:
		return telemetry.BoolValue((bits != 0) != b.Invert)
	case telemetry.Int:
		return telemetry.IntValue(int64(v))
	case telemetry.Enum:
		return telemetry.EnumValue(int64(v))
	case telemetry.KindText:
		return telemetry.TextValue(fmt.Sprint(bits))
	}
	return telemetry.FloatValue(v)
}

// BenchmarkReportedCommunity gives an evening hour of 520 devices to the journal and writes it as line protocol: all that is
// read, what is reported, and what is reported with deadbands.
func BenchmarkReportedCommunity(b *testing.B) {
	from := time.Date(2026, 5, 4, 18, 30, 0, 0, time.FixedZone("CST", 8*3600))
	const lasts = time.Hour
	for _, c := range []struct {
		name      string
		thin      bool
		deadbands map[string]telemetry.Deadband
	}{
		{name: "all"},
		{name: "reported", thin: true},
		{name: "deadbands", thin: true, deadbands: map[string]telemetry.Deadband{
			"temperature_c": {On: true, Width: 0.2}, "cable_temperature_c": {On: true, Width: 0.5}, "humidity_pct": {On: true, Width: 1}, "fill_pct": {On: true, Width: 1},
			"active_power_w": {On: true, Percent: true, Width: 2}, "current_a": {On: true, Percent: true, Width: 2}, "voltage_v": {On: true, Width: 1}, "frequency_hz": {On: true, Width: 0.05},
			"power_factor": {On: true, Width: 0.02}, "threshold_ma": {On: true}, "residual_ma": {On: true, Width: 5}, "energy_kwh": {On: true, Width: 0.1}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				w := newTenfold(b)
				for i := range w.inv.Points {
					if p := &w.inv.Points[i]; !w.inv.Devices[p.Device].System {
						p.Deadband = c.deadbands[p.Def.Name]
					}
				}
				clock := telemetry.NewClock("boot", telemetry.Mono(time.Hour), time.Time{})
				j, err := journal.Open(journal.Config{Dir: b.TempDir()}, w.inv, clock)
				if err != nil {
					b.Fatal(err)
				}
				report := newReporter(w.inv, time.Minute)
				var passed []telemetry.Sample
				journaled, committed, sorts := 0, telemetry.Mono(time.Hour), map[string]int{}
				read := w.live(b, from, lasts, func(now telemetry.Now, batch []telemetry.Sample) {
					if now.Mono.Sub(committed) >= time.Second {
						committed = now.Mono
						if err := j.Commit(); err != nil {
							b.Fatal(err)
						}
					}
					if c.thin {
						passed = report.pass(now.Mono, batch, passed[:0])
						batch = passed
					}
					journaled += len(batch)
					for i := range batch {
						sorts[sortOf(w.inv, batch[i].Point)]++
					}
					j.Append(now, batch)
				})
				if err := j.Commit(); err != nil {
					b.Fatal(err)
				}
				plain, packed, lines := onTheWire(b, w.inv, j)
				if err := j.Close(); err != nil { // What counts is the files, with their footers.
					b.Fatal(err)
				}
				bytes := j.Stats().Bytes
				const days = 24 * time.Hour / lasts
				devices, points := w.inv.Installed()
				b.ReportMetric(float64(devices), "devices")
				b.ReportMetric(float64(points), "points")
				b.ReportMetric(float64(read)/lasts.Seconds(), "read/s")
				b.ReportMetric(float64(journaled)/lasts.Seconds(), "journaled/s")
				for sort, n := range sorts {
					b.ReportMetric(float64(n)/lasts.Seconds(), sort+"/s")
				}
				b.ReportMetric(float64(lines)/lasts.Seconds(), "rows/s")
				b.ReportMetric(float64(bytes)*float64(days)/1e6, "journal-MB/day")
				b.ReportMetric(float64(plain)*float64(days)/1e6, "wire-MB/day")
				b.ReportMetric(float64(packed)*float64(days)/1e6, "wire-zstd-MB/day")
			}
		})
	}
}

// sortOf says of which sort a point is.
func sortOf(inv *telemetry.Inventory, id telemetry.PointID) string {
	p := &inv.Points[id]
	switch {
	case inv.Devices[p.Device].System:
		return "own-works"
	case p.Def.LifeSafety:
		return "life-safety"
	case p.Def.Kind == telemetry.Float || p.Def.Kind == telemetry.Int:
		return "numbers"
	}
	return "states"
}

// onTheWire writes the frames of a journal as line protocol, a message each.
func onTheWire(tb testing.TB, inv *telemetry.Inventory, j *journal.Journal) (plain, packed, lines int) {
	tb.Helper()
	e := wire.NewEncoder(inv.Site, inv.Gateway)
	zstd, err := wire.NewCompressor(wire.Zstd)
	if err != nil {
		tb.Fatal(err)
	}
	var f journal.Frame
	var text []byte
	first, next := j.Bounds()
	for seq := first; seq < next; seq++ {
		if err := j.Read(seq, &f); err != nil {
			tb.Fatal(err)
		}
		for i := range f.Records {
			r := &f.Records[i]
			e.Add(r.Series, 1_790_000_000_000_000_000+int64(r.Time), r.Quality, r.Value)
		}
		n := 0
		text, n = e.Flush(text[:0])
		small := zstd.Pack(text)
		const header = 110
		plain, packed, lines = plain+len(text)+header, packed+len(small)+header/2, lines+n
	}
	return plain, packed, lines
}
