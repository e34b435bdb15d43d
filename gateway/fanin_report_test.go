package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"linli/internal/telemetry"
)

// reportSite is an inventory of a device with a point of each sort, and one of the gateway's own works.
func reportSite() *telemetry.Inventory {
	class := &telemetry.Class{ID: "thing", Points: []telemetry.PointDef{
		{Name: "open", Kind: telemetry.Bool},
		{Name: "mode", Kind: telemetry.Enum},
		{Name: "label", Kind: telemetry.KindText},
		{Name: "temperature_c", Kind: telemetry.Float},
		{Name: "humidity_pct", Kind: telemetry.Float, Deadband: telemetry.Deadband{On: true, Width: 0.3}},
		{Name: "power_w", Kind: telemetry.Float, Deadband: telemetry.Deadband{On: true, Percent: true, Width: 2}},
		{Name: "count", Kind: telemetry.Int, Deadband: telemetry.Deadband{On: true}},
		{Name: "alarm", Kind: telemetry.Bool, LifeSafety: true},
		{Name: "card", Kind: telemetry.KindText, Event: true},
	}}
	own := &telemetry.Class{ID: "bus_unit", Points: []telemetry.PointDef{{Name: "online", Kind: telemetry.Bool}}}
	inv := &telemetry.Inventory{Site: "s", Gateway: "g"}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	thing := inv.AddDevice(telemetry.Device{ID: "thing", Class: class, Zone: zone})
	for i := range class.Points {
		inv.ProvidePoint(thing, i)
	}
	inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "io1", Class: own, Zone: -1, System: true}), 0)
	inv.AddDerived("rule", "thing", zone, &telemetry.PointDef{Name: "rule", Kind: telemetry.Float})
	return inv
}

// The points of reportSite.
const (
	rOpen telemetry.PointID = iota
	rMode
	rLabel
	rTemperature
	rHumidity
	rPower
	rCount
	rAlarm
	rCard
	rOnline
	rDerived
)

