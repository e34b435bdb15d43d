package scan_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus/scan"
	firmwareconfig "linli/firmware-config"
)

type (
	tables = map[firmwareconfig.Table]map[int]uint16
	image  = map[int]uint16
)

const (
	holding = firmwareconfig.HoldingRegister
	input   = firmwareconfig.InputRegister
	coil    = firmwareconfig.Coil
)

func th(address int) *fakeUnit {
	return registers(address, tables{input: image{1: 245, 2: 600}, holding: image{0x0101: uint16(address)}})
}

// scanLine carries out a scan in a bubble.
func scanLine(t *testing.T, o scan.Options, build func(f *fakeLine), change func(c *scan.Config)) (*scan.Report, *fakeLine) {
	t.Helper()
	var r *scan.Report
	var f *fakeLine
	synctest.Test(t, func(t *testing.T) {
		f = newFakeLine(n81)
		f.tcp = o.Kind == scan.TCP
		build(f)
		plan, err := scan.NewPlan(o)
		if err != nil {
			t.Fatal(err)
		}
		c := scan.Config{Conn: f, Plan: plan, Profiles: profiles()}
		if change != nil {
			change(&c)
		}
		r, err = scan.Run(t.Context(), c)
		if err != nil {
			t.Errorf("scan: %v", err)
		}
	})
	return r, f
}

func kinds(r *scan.Report) []string {
	var out []string
	for _, f := range r.Faults {
		out = append(out, f.Kind)
	}
	return out
}

// TestQuickScanHoldsItsMinute: the search of 32 units at the common settings, with all that is asked about the units,
// ends within 60 s, on a quiet line and on one that hums.
func TestQuickScanHoldsItsMinute(t *testing.T) {
	for name, build := range map[string]func(f *fakeLine){
		"nobody": func(*fakeLine) {},
		"eight units": func(f *fakeLine) {
			for u := range 8 {
				f.add(n81, th(2*u+1))
			}
		},
		"at two settings": func(f *fakeLine) { f.add(n81, th(1)).add(n81, th(2)).add(e81, th(3)) },
		"at four settings": func(f *fakeLine) {
			f.add(n81, th(1)).add(e81, th(2)).add(firmwareconfig.Line{Baud: 4800, Format: "8N1"}, th(3)).add(firmwareconfig.Line{Baud: 19200, Format: "8E1"}, th(4))
		},
		"32 units": func(f *fakeLine) {
			for u := range 32 {
				f.add(n81, th(u+1))
			}
		},
		"32 slow units": func(f *fakeLine) {
			for u := range 32 {
				slow := th(u + 1)
				slow.delay = 90 * time.Millisecond
				f.add(n81, slow)
			}
		},
		"an adapter that is slow": func(f *fakeLine) { f.extra = 100 * time.Millisecond; f.add(n81, th(1)) },
		"a hum":                   func(f *fakeLine) { f.hum = []byte{0xFF, 0xFE, 0x80}; f.add(n81, th(5)) },
	} {
		t.Run(name, func(t *testing.T) {
			r, f := scanLine(t, scan.Options{Kind: scan.Serial}, build, nil)
			if r.Took > 60*time.Second || !r.Complete {
				t.Errorf("took %s, complete %v", r.Took, r.Complete)
			}
			settings := map[firmwareconfig.Line]int{}
			for _, q := range f.asked {
				settings[q.line] = max(settings[q.line], q.unit)
			}
			if len(settings) < 7 || len(r.Asked) != 8 { // 8N2 asks whom 8N1 has not heard
				t.Errorf("asked at %v", settings)
			}
			for l, most := range settings {
				if most != 32 && l.Format != "8N2" {
					t.Errorf("at %s only up to unit %d", scan.Setting(l), most)
				}
			}
			want := 0
			for _, us := range f.units {
				want += len(us)
			}
			if len(r.Units) != want {
				t.Errorf("%d units found, want %d\n%s", len(r.Units), want, dump(r))
			}
			// Who was not asked is said, at the unit and in the list.
			var unasked []int
			for _, u := range r.Units {
				if len(u.Candidates) == 0 && name != "a hum" && name != "an adapter that is slow" {
					unasked = append(unasked, u.Address)
				}
			}
			if !slices.Equal(unasked, r.NotAsked) && name != "an adapter that is slow" || len(unasked) > 0 && name != "32 slow units" {
				t.Errorf("not identified: %v, said %v", unasked, r.NotAsked)
			}
		})
	}
}

