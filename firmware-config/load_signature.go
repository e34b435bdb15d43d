package firmwareconfig

import (
	"slices"
	"strconv"

	"linli/internal/yamlfile"
)

type testFile struct {
	Pos     yamlfile.Pos           `yaml:",pos"`
	Table   yamlfile.At[string]    `yaml:"table,required"`
	Address yamlfile.At[int]       `yaml:"address,required"`
	Equals  yamlfile.At[string]    `yaml:"equals"`
	OneOf   []yamlfile.At[int]     `yaml:"one_of"`
	Between yamlfile.At[[]float64] `yaml:"between"`
	Refused yamlfile.At[bool]      `yaml:"refused"`
}

type deviceIDFile struct {
	Pos     yamlfile.Pos        `yaml:",pos"`
	Vendor  yamlfile.At[string] `yaml:"vendor"`
	Product yamlfile.At[string] `yaml:"product"`
	Model   yamlfile.At[string] `yaml:"model"`
}

// signature reads the tests that tell the model apart.
func (l *loader) signature(p *Profile, list []testFile) {
	for i := range list {
		if t, ok := l.test(&list[i]); ok {
			p.Signature = append(p.Signature, t)
		}
	}
}

func (l *loader) test(f *testFile) (Test, bool) {
	before := len(l.errs)
	t := Test{Table: Table(l.named(f.Table, "table", tableNames[:])), Address: f.Address.Value, Refused: f.Refused.Value}
	within(l, f.Address, "address", 0, 65535)
	most := 65535
	if t.Table.Bits() {
		most = 1
	}
	set := 0
	if f.Equals.Pos.Line > 0 {
		set++
		n, err := strconv.ParseInt(f.Equals.Value, 0, 64)
		switch {
		case f.Equals.Value == "address":
			t.EqualsAddress = true
			if t.Table.Bits() {
				l.errs.Addf(f.Equals.Pos, "a %s holds a single bit, no address", t.Table)
			}
		case err != nil || n < 0 || n > int64(most):
			l.errs.Addf(f.Equals.Pos, "equals is a raw value from 0 to %d, or address for the unit's own address; got %q", most, f.Equals.Value)
		default:
			v := uint16(n)
			t.Equals = &v
		}
	}
	if len(f.OneOf) > 0 {
		set++
		for _, v := range f.OneOf {
			within(l, v, "a raw value", 0, most)
			if slices.Contains(t.OneOf, uint16(v.Value)) {
				l.errs.Addf(v.Pos, "%d is listed twice", v.Value)
			}
			t.OneOf = append(t.OneOf, uint16(v.Value))
		}
	}
	if f.Between.Pos.Line > 0 {
		set++
		v := f.Between.Value
		switch {
		case len(v) != 2:
			l.errs.Addf(f.Between.Pos, "between is two numbers, both included: [-400, 800]")
		case v[0] > v[1] || v[0] < -32768 || v[1] > 32767:
			l.errs.Addf(f.Between.Pos, "between is about the register as a signed number: two numbers from -32768 to 32767, the lower first")
		default:
			t.Between = &[2]float64{v[0], v[1]}
		}
	}
	if f.Refused.Pos.Line > 0 {
		set++
		if !f.Refused.Value {
			l.errs.Addf(f.Refused.Pos, "refused is true, or left out; between: [-32768, 32767] tests that an address can be read")
		}
	}
	if set != 1 && len(l.errs) == before {
		l.errs.Addf(f.Pos, "a test has exactly one of equals, one_of, between and refused, this one has %s", [...]string{"none", "", "two", "three", "four"}[min(set, 4)])
	}
	return t, len(l.errs) == before && t.Table != 0
}

func (l *loader) deviceID(f *deviceIDFile) *DeviceID {
	if f == nil {
		return nil
	}
	d := &DeviceID{Vendor: f.Vendor.Value, Product: f.Product.Value, Model: f.Model.Value}
	if *d == (DeviceID{}) {
		l.errs.Addf(f.Pos, "device_id needs at least one of vendor, product and model")
		return nil
	}
	return d
}

// lookAlikes reads the ids of the models that this one could be taken for. Whether they exist is for the linter: a
// site's own profile may name one that only other sites have.
func (l *loader) lookAlikes(p *Profile, list []yamlfile.At[string]) {
	for _, id := range list {
		switch {
		case !l.checkID(id, "profile"):
		case id.Value == p.ID:
			l.errs.Addf(id.Pos, "a profile is not its own look-alike")
		case slices.Contains(p.LookAlikes, id.Value):
			l.errs.Addf(id.Pos, "%s is listed twice", id.Value)
		default:
			p.LookAlikes = append(p.LookAlikes, id.Value)
		}
	}
}

// String says what is tested: "holding 257 is the unit's address".
func (t Test) String() string {
	place := t.Table.String() + " " + strconv.Itoa(t.Address)
	switch {
	case t.EqualsAddress:
		return place + " is the unit's address"
	case t.Equals != nil:
		return place + " is " + strconv.Itoa(int(*t.Equals))
	case len(t.OneOf) > 0:
		s := place + " is one of"
		for _, v := range t.OneOf {
			s += " " + strconv.Itoa(int(v))
		}
		return s
	case t.Between != nil:
		return place + " lies between " + strconv.FormatFloat(t.Between[0], 'f', -1, 64) + " and " + strconv.FormatFloat(t.Between[1], 'f', -1, 64)
	case t.Refused:
		return place + " is refused"
	}
	return place
}
