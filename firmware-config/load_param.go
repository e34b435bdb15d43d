package firmwareconfig

import (
	"slices"
	"strconv"

	"linli/internal/yamlfile"
)

type paramFile struct {
	Layout    layoutFile                        `yaml:",inline"`
	Role      yamlfile.At[string]               `yaml:"role"`
	Values    yamlfile.Map[yamlfile.At[string]] `yaml:"values"`
	Function  yamlfile.At[int]                  `yaml:"function"`
	Effective yamlfile.At[string]               `yaml:"effective"`
	WriteOnly yamlfile.At[bool]                 `yaml:"write_only"`
	Default   *yamlfile.Node                    `yaml:"default"`
}

type rawWriteFile struct {
	Table   yamlfile.At[string] `yaml:"table,required"`
	Address yamlfile.At[int]    `yaml:"address,required"`
	Value   yamlfile.At[int]    `yaml:"value,required"`
}

var roleNames = [...]string{ParamAddress: "address", ParamBaud: "baud", ParamFormat: "format"}

// String returns the role as profile files write it, "" for a plain setting.
func (r ParamRole) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return "role(" + strconv.Itoa(int(r)) + ")"
}

// lineFormats are the settings of a serial line that are known here.
func lineFormats() []string { return []string{"8N1", "8E1", "8O1", "8N2", "8E2", "8O2"} }

// param adds the setting or, with repeat, the settings that f describes.
func (l *loader) param(p *Profile, f *paramFile, names map[string]yamlfile.Pos) {
	before := len(l.errs)
	ch, ok := l.layout(p, &f.Layout)
	m := Param{Channel: ch, Role: ParamRole(l.named(f.Role, "role", roleNames[:])), Function: f.Function.Value, WriteOnly: f.WriteOnly.Value}
	m.Writable = true
	oneOf(l, f.Effective, "effective", "at_once", "power_cycle")
	m.AfterPowerCycle = f.Effective.Value == "power_cycle"
	if ok {
		l.paramLayout(f, &m)
		l.paramValues(f, &m)
		l.paramRole(f, &m)
	}
	if f.Default != nil && len(l.errs) == before {
		m.Default = f.Default.Scalar()
		if !f.Default.IsScalar() {
			l.errs.Addf(f.Default.Pos, "the default is one value, as the site file would write it")
		} else if _, err := m.encode(m.Default); err != nil {
			l.errs.Addf(f.Default.Pos, "the default cannot be: %v", err)
		}
	}
	good := len(l.errs) == before
	l.repeated(&f.Layout, &m.Channel, "setting", names, func(c Channel, _ int) {
		if good {
			n := m
			n.Channel = c
			p.Params = append(p.Params, n)
		}
	})
}

// paramLayout checks where a setting is and how it is written.
func (l *loader) paramLayout(f *paramFile, m *Param) {
	switch {
	case m.Table == DiscreteInput || m.Table == InputRegister:
		l.errs.Addf(f.Layout.Table.Pos, "only coils and holding registers can be written, the table here is %s", m.Table)
	case m.NonZero:
		l.errs.Addf(f.Layout.NonZero.Pos, "nonzero is for what is read: a setting is one bit, a number or one of its values")
	case m.Encoding == EncString:
		l.errs.Addf(f.Layout.Type.Pos, "a setting is a number, a bool or one of its values; text is not supported")
	}
	if f.Function.Pos.Line == 0 {
		return
	}
	fits := []int{6, 16}
	switch {
	case m.Table == Coil:
		fits = []int{5, 15}
	case m.Encoding.Registers() > 1:
		fits = []int{16}
	}
	if !slices.Contains(fits, m.Function) {
		l.errs.Addf(f.Function.Pos, "function %d does not write a %s of %d: %s", m.Function, m.Table, m.Encoding.Registers(), orList(fits))
	}
}

func orList(numbers []int) string {
	if len(numbers) == 1 {
		return "it is " + strconv.Itoa(numbers[0])
	}
	return "it is " + strconv.Itoa(numbers[0]) + " or " + strconv.Itoa(numbers[1])
}