func TestReporter(t *testing.T) {
	yes, no := telemetry.BoolValue(true), telemetry.BoolValue(false)
	f, n, text := telemetry.FloatValue, telemetry.IntValue, telemetry.TextValue
	type reading struct {
		at   float64 // s
		v    telemetry.Value
		q    telemetry.Quality
		want reason
		anew bool // before it
	}
	for name, c := range map[string]struct {
		point telemetry.PointID
		reads []reading
	}{
		"a bool": {rOpen, []reading{
			{at: 1, v: no, want: reportFirst}, {at: 2, v: no, want: heldUnchanged}, {at: 3, v: yes, want: reportChanged},
			{at: 4, v: yes, want: heldUnchanged}, {at: 5, v: no, want: reportChanged}}},
		"an enum":      {rMode, []reading{{at: 1, v: telemetry.EnumValue(3), want: reportFirst}, {at: 2, v: telemetry.EnumValue(3), want: heldUnchanged}, {at: 3, v: telemetry.EnumValue(4), want: reportChanged}}},
		"a text":       {rLabel, []reading{{at: 1, v: text("a"), want: reportFirst}, {at: 2, v: text("a"), want: heldUnchanged}, {at: 3, v: text("b"), want: reportChanged}}},
		"life safety":  {rAlarm, []reading{{at: 1, v: no, want: reportAlways}, {at: 2, v: no, want: reportAlways}}},
		"an event":     {rCard, []reading{{at: 1, v: text("a"), want: reportAlways}, {at: 2, v: text("a"), want: reportAlways}}},
		"own works":    {rOnline, []reading{{at: 1, v: yes, want: reportAlways}, {at: 2, v: yes, want: reportAlways}}},
		"nobody's":     {99, []reading{{at: 1, v: yes, want: reportAlways}, {at: 2, v: yes, want: reportAlways}}},
		"a number":     {rTemperature, []reading{{at: 1, v: f(20), want: reportAlways}, {at: 2, v: f(20), want: reportAlways}}},
		"any change":   {rCount, []reading{{at: 1, v: n(5), want: reportFirst}, {at: 2, v: n(5), want: heldUnchanged}, {at: 3, v: n(6), want: reportChanged}}},
		"within width": {rHumidity, []reading{{at: 1, v: f(20.1), want: reportFirst}, {at: 2, v: f(20.3), want: heldDeadband}, {at: 3, v: f(19.9), want: heldDeadband}, {at: 4, v: f(20.1), want: heldUnchanged}}},
		"exactly the width": {rHumidity, []reading{
			{at: 1, v: f(20.1), want: reportFirst}, {at: 2, v: f(20.4), want: reportChanged}, {at: 3, v: f(20.1), want: reportChanged}}},
		"creeping": {rHumidity, []reading{
			{at: 1, v: f(20), want: reportFirst}, {at: 2, v: f(20.1), want: heldDeadband}, {at: 3, v: f(20.2), want: heldDeadband},
			{at: 4, v: f(20.3), want: reportChanged}, {at: 5, v: f(20.4), want: heldDeadband}, {at: 6, v: f(20.5), want: heldDeadband}, {at: 7, v: f(20.6), want: reportChanged}}},
		"a share of what was reported": {rPower, []reading{
			{at: 1, v: f(-1000), want: reportFirst}, {at: 2, v: f(-1019), want: heldDeadband}, {at: 3, v: f(-1020), want: reportChanged},
			{at: 4, v: f(-1000), want: heldDeadband}, {at: 5, v: f(0), want: reportChanged}, {at: 6, v: f(1e-9), want: reportChanged}}},
		"quality": {rHumidity, []reading{
			{at: 1, v: f(20), want: reportFirst}, {at: 2, v: f(20), q: telemetry.Uncertain, want: reportQuality},
			{at: 3, q: telemetry.BadComm, want: reportQuality}, {at: 4, q: telemetry.BadComm, want: heldUnchanged},
			{at: 5, q: telemetry.BadSensor, want: reportQuality}, {at: 6, v: f(20), want: reportQuality},
			{at: 7, v: f(100), q: telemetry.OverRange, want: reportQuality}, {at: 8, v: f(100), q: telemetry.OverRange, want: heldUnchanged},
			{at: 9, v: f(100), want: reportQuality}}},
		"no number": {rHumidity, []reading{
			{at: 1, v: f(20), want: reportFirst}, {at: 2, v: f(math.NaN()), want: reportChanged}, {at: 3, v: f(math.Inf(1)), want: heldUnchanged},
			{at: 4, v: text("x"), want: reportChanged}, {at: 5, v: f(20), want: reportChanged}}},
		"huge": {rHumidity, []reading{{at: 1, v: f(math.MaxFloat64), want: reportFirst}, {at: 2, v: f(-math.MaxFloat64), want: reportChanged}}},
		"anew": {rOpen, []reading{
			{at: 1, v: no, want: reportFirst}, {at: 2, v: no, want: heldUnchanged}, {at: 3, v: no, want: reportFirst, anew: true}, {at: 4, v: no, want: heldUnchanged}}},
		"the interval": {rOpen, []reading{
			{at: 1, v: no, want: reportFirst}, {at: 59, v: no, want: heldUnchanged}, {at: 61, v: no, want: reportInterval}, {at: 62, v: no, want: heldUnchanged},
			{at: 100, v: yes, want: reportChanged}, {at: 119, v: yes, want: heldUnchanged}, {at: 120, v: yes, want: reportInterval}, {at: 600, v: yes, want: reportInterval}}},
		"the interval of a deadband": {rHumidity, []reading{
			{at: 1, v: f(20), want: reportFirst}, {at: 59, v: f(20.1), want: heldDeadband}, {at: 60, v: f(20.1), want: reportInterval}, {at: 61, v: f(20.3), want: heldDeadband}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReporter(reportSite(), time.Minute)
			for i, in := range c.reads {
				if in.anew {
					r.anew()
				}
				before := r.counted(in.want)
				s := telemetry.Sample{Point: c.point, Quality: in.q, Time: telemetry.Mono(in.at * 1e9), Value: in.v}
				out := r.take(s.Time, []telemetry.Sample{s}, new([]telemetry.Sample))
				if r.counted(in.want) != before+1 {
					t.Fatalf("reading %d at %v s: not %s", i, in.at, reasonNames[in.want])
				}
				if want := in.want.reported(); want != (len(out) == 1) || want && out[0] != s {
					t.Fatalf("reading %d at %v s gave %v", i, in.at, out)
				}
			}
		})
	}
}

