package scan_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"linli/drivers/modbus"
	"linli/drivers/modbus/scan"
	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
)

var (
	n81 = firmwareconfig.Line{Baud: 9600, Format: "8N1"}
	e81 = firmwareconfig.Line{Baud: 9600, Format: "8E1"}
)

func word(w uint16) *uint16 { return &w }

// sensor is a temperature and humidity transmitter whose address is in holding register 0x0101.
func sensor(address int, line firmwareconfig.Line, delay time.Duration) simulate.WiredUnit {
	return simulate.WiredUnit{Address: address, Line: line, Delay: delay, Registers: map[firmwareconfig.Table]map[int]uint16{
		firmwareconfig.InputRegister:   {1: 245, 2: 600},
		firmwareconfig.HoldingRegister: {0x0101: uint16(address), 0x0102: 9600},
	}}
}

// meter is something else: a meter that says what it is.
func meter(address int, line firmwareconfig.Line) simulate.WiredUnit {
	return simulate.WiredUnit{Address: address, Line: line, Delay: 8 * time.Millisecond, Registers: map[firmwareconfig.Table]map[int]uint16{
		firmwareconfig.InputRegister: {0: 2301, 1: 5},
	}, Identity: map[byte]string{0: "Acme Power", 1: "PM-3000", 2: "V1.2", 5: "PM3000-RS"}}
}

// profiles are models as the scan of these tests knows them.
func profiles() []*firmwareconfig.Profile {
	input := func(address int, unit string) firmwareconfig.Channel {
		return firmwareconfig.Channel{Table: firmwareconfig.InputRegister, Address: address, Encoding: firmwareconfig.EncU16, Scale: 0.1, Unit: unit}
	}
	return []*firmwareconfig.Profile{
		{ID: "acme_pm3000", Vendor: "Acme", Model: "PM3000", Channels: []firmwareconfig.Channel{input(0, "V"), input(1, "A")},
			DeviceID: &firmwareconfig.DeviceID{Vendor: "acme", Product: "pm-3000"}},
		{ID: "th_sensor", Vendor: "generic", Model: "TH", Channels: []firmwareconfig.Channel{input(1, "°C"), input(2, "%RH")},
			Signature: []firmwareconfig.Test{
				{Table: firmwareconfig.InputRegister, Address: 0, Refused: true},
				{Table: firmwareconfig.HoldingRegister, Address: 0x0101, EqualsAddress: true},
			}},
		{ID: "other", Vendor: "other", Model: "X", Channels: []firmwareconfig.Channel{input(0x40, "V")},
			Signature: []firmwareconfig.Test{{Table: firmwareconfig.HoldingRegister, Address: 0x0101, Equals: word(0x1234)}}},
	}
}

// serve puts a wiring on a pty and opens it as a tool does.
func serve(t *testing.T, w *simulate.Wiring) *modbus.Session {
	t.Helper()
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, pty) }()
	s, err := modbus.Open(t.Context(), modbus.Config{Name: "test", Transport: modbus.RTU, Device: pty.Path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the simulated line: %v", err)
		}
	})
	return s
}

func units(from, to int) []int {
	var out []int
	for u := from; u <= to; u++ {
		out = append(out, u)
	}
	return out
}

func faults(r *scan.Report) string {
	var b strings.Builder
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "%s %v %s (%s): %s. %s\n", f.Kind, f.Addresses, scan.Setting(f.Line), f.Sure, f.Text, f.Do)
	}
	return b.String()
}

func dump(r *scan.Report) string {
	var b strings.Builder
	for _, u := range r.Units {
		fmt.Fprintf(&b, "%d %s %s %v %+v %v %s\n", u.Address, scan.Setting(u.Line), u.Sure, u.Candidates, u.Identity, u.RoundTrip, strings.Join(u.Remarks, "; "))
	}
	return b.String() + faults(r)
}

