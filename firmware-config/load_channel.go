package firmwareconfig

import (
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

type channelFile struct {
	Pos      yamlfile.Pos               `yaml:",pos"`
	Name     yamlfile.At[string]        `yaml:"name,required"`
	Title    yamlfile.Text              `yaml:"title"`
	Table    yamlfile.At[string]        `yaml:"table,required"`
	Address  yamlfile.At[int]           `yaml:"address,required"`
	Type     yamlfile.At[string]        `yaml:"type"`
	Words    yamlfile.At[string]        `yaml:"words"`
	Bit      *yamlfile.At[int]          `yaml:"bit"`
	Width    *yamlfile.At[int]          `yaml:"width"`
	Scale    *yamlfile.At[float64]      `yaml:"scale"`
	Offset   yamlfile.At[float64]       `yaml:"offset"`
	Unit     yamlfile.At[string]        `yaml:"unit"`
	Invalid  []yamlfile.At[uint64]      `yaml:"invalid"`
	Min      *yamlfile.At[float64]      `yaml:"min"`
	Max      *yamlfile.At[float64]      `yaml:"max"`
	Invert   yamlfile.At[bool]          `yaml:"invert"`
	Valid    *validFile                 `yaml:"valid"`
	Every    yamlfile.At[time.Duration] `yaml:"every"`
	Writable yamlfile.At[bool]          `yaml:"writable"`
	Repeat   yamlfile.At[int]           `yaml:"repeat"`
	Step     yamlfile.At[int]           `yaml:"step"`
}

type validFile struct {
	Table   yamlfile.At[string] `yaml:"table,required"`
	Address yamlfile.At[int]    `yaml:"address,required"`
	Bit     yamlfile.At[int]    `yaml:"bit"`
}

var tableNames = [...]string{Coil: "coil", DiscreteInput: "discrete", HoldingRegister: "holding", InputRegister: "input"}

// String returns the table as profile files write it.
func (t Table) String() string {
	if int(t) < len(tableNames) && t != 0 {
		return tableNames[t]
	}
	return "table(" + strconv.Itoa(int(t)) + ")"
}

var encodingNames = [...]string{EncBool: "bool", EncU16: "u16", EncS16: "s16", EncU32: "u32", EncS32: "s32", EncU64: "u64",
	EncS64: "s64", EncF32: "f32", EncF64: "f64", EncS16Offset10000: "s16_offset_10000"}

// String returns the encoding as profile files write it.
func (e Encoding) String() string {
	if int(e) < len(encodingNames) && e != 0 {
		return encodingNames[e]
	}
	return "encoding(" + strconv.Itoa(int(e)) + ")"
}

// named returns the index of the name v among names, and reports where it is none of them.
func (l *loader) named(v yamlfile.At[string], what string, names []string) int {
	if v.Pos.Line == 0 || v.Value == "" {
		return 0 // The missing key is reported already.
	}
	for i, name := range names {
		if i > 0 && name == v.Value {
			return i
		}
	}
	l.errs.Addf(v.Pos, "%s is one of %s, got %q", what, strings.Join(names[1:], ", "), v.Value)
	return 0
}

// channels adds the channel or, with repeat, the channels that f describes.
func (l *loader) channels(p *Profile, f *channelFile, names map[string]yamlfile.Pos) {
	ch, ok := l.channel(p, f)
	repeat := 1
	if f.Repeat.Pos.Line > 0 {
		within(l, f.Repeat, "repeat", 1, 1000)
		repeat = min(max(f.Repeat.Value, 1), 1000)
		if !strings.Contains(f.Name.Value, "{n}") {
			l.errs.Addf(f.Name.Pos, "a repeated channel needs {n} in its name, such as \"%s{n}\"", f.Name.Value)
			return
		}
	}
	step := ch.Encoding.Registers()
	if ch.Width > 0 || ch.Encoding == 0 {
		step = 1
	}
	if f.Step.Pos.Line > 0 {
		within(l, f.Step, "step", 1, 1000)
		step = f.Step.Value
		if f.Repeat.Pos.Line == 0 {
			l.errs.Addf(f.Step.Pos, "step is for repeated channels")
		}
	}
	last := ch.Address + (repeat-1)*step + ch.Encoding.Registers() - 1
	if ch.Address >= 0 && ch.Address <= 65535 && last > 65535 {
		l.errs.Addf(f.Address.Pos, "the addresses run to %d, past the last one (65535)", last)
	}
	for n := 1; n <= repeat; n++ {
		c := ch
		if f.Repeat.Pos.Line > 0 {
			number := strconv.Itoa(n)
			c.Name = strings.ReplaceAll(ch.Name, "{n}", number)
			c.Title = telemetry.Text{Zh: strings.ReplaceAll(ch.Title.Zh, "{n}", number), En: strings.ReplaceAll(ch.Title.En, "{n}", number)}
			c.Address += (n - 1) * step
			if ch.Valid != nil {
				valid := *ch.Valid
				valid.Address += (n - 1) * step
				c.Valid = &valid
			}
		}
		if f.Name.Pos.Line == 0 || !l.checkID(yamlfile.At[string]{Value: c.Name, Pos: f.Name.Pos}, "channel") {
			return
		}
		if first, twice := names[c.Name]; twice {
			l.errs.Addf(f.Name.Pos, "channel %q exists already, from line %d", c.Name, first.Line)
			return
		}
		names[c.Name] = f.Name.Pos
		if ok {
			p.Channels = append(p.Channels, c)
		}
	}
}

// channel checks one entry and reports whether enough of it is right to be used.
func (l *loader) channel(p *Profile, f *channelFile) (Channel, bool) {
	ch := Channel{
		Name: f.Name.Value, Title: f.Title.Text, Address: f.Address.Value, Offset: f.Offset.Value, Scale: 1,
		Unit: f.Unit.Value, Invert: f.Invert.Value, Every: f.Every.Value, Writable: f.Writable.Value,
	}
	ch.Table = Table(l.named(f.Table, "table", tableNames[:]))
	within(l, f.Address, "address", 0, 65535)
	within(l, f.Every, "every", 10*time.Millisecond, 24*time.Hour)
	oneOf(l, f.Words, "words", "big", "little")
	ch.LittleWords = f.Words.Value == "little"
	if ch.Table == 0 {
		return ch, false
	}
	ch.Encoding = Encoding(l.named(f.Type, "type", encodingNames[:]))
	switch {
	case ch.Table.Bits() && ch.Encoding > EncBool:
		l.errs.Addf(f.Type.Pos, "a %s holds a single bit, so its type is bool", ch.Table)
		ch.Encoding = EncBool
	case ch.Table.Bits():
		ch.Encoding = EncBool
	case f.Type.Pos.Line == 0:
		l.errs.Addf(f.Pos, "missing key \"type\"")
	}
	if ch.Encoding == 0 {
		return ch, false
	}
	if limit := p.Limits.MaxRegisters; !ch.Table.Bits() && limit > 0 && limit < ch.Encoding.Registers() {
		l.errs.Addf(f.Type.Pos, "type %s takes %d registers, but max_registers is %d", ch.Encoding, ch.Encoding.Registers(), limit)
	}
	l.bits(f, &ch)
	if ch.Encoding == EncBool {
		l.boolChannel(f)
	} else {
		l.numberChannel(f, &ch)
	}
	if ch.Writable && (ch.Table == DiscreteInput || ch.Table == InputRegister) {
		l.errs.Addf(f.Writable.Pos, "only coils and holding registers can be written, this is a %s", ch.Table)
	}
	if ch.Writable && ch.Width > 0 {
		l.errs.Addf(f.Writable.Pos, "a part of a register cannot be written without disturbing the rest")
	}
	if v := f.Valid; v != nil {
		ch.Valid = &Validity{Table: Table(l.named(v.Table, "table", tableNames[:])), Address: v.Address.Value, Bit: v.Bit.Value}
		within(l, v.Address, "address", 0, 65535)
		within(l, v.Bit, "bit", 0, 15)
		if ch.Valid.Table.Bits() && v.Bit.Value != 0 {
			l.errs.Addf(v.Bit.Pos, "a %s holds a single bit", ch.Valid.Table)
		}
	}
	return ch, true
}

// bits checks bit and width and sets the channel's field.
func (l *loader) bits(f *channelFile, ch *Channel) {
	if f.Bit == nil && f.Width == nil {
		if ch.Encoding == EncBool && !ch.Table.Bits() {
			l.errs.Addf(f.Type.Pos, "a bool in a register needs bit: 0 to 15")
		}
		return
	}
	pos := yamlfile.Pos{}
	ch.Width = 1
	if f.Bit != nil {
		ch.Bit, pos = f.Bit.Value, f.Bit.Pos
	}
	if f.Width != nil {
		ch.Width, pos = f.Width.Value, f.Width.Pos
	}
	switch {
	case ch.Table.Bits():
		l.errs.Addf(pos, "a %s holds a single bit", ch.Table)
	case ch.Encoding.Registers() != 1:
		l.errs.Addf(pos, "bits can be picked out of one register, type %s takes %d", ch.Encoding, ch.Encoding.Registers())
	case ch.Encoding == EncBool && ch.Width != 1:
		l.errs.Addf(pos, "a bool is one bit wide")
	case ch.Bit < 0 || ch.Bit > 15 || ch.Width < 1 || ch.Bit+ch.Width > 16:
		l.errs.Addf(pos, "a register has bits 0 to 15, this field would take %d to %d", ch.Bit, ch.Bit+ch.Width-1)
	}
}

func (l *loader) boolChannel(f *channelFile) {
	refuse := func(set bool, pos yamlfile.Pos, key string) {
		if set {
			l.errs.Addf(pos, "%s is for numbers, this channel is bool", key)
		}
	}
	if f.Scale != nil {
		refuse(true, f.Scale.Pos, "scale")
	}
	if f.Min != nil {
		refuse(true, f.Min.Pos, "min")
	}
	if f.Max != nil {
		refuse(true, f.Max.Pos, "max")
	}
	if len(f.Invalid) > 0 {
		refuse(true, f.Invalid[0].Pos, "invalid")
	}
	refuse(f.Offset.Pos.Line > 0, f.Offset.Pos, "offset")
	refuse(f.Unit.Pos.Line > 0, f.Unit.Pos, "unit")
	refuse(f.Words.Pos.Line > 0, f.Words.Pos, "words")
}

func (l *loader) numberChannel(f *channelFile, ch *Channel) {
	checkUnit(f.Unit, &l.errs)
	if f.Invert.Pos.Line > 0 {
		l.errs.Addf(f.Invert.Pos, "invert is for bool channels, this one is %s", ch.Encoding)
	}
	if f.Words.Pos.Line > 0 && ch.Encoding.Registers() == 1 {
		l.errs.Addf(f.Words.Pos, "type %s is a single register, it has no order of words", ch.Encoding)
	}
	if f.Scale != nil {
		ch.Scale = f.Scale.Value
		if ch.Scale == 0 {
			l.errs.Addf(f.Scale.Pos, "scale 0 would make every value the same")
			ch.Scale = 1
		}
	}
	for _, v := range f.Invalid {
		ch.Invalid = append(ch.Invalid, v.Value)
		if bits := 16 * ch.Encoding.Registers(); bits < 64 && v.Value>>bits != 0 {
			l.errs.Addf(v.Pos, "0x%X does not fit into the %d bits of type %s", v.Value, bits, ch.Encoding)
		}
	}
	if f.Min != nil {
		ch.Min = &f.Min.Value
	}
	if f.Max != nil {
		ch.Max = &f.Max.Value
	}
	if ch.Min != nil && ch.Max != nil && *ch.Min >= *ch.Max {
		l.errs.Addf(f.Max.Pos, "max must be greater than min (%v)", *ch.Min)
	}
}