// TestReporterLate: a reading that is older than the newest one, which said nothing new, must not be taken for newer.
func TestReporterLate(t *testing.T) {
	r := newReporter(reportSite(), time.Minute)
	at := func(s float64, v bool) telemetry.Sample {
		return telemetry.Sample{Point: rOpen, Time: telemetry.Mono(s * 1e9), Value: telemetry.BoolValue(v)}
	}
	got := r.take(telemetry.Mono(10e9), []telemetry.Sample{at(1, true), at(2, true), at(3, true), at(2.5, false), at(2.7, false), at(4, true), at(5, false)}, new([]telemetry.Sample))
	want := []telemetry.Sample{at(1, true), at(3, true), at(2.5, false), at(2.7, false), at(5, false)}
	if !slices.Equal(got, want) {
		t.Errorf("passed %v, want %v", got, want)
	}
	// One from the future is one of now: what follows is told when it is due, and is not late.
	r = newReporter(reportSite(), time.Minute)
	if got := r.take(telemetry.Mono(1e9), []telemetry.Sample{at(1e6, true)}, new([]telemetry.Sample)); got[0].Time != telemetry.Mono(1e9) {
		t.Errorf("one from the future is passed as %v", got)
	}
	if got := r.take(telemetry.Mono(2e9), []telemetry.Sample{at(2, false)}, new([]telemetry.Sample)); len(got) != 1 || r.counted(reportChanged) != 1 {
		t.Errorf("after one from the future: %v", got)
	}
	if got := r.take(telemetry.Mono(60e9), []telemetry.Sample{at(60, false)}, new([]telemetry.Sample)); len(got) != 1 {
		t.Error("a minute later nothing is told")
	}
}

// TestReporterHoldsTheSeries: whatever is read, what is passed holds it: at each reading the value passed last has the
// quality read and lies within the deadband of it, without one it is it; and it is at most the interval and one pause old.
func TestReporterHoldsTheSeries(t *testing.T) {
	const every = 7 * time.Second
	for seed := range uint64(50) {
		r, random := newReporter(reportSite(), every), rand.New(rand.NewPCG(seed, 1))
		inv := reportSite()
		passed := map[telemetry.PointID]telemetry.Sample{}
		now, total := telemetry.Mono(0), uint64(0)
		values := map[telemetry.PointID]float64{}
		for range 2000 {
			pause := telemetry.Mono(random.IntN(2000)) * 1e6
			now += pause
			id := telemetry.PointID(random.IntN(int(rDerived)))
			values[id] += float64(random.IntN(5)-2) * 0.07
			s := telemetry.Sample{Point: id, Time: now}
			switch def := inv.Points[id].Def; def.Kind {
			case telemetry.Bool:
				s.Value = telemetry.BoolValue(values[id] > 0.1)
			case telemetry.Enum:
				s.Value = telemetry.EnumValue(int64(values[id]))
			case telemetry.Int:
				s.Value = telemetry.IntValue(int64(values[id]))
			case telemetry.KindText:
				s.Value = telemetry.TextValue(fmt.Sprint(int(values[id])))
			default:
				s.Value = telemetry.FloatValue(math.Round(values[id]*100) / 100)
			}
			if random.IntN(10) == 0 {
				s.Quality, s.Value = telemetry.BadComm, telemetry.Value{}
			}
			if random.IntN(500) == 0 {
				r.anew()
			}
			var into []telemetry.Sample
			out := r.take(now, []telemetry.Sample{s}, &into)
			total++
			for _, p := range out {
				if p != s {
					t.Fatalf("seed %d: %v was read and %v passed", seed, s, p)
				}
				passed[id] = p
			}
			p, ok := passed[id]
			d := inv.Points[id].Deadband
			near := p.Value == s.Value || d.On && !d.Outside(s.Value.Float(), p.Value.Float())
			if !ok || p.Quality != s.Quality || !near || now.Sub(p.Time) >= 2*every {
				t.Fatalf("seed %d: %v was read, and what holds is %v", seed, s, p)
			}
		}
		sum := uint64(0)
		for why := range reasons {
			sum += r.counted(why)
		}
		if sum != total {
			t.Errorf("%d readings, %d counted", total, sum)
		}
	}
}

