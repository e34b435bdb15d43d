package gpio_test

import (
	"strings"
	"testing"
	"time"

	"linli/drivers"
	"linli/drivers/gpio"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// key is a site's key.
var key = []byte("0123456789abcdef")

func newClock() *telemetry.Clock {
	return telemetry.NewClock("boot", telemetry.Mono(5*time.Second), time.Unix(0, 0))
}

// config makes the synthetic unit of the lines, with a point for each channel whose id is its number.
func config(lines ...firmwareconfig.GPIOLine) gpio.Config {
	p := &firmwareconfig.Profile{ID: "gpio"}
	u := firmwareconfig.Unit{ID: "box_io", Profile: p}
	for i, l := range lines {
		ch := firmwareconfig.Channel{Name: l.ID, Encoding: firmwareconfig.EncBool, Scale: 1}
		def := &telemetry.PointDef{Name: l.ID, Kind: telemetry.Bool}
		switch l.Kind {
		case firmwareconfig.GPIOCounter:
			ch.Encoding, def.Kind = firmwareconfig.EncU64, telemetry.Int
		case firmwareconfig.GPIOWiegand:
			ch.Encoding, def.Kind, def.Event = firmwareconfig.EncString, telemetry.KindText, true
		case firmwareconfig.GPIOOutput:
			ch.Writable, def.Writable = true, true
		}
		p.Channels = append(p.Channels, ch)
		u.Bindings = append(u.Bindings, firmwareconfig.Binding{
			Channel: i, Point: telemetry.PointID(i), Def: def, UnitFactor: 1,
		})
	}
	return gpio.Config{Name: "box_io", Chip: "chip", Lines: lines, Unit: u}
}

func TestConfigMistakes(t *testing.T) {
	in, out := firmwareconfig.GPIOInput, firmwareconfig.GPIOOutput
	tests := map[string]struct {
		lines []firmwareconfig.GPIOLine
		want  string
	}{
		"no kind":           {[]firmwareconfig.GPIOLine{{ID: "a", Line: "1"}}, "line a: no such kind"},
		"no line":           {[]firmwareconfig.GPIOLine{{ID: "a", Kind: in}}, "line a: no GPIO line named"},
		"twice":             {[]firmwareconfig.GPIOLine{{ID: "a", Kind: in, Line: "1"}, {ID: "b", Kind: in, Line: "1"}}, "line b: 1 is in use by line a"},
		"own feedback":      {[]firmwareconfig.GPIOLine{{ID: "a", Kind: out, Line: "1", Feedback: "1"}}, "line a: 1 is in use by line a"},
		"feedback of input": {[]firmwareconfig.GPIOLine{{ID: "a", Kind: in, Line: "1", Feedback: "2"}}, "only an output has a feedback contact"},
		"half a pair":       {[]firmwareconfig.GPIOLine{{ID: "a", Kind: firmwareconfig.GPIOPair, Line: "1"}}, "pairs and Wiegand readers have two"},
		"two lines":         {[]firmwareconfig.GPIOLine{{ID: "a", Kind: in, Line: "1", Second: "2"}}, "others one"},
		"debounce":          {[]firmwareconfig.GPIOLine{{ID: "a", Kind: in, Line: "1", Debounce: time.Hour}}, "at most 1m"},
		"short key":         {[]firmwareconfig.GPIOLine{{ID: "a", Kind: firmwareconfig.GPIOWiegand, Line: "1", Second: "2", Key: key[:8]}}, "needs a key of at least 16 bytes"},
		"bits":              {[]firmwareconfig.GPIOLine{{ID: "a", Kind: firmwareconfig.GPIOWiegand, Line: "1", Second: "2", Key: key, Bits: []int{27}}}, "frames of 27 bits"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := config(tt.lines...)
			c.Clock = newClock()
			_, err := gpio.New(c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something with %q", err, tt.want)
			}
		})
	}
	c := config(firmwareconfig.GPIOLine{ID: "a", Kind: in, Line: "1"})
	c.Unit.Bindings[0].Channel = 3
	c.Chip = ""
	_, err := gpio.New(c)
	for _, want := range []string{"no chip", "no clock", "bound to line number 3 of 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		}
	}
}

var (
	_ drivers.Bus    = (*gpio.Bus)(nil)
	_ drivers.Writer = (*gpio.Bus)(nil)
	_ drivers.Waker  = (*gpio.Bus)(nil)
)
