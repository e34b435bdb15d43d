package site

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// gpioProfile is the id of the profile that site makes of a chip's lines.
const gpioProfile = "gpio"

// cardRegisters is the size of a card's hash: 16 hex digits.
const cardRegisters = 8

// gpio resolves a GPIO chip: its lines become the channels of one unit that has the bus's id, so that points are bound to
// them as to a unit's channels. unique says that no other bus has the bus's id.
func (r *resolver) gpio(b *bus, out *Bus, taken *endpoints, unitSeen map[string]yamlfile.Pos, unique bool) {
	c := &b.GPIO
	if len(b.Units) > 0 {
		r.failf(b.Units[0].Pos, "a GPIO chip has no units: its lines stand in lines")
	}
	if b.Timeout.Pos.Line > 0 {
		r.failf(b.Timeout.Pos, "timeout is for Modbus: a GPIO line has nobody to wait for")
	}
	out.KeyFile, out.KeyPos = r.path(c.KeyFile), c.KeyFile.Pos
	if present(r, c.Chip) {
		out.Chip = c.Chip.Value
		other, twice := taken.chip[out.Chip]
		switch {
		case strings.TrimSpace(out.Chip) == "" || strings.ContainsRune(out.Chip, 0):
			r.failf(c.Chip.Pos, "%q is no chip: write its label or name, as gpiodetect shows it", out.Chip)
		case twice:
			r.failf(c.Chip.Pos, "bus %s has this chip already: put all lines of one chip on one bus", other)
		default:
			taken.chip[out.Chip] = b.ID.Value
		}
	}

	profile := &firmwareconfig.Profile{ID: gpioProfile, Title: telemetry.Text{Zh: "GPIO", En: "GPIO"}}
	ref := &unitRef{id: b.ID.Value, profile: profile, bus: len(r.site.Buses), writers: map[int]string{}, gpio: []*gpioLine{}, bound: map[int]bool{}}
	seen, used := map[string]yamlfile.Pos{}, map[string]string{}
	for i := range b.Lines {
		l := &b.Lines[i]
		ok := r.newID("line of "+b.ID.Value, l.ID, seen)
		line, good := r.gpioLine(l, used)
		if !ok {
			continue
		}
		if !good {
			r.faultyID("line of "+b.ID.Value, l.ID)
			continue
		}
		if line.Kind == firmwareconfig.GPIOWiegand && c.KeyFile.Pos.Line == 0 {
			r.failf(l.Wiegand.Pos, "card numbers leave the driver as hashes only, made with the site's secret: set key_file beside chip")
		}
		out.Lines = append(out.Lines, line)
		profile.Channels = append(profile.Channels, gpioChannel(line, l, len(profile.Channels)))
		ref.gpio = append(ref.gpio, l)
	}
	if c.KeyFile.Pos.Line > 0 && len(seen) == len(b.Lines) && !r.unread["lines"] && !slices.ContainsFunc(b.Lines, func(l gpioLine) bool { return given(l.Wiegand.Pos) }) {
		r.failf(c.KeyFile.Pos, "key_file is for Wiegand readers, and this chip has none")
	}
	if b.ID.Pos.Line == 0 || !validID(b.ID.Value) {
		return
	}
	if first, ok := unitSeen[b.ID.Value]; ok {
		r.units[b.ID.Value].twice = true
		if !unique {
			return
		}
		r.failf(b.ID.Pos, "points are bound to the lines of a GPIO chip as %s.line, and unit %s has this name already, in line %d", b.ID.Value, b.ID.Value, first.Line)
		return
	}
	unitSeen[b.ID.Value] = b.ID.Pos
	r.units[b.ID.Value] = ref
	out.Units = []firmwareconfig.Unit{{ID: b.ID.Value, Profile: profile}}
}

// gpioChannel is the channel that a line becomes. Its table says what sort it is: an input, a number, an output.
func gpioChannel(line firmwareconfig.GPIOLine, l *gpioLine, index int) firmwareconfig.Channel {
	ch := firmwareconfig.Channel{Name: line.ID, Title: l.Title.Text, Address: index, Scale: 1, Table: firmwareconfig.DiscreteInput, Encoding: firmwareconfig.EncBool}
	switch line.Kind {
	case firmwareconfig.GPIOCounter:
		ch.Table, ch.Encoding = firmwareconfig.InputRegister, firmwareconfig.EncU64
	case firmwareconfig.GPIOWiegand:
		ch.Table, ch.Encoding, ch.Count = firmwareconfig.InputRegister, firmwareconfig.EncString, cardRegisters
	case firmwareconfig.GPIOOutput:
		ch.Table, ch.Writable = firmwareconfig.Coil, true
	}
	return ch
}