// TestReporterSpreadsDevices: what does not change is not all told in the same second, but that of one device is.
func TestReporterSpreadsDevices(t *testing.T) {
	inv := &telemetry.Inventory{}
	class := &telemetry.Class{ID: "c", Points: []telemetry.PointDef{{Name: "a", Kind: telemetry.Bool}, {Name: "b", Kind: telemetry.Bool}}}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	for i := range 600 {
		d := inv.AddDevice(telemetry.Device{ID: fmt.Sprint("d", i), Class: class, Zone: zone})
		inv.ProvidePoint(d, 0)
		inv.ProvidePoint(d, 1)
	}
	r := newReporter(inv, time.Minute)
	for s := range 180 {
		now := telemetry.Mono(s) * 1e9
		var batch []telemetry.Sample
		for i := range inv.Points {
			v := i%2 == 1 && s > 30+i%20 // The second one of each device changes once, at some time.
			batch = append(batch, telemetry.Sample{Point: telemetry.PointID(i), Time: now, Value: telemetry.BoolValue(v)})
		}
		var into []telemetry.Sample
		out := r.take(now, batch, &into)
		if s < 61 {
			continue
		}
		if len(out) < 10 || len(out) > 30 {
			t.Errorf("at %d s %d samples are told, want about 20", s, len(out))
		}
		for i := 0; i+1 < len(out); i += 2 {
			if out[i].Point%2 != 0 || out[i+1].Point != out[i].Point+1 {
				t.Fatalf("at %d s a device is told in parts", s)
			}
		}
	}
}

// TestReporterAllocatesNothing once it has seen a batch.
func TestReporterAllocatesNothing(t *testing.T) {
	r := newReporter(reportSite(), time.Minute)
	batch := make([]telemetry.Sample, rDerived)
	out := make([]telemetry.Sample, 0, len(batch)+1)
	now := telemetry.Mono(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += 7e9
		for i := range batch {
			batch[i] = telemetry.Sample{Point: telemetry.PointID(i), Time: now, Value: telemetry.FloatValue(float64(now % 5))}
		}
		r.take(now, batch, &out)
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
	if size := unsafe.Sizeof(reportedPoint{}); size > 80 {
		t.Errorf("%d bytes a point, want 80 at most", size)
	}
}

// BenchmarkReporter: a second of 5,000 points, of which one in a hundred changed.
func BenchmarkReporter(b *testing.B) {
	inv := &telemetry.Inventory{}
	class := &telemetry.Class{ID: "c"}
	for i := range 10 {
		def := telemetry.PointDef{Name: fmt.Sprint("p", i), Kind: telemetry.Bool}
		if i >= 6 {
			def.Kind, def.Deadband = telemetry.Float, telemetry.Deadband{On: true, Percent: i%2 == 0, Width: 1}
		}
		class.Points = append(class.Points, def)
	}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	for i := range 500 {
		d := inv.AddDevice(telemetry.Device{ID: fmt.Sprint("d", i), Class: class, Zone: zone})
		for k := range class.Points {
			inv.ProvidePoint(d, k)
		}
	}
	batch := make([]telemetry.Sample, len(inv.Points))
	r := newReporter(inv, time.Minute)
	out := make([]telemetry.Sample, 0, len(batch))
	b.ReportAllocs()
	for n := range b.N {
		now := telemetry.Mono(n+1) * 1e9
		for i := range batch {
			v := telemetry.FloatValue(100 + float64((n+i)%100/99)*5)
			if inv.Points[i].Def.Kind == telemetry.Bool {
				v = telemetry.BoolValue((n+i)%100 == 0)
			}
			batch[i] = telemetry.Sample{Point: telemetry.PointID(i), Time: now, Value: v}
		}
		r.take(now, batch, &out)
	}
	b.ReportMetric(float64(b.N)*float64(len(batch))/b.Elapsed().Seconds()/1e6, "Msamples/s")
}

// Where all of a batch is reported as it is, nobody copies it; a sample of the future is one of now.
func TestReporterPassesTheBatchItself(t *testing.T) {
	inv := reportSite()
	r := newReporter(inv, time.Minute)
	var id telemetry.PointID
	for i, thinned := range r.thinned {
		if !thinned {
			id = telemetry.PointID(i)
		}
	}
	var into []telemetry.Sample
	batch := []telemetry.Sample{{Point: id, Time: 5e9, Value: telemetry.FloatValue(1)}, {Point: id, Time: 6e9, Value: telemetry.FloatValue(1)}}
	if out := r.take(6e9, batch, &into); len(out) != 2 || &out[0] != &batch[0] || r.held != 0 || r.counted(reportAlways) != 2 {
		t.Errorf("got %v, %d held, %d passed", out, r.held, r.counted(reportAlways))
	}
	batch[1].Time = 9e9
	if out := r.take(7e9, batch, &into); len(out) != 2 || out[1].Time != 7e9 || batch[1].Time != 9e9 || r.counted(reportAlways) != 4 {
		t.Errorf("got %v of %v, %d passed", out, batch, r.counted(reportAlways))
	}
}
