package yamlfile

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// decoder turns Nodes into Go values and collects the mistakes.
type decoder struct{ errs Errors }

// placed is implemented by *At[T].
type placed interface {
	place() (value any, pos *Pos)
}

func (a *At[T]) place() (any, *Pos) { return &a.Value, &a.Pos }

func (d *decoder) decode(n *Node, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		if node, ok := v.Addr().Interface().(**Node); ok {
			*node = n
			return
		}
		if n.IsNull() {
			return
		}
		p := reflect.New(v.Type().Elem())
		d.decode(n, p.Elem())
		v.Set(p)
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *Node:
		*p = *n
		return
	case placed:
		value, pos := p.place()
		*pos = n.Pos
		d.decode(n, reflect.ValueOf(value).Elem())
		return
	case Unmarshaler:
		switch {
		case !n.IsNull():
			d.errs.Append(n.Pos, p.UnmarshalYAMLFile(n))
		case v.Kind() != reflect.Slice && v.Kind() != reflect.Map:
			d.errs.Addf(n.Pos, "a value is missing here")
		}
		return
	case *time.Duration:
		d.duration(n, p)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v)
	case reflect.Map:
		d.mapping(n, v)
	case reflect.Slice:
		d.list(n, v)
	default:
		d.scalar(n, v)
	}
}

func (d *decoder) scalar(n *Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if !n.IsScalar() {
			d.expected(n, "a text")
			return
		}
		v.SetString(n.text)
	case reflect.Bool:
		switch {
		case n.IsScalar() && !n.quoted && strings.EqualFold(n.text, "true"):
			v.SetBool(true)
		case n.IsScalar() && !n.quoted && strings.EqualFold(n.text, "false"):
			v.SetBool(false)
		default:
			d.expected(n, "true or false")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := v.Type().Bits()
		i, err := strconv.ParseInt(n.text, 0, bits)
		if !d.number(n, err, "a whole number", fmt.Sprintf("%d to %d", -1<<(bits-1), uint64(1)<<(bits-1)-1)) {
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := v.Type().Bits()
		u, err := strconv.ParseUint(n.text, 0, bits)
		limit := fmt.Sprintf("0 to %d", uint64(math.MaxUint64)>>(64-bits))
		if _, signed := strconv.ParseInt(n.text, 0, 64); err != nil && signed == nil {
			err = strconv.ErrRange // a negative number is a number, but not one of these
		}
		if !d.number(n, err, "a whole number", limit) {
			return
		}
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(n.text, v.Type().Bits())
		if err == nil && (math.IsInf(f, 0) || math.IsNaN(f)) {
			err = strconv.ErrSyntax
		}
		if i, ierr := strconv.ParseInt(n.text, 0, 64); errors.Is(err, strconv.ErrSyntax) && ierr == nil {
			f, err = float64(i), nil // 0x7FFF and 10_000
		}
		if !d.number(n, err, "a number", "too large to be held") {
			return
		}
		v.SetFloat(f)
	default:
		d.errs.Addf(n.Pos, "yamlfile cannot decode into %s", v.Type())
	}
}

// number reports whether n, whose conversion gave err, is a number, and says what is wrong otherwise.
func (d *decoder) number(n *Node, err error, want, limits string) bool {
	digits := strings.TrimLeft(n.text, "+-")
	switch {
	case !n.IsScalar():
		d.expected(n, want)
	case n.quoted:
		if err != nil {
			d.expected(n, want)
			break
		}
		d.errs.Addf(n.Pos, "expected %s, got the text %q: write it without quotes", want, n.text)
	case len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9':
		d.errs.Addf(n.Pos, "%s: a leading zero is ambiguous, leave it out (octal is written 0o17)", n.text)
	case errors.Is(err, strconv.ErrRange):
		d.errs.Addf(n.Pos, "%s is out of range (%s)", n.text, limits)
	case err != nil:
		d.expected(n, want)
	default:
		return true
	}
	return false
}

func (d *decoder) duration(n *Node, into *time.Duration) {
	if !n.IsScalar() {
		d.expected(n, "a duration such as 30s or 5m")
		return
	}
	v, err := ParseDuration(n.text)
	if err != nil {
		d.errs.Append(n.Pos, err)
		return
	}
	*into = v
}

// ParseDuration reads a duration as people write it in files: Go's syntax (300ms, 30s, 5m, 1h30m) with d for days
// of 24 hours in front (1d, 1d12h).
func ParseDuration(s string) (time.Duration, error) {
	rest, days := s, 0.0
	if i := strings.IndexByte(s, 'd'); i > 0 {
		f, err := strconv.ParseFloat(s[:i], 64)
		if err != nil || math.IsNaN(f) || math.Abs(f) > 100_000 {
			return 0, durationError(s)
		}
		days, rest = f, s[i+1:]
		if rest == "" {
			rest = "0s"
		}
		if days < 0 && rest[0] != '-' {
			rest = "-" + rest // -1d12h is minus a day and a half
		}
	}
	v, err := time.ParseDuration(rest)
	whole := time.Duration(days * float64(24*time.Hour))
	sum := v + whole
	if err != nil || (v > 0 && whole > 0 && sum < 0) || (v < 0 && whole < 0 && sum > 0) {
		return 0, durationError(s)
	}
	return sum, nil
}

func durationError(s string) error {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return fmt.Errorf("expected a duration such as 30s or 5m, got %s: the unit is missing", clip(s))
	}
	return fmt.Errorf("expected a duration such as 30s or 5m, got %q", clip(s))
}

