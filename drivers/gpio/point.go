package gpio

import (
	"math"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// How often a point that does not change is told again, so that it is known to be alive: at the next look at the line
// after these times, thus every second for what protects life and every 5 s for the rest.
const (
	readEvery         = 900 * time.Millisecond
	confirmLifeSafety = 800 * time.Millisecond
	confirmEvery      = 4 * time.Second
)

// point is one point that a line provides.
type point struct {
	id     telemetry.PointID
	b      firmwareconfig.Binding
	invert bool // of channel and binding together
	scale  float64
	offset float64

	told    bool
	quality telemetry.Quality
	value   telemetry.Value
	at      telemetry.Mono // time of the last sample
}

func newPoint(ch *firmwareconfig.Channel, b firmwareconfig.Binding) *point {
	p := &point{id: b.Point, b: b, invert: ch.Invert != b.Invert, scale: ch.Scale, offset: ch.Offset}
	if p.scale == 0 {
		p.scale = 1
	}
	if p.b.UnitFactor == 0 {
		p.b.UnitFactor = 1
	}
	return p
}

// lifeSafety reports whether the point protects life.
func (p *point) lifeSafety() bool { return p.b.Def != nil && p.b.Def.LifeSafety }

// event reports whether the point's samples are events.
func (p *point) event() bool { return p.b.Def != nil && p.b.Def.Event }

// bool returns the point's value for a level.
func (p *point) bool(level bool) telemetry.Value { return telemetry.BoolValue(level != p.invert) }

// level returns the level for a point's value; the inverse of bool.
func (p *point) level(v telemetry.Value) bool { return v.Bool() != p.invert }

// count returns the point's value for a number of pulses.
func (p *point) count(n uint64) telemetry.Value {
	isInt := p.b.Def != nil && p.b.Def.Kind == telemetry.Int
	if isInt && p.scale == 1 && p.offset == 0 && p.b.UnitFactor == 1 && p.b.UnitOffset == 0 && p.b.Map == nil {
		return telemetry.IntValue(int64(n))
	}
	f := (float64(n)*p.scale+p.offset)*p.b.UnitFactor + p.b.UnitOffset
	if p.b.Map != nil {
		f = p.b.Map.At(f)
	}
	if isInt {
		return telemetry.IntValue(int64(math.Round(f)))
	}
	return telemetry.FloatValue(f)
}

// tell appends a sample. Its time is never before that of the point's last one.
func (p *point) tell(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality, v telemetry.Value) []telemetry.Sample {
	if p.told {
		t = max(t, p.at)
	}
	p.told, p.quality, p.value, p.at = true, q, v, t
	return append(dst, telemetry.Sample{Point: p.id, Quality: q, Time: t, Value: v})
}

// same reports whether the point was last told like this.
func (p *point) same(q telemetry.Quality, v telemetry.Value) bool {
	return p.told && p.quality == q && p.value == v
}

// stale reports whether what was told last should be confirmed by what was seen at now.
func (p *point) stale(now telemetry.Mono) bool {
	every := confirmEvery
	if p.lifeSafety() {
		every = confirmLifeSafety
	}
	return !p.told || now.Sub(p.at) >= every
}

// bad appends that the point has no value, where that was not told within confirmEvery.
func (p *point) bad(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality) []telemetry.Sample {
	if p.event() {
		return dst // What happens has no state: a sample would be an event.
	}
	if p.same(q, telemetry.Value{}) && t.Sub(p.at) < confirmEvery {
		return dst
	}
	return p.tell(dst, t, q, telemetry.Value{})
}