func TestThePlanSaysWhatItTakes(t *testing.T) {
	for name, c := range map[string]struct {
		o     scan.Options
		most  time.Duration
		least time.Duration
		says  []string
	}{
		"quick": {scan.Options{Kind: scan.Serial}, 45 * time.Second, 30 * time.Second, []string{"units 1-32", "9600 8N1, 4800 8N1", "256 requests", "60 s with asking again and asking who the units are"}},
		"full":  {scan.Options{Kind: scan.Serial, Full: true}, time.Hour, 10 * time.Minute, []string{"units 1-247", "and 28 more", "min"}},
		"running": {scan.Options{Kind: scan.Serial, Own: e81, Running: true}, 60 * time.Second, 20 * time.Second,
			[]string{"at 9600 8E1:", "32 requests", "silent addresses are asked again there, 53 s", "20 % of the line's time"}},
		"suspended": {scan.Options{Kind: scan.Serial, Running: true, Suspend: 30 * time.Second}, 30 * time.Second, 15 * time.Second, []string{"256 requests", "28 s with asking again"}},
		"tcp":       {scan.Options{Kind: scan.TCP}, 40 * time.Second, 30 * time.Second, []string{"units 1-32: 32 requests"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := scan.NewPlan(c.o)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			p.Print(&b)
			for _, s := range c.says {
				if !strings.Contains(b.String(), s) {
					t.Errorf("the plan does not say %q:\n%s", s, b.String())
				}
			}
			if d := p.Estimate(); d > c.most || d < c.least {
				t.Errorf("estimate %s, want %s to %s", d, c.least, c.most)
			}
		})
	}
}

func TestOptionsThatMakeNoPlan(t *testing.T) {
	for says, o := range map[string]scan.Options{
		"--universal":    {Kind: scan.Serial, Units: []int{248}},
		"no unit":        {Kind: scan.Serial, Units: []int{256}},
		"broadcast":      {Kind: scan.Serial, Units: []int{0}, Universal: true},
		"8E2":            {Kind: scan.Serial, Formats: []string{"8E2"}},
		"5 baud":         {Kind: scan.Serial, Bauds: []int{5}},
		"--suspend":      {Kind: scan.Serial, Running: true, Bauds: []int{4800}},
		"converter":      {Kind: scan.TCP, Bauds: []int{9600}},
		"unknown kind":   {Kind: "ascii"},
		"a wait of -5s":  {Kind: scan.Serial, Timeout: -5 * time.Second},
		"share of 2":     {Kind: scan.Serial, Running: true, Share: 2},
		"too short":      {Kind: scan.Serial, Running: true, Suspend: 10 * time.Second},
		"up to":          {Kind: scan.Serial, Running: true, Suspend: 60 * time.Second, Full: true},
		"say which":      {Kind: scan.Serial, Who: true},
		"line's setting": {},
	} {
		if _, err := scan.NewPlan(o); err == nil || !strings.Contains(err.Error(), says) && says != "line's setting" {
			t.Errorf("%+v: %v, want %q", o, err, says)
		}
	}
	if p, err := scan.NewPlan(scan.Options{Kind: scan.TCP, Units: []int{0, 255}, Universal: true}); err != nil || p.Probes() != 2 {
		t.Errorf("universal addresses when asked for: %v", err)
	}
}