// TestScanNamesEveryFaultOfABadlyWiredLine: two units at address 1, one at another parity, one text talker, one foreign
// master, all on one line.
func TestScanNamesEveryFaultOfABadlyWiredLine(t *testing.T) {
	var mu sync.Mutex
	functions := map[byte]int{}
	conn := serve(t, &simulate.Wiring{
		Units: []simulate.WiredUnit{
			sensor(1, n81, 12*time.Millisecond), meterAt1(),
			sensor(3, n81, 10*time.Millisecond), meter(4, n81), sensor(5, e81, 10*time.Millisecond), sensor(9, n81, 10*time.Millisecond),
		},
		Talker: &simulate.TextTalker{Line: n81, Text: "25.1,60.2%RH\r\n", Every: time.Second},
		Master: &simulate.SecondMaster{Line: n81, Unit: 9, PDU: []byte{4, 0, 1, 0, 2}, Every: 500 * time.Millisecond},
		Asked: func(frame []byte) {
			mu.Lock()
			defer mu.Unlock()
			functions[frame[1]]++
		},
	})
	plan, err := scan.NewPlan(scan.Options{Kind: scan.Serial, Units: units(1, 10), Bauds: []int{9600}, Formats: []string{"8N1", "8E1"}, Timeout: 60 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r, err := scan.Run(t.Context(), scan.Config{Conn: conn, Plan: plan, Profiles: profiles()})
	if err != nil || !r.Complete {
		t.Errorf("complete %v, %v", r.Complete, err)
	}
	for kind, check := range map[string]func(scan.Fault) bool{
		scan.TwoUnits: func(f scan.Fault) bool { return slices.Equal(f.Addresses, []int{1}) && f.Line == n81 },
		scan.OtherSetting: func(f scan.Fault) bool {
			return slices.Equal(f.Addresses, []int{5}) && strings.Contains(f.Text, "another parity")
		},
		scan.TextTalker: func(f scan.Fault) bool { return strings.Contains(f.Text, "25.1,60.2%RH") && f.Line == n81 },
		scan.ForeignMaster: func(f scan.Fault) bool {
			return slices.Equal(f.Addresses, []int{9}) && strings.Contains(f.Text, "input registers 1-2") && strings.Contains(f.Text, "every 5") // 500 ms, or 550
		},
	} {
		n := 0
		for _, f := range r.Faults {
			if f.Kind == kind && check(f) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("fault %s: named %d times", kind, n)
		}
	}
	if len(r.Faults) != 4 {
		t.Errorf("%d faults, want 4", len(r.Faults))
	}
	var found []int
	for _, u := range r.Units {
		found = append(found, u.Address)
		want := map[int]string{3: "th_sensor", 4: "acme_pm3000", 5: "th_sensor", 9: "th_sensor"}[u.Address]
		if want != "" && (len(u.Candidates) == 0 || u.Candidates[0].Profile != want) {
			t.Errorf("unit %d: %+v, want %s first", u.Address, u.Candidates, want)
		}
	}
	if !slices.Equal(found, []int{1, 3, 4, 5, 9}) {
		t.Errorf("units %v", found)
	}
	mu.Lock()
	defer mu.Unlock()
	for f := range functions {
		if f > 4 && f != 0x2B {
			t.Errorf("function %d was sent", f)
		}
	}
	if t.Failed() {
		t.Log("\n" + dump(r))
	}
}

// meterAt1 answers at the same moment as the sensor at address 1, give or take.
func meterAt1() simulate.WiredUnit {
	u := meter(1, n81)
	u.Delay, u.Jitter = 11*time.Millisecond, 3*time.Millisecond
	return u
}

// TestTwinsOnALine: two new sensors at the factory address, alone on a line, whose answers collide within a byte or two.
func TestTwinsOnALine(t *testing.T) {
	twin := func(temperature uint16) simulate.WiredUnit {
		u := sensor(1, n81, 5*time.Millisecond)
		u.Jitter = 2 * time.Millisecond // A character takes 1.1 ms.
		u.Registers[firmwareconfig.InputRegister][1] = temperature
		return u
	}
	conn := serve(t, &simulate.Wiring{Units: []simulate.WiredUnit{twin(251), twin(263)}})
	plan, err := scan.NewPlan(scan.Options{Kind: scan.Serial, Units: units(1, 3), Bauds: []int{9600}, Formats: []string{"8N1"}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := scan.Run(t.Context(), scan.Config{Conn: conn, Plan: plan, Profiles: profiles()})
	if err != nil || len(r.Faults) != 1 || r.Faults[0].Kind != scan.TwoUnits || !slices.Equal(r.Faults[0].Addresses, []int{1}) {
		t.Errorf("%v\n%s", err, dump(r))
	}
}
