package wire_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"linli/internal/telemetry"
	"linli/internal/wire"
)

const t1 = int64(1_790_000_000_123_456_789)

func sensor(point string, kind telemetry.Kind) *telemetry.Series {
	return &telemetry.Series{Class: "air_quality", Device: "aq1", Zone: "b1", Point: point, Kind: kind}
}

func TestEncoderWritesEveryKind(t *testing.T) {
	const tags = "air_quality,device=aq1,gateway=gw1,site=riverside,zone=b1 "
	derived := &telemetry.Series{Class: telemetry.Derived, Device: "lane1", Zone: "north", Point: "busy", Kind: telemetry.Bool}
	site := &telemetry.Series{Class: telemetry.Derived, Device: "riverside", Point: "note", Kind: telemetry.KindText}
	for name, c := range map[string]struct {
		series  *telemetry.Series
		quality telemetry.Quality
		value   telemetry.Value
		want    string
	}{
		"float":             {sensor("temperature_c", telemetry.Float), 0, telemetry.FloatValue(21.5), tags + "temperature_c=21.5,temperature_c_q=0i"},
		"whole float":       {sensor("temperature_c", telemetry.Float), 0, telemetry.FloatValue(21), tags + "temperature_c=21,temperature_c_q=0i"},
		"int of a float":    {sensor("temperature_c", telemetry.Float), 0, telemetry.IntValue(-3), tags + "temperature_c=-3,temperature_c_q=0i"},
		"int":               {sensor("count", telemetry.Int), 0, telemetry.IntValue(math.MinInt64), tags + "count=-9223372036854775808i,count_q=0i"},
		"enum":              {sensor("mode", telemetry.Enum), 1, telemetry.EnumValue(3), tags + "mode=3i,mode_q=1i"},
		"bool":              {sensor("open", telemetry.Bool), 0, telemetry.BoolValue(true), tags + "open=true,open_q=0i"},
		"text":              {sensor("plate", telemetry.KindText), 0, telemetry.TextValue("粤B \"1\\2\",=\nx"), tags + "plate=\"粤B \\\"1\\\\2\\\",=\nx\",plate_q=0i"},
		"text not utf-8":    {sensor("plate", telemetry.KindText), 0, telemetry.TextValue("a\xff\x00b"), tags + "plate=\"a\uFFFD\uFFFDb\",plate_q=0i"},
		"bad":               {sensor("open", telemetry.Bool), telemetry.BadComm, telemetry.Value{}, tags + "open_q=4i"},
		"over range":        {sensor("dense", telemetry.Float), telemetry.OverRange, telemetry.FloatValue(100), tags + "dense=100,dense_q=2i"},
		"good but no value": {sensor("open", telemetry.Bool), 0, telemetry.Value{}, tags + "open_q=5i"},
		"not a number":      {sensor("t", telemetry.Float), 0, telemetry.ValueFromBits(telemetry.Float, math.Float64bits(math.NaN())), tags + "t_q=5i"},
		"derived bool":      {derived, 0, telemetry.BoolValue(true), "derived,gateway=gw1,rule=busy,site=riverside,subject=lane1,zone=north value=1,value_q=0i"},
		"derived text":      {site, 0, telemetry.TextValue("ok"), "derived,gateway=gw1,rule=note,site=riverside,subject=riverside text=\"ok\",text_q=0i"},
		"in no zone":        {&telemetry.Series{Class: "bus_unit", Device: "io1", Point: "online", Kind: telemetry.Bool}, 0, telemetry.BoolValue(true), "bus_unit,device=io1,gateway=gw1,site=riverside online=true,online_q=0i"},
		"odd names":         {&telemetry.Series{Class: "a b", Device: "d,1 =\"\n", Point: "p q", Kind: telemetry.Int}, 0, telemetry.IntValue(1), `a_b,device=d\,1\ \=__,gateway=gw1,site=riverside p_q=1i,p_q_q=0i`},
	} {
		t.Run(name, func(t *testing.T) {
			e := wire.NewEncoder("riverside", "gw1")
			e.Add(c.series, t1, c.quality, c.value)
			got, lines := e.Flush(nil)
			if want := c.want + " 1790000000123456789\n"; string(got) != want || lines != 1 {
				t.Errorf("got %d lines %q, want %q", lines, got, want)
			}
			line, rest := wire.NextLine(got)
			if len(rest) != 0 {
				t.Errorf("NextLine left %q", rest)
			}
			if err := wire.CheckOwn(line, "riverside", "gw1"); err != nil {
				t.Errorf("own line refused: %v", err)
			}
		})
	}
}