// TestScanOnlyReads: whatever it meets, nothing but reads is sent, to no address outside the plan.
func TestScanOnlyReads(t *testing.T) {
	_, f := scanLine(t, scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
		f.add(n81, th(1)).add(n81, th(2)).add(n81, always(3, 1)).add(n81, always(4, 4)).add(e81, th(5))
		f.add(n81, &fakeUnit{address: 6, answer: func([]byte) []byte { return []byte{3, 2, 0, 0} }, garbled: true})
		f.add(n81, &fakeUnit{address: 7, delay: 250 * time.Millisecond, answer: th(7).answer})
	}, nil)
	for _, q := range f.asked {
		if fc := q.pdu[0]; fc < 1 || fc > 4 && fc != 0x2B {
			t.Errorf("function %d was sent: % x", fc, q.pdu)
		}
		if q.unit < 1 || q.unit > 32 {
			t.Errorf("address %d was asked", q.unit)
		}
	}
	if last := f.sets[len(f.sets)-1]; last != (firmwareconfig.Line{}) {
		t.Errorf("the line was left at %s", scan.Setting(last))
	}
}

func TestWhoIsFound(t *testing.T) {
	named := func(address int, vendor, product string) *fakeUnit {
		u := registers(address, tables{input: image{0: 1, 1: 1}})
		plain := u.answer
		u.answer = func(pdu []byte) []byte {
			if pdu[0] != 0x2B {
				return plain(pdu)
			}
			out := []byte{0x2B, 0x0E, pdu[2], 1, 0, 0, 2, 0, byte(len(vendor))}
			out = append(append(out, vendor...), 1, byte(len(product)))
			return append(out, product...)
		}
		return u
	}
	slow := th(7)
	slow.delay = 220 * time.Millisecond
	r, _ := scanLine(t, scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
		f.add(n81, th(1)).add(n81, named(2, "ACME Power Ltd", "PM-3000 rev 2")).add(n81, named(3, "Nobody", "X"))
		f.add(n81, always(4, 2)).add(n81, slow).add(n81, registers(9, tables{coil: image{0: 1}}))
	}, nil)
	got := map[int]scan.Unit{}
	for _, u := range r.Units {
		got[u.Address] = u
	}
	for address, want := range map[int]struct {
		profile string
		sure    scan.Sureness
	}{
		1: {"th_sensor", scan.Likely}, 2: {"acme_pm3000", scan.Certain}, 3: {"", scan.Unknown}, 4: {"", scan.Unknown},
		7: {"th_sensor", scan.Likely}, 9: {"", scan.Unknown},
	} {
		u, ok := got[address]
		first := ""
		if len(u.Candidates) > 0 {
			first = u.Candidates[0].Profile
		}
		if !ok || first != want.profile || u.Sure != want.sure {
			t.Errorf("unit %d: found %v, %q %s, want %q %s", address, ok, first, u.Sure, want.profile, want.sure)
		}
	}
	if !strings.Contains(strings.Join(got[9].Remarks, ""), "readable: coil 0") {
		t.Errorf("unit 9: %v", got[9].Remarks)
	}
	if id := got[3].Identity; id == nil || id.String() != "Nobody X" {
		t.Errorf("unit 3 says %v", id)
	}
	if !slices.Equal(kinds(r), []string{scan.OnlyErrors}) || !slices.Equal(r.Faults[0].Addresses, []int{4}) {
		t.Errorf("faults\n%s", faults(r))
	}
	if t.Failed() {
		t.Log("\n" + dump(r))
	}
}