// paramValues checks the names of codes.
func (l *loader) paramValues(f *paramFile, m *Param) {
	if len(f.Values) == 0 {
		return
	}
	pos := f.Values[0].Key.Pos
	switch {
	case m.Scale != 1 || m.Offset != 0:
		l.errs.Addf(pos, "values name the codes in the register: scale and offset have no meaning beside them")
	case m.Min != nil || m.Max != nil:
		l.errs.Addf(pos, "values and a range exclude each other: only what is listed can be set")
	}
	most := int64(1)<<53 - 1
	if bits := m.bits(); bits < 53 {
		most = 1<<bits - 1
	}
	for _, e := range f.Values {
		code, ok := l.code(e.Key, 0, most)
		if !ok {
			continue
		}
		if e.Value.Value == "" {
			l.errs.Addf(e.Value.Pos, "code %d stands for nothing", code)
			continue
		}
		for _, other := range m.Values {
			if other.Code == uint64(code) {
				l.errs.Addf(e.Key.Pos, "code %d is used twice, by %s and %s", code, other.Name, e.Value.Value)
			}
			if other.Name == e.Value.Value {
				l.errs.Addf(e.Value.Pos, "%s is named twice, by codes %d and %d", other.Name, other.Code, code)
			}
		}
		m.Values = append(m.Values, ParamValue{Code: uint64(code), Name: e.Value.Value})
	}
}

// paramRole checks that a setting which changes how the unit is reached can only be set to what can be followed.
func (l *loader) paramRole(f *paramFile, m *Param) {
	pos := f.Role.Pos
	if m.Role == ParamPlain || len(f.Values) > 0 && len(m.Values) == 0 {
		return
	}
	if m.Encoding == EncBool {
		l.errs.Addf(pos, "role %s: a bool cannot be that; pick a field of the register with type u16, bit and width", m.Role)
		return
	}
	named := func(good func(string) bool, want string) {
		for i, v := range m.Values {
			if !good(v.Name) {
				l.errs.Addf(f.Values[i].Value.Pos, "%s: %s expected, got %q", m.Role, want, v.Name)
			}
		}
	}
	number := func(lo, hi int) func(string) bool {
		return func(s string) bool { n, err := strconv.Atoi(s); return err == nil && n >= lo && n <= hi }
	}
	ranged := func(lo, hi float64, example string) {
		switch {
		case len(m.Values) > 0:
		case m.Min == nil || m.Max == nil:
			l.errs.Addf(pos, "role %s needs %s, or values: what else is written could lose the unit", m.Role, example)
		case *m.Min < lo || *m.Max > hi:
			l.errs.Addf(pos, "role %s: the range lies within %v to %v, this one is %v to %v", m.Role, lo, hi, *m.Min, *m.Max)
		}
	}
	switch m.Role {
	case ParamAddress:
		named(number(1, 255), "a number from 1 to 255")
		ranged(1, 255, "min: 1 and max: 247")
	case ParamBaud:
		named(number(300, 4_000_000), "bits per second")
		ranged(300, 4_000_000, "the range of rates (min, max)")
	case ParamFormat:
		named(func(s string) bool { return slices.Contains(lineFormats(), s) }, "8N1, 8E1, 8O1, 8N2, 8E2 or 8O2")
		if len(m.Values) == 0 {
			l.errs.Addf(pos, "role format needs values: {0: 8N1, ...}")
		}
	}
	for i := range m.Values {
		if m.Role == ParamFormat {
			continue
		}
		// 09600 and 9600 are one rate: what the site file writes is compared as a number.
		if n, err := strconv.Atoi(m.Values[i].Name); err == nil {
			m.Values[i].Name = strconv.Itoa(n)
		}
	}
}

// rawWrites reads what is written before or after a configuration.
func (l *loader) rawWrites(list []rawWriteFile, key string) []RawWrite {
	var out []RawWrite
	for i := range list {
		f := &list[i]
		w := RawWrite{Table: Table(l.named(f.Table, "table", tableNames[:])), Address: f.Address.Value, Value: uint16(f.Value.Value)}
		within(l, f.Address, "address", 0, 65535)
		switch w.Table {
		case Coil:
			within(l, f.Value, "the value of a coil", 0, 1)
		case HoldingRegister:
			within(l, f.Value, "value", 0, 65535)
		case DiscreteInput, InputRegister:
			l.errs.Addf(f.Table.Pos, "%s writes: only coils and holding registers can be written, the table here is %s", key, w.Table)
		}
		out = append(out, w)
	}
	return out
}