func TestEncoderJoinsOneDeviceAndTime(t *testing.T) {
	e := wire.NewEncoder("s", "g")
	a, b := sensor("a", telemetry.Int), sensor("b", telemetry.Int)
	other := &telemetry.Series{Class: "air_quality", Device: "aq2", Zone: "b1", Point: "a", Kind: telemetry.Int}
	// As a columnar frame delivers them: by series, not by time.
	e.Add(a, 1000, 0, telemetry.IntValue(1))
	e.Add(a, 2000, 0, telemetry.IntValue(2))
	e.Add(other, 1000, 0, telemetry.IntValue(7))
	e.Add(b, 1000, 0, telemetry.IntValue(3))
	e.Add(b, 2000, telemetry.BadSensor, telemetry.Value{})
	e.Add(b, 1000, 0, telemetry.IntValue(4)) // the same moment once more: the later stands
	got, lines := e.Flush(nil)
	want := "air_quality,device=aq1,gateway=g,site=s,zone=b1 a=1i,a_q=0i,b=4i,b_q=0i 1000\n" +
		"air_quality,device=aq2,gateway=g,site=s,zone=b1 a=7i,a_q=0i 1000\n" +
		"air_quality,device=aq1,gateway=g,site=s,zone=b1 a=2i,b_q=5i 2000\n"
	if string(got) != want || lines != 3 {
		t.Errorf("got %d\n%swant\n%s", lines, got, want)
	}
}

// TestEncoderOrder: whatever the order in which samples come, the rows are the same, and in order.
func TestEncoderOrder(t *testing.T) {
	names := manySeries(7, 5)
	ordered, mixed := wire.NewEncoder("riverside", "gw1"), wire.NewEncoder("riverside", "gw1")
	for _, e := range []*wire.Encoder{ordered, mixed} {
		fill(e, names, t1) // so that both know the series in one order
		e.Flush(nil)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for round := range 200 {
		type sample struct {
			name *telemetry.Series
			ns   int64
		}
		var all []sample
		for at := range int64(3) {
			for i := range names {
				if r.IntN(4) > 0 {
					all = append(all, sample{names[i], t1 + int64(round+1)*1e9 + at})
				}
			}
		}
		add := func(e *wire.Encoder) (string, int) {
			for _, s := range all {
				e.Add(s.name, s.ns, telemetry.Good, telemetry.FloatValue(float64(s.ns%1000)))
			}
			text, lines := e.Flush(nil)
			return string(text), lines
		}
		want, n := add(ordered)
		if round%2 == 0 {
			r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		} else if len(all) > 40 { // two parts of one row with others between
			all[3], all[40] = all[40], all[3]
		}
		if got, m := add(mixed); got != want || m != n {
			t.Fatalf("round %d: %d lines\n%s\nwant %d\n%s", round, m, got, n, want)
		}
	}
}

func TestQualityIsToldOnChangeAndFromTimeToTime(t *testing.T) {
	e := wire.NewEncoder("s", "g")
	s := sensor("a", telemetry.Int)
	told := func(sec int64, q telemetry.Quality) bool {
		e.Add(s, sec*1e9, q, telemetry.IntValue(1))
		got, _ := e.Flush(nil)
		return strings.Contains(string(got), "a_q=")
	}
	for i, step := range []struct {
		sec  int64
		q    telemetry.Quality
		want bool
	}{
		{100, 0, true}, {101, 0, false}, {102, 1, true}, {103, 1, false}, {104, telemetry.BadComm, true},
		{105, telemetry.BadComm, true}, {106, 0, true}, {150, 0, false}, {151, 0, true}, {120, 0, true},
	} {
		if got := told(step.sec, step.q); got != step.want {
			t.Errorf("step %d: quality told %v, want %v", i, got, step.want)
		}
	}
	e.Reset()
	if !told(121, 0) {
		t.Error("quality not told after Reset")
	}
}

func fill(e *wire.Encoder, names []*telemetry.Series, ns int64) {
	for i, s := range names {
		e.Add(s, ns, 0, telemetry.FloatValue(float64(i)+0.25))
	}
}

func manySeries(devices, points int) []*telemetry.Series {
	var names []*telemetry.Series
	for d := range devices {
		for p := range points {
			names = append(names, &telemetry.Series{Class: "energy_meter", Device: fmt.Sprintf("m%d", d), Zone: "b1", Point: fmt.Sprintf("p%d", p), Kind: telemetry.Float})
		}
	}
	return names
}

func TestEncoderDoesNotAllocate(t *testing.T) {
	e := wire.NewEncoder("s", "g")
	names := manySeries(20, 10)
	buf, ns := make([]byte, 0, 64<<10), int64(1)
	if n := testing.AllocsPerRun(100, func() {
		fill(e, names, ns)
		fill(e, names, ns-1)
		buf, _ = e.Flush(buf[:0])
		ns += 1e9
	}); n != 0 {
		t.Errorf("%v allocations per frame of 400 samples, want 0", n)
	}
}

func BenchmarkEncoder(b *testing.B) {
	e := wire.NewEncoder("riverside", "gw1")
	names := manySeries(50, 10)
	buf, ns := make([]byte, 0, 64<<10), int64(1)
	b.ReportAllocs()
	bytes := 0
	for b.Loop() {
		fill(e, names, ns)
		buf, _ = e.Flush(buf[:0])
		bytes += len(buf)
		ns += 1e9
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(names)), "ns/sample")
	b.ReportMetric(float64(bytes)/float64(b.N*len(names)), "B/sample")
}

