package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/wire"
)

// Times outside these bounds are nobody's measurement, and each would make the database open files for its day.
var earliest = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

const ahead = 24 * time.Hour

var (
	errTime = errors.New("time is before 2020 or more than a day ahead")
	errTag  = errors.New("unknown tag")
	errType = errors.New("wrong type of field")
)

// checker judges lines. It belongs to one goroutine.
type checker struct {
	kinds  func(measurement, field string) (wire.FieldType, bool)
	known  map[string]map[string]wire.FieldType // what kinds said; 0: unknown
	last   []wire.Field                         // of the line before, with the types it should have: lines repeat
	lastOf string
	size   int
	fields []wire.Field

	from, to int64 // bounds of times; set for each batch
}

// knownMax bounds what a checker remembers: names come from outside.
const knownMax = 20_000

func (c *checker) setNow(now time.Time) {
	c.from, c.to = earliest.UnixNano(), now.Add(ahead).UnixNano()
}

func (c *checker) timely(ns int64) bool { return ns >= c.from && ns <= c.to }

// line checks a data line of the node site.gateway.
func (c *checker) line(line []byte, site, gateway string) error {
	l, fields, err := wire.ScanLine(line, c.fields[:0])
	c.fields = fields
	switch {
	case err != nil:
		return err
	case string(l.Site) != site || string(l.Gateway) != gateway:
		return wire.ErrForeign
	case l.OtherTag != nil:
		return fmt.Errorf("%w %.64s", errTag, l.OtherTag)
	case !c.timely(l.Time):
		return errTime
	}
	if string(l.Measurement) == telemetry.Derived {
		return derived(fields)
	}
	if c.lastOf != string(l.Measurement) {
		c.lastOf, c.last = string(l.Measurement), c.last[:0]
	}
	for i := range fields {
		f := &fields[i]
		var want wire.FieldType
		if i < len(c.last) && bytes.Equal(c.last[i].Name, f.Name) {
			want = c.last[i].Type
		} else {
			want = c.typeOf(c.lastOf, f.Name)
			c.last = append(c.last[:i], wire.Field{Name: bytes.Clone(f.Name), Type: want})
		}
		if want != 0 && want != f.Type {
			return fmt.Errorf("%w: %.64s of %.64s is %v, not %v", errType, f.Name, l.Measurement, want, f.Type)
		}
	}
	return nil
}

// derived checks the fields of the measurement that all sites' rules share.
func derived(fields []wire.Field) error {
	for i := range fields {
		f, want := &fields[i], wire.FieldType(0)
		switch string(f.Name) {
		case "value":
			want = wire.FloatField
		case "text":
			want = wire.TextField
		case "value_q", "text_q":
			want = wire.IntField
		default:
			return fmt.Errorf("%w: %s has no field %.64s", errType, telemetry.Derived, f.Name)
		}
		if want != f.Type {
			return fmt.Errorf("%w: %s of %s is %v, not %v", errType, f.Name, telemetry.Derived, want, f.Type)
		}
	}
	return nil
}

// typeOf returns the type that a field should have, 0 for any.
func (c *checker) typeOf(measurement string, field []byte) wire.FieldType {
	if want, ok := c.known[measurement][string(field)]; ok {
		return want
	}
	return c.learn(measurement, string(field))
}

// learn asks for the type of a field once. A quality is an integer in every class.
func (c *checker) learn(measurement, field string) wire.FieldType {
	if c.size >= knownMax {
		c.known, c.size = nil, 0
	}
	if c.known == nil {
		c.known = map[string]map[string]wire.FieldType{}
	}
	of := c.known[measurement]
	if of == nil {
		of = map[string]wire.FieldType{}
		c.known[measurement] = of
	}
	c.size++
	var want wire.FieldType
	ok := false
	if c.kinds != nil {
		want, ok = c.kinds(measurement, field)
	}
	if !ok {
		want = 0
		if strings.HasSuffix(field, "_q") {
			want = wire.IntField
		}
	}
	of[field] = want
	return want
}
