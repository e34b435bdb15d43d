package rules_test

import (
	"encoding/binary"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// FuzzEngine runs any pack that compiles over any samples: values, qualities and times that nothing sane would give.
// Whatever comes, the engine does not fall over, what it says makes sense, and it never asks to be woken in the past.
func FuzzEngine(f *testing.F) {
	for seed := uint64(1); seed <= 12; seed++ {
		sc := newScenario(seed, 30)
		f.Add(sc.pack(), seed, hostile(sc.steps))
	}
	f.Add(pack(alert("A", "alpha", "leq(level, 32d) > 1", ", for: 366d")), uint64(1), []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, src string, seed uint64, data []byte) {
		p, err := rules.ParsePack("p.yaml", []byte(src))
		if err != nil {
			return
		}
		sc := newScenario(seed%64, 0)
		s := sc.build()
		points := len(s.Points)
		e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes, MaxWindowBytes: 4 << 20})
		if err != nil {
			return
		}
		w := witness{t: t, e: e, alerts: map[telemetry.Identity]*witnessed{}}
		now := telemetry.Now{Mono: telemetry.Mono(seed % 1e12)}
		var batch []telemetry.Sample
		for round := 0; len(data) >= 20 && round < 300; round++ {
			var sample telemetry.Sample
			sample, data = hostileSample(data, points, now.Mono)
			batch = append(batch, sample)
			switch op := data[0]; {
			case op < 96:
				now.Mono = now.Mono.Add(time.Duration(op) * time.Second / 8)
				fallthrough
			case op < 128:
				w.step(now, batch)
				batch = batch[:0]
			case op < 136:
				now.Wall = time.Unix(int64(binary.LittleEndian.Uint32(data))<<2, 0).UTC()
			case op < 140:
				now.Wall = time.Time{}
			}
			data = data[1:]
		}
		w.step(now, batch)
	})
}

// hostile writes steps so that hostileSample reads them again, more or less.
func hostile(steps []scenarioStep) (b []byte) {
	for _, st := range steps {
		for i, x := range st.samples {
			b = binary.LittleEndian.AppendUint16(b, uint16(x.Point))
			b = append(b, byte(x.Quality), byte(x.Value.Kind()))
			b = binary.LittleEndian.AppendUint64(b, x.Value.Bits())
			b = binary.LittleEndian.AppendUint32(b, 0)
			op := byte(200)
			if i == len(st.samples)-1 {
				op = 8
			}
			b = append(b, op)
		}
	}
	return append(b, 0, 0, 0, 0)
}

// hostileSample reads a sample.
func hostileSample(b []byte, points int, now telemetry.Mono) (telemetry.Sample, []byte) {
	x := telemetry.Sample{Point: telemetry.PointID(binary.LittleEndian.Uint16(b)) % telemetry.PointID(points+2), Quality: telemetry.Quality(b[2])}
	kind, bits := telemetry.Kind(b[3]%7), binary.LittleEndian.Uint64(b[4:])
	x.Value = telemetry.ValueFromBits(kind, bits)
	if kind == telemetry.KindText {
		x.Value = telemetry.TextValue(string(b[4:6]))
	}
	// A time near now, or any at all.
	x.Time = now.Add(time.Duration(int32(binary.LittleEndian.Uint32(b[12:]))) * 16)
	if b[12] == 1 {
		x.Time = telemetry.Mono(bits)
	}
	return x, b[16:]
}

// witness holds what an engine says against what it may say.
type witness struct {
	t      *testing.T
	e      *rules.Engine
	alerts map[telemetry.Identity]*witnessed
	last   telemetry.Mono
	began  bool
	out    rules.Output
}

type witnessed struct {
	active, unknown bool
	severity        telemetry.Severity
}

func (w *witness) step(now telemetry.Now, batch []telemetry.Sample) {
	w.out.Reset()
	w.e.Step(now, batch, &w.out)
	if !w.began {
		w.began, w.last = true, now.Mono.Add(-time.Hour)
	}
	for i := range w.out.Transitions {
		tr := &w.out.Transitions[i]
		if tr.Time < w.last || tr.Time > now.Mono {
			w.t.Fatalf("%v %s at %d, which is not between %d and %d", tr.Op, tr.Alert, tr.Time, w.last, now.Mono)
		}
		w.last = tr.Time
		a := w.alerts[tr.Identity]
		if a == nil {
			a = &witnessed{}
			w.alerts[tr.Identity] = a
		}
		ok := a.active
		switch tr.Op {
		case telemetry.Raise:
			ok = !a.active && tr.Condition == telemetry.ConditionTrue
			a.active = true
		case telemetry.Clear:
			ok = ok && tr.Condition == telemetry.ConditionFalse
			a.active, a.unknown = false, false
		case telemetry.Unknown:
			ok = ok && !a.unknown && tr.Condition == telemetry.ConditionUnknown
			a.unknown = true
		case telemetry.Known:
			ok = ok && a.unknown && tr.Condition != telemetry.ConditionUnknown
			a.unknown = false
		case telemetry.Changed:
			ok = ok && tr.Severity != a.severity
		}
		if a.severity = tr.Severity; !ok || a.severity < telemetry.Notice || a.severity > telemetry.Critical {
			w.t.Fatalf("%v %s %s, severity %v, condition %d, makes no sense", tr.Op, tr.Alert, tr.Subject, tr.Severity, tr.Condition)
		}
	}
	for _, d := range w.out.Derived {
		if d.Quality.Bad() != d.Value.IsZero() {
			w.t.Fatalf("derived: value %v of quality %v", d.Value, d.Quality)
		}
	}
	if w.last = now.Mono; w.e.Next() <= now.Mono {
		w.t.Fatalf("to be woken at %d, and it is %d", w.e.Next(), now.Mono)
	}
}