// TestForget: an encoder that has forgotten writes what a new one writes.
func TestForget(t *testing.T) {
	write := func(e *wire.Encoder, from int64) string {
		for i := range int64(3) {
			e.Add(sensor("a", telemetry.Float), from+i, telemetry.Good, telemetry.FloatValue(1.5))
			e.Add(sensor("b", telemetry.Int), from+i, telemetry.Good, telemetry.IntValue(i))
		}
		text, _ := e.Flush(nil)
		return string(text)
	}
	e := wire.NewEncoder("s", "g")
	write(e, 1)
	remembering := write(e, 10)
	e.Forget()
	got, want := write(e, 10), write(wire.NewEncoder("s", "g"), 10)
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got == remembering {
		t.Error("nothing was forgotten")
	}
}

// TestNumbersAreWrittenAsByStrconv: text is what a float64 was written as before there was a quick way.
func TestNumbersAreWrittenAsByStrconv(t *testing.T) {
	check := func(v float64) {
		t.Helper()
		want := strconv.FormatFloat(v, 'g', -1, 64)
		if got := string(wire.AppendFloat([]byte("x"), v)); got != "x"+want {
			t.Fatalf("%v is written as %q, want %q", want, got[1:], want)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for _, v := range []float64{0, math.Copysign(0, -1), 1e-3, 1e-4, 0.1, 0.01, 0.5, 1, -1, 9.999, 999999, 999999.9, 1e6, 1234567, 1e21, math.MaxFloat64, math.SmallestNonzeroFloat64, 0.1 + 0.2} {
		for range 3 {
			check(v)
			check(-v)
			v = math.Nextafter(v, math.Inf(1))
		}
	}
	for range 300_000 {
		p := math.Pow10(r.IntN(8))
		v := float64(r.IntN(10_000_000)) / p
		check(v)
		check(-v)
		check(v * 0.1)
		check(math.Nextafter(v, 0))
		check(float64(float32(v)))
		check(math.Float64frombits(r.Uint64()))
	}
}