// TestLookAlikes: what registers cannot tell apart is said, with all that fit; what a signature tells apart is not.
func TestLookAlikes(t *testing.T) {
	channels := []firmwareconfig.Channel{{Table: input, Address: 1, Encoding: firmwareconfig.EncU16}, {Table: input, Address: 2, Encoding: firmwareconfig.EncU16}}
	address := []firmwareconfig.Test{{Table: holding, Address: 0x0101, EqualsAddress: true}}
	for name, c := range map[string]struct {
		profiles []*firmwareconfig.Profile
		order    []string
		alike    []string
		sure     scan.Sureness
	}{
		"neither has a mark": {[]*firmwareconfig.Profile{
			{ID: "a", Channels: channels, LookAlikes: []string{"b"}}, {ID: "b", Channels: channels}}, []string{"a", "b"}, []string{"b"}, scan.Possible},
		"both have the same": {[]*firmwareconfig.Profile{
			{ID: "a", Channels: channels, Signature: address}, {ID: "b", Channels: channels, Signature: address, LookAlikes: []string{"a"}}}, []string{"a", "b"}, []string{"b"}, scan.Possible},
		"one mark fails": {[]*firmwareconfig.Profile{
			{ID: "a", Channels: channels, Signature: address, LookAlikes: []string{"b"}},
			{ID: "b", Channels: channels, Signature: []firmwareconfig.Test{{Table: holding, Address: 0x0101, Equals: word(4)}}}}, []string{"a"}, nil, scan.Likely},
		"factory settings decide": {[]*firmwareconfig.Profile{
			{ID: "a", Channels: channels}, {ID: "b", Channels: channels, Line: n81, Address: 1}}, []string{"b", "a"}, nil, scan.Possible},
		"a value that cannot be": {[]*firmwareconfig.Profile{
			{ID: "a", Channels: []firmwareconfig.Channel{{Table: input, Address: 2, Encoding: firmwareconfig.EncU16, Unit: "%RH"}}}}, nil, nil, scan.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := scanLine(t, scan.Options{Kind: scan.Serial, Units: []int{1}}, func(f *fakeLine) { f.add(n81, th(1)) },
				func(cfg *scan.Config) { cfg.Profiles = c.profiles })
			if len(r.Units) != 1 {
				t.Fatalf("%d units", len(r.Units))
			}
			u := r.Units[0]
			var order []string
			for _, cand := range u.Candidates {
				order = append(order, cand.Profile)
			}
			if !slices.Equal(order, c.order) || u.Sure != c.sure {
				t.Errorf("candidates %v, %s; want %v, %s", order, u.Sure, c.order, c.sure)
			}
			if c.alike != nil && (!slices.Equal(u.Candidates[0].Alike, c.alike) || !strings.Contains(strings.Join(u.Remarks, ""), "cannot be told apart")) {
				t.Errorf("alike %v, remarks %v", u.Candidates[0].Alike, u.Remarks)
			}
			if c.alike == nil && strings.Contains(strings.Join(u.Remarks, ""), "cannot be told apart") {
				t.Errorf("remarks %v", u.Remarks)
			}
		})
	}
}