// gpioLine resolves one line and reports whether it can be used. used says what each line of the chip is for.
func (r *resolver) gpioLine(l *gpioLine, used map[string]string) (out firmwareconfig.GPIOLine, ok bool) {
	out = firmwareconfig.GPIOLine{ID: l.ID.Value, ActiveLow: l.ActiveLow.Value}
	kinds, before := 0, len(r.errs)
	kind := func(k firmwareconfig.GPIOKind, first, second scalar) {
		kinds++
		out.Kind = k
		out.Line = r.lineName(first, l, used)
		out.Second = r.lineName(second, l, used)
	}
	if l.Input.pos.Line > 0 {
		kind(firmwareconfig.GPIOInput, l.Input, scalar{})
	}
	if given(l.Pair.Pos) {
		kind(firmwareconfig.GPIOPair, l.Pair.NC, l.Pair.NO)
	}
	if l.Count.pos.Line > 0 {
		kind(firmwareconfig.GPIOCounter, l.Count, scalar{})
	}
	if given(l.Wiegand.Pos) {
		kind(firmwareconfig.GPIOWiegand, l.Wiegand.D0, l.Wiegand.D1)
		out.Bits = r.wiegandBits(&l.Wiegand)
	}
	if l.Output.pos.Line > 0 {
		kind(firmwareconfig.GPIOOutput, l.Output, scalar{})
	}
	if kinds != 1 {
		if len(r.errs) == before && (kinds > 1 || !r.troubled(l.Pos)) {
			r.failf(l.Pos, "a line is exactly one of input, pair, count, wiegand and output")
		}
		return out, false
	}
	r.foreignKeys(l, out.Kind)
	if r.choice("bias", l.Bias, choices[gpioLine]("bias")) {
		out.Bias = map[string]firmwareconfig.GPIOBias{
			"pull_up": firmwareconfig.GPIOPullUp, "pull_down": firmwareconfig.GPIOPullDown, "none": firmwareconfig.GPIOBiasOff,
		}[l.Bias.Value]
	}
	if r.choice("edge", l.Edge, choices[gpioLine]("edge")) {
		out.Edge = map[string]firmwareconfig.GPIOEdge{
			"rising": firmwareconfig.GPIORising, "falling": firmwareconfig.GPIOFalling, "both": firmwareconfig.GPIOBoth,
		}[l.Edge.Value]
	}
	out.Debounce = r.among("debounce", l.Debounce, 0, time.Millisecond, 5*time.Second)
	out.OnStart, out.OnStop = r.outputState("on_start", l.OnStart), r.outputState("on_stop", l.OnStop)
	out.Feedback = r.lineName(l.Feedback, l, used)
	return out, out.Line != ""
}

// foreignKeys reports keys that have no meaning for the sort of line that l is.
func (r *resolver) foreignKeys(l *gpioLine, kind firmwareconfig.GPIOKind) {
	const (
		input, pair, counter  = 1 << firmwareconfig.GPIOInput, 1 << firmwareconfig.GPIOPair, 1 << firmwareconfig.GPIOCounter
		wiegand, output, none = 1 << firmwareconfig.GPIOWiegand, 1 << firmwareconfig.GPIOOutput, 0
	)
	for _, k := range []struct {
		key   string
		pos   yamlfile.Pos
		kinds int
		whose string
	}{
		{"bias", l.Bias.Pos, input | pair | counter | wiegand, "what is read (or the feedback contact of an output)"},
		{"active_low", l.ActiveLow.Pos, input | pair | counter | output, "contacts, counters and outputs"},
		{"debounce", l.Debounce.Pos, input | pair | counter, "contacts (that of an output's feedback too) and counters"},
		{"edge", l.Edge.Pos, counter, "count"},
		{"on_start", l.OnStart.Pos, output, "output"},
		{"on_stop", l.OnStop.Pos, output, "output"},
		{"feedback", l.Feedback.pos, output, "output"},
	} {
		if kind == firmwareconfig.GPIOOutput && l.Feedback.pos.Line > 0 && (k.key == "bias" || k.key == "debounce") {
			continue // They are the feedback contact's.
		}
		if k.pos.Line > 0 && k.kinds&(1<<kind) == none {
			r.failf(k.pos, "%s is for %s, and this is %s", k.key, k.whose, kindName(kind))
		}
	}
}

func kindName(kind firmwareconfig.GPIOKind) string {
	switch kind {
	case firmwareconfig.GPIOInput:
		return "an input"
	case firmwareconfig.GPIOPair:
		return "a pair"
	case firmwareconfig.GPIOCounter:
		return "a counter"
	case firmwareconfig.GPIOWiegand:
		return "a Wiegand reader"
	}
	return "an output"
}

