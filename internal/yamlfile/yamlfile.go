// Package yamlfile decodes YAML files strictly and reports every mistake at once, each with its place in the file.
//
// It is the one way in which Linli reads files written by people: site files, classes, profiles, rule packs and
// rule tests. Unknown keys, wrong types and duplicate keys are errors; near misses are named ("did you mean").
package yamlfile

import (
	"fmt"
	"sort"
	"strings"
)

// Pos is a place in a file. Line and Col count from 1.
type Pos struct {
	File      string
	Line, Col int
}

// String returns file:line:col.
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// At is a value together with the place where it stands, for errors that are found after decoding. It decodes
// like a bare T. Its Pos is the zero Pos where the key is absent.
type At[T any] struct {
	Value T
	Pos   Pos
}

// Error is one mistake in a file.
type Error struct {
	Pos Pos
	Msg string
}

// Error returns file:line:col: message.
func (e *Error) Error() string { return e.Pos.String() + ": " + e.Msg }

// Errors is every mistake found.
type Errors []*Error

// Error returns one line for each mistake, in the order of the files.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Addf adds a mistake at pos.
func (es *Errors) Addf(pos Pos, format string, args ...any) {
	*es = append(*es, &Error{Pos: pos, Msg: fmt.Sprintf(format, args...)})
}

// Append adds err: all of it where it is Errors itself, otherwise as one mistake at pos. Nil adds nothing.
func (es *Errors) Append(pos Pos, err error) {
	switch err := err.(type) {
	case nil:
	case Errors:
		*es = append(*es, err...)
	case *Error:
		*es = append(*es, err)
	default:
		es.Addf(pos, "%v", err)
	}
}

// Err returns the mistakes sorted by place, or nil where there are none.
func (es Errors) Err() error {
	if len(es) == 0 {
		return nil
	}
	sort.SliceStable(es, func(i, j int) bool {
		a, b := es[i].Pos, es[j].Pos
		if a.File != b.File {
			return a.File < b.File
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Col < b.Col
	})
	return es
}

// Decode decodes the YAML document src into the struct that into points to. file is used in positions only.
//
// Struct fields are matched by their `yaml:"name"` tag; `yaml:"name,required"` makes a missing key a mistake;
// fields without a tag are left alone. A field of type Pos tagged `yaml:",pos"` receives the place of its mapping.
// Supported types: string, bool, ints, floats, time.Duration (written with a unit: 5s, 3m), pointers (nil when
// absent), slices, map[string]T, structs, At[T], and types that implement Unmarshaler. A slice of T also accepts a
// single T only where T's own Unmarshaler does.
//
// Everything that can be decoded is, so that later checks can find further mistakes; the error is Errors with all
// mistakes found.
func Decode(file string, src []byte, into any) error { panic("to be written") }

// Unmarshaler is implemented by types with a form of their own (a short form beside a mapping, for instance).
type Unmarshaler interface {
	UnmarshalYAMLFile(n *Node) error
}

// Node is a part of a parsed document, as an Unmarshaler gets it.
type Node struct {
	Pos Pos
	// contents to be written
}

// IsScalar, IsMap and IsList say what the node is.
func (n *Node) IsScalar() bool { panic("to be written") }
func (n *Node) IsMap() bool    { panic("to be written") }
func (n *Node) IsList() bool   { panic("to be written") }

// Scalar returns a scalar's text as written (without quotes).
func (n *Node) Scalar() string { panic("to be written") }

// Decode decodes the node into what into points to, as the function Decode does.
func (n *Node) Decode(into any) error { panic("to be written") }

// Suggest returns `, did you mean "x"?` for the member of known nearest to name, or "" where none is near.
func Suggest(name string, known []string) string { panic("to be written") }