// TestFaults: each fault alone, and what looks like one and is none.
func TestFaults(t *testing.T) {
	poll := func(unit byte) []byte {
		return append(rtu(unit, []byte{3, 0, 0, 0, 2}), rtu(unit, []byte{3, 4, 0, 1, 0, 2})...)
	}
	every := func(f *fakeLine, at firmwareconfig.Line, d time.Duration, b []byte) {
		if f.talk[at] == nil {
			f.talk[at] = map[time.Duration][]byte{}
		}
		f.talk[at][d] = b
	}
	doubled := th(4)
	doubled.after = rtu(4, []byte{0x83, 2})
	turns := 0
	for name, c := range map[string]struct {
		o     scan.Options
		build func(f *fakeLine)
		known []firmwareconfig.Unit
		want  []string
		says  string
	}{
		"all well":         {scan.Options{Kind: scan.Serial}, func(f *fakeLine) { f.add(n81, th(1)).add(n81, th(2)) }, nil, nil, ""},
		"nothing":          {scan.Options{Kind: scan.Serial}, func(*fakeLine) {}, nil, []string{scan.Nothing}, "A and B"},
		"nothing over tcp": {scan.Options{Kind: scan.TCP}, func(*fakeLine) {}, nil, []string{scan.Nothing}, "Modbus TCP and not RTU"},
		"two that collide": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) { f.add(n81, th(1)).add(n81, th(4)).add(n81, th(4)) }, nil, []string{scan.TwoUnits}, "address 4"},
		"two that collide, with two stop bits too": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			n82 := firmwareconfig.Line{Baud: 9600, Format: "8N2"}
			f.add(n81, th(1)).add(n81, th(4)).add(n81, th(4)).add(n82, th(1)).add(n82, th(4)).add(n82, th(4))
		}, nil, []string{scan.TwoUnits}, "address 4"},
		"two one by one": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) { f.add(n81, th(1)).add(n81, doubled) }, nil, []string{scan.TwoUnits}, "two answers came to one request"},
		"two that take turns": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			a, b := registers(4, tables{holding: image{0: 1}}), always(4, 2)
			f.add(n81, th(1)).add(n81, &fakeUnit{address: 4, answer: func(pdu []byte) []byte {
				if turns++; turns%2 == 0 {
					return a.answer(pdu)
				}
				return b.answer(pdu)
			}})
		}, nil, []string{scan.TwoUnits}, "was answered with"},
		"a unit that is busy now and then": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			a, n := registers(4, tables{holding: image{0: 1, 0x0101: 4}, input: image{1: 1, 2: 2}}), 0
			f.add(n81, &fakeUnit{address: 4, answer: func(pdu []byte) []byte {
				if n++; n%2 == 0 {
					return []byte{pdu[0] | 0x80, 6}
				}
				return a.answer(pdu)
			}})
		}, nil, nil, ""},
		"another baud rate": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			f.add(n81, th(1)).add(n81, th(2)).add(firmwareconfig.Line{Baud: 4800, Format: "8N1"}, th(3))
		}, nil, []string{scan.OtherSetting}, "unit 3 is at 4800 8N1: another baud rate"},
		"two stop bits are no other setting": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			f.add(n81, th(1)).add(firmwareconfig.Line{Baud: 9600, Format: "8N2"}, th(3))
		}, nil, nil, ""},
		"a talker at another rate": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			f.add(n81, th(1))
			every(f, firmwareconfig.Line{Baud: 4800, Format: "8N1"}, time.Second, []byte("T=25.1C\r\n"))
		}, nil, []string{scan.TextTalker}, "at 4800 8N1, as \"T=25.1C\""},
		"a master": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			f.add(n81, th(1))
			every(f, n81, 200*time.Millisecond, poll(7))
		}, nil, []string{scan.ForeignMaster}, "unit 7 (holding registers 0-1); a request about every 200ms"},
		"a master that writes": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			f.add(n81, th(1))
			every(f, n81, 500*time.Millisecond, append(rtu(7, []byte{6, 0, 9, 0, 1}), rtu(7, []byte{6, 0, 9, 0, 1})...))
		}, nil, []string{scan.ForeignMaster}, "writes holding register 9"},
		"noise": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
			every(f, firmwareconfig.Line{Baud: 57600, Format: "8N1"}, 100*time.Millisecond, []byte{0xFF, 0x00, 0xE3})
		}, nil, []string{scan.Noise}, "A and B are swapped"},
		"a line that hums": {scan.Options{Kind: scan.Serial}, func(f *fakeLine) { f.hum = []byte{0xFF, 0xFE, 0x80}; f.add(n81, th(1)) }, nil, []string{scan.Noise}, "requests met bytes"},
		"echo":             {scan.Options{Kind: scan.Serial}, func(f *fakeLine) { f.echo = true; f.add(n81, th(1)) }, nil, []string{scan.Echo}, "receives what it sends"},
		"a device that ignores addresses": {scan.Options{Kind: scan.TCP}, func(f *fakeLine) {
			u := th(1)
			u.address = -1
			f.add(n81, u)
		}, nil, []string{scan.EveryAddress}, "use one address"},
		"a gateway without units": {scan.Options{Kind: scan.TCP}, func(f *fakeLine) { f.add(n81, always(-1, 11)) }, nil, []string{scan.Nothing}, ""},
		"the site file is wrong": {scan.Options{Kind: scan.Serial, Running: true, Own: n81}, func(f *fakeLine) { f.add(n81, th(1)) },
			[]firmwareconfig.Unit{{ID: "m1", Address: 1, Profile: profiles()[0]}, {ID: "m2", Address: 2, Profile: profiles()[0]}},
			[]string{scan.WrongProfile, scan.MissingUnit}, "unit 1 (m1) is acme_pm3000 in the site file, but answers as th_sensor"},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := scanLine(t, c.o, c.build, func(cfg *scan.Config) { cfg.Known = c.known })
			if !slices.Equal(kinds(r), c.want) || !strings.Contains(faults(r), c.says) {
				t.Errorf("want %v and %q, got\n%s", c.want, c.says, dump(r))
			}
			if c.o.Running {
				for _, d := range f.heards {
					if d > 300*time.Millisecond {
						t.Errorf("a line that is polled was held for %s", d)
					}
				}
				if len(f.sets) > 0 {
					t.Errorf("a line that is polled was set to %v", f.sets)
				}
			}
		})
	}
}

func TestScanEndsWhenItIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(n81)
		f.add(n81, th(1)).add(n81, th(2))
		plan, err := scan.NewPlan(scan.Options{Kind: scan.Serial, Full: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var last scan.Progress
		r, err := scan.Run(ctx, scan.Config{Conn: f, Plan: plan, Profiles: profiles(), Progress: func(p scan.Progress) { last = p }})
		if err != nil || r.Complete || len(r.Units) != 2 || r.Took > 5*time.Second+10*time.Millisecond {
			t.Errorf("%v, complete %v, %d units, took %s", err, r.Complete, len(r.Units), r.Took)
		}
		if len(r.Faults) > 0 || !strings.Contains(strings.Join(r.Units[0].Remarks, ""), "not asked who it is") {
			t.Errorf("of an interrupted scan:\n%s", dump(r))
		}
		if last.Doing != "searching" || last.Found != 2 || last.Left < time.Minute || last.Done <= 0 || last.Done >= 1 {
			t.Errorf("progress %+v", last)
		}
	})
}

func TestScanEndsWhenTheLineIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(n81)
		f.err = errors.New("pulled out")
		plan, err := scan.NewPlan(scan.Options{Kind: scan.Serial})
		if err != nil {
			t.Fatal(err)
		}
		r, err := scan.Run(t.Context(), scan.Config{Conn: f, Plan: plan, Lost: func(err error) bool { return errors.Is(err, f.err) }})
		if !errors.Is(err, f.err) || r == nil || r.Complete || len(r.Faults) > 0 {
			t.Errorf("%v, %+v", err, r)
		}
	})
}

func TestMatch(t *testing.T) {
	answers := map[int]scan.Answer{1: {Word: 0x3343, OK: true}, 2: {Word: 7, OK: true}, 3: {Refused: true, OK: true}, 4: {Word: 0xFFFE, OK: true}}
	read := func(_ firmwareconfig.Table, address int) scan.Answer { return answers[address] }
	for name, c := range map[string]struct {
		tests []firmwareconfig.Test
		want  scan.Verdict
	}{
		"no signature":                 {nil, scan.Untold},
		"equals":                       {[]firmwareconfig.Test{{Address: 1, Equals: word(0x3343)}}, scan.Yes},
		"equals not":                   {[]firmwareconfig.Test{{Address: 1, Equals: word(0x3344)}}, scan.No},
		"address":                      {[]firmwareconfig.Test{{Address: 2, EqualsAddress: true}}, scan.Yes},
		"not the address":              {[]firmwareconfig.Test{{Address: 1, EqualsAddress: true}}, scan.No},
		"one of":                       {[]firmwareconfig.Test{{Address: 2, OneOf: []uint16{1, 7}}}, scan.Yes},
		"none of":                      {[]firmwareconfig.Test{{Address: 2, OneOf: []uint16{1, 8}}}, scan.No},
		"between, signed":              {[]firmwareconfig.Test{{Address: 4, Between: &[2]float64{-2, 0}}}, scan.Yes},
		"beyond":                       {[]firmwareconfig.Test{{Address: 4, Between: &[2]float64{-1, 0}}}, scan.No},
		"refused":                      {[]firmwareconfig.Test{{Address: 3, Refused: true}}, scan.Yes},
		"not refused":                  {[]firmwareconfig.Test{{Address: 1, Refused: true}}, scan.No},
		"refused and read":             {[]firmwareconfig.Test{{Address: 3, Equals: word(0)}}, scan.No},
		"no answer":                    {[]firmwareconfig.Test{{Address: 9, Equals: word(0)}}, scan.Untold},
		"no answer, but another fails": {[]firmwareconfig.Test{{Address: 9, Equals: word(0)}, {Address: 1, Equals: word(0)}}, scan.No},
		"all":                          {[]firmwareconfig.Test{{Address: 1, Equals: word(0x3343)}, {Address: 2, EqualsAddress: true}, {Address: 3, Refused: true}}, scan.Yes},
	} {
		if got := scan.Match(&firmwareconfig.Profile{Signature: c.tests}, 7, read); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