// lineName checks the name of a line of the chip, which serves one purpose only. It returns "" for none.
func (r *resolver) lineName(v scalar, l *gpioLine, used map[string]string) string {
	switch {
	case v.pos.Line == 0 || r.refused[v.pos]:
		return ""
	case v.text == "" || len(v.text) > 31 || strings.ContainsFunc(v.text, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		r.failf(v.pos, "%q is no line: write its name or its number on the chip, as gpioinfo shows them%s", v.text, wideHint(v.text))
		return ""
	case strings.EqualFold(v.text, "true") || strings.EqualFold(v.text, "false"):
		r.failf(v.pos, "%s is no line: write which one, by its name or its number on the chip; its level is for active_low", v.text)
		return ""
	case numeric(v.text) && !lineNumber(v.text):
		r.failf(v.pos, "%q is no line: a number on the chip is 0 to %d, in plain decimal digits (no sign, point or leading zero)", v.text, lineMost)
		return ""
	}
	if other, twice := used[v.text]; twice {
		if other == l.ID.Value {
			other = "this entry"
		}
		r.failf(v.pos, "line %s is used by %s already", v.text, other)
		return ""
	}
	used[v.text] = l.ID.Value
	return v.text
}

// lineMost is the highest number of a line that is believed: the kernel counts the lines of a chip in 16 bits.
const lineMost = math.MaxUint16 - 1

// numeric reports whether a text would be a number to YAML or to people, and thus is no name of a line.
func numeric(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	_, whole := strconv.ParseInt(s, 0, 64)
	isNumber := err == nil || whole == nil || errors.Is(err, strconv.ErrRange) || errors.Is(whole, strconv.ErrRange)
	return isNumber && strings.ContainsAny(s, "0123456789")
}

// lineNumber reports whether s is the number of a line, written in the one way that is accepted.
func lineNumber(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= lineMost && strconv.Itoa(n) == s
}

// wiegandBits returns the frame lengths of a reader.
func (r *resolver) wiegandBits(w *gpioWiegand) []int {
	var bits []int
	for _, v := range w.Bits {
		switch {
		case !present(r, v):
		case !known[gpioWiegand]("bits", v.Value):
			r.failf(v.Pos, "frames of %d bits are not known (%s)", v.Value, strings.Join(choices[gpioWiegand]("bits"), ", "))
		case slices.Contains(bits, v.Value):
			r.failf(v.Pos, "%d is named twice", v.Value)
		default:
			bits = append(bits, v.Value)
		}
	}
	if len(w.Bits) == 0 {
		return []int{26, 34, 37}
	}
	return bits
}

// outputState reads hold, off or on.
func (r *resolver) outputState(key string, v yamlfile.At[string]) firmwareconfig.OutputState {
	if r.choice(key, v, choices[gpioLine](key)) {
		switch v.Value {
		case "off":
			return firmwareconfig.OutputOff
		case "on":
			return firmwareconfig.OutputOn
		}
	}
	return firmwareconfig.OutputHold
}

// pointFault is the point of a reader's class that the driver provides.
const pointFault = "fault"

// readerFault lets a card reader on a GPIO chip tell that it cannot be read: events cannot go bad. What the file itself
// says about the point goes over it.
func (r *resolver) readerFault(class *telemetry.Class, sources []*source) {
	fault := class.Point(pointFault)
	if fault < 0 || sources[fault] != nil || class.Points[fault].Kind != telemetry.Bool || class.Points[fault].Writable {
		return
	}
	for i, s := range sources {
		if s == nil || s.unit == nil || s.unit.gpio == nil || !class.Points[i].Event {
			continue
		}
		if channel := s.unit.profile.Channel(s.channel); given(s.unit.gpio[channel].Wiegand.Pos) {
			sources[fault] = &source{pos: s.pos, unit: s.unit, channel: s.channel, reader: true}
			return
		}
	}
}

// bindGPIO checks what is particular about binding a point to a line of a chip, or an event to anything.
func (r *resolver) bindGPIO(s *source, def *telemetry.PointDef, channel int) bool {
	from := s.unit.id + "." + s.channel
	reader := s.unit.gpio != nil && given(s.unit.gpio[channel].Wiegand.Pos)
	switch {
	case def.Event && !reader:
		r.failf(s.pos, "%s tells what happens, each time: that comes from a Wiegand reader of a GPIO chip, and %s has a state", def.Name, from)
		return false
	case reader && !def.Event:
		r.failf(s.pos, "%s is a card reader: each card is an event, and %s is none (class card_reader has card)", from, def.Name)
		return false
	}
	if s.unit.gpio == nil {
		return true
	}
	s.unit.bound[channel] = true
	if l := s.unit.gpio[channel]; def.LifeSafety && !given(l.Pair.Pos) {
		r.warnf(s.pos, "%s is life-safety, and the cut wire of a single contact may look like all is well: use a supervised pair (pair: {nc: ..., no: ...}), or a contact that is closed at rest", def.Name)
	}
	return true
}