func (d *decoder) list(n *Node, v reflect.Value) {
	if n.IsNull() {
		return
	}
	if n.kind != listNode {
		d.expected(n, "a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
	for i, item := range n.items {
		d.decode(item, v.Index(i))
	}
}

func (d *decoder) mapping(n *Node, v reflect.Value) {
	if v.Type().Key().Kind() != reflect.String {
		d.errs.Addf(n.Pos, "yamlfile cannot decode into %s", v.Type())
		return
	}
	if n.IsNull() {
		return
	}
	if n.kind != mapNode {
		d.expected(n, "a mapping")
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.keys)))
	d.eachKey(n, func(i int) {
		value := reflect.New(v.Type().Elem()).Elem()
		d.decode(n.items[i], value)
		v.SetMapIndex(reflect.ValueOf(n.keys[i].Value).Convert(v.Type().Key()), value)
	})
}

// eachKey calls do for every key of a mapping but repeated ones, which are reported.
func (d *decoder) eachKey(n *Node, do func(i int)) {
	first := make(map[string]Pos, len(n.keys))
	for i, k := range n.keys {
		if pos, twice := first[k.Value]; twice {
			d.errs.Addf(k.Pos, "duplicate key %q, first in line %d", clip(k.Value), pos.Line)
			continue
		}
		first[k.Value] = k.Pos
		do(i)
	}
}

// field is one key of a struct.
type field struct {
	name     string
	required bool
	value    reflect.Value
	seen     bool
}

// fieldsOf lists the keys that v takes and fills its ",pos" fields.
func fieldsOf(n *Node, v reflect.Value, fields []field) []field {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		tag, ok := sf.Tag.Lookup("yaml")
		if !ok || !sf.IsExported() {
			continue
		}
		name, opts, _ := strings.Cut(tag, ",")
		switch {
		case opts == "pos":
			if pos, ok := v.Field(i).Addr().Interface().(*Pos); ok {
				*pos = n.Pos
			}
		case opts == "inline" && sf.Type.Kind() == reflect.Struct:
			fields = fieldsOf(n, v.Field(i), fields)
		case name != "" && name != "-":
			fields = append(fields, field{name: name, required: opts == "required", value: v.Field(i)})
		}
	}
	return fields
}

func (d *decoder) structure(n *Node, v reflect.Value) {
	fields := fieldsOf(n, v, nil)
	if n.kind != mapNode && n.kind != nullNode {
		d.expected(n, "a mapping")
		return
	}
	d.eachKey(n, func(i int) {
		key := n.keys[i]
		for j := range fields {
			if fields[j].name == key.Value {
				fields[j].seen = true
				d.decode(n.items[i], fields[j].value)
				return
			}
		}
		known := make([]string, len(fields))
		for j := range fields {
			known[j] = fields[j].name
		}
		hint := Suggest(key.Value, known)
		if hint == "" && len(known) > 0 && len(known) <= 16 {
			hint = " (known here: " + strings.Join(known, ", ") + ")"
		}
		e := &Error{Pos: key.Pos, Msg: fmt.Sprintf("unknown key %q%s", clip(key.Value), hint)}
		if near := nearest(key.Value, known); len(near) == 1 {
			e.Near = near[0]
		}
		d.errs = append(d.errs, e)
	})
	var missing []string
	for _, f := range fields {
		if f.required && !f.seen {
			missing = append(missing, strconv.Quote(f.name))
		}
	}
	if n.kind == nullNode && len(missing) > 0 { // one mistake: somebody has written the key and nothing behind it
		d.errs.Addf(n.Pos, "nothing stands here, expected a mapping with %s", strings.Join(missing, ", "))
		return
	}
	for _, name := range missing {
		d.errs.Addf(n.Pos, "missing key %s", name)
	}
}

// expected adds the mistake that n is not what was wanted.
func (d *decoder) expected(n *Node, want string) {
	got := "nothing"
	switch {
	case n.kind == mapNode:
		got = "a mapping"
	case n.kind == listNode:
		got = "a list"
	case n.kind == scalarNode && n.quoted:
		got = "the text " + strconv.Quote(clip(n.text))
	case n.kind == scalarNode:
		got = clip(n.text)
		// The commonest slip of all makes a text out of a mapping: key:value.
		if key, rest, ok := strings.Cut(n.text, ":"); want == "a mapping" && ok && rest != "" && !strings.Contains(key, " ") {
			got += fmt.Sprintf(": is a space missing after %q?", clip(key)+":")
		}
	}
	d.errs.Addf(n.Pos, "expected %s, got %s", want, got)
}

// clip shortens s for a message.
func clip(s string) string {
	r := []rune(s)
	if len(r) > 60 {
		return string(r[:57]) + "..."
	}
	return s
}
