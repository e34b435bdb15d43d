package firmwareconfig

import (
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// layoutFile is what channels and settings share: where a value is and how it is encoded.
type layoutFile struct {
	Pos     yamlfile.Pos          `yaml:",pos"`
	Name    yamlfile.At[string]   `yaml:"name,required"`
	Title   yamlfile.Text         `yaml:"title"`
	Table   yamlfile.At[string]   `yaml:"table,required"`
	Address yamlfile.At[int]      `yaml:"address,required"`
	Type    yamlfile.At[string]   `yaml:"type"`
	Words   yamlfile.At[string]   `yaml:"words"`
	Bytes   yamlfile.At[string]   `yaml:"bytes"`
	Byte    yamlfile.At[string]   `yaml:"byte"`
	Bit     *yamlfile.At[int]     `yaml:"bit"`
	Width   *yamlfile.At[int]     `yaml:"width"`
	NonZero yamlfile.At[bool]     `yaml:"nonzero"`
	Scale   *yamlfile.At[float64] `yaml:"scale"`
	Offset  yamlfile.At[float64]  `yaml:"offset"`
	Unit    yamlfile.At[string]   `yaml:"unit"`
	Min     *yamlfile.At[float64] `yaml:"min"`
	Max     *yamlfile.At[float64] `yaml:"max"`
	Repeat  yamlfile.At[int]      `yaml:"repeat"`
	Step    yamlfile.At[int]      `yaml:"step"`
	Status  yamlfile.At[string]   `yaml:"status"`
	Source  string                `yaml:"source"`
}

type channelFile struct {
	Layout      layoutFile                       `yaml:",inline"`
	Count       yamlfile.At[int]                 `yaml:"count"`
	Chars       yamlfile.At[string]              `yaml:"chars"`
	Invalid     []yamlfile.At[uint64]            `yaml:"invalid"`
	Under       []yamlfile.At[uint64]            `yaml:"under"`
	Over        []yamlfile.At[uint64]            `yaml:"over"`
	Invert      yamlfile.At[bool]                `yaml:"invert"`
	Valid       *validFile                       `yaml:"valid"`
	ScaleFrom   *scaleFromFile                   `yaml:"scale_from"`
	Counter     yamlfile.At[bool]                `yaml:"counter"`
	Every       yamlfile.At[time.Duration]       `yaml:"every"`
	Writable    yamlfile.At[bool]                `yaml:"writable"`
	WriteValues yamlfile.Map[yamlfile.At[int64]] `yaml:"write_values"`
	ReadBack    yamlfile.At[bool]                `yaml:"read_back"`
}

type validFile struct {
	Table   yamlfile.At[string] `yaml:"table,required"`
	Address yamlfile.At[int]    `yaml:"address,required"`
	Bit     yamlfile.At[int]    `yaml:"bit"`
	Equals  yamlfile.At[int]    `yaml:"equals"`
}

type scaleFromFile struct {
	Pos      yamlfile.Pos                       `yaml:",pos"`
	Table    yamlfile.At[string]                `yaml:"table,required"`
	Address  yamlfile.At[int]                   `yaml:"address,required"`
	Decimals yamlfile.At[bool]                  `yaml:"decimals"`
	Values   yamlfile.Map[yamlfile.At[float64]] `yaml:"values"`
}

var tableNames = [...]string{Coil: "coil", DiscreteInput: "discrete", HoldingRegister: "holding", InputRegister: "input"}

// String returns the table as profile files write it.
func (t Table) String() string {
	if int(t) < len(tableNames) && t != 0 {
		return tableNames[t]
	}
	return "table(" + strconv.Itoa(int(t)) + ")"
}

// encodingNames has the encodings by number; behind them stand u8 and s8, which are fields of 16-bit numbers.
var encodingNames = [...]string{EncBool: "bool", EncU16: "u16", EncS16: "s16", EncU32: "u32", EncS32: "s32", EncU64: "u64",
	EncS64: "s64", EncF32: "f32", EncF64: "f64", EncS16Offset10000: "s16_offset_10000", EncBCD16: "bcd16", EncBCD32: "bcd32",
	EncString: "string", encU8: "u8", encS8: "s8"}

const (
	encU8 = EncString + 1 + iota
	encS8
)

// String returns the encoding as profile files write it.
func (e Encoding) String() string {
	if e <= EncString && e != 0 {
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

// repeated calls add with the entry or, with repeat, with each of the entries that f describes. ch is the first; what
// names the kind of entry in messages, names holds those there are already.
func (l *loader) repeated(f *layoutFile, ch *Channel, what string, names map[string]yamlfile.Pos, add func(c Channel, moved int)) {
	repeat := 1
	if f.Repeat.Pos.Line > 0 {
		within(l, f.Repeat, "repeat", 1, 1000)
		repeat = min(max(f.Repeat.Value, 1), 1000)
		if !strings.Contains(f.Name.Value, "{n}") {
			l.errs.Addf(f.Name.Pos, "a repeated %s needs {n} in its name, such as \"%s{n}\"", what, f.Name.Value)
			return
		}
	}
	size := max(ch.Registers(), 1)
	step := size
	if ch.Width > 0 || ch.Encoding == 0 {
		step = 1
	}
	if f.Step.Pos.Line > 0 {
		within(l, f.Step, "step", 1, 1000)
		step = f.Step.Value
		if f.Repeat.Pos.Line == 0 {
			l.errs.Addf(f.Step.Pos, "step is for repeated %ss", what)
		}
	}
	last := ch.Address + (repeat-1)*step + size - 1
	if ch.Address >= 0 && ch.Address <= 65535 && last > 65535 {
		l.errs.Addf(f.Address.Pos, "the addresses run to %d, past the last one (65535)", last)
	}
	for n := 1; n <= repeat; n++ {
		c, moved := *ch, (n-1)*step
		if f.Repeat.Pos.Line > 0 {
			number := strconv.Itoa(n)
			c.Name = strings.ReplaceAll(ch.Name, "{n}", number)
			c.Title = telemetry.Text{Zh: strings.ReplaceAll(ch.Title.Zh, "{n}", number), En: strings.ReplaceAll(ch.Title.En, "{n}", number)}
			c.Address += moved
		}
		if f.Name.Pos.Line == 0 || !l.checkID(yamlfile.At[string]{Value: c.Name, Pos: f.Name.Pos}, what) {
			return
		}
		if first, twice := names[c.Name]; twice {
			l.errs.Addf(f.Name.Pos, "%s %q exists already, from line %d", what, c.Name, first.Line)
			return
		}
		names[c.Name] = f.Name.Pos
		add(c, moved)
	}
}

// channels adds the channel or, with repeat, the channels that f describes.
func (l *loader) channels(p *Profile, f *channelFile, names map[string]yamlfile.Pos) {
	ch, ok := l.channel(p, f)
	l.repeated(&f.Layout, &ch, "channel", names, func(c Channel, moved int) {
		if c.Valid != nil {
			valid := *c.Valid
			valid.Address += moved
			c.Valid = &valid
		}
		if ok {
			p.Channels = append(p.Channels, c)
		}
	})
}

// channel checks one entry and reports whether enough of it is right to be used.
func (l *loader) channel(p *Profile, f *channelFile) (Channel, bool) {
	ch, ok := l.layout(p, &f.Layout)
	ch.Invert, ch.Every, ch.Writable = f.Invert.Value, f.Every.Value, f.Writable.Value
	within(l, f.Every, "every", 10*time.Millisecond, 24*time.Hour)
	if !ok {
		return ch, false
	}
	switch ch.Encoding {
	case EncBool:
		l.boolChannel(f)
	case EncString:
		l.stringChannel(p, f, &ch)
	default:
		l.numberChannel(f, &ch)
	}
	if ch.Encoding != EncString {
		l.refuse(f.Count.Pos, "count is for strings, this channel is %s", ch.Encoding)
		l.refuse(f.Chars.Pos, "chars is for strings, this channel is %s", ch.Encoding)
	}
	l.output(f, &ch)
	if v := f.Valid; v != nil {
		ch.Valid = &Validity{Table: Table(l.named(v.Table, "table", tableNames[:])), Address: v.Address.Value, Bit: v.Bit.Value}
		within(l, v.Address, "address", 0, 65535)
		within(l, v.Bit, "bit", 0, 15)
		if ch.Valid.Table.Bits() && v.Bit.Value != 0 {
			l.errs.Addf(v.Bit.Pos, "a %s holds a single bit", ch.Valid.Table)
		}
		if v.Equals.Pos.Line > 0 {
			most := 65535
			if ch.Valid.Table.Bits() {
				most = 1
			}
			within(l, v.Equals, "equals", 0, most)
			l.refuse(v.Bit.Pos, "valid has either bit (it must be set) or equals (the whole register), not both")
			word := uint16(v.Equals.Value)
			ch.Valid.Equals = &word
		}
	}
	return ch, true
}

// layout checks what channels and settings share, and reports whether enough of it is right to be used.
func (l *loader) layout(p *Profile, f *layoutFile) (Channel, bool) {
	ch := Channel{Name: f.Name.Value, Title: f.Title.Text, Address: f.Address.Value, Offset: f.Offset.Value, Scale: 1, Unit: f.Unit.Value,
		Status: f.Status.Value, Source: f.Source}
	oneOf(l, f.Status, "status", "confirmed", "partial", "unverified")
	ch.Table = Table(l.named(f.Table, "table", tableNames[:]))
	within(l, f.Address, "address", 0, 65535)
	oneOf(l, f.Words, "words", "big", "little")
	oneOf(l, f.Bytes, "bytes", "big", "little")
	oneOf(l, f.Byte, "byte", "low", "high")
	ch.LittleWords = f.Words.Value == "little"
	ch.LittleBytes = f.Bytes.Value == "little"
	if ch.Table == 0 {
		return ch, false
	}
	kind := Encoding(l.named(f.Type, "type", encodingNames[:]))
	ch.Encoding = kind
	switch {
	case ch.Table.Bits() && kind > EncBool:
		l.errs.Addf(f.Type.Pos, "a %s holds a single bit, so its type is bool", ch.Table)
		kind, ch.Encoding = EncBool, EncBool
	case ch.Table.Bits():
		ch.Encoding = EncBool
	case f.Type.Pos.Line == 0:
		l.errs.Addf(f.Pos, "missing key \"type\"")
	case kind == encU8:
		ch.Encoding = EncU16
	case kind == encS8:
		ch.Encoding = EncS16
	}
	if ch.Encoding == 0 {
		return ch, false
	}
	if limit := p.Limits.MaxRegisters; !ch.Table.Bits() && limit > 0 && limit < ch.Encoding.Registers() {
		l.errs.Addf(f.Type.Pos, "type %s takes %d registers, but max_registers is %d", ch.Encoding, ch.Encoding.Registers(), limit)
	}
	if ch.Table.Bits() {
		l.refuse(f.Bytes.Pos, "a %s holds a single bit, it has no order of bytes", ch.Table)
	}
	if kind == encU8 || kind == encS8 {
		ch.Width = 8
		if f.Byte.Value == "high" {
			ch.Bit = 8
		}
		if f.Bit != nil {
			l.errs.Addf(f.Bit.Pos, "type %s is a byte of a register: say byte: high or low", f.Type.Value)
		}
		if f.Width != nil {
			l.errs.Addf(f.Width.Pos, "type %s is 8 bits wide", f.Type.Value)
		}
	} else {
		l.refuse(f.Byte.Pos, "byte is for types u8 and s8; bit and width pick a part out of a %s", ch.Encoding)
		l.bits(f, &ch)
	}
	ch.NonZero = f.NonZero.Value
	if ch.Table.Bits() || ch.Encoding != EncBool {
		l.refuse(f.NonZero.Pos, "nonzero is for a bool in a register; the table here is %s, the type %s", ch.Table, ch.Encoding)
		ch.NonZero = false
	}
	if ch.Encoding == EncBool {
		l.boolLayout(f)
	} else {
		l.numberLayout(f, &ch)
	}
	return ch, true
}

// refuse reports a key that is set where it has no meaning.
func (l *loader) refuse(pos yamlfile.Pos, format string, args ...any) {
	if pos.Line > 0 {
		l.errs.Addf(pos, format, args...)
	}
}

// bits checks bit and width and sets the channel's field.
func (l *loader) bits(f *layoutFile, ch *Channel) {
	if f.Bit == nil && f.Width == nil {
		if ch.Encoding == EncBool && !ch.Table.Bits() && !f.NonZero.Value {
			l.errs.Addf(f.Type.Pos, "a bool in a register needs bit: 0 to 15, or nonzero: true")
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
	case ch.Encoding == EncString:
		l.errs.Addf(pos, "bits cannot be picked out of a string")
	case ch.Encoding.Registers() != 1:
		l.errs.Addf(pos, "bits can be picked out of one register, type %s takes %d", ch.Encoding, ch.Encoding.Registers())
	case ch.Encoding == EncBool && ch.Width != 1 && !f.NonZero.Value:
		l.errs.Addf(pos, "a bool is one bit wide; with nonzero: true it is true where any of several bits is set")
	case ch.Bit < 0 || ch.Bit > 15 || ch.Width < 1 || ch.Bit+ch.Width > 16:
		l.errs.Addf(pos, "a register has bits 0 to 15, this field would take %d to %d", ch.Bit, ch.Bit+ch.Width-1)
	case ch.Encoding == EncBCD16 && (ch.Bit%4 != 0 || ch.Width%4 != 0):
		l.errs.Addf(pos, "a decimal digit takes four bits: bit and width of a bcd16 are multiples of 4")
	case ch.Encoding == EncS16Offset10000:
		l.errs.Addf(pos, "type %s is a whole register", ch.Encoding)
	}
}

func (l *loader) boolLayout(f *layoutFile) {
	const text = "%s is for numbers, this channel is bool"
	if f.Scale != nil {
		l.refuse(f.Scale.Pos, text, "scale")
	}
	if f.Min != nil {
		l.refuse(f.Min.Pos, text, "min")
	}
	if f.Max != nil {
		l.refuse(f.Max.Pos, text, "max")
	}
	l.refuse(f.Offset.Pos, text, "offset")
	l.refuse(f.Unit.Pos, text, "unit")
	l.refuse(f.Words.Pos, text, "words")
}

func (l *loader) boolChannel(f *channelFile) {
	const text = "%s is for numbers, this channel is bool"
	l.refuseSentinels(f, text)
	if f.ScaleFrom != nil {
		l.refuse(f.ScaleFrom.Pos, text, "scale_from")
	}
	l.refuse(f.Counter.Pos, text, "counter")
	if f.Layout.NonZero.Value {
		l.refuse(f.Writable.Pos, "a nonzero bool cannot be written: many numbers mean true")
	}
}

// refuseSentinels refuses raw values with a meaning of their own.
func (l *loader) refuseSentinels(f *channelFile, text string) {
	for _, list := range [...]struct {
		key    string
		values []yamlfile.At[uint64]
	}{{"invalid", f.Invalid}, {"under", f.Under}, {"over", f.Over}} {
		if len(list.values) > 0 {
			l.refuse(list.values[0].Pos, text, list.key)
		}
	}
}

// stringChannel checks what is particular to text.
func (l *loader) stringChannel(p *Profile, f *channelFile, ch *Channel) {
	const text = "%s is for numbers, this channel is a string"
	if f.Layout.Scale != nil {
		l.refuse(f.Layout.Scale.Pos, text, "scale")
	}
	if f.Layout.Min != nil {
		l.refuse(f.Layout.Min.Pos, text, "min")
	}
	if f.Layout.Max != nil {
		l.refuse(f.Layout.Max.Pos, text, "max")
	}
	l.refuseSentinels(f, text)
	if f.ScaleFrom != nil {
		l.refuse(f.ScaleFrom.Pos, text, "scale_from")
	}
	l.refuse(f.Layout.Offset.Pos, text, "offset")
	l.refuse(f.Layout.Unit.Pos, text, "unit")
	l.refuse(f.Counter.Pos, text, "counter")
	l.refuse(f.Invert.Pos, "invert is for bool channels, this one is %s", ch.Encoding)
	l.refuse(f.Writable.Pos, "a string cannot be written")
	oneOf(l, f.Chars, "chars", "two_per_register", "one_per_register")
	ch.OneChar = f.Chars.Value == "one_per_register"
	most := 125
	if p.Limits.MaxRegisters > 0 {
		most = min(most, p.Limits.MaxRegisters)
	}
	if f.Count.Pos.Line == 0 {
		l.errs.Addf(f.Layout.Pos, "a string needs count: how many registers it takes, 1 to %d", most)
	}
	within(l, f.Count, "count", 1, most)
	ch.Count = min(max(f.Count.Value, 1), most)
}

// numberLayout checks what numbers and strings have in a register.
func (l *loader) numberLayout(f *layoutFile, ch *Channel) {
	checkUnit(f.Unit, &l.errs)
	switch {
	case f.Words.Pos.Line == 0:
	case ch.Encoding == EncString:
		l.errs.Addf(f.Words.Pos, "a string has no order of words; bytes: little swaps its characters")
	case ch.Encoding.Registers() == 1:
		l.errs.Addf(f.Words.Pos, "type %s is a single register, it has no order of words", ch.Encoding)
	}
	if f.Scale != nil {
		ch.Scale = f.Scale.Value
		if ch.Scale == 0 {
			l.errs.Addf(f.Scale.Pos, "scale 0 would make every value the same")
			ch.Scale = 1
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

func (l *loader) numberChannel(f *channelFile, ch *Channel) {
	l.refuse(f.Invert.Pos, "invert is for bool channels, this one is %s", ch.Encoding)
	ch.Invalid, ch.Under, ch.Over = l.sentinels(f.Invalid, ch), l.sentinels(f.Under, ch), l.sentinels(f.Over, ch)
	if len(f.Under) > 0 && ch.Min == nil {
		l.errs.Addf(f.Under[0].Pos, "under needs min: the value while the unit says that it cannot measure so little")
	}
	if len(f.Over) > 0 && ch.Max == nil {
		l.errs.Addf(f.Over[0].Pos, "over needs max: the value while the unit says that it cannot measure so much")
	}
	ch.Counter = f.Counter.Value
	if f.Counter.Value && f.Writable.Value {
		l.errs.Addf(f.Counter.Pos, "what can be written is no counter")
	}
	if f.ScaleFrom != nil {
		l.scaleFrom(f.ScaleFrom, ch)
		if f.Writable.Value {
			l.errs.Addf(f.ScaleFrom.Pos, "a channel whose scale is known only when it is read cannot be written")
		}
	}
}

// sentinels checks raw values with a meaning of their own.
func (l *loader) sentinels(list []yamlfile.At[uint64], ch *Channel) []uint64 {
	var out []uint64
	for _, v := range list {
		out = append(out, v.Value)
		if bits := 16 * ch.Encoding.Registers(); bits < 64 && v.Value>>bits != 0 {
			l.errs.Addf(v.Pos, "0x%X does not fit into the %d bits of type %s", v.Value, bits, ch.Encoding)
		}
	}
	return out
}

func (l *loader) scaleFrom(f *scaleFromFile, ch *Channel) {
	s := &ScaleFrom{Table: Table(l.named(f.Table, "table", tableNames[:])), Address: f.Address.Value, Decimals: f.Decimals.Value}
	within(l, f.Address, "address", 0, 65535)
	if s.Table.Bits() {
		l.errs.Addf(f.Table.Pos, "a %s holds a single bit, which cannot say a scale", s.Table)
	}
	if s.Decimals == (len(f.Values) > 0) {
		l.errs.Addf(f.Pos, "scale_from needs either decimals: true or values: {code: factor, ...}")
	}
	for _, e := range f.Values {
		code, ok := l.code(e.Key, 0, 65535)
		if !ok {
			continue
		}
		for _, other := range s.Values {
			if int64(other.Code) == code {
				l.errs.Addf(e.Key.Pos, "code %d is used twice", code)
			}
		}
		if e.Value.Value == 0 {
			l.errs.Addf(e.Value.Pos, "a factor of 0 would make every value the same")
			continue
		}
		s.Values = append(s.Values, ScaleValue{Code: uint16(code), Scale: e.Value.Value})
	}
	ch.ScaleFrom = s
}

// code reads a number that stands as a key.
func (l *loader) code(key yamlfile.At[string], lo, hi int64) (int64, bool) {
	n, err := strconv.ParseInt(key.Value, 0, 64)
	if err != nil || n < lo || n > hi {
		l.errs.Addf(key.Pos, "expected a whole number from %d to %d, got %q", lo, hi, key.Value)
		return 0, false
	}
	return n, true
}

// output checks what concerns writing.
func (l *loader) output(f *channelFile, ch *Channel) {
	if !ch.Writable {
		if len(f.WriteValues) > 0 {
			l.errs.Addf(f.WriteValues[0].Key.Pos, "write_values is for channels that are writable: true")
		}
		l.refuse(f.ReadBack.Pos, "read_back is for channels that are writable: true")
		return
	}
	if ch.Table == DiscreteInput || ch.Table == InputRegister {
		l.errs.Addf(f.Writable.Pos, "only coils and holding registers can be written, the table here is %s", ch.Table)
	}
	if ch.Width > 0 && len(f.WriteValues) == 0 {
		l.errs.Addf(f.Writable.Pos, "a part of a register cannot be written without disturbing the rest; where whole registers are commands, say so with write_values")
	}
	ch.NoReadBack = f.ReadBack.Pos.Line > 0 && !f.ReadBack.Value
	if len(f.WriteValues) == 0 {
		return
	}
	pos := f.WriteValues[0].Key.Pos
	switch {
	case ch.Table != HoldingRegister:
		l.errs.Addf(pos, "write_values is for holding registers, the table here is %s", ch.Table)
	case ch.Encoding.Registers() != 1:
		l.errs.Addf(pos, "write_values is for one register, type %s takes %d", ch.Encoding, ch.Encoding.Registers())
	case ch.Scale != 1 || ch.Offset != 0:
		l.errs.Addf(pos, "write_values is for plain numbers, without scale and offset")
	}
	for _, e := range f.WriteValues {
		v, ok := l.code(e.Key, -32768, 65535)
		within(l, e.Value, "what is written", 0, 65535)
		if !ok {
			continue
		}
		if ch.Encoding == EncBool && v != 0 && v != 1 {
			l.errs.Addf(e.Key.Pos, "a bool is read back as 0 or 1, not as %d", v)
		}
		for _, other := range ch.WriteValues {
			if other.Value == v {
				l.errs.Addf(e.Key.Pos, "value %d is used twice", v)
			}
		}
		ch.WriteValues = append(ch.WriteValues, WriteValue{Value: v, Raw: uint16(e.Value.Value)})
	}
}
