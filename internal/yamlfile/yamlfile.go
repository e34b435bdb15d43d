// Package yamlfile decodes YAML files strictly and reports every mistake at once, each with its place in the file.
//
// It is the one way in which Linli reads files written by people: site files, classes, profiles, rule packs and
// rule tests. Unknown keys, wrong types, duplicate and missing keys are errors; near misses are named ("did you
// mean"). A file that is not YAML at all gives one error, at the place where reading had to stop.
//
// # What is accepted
//
// One YAML document of at most 4 MiB in UTF-8 (a byte order mark and CR LF are tolerated), nested at most 64 deep,
// of mappings with scalar keys (at most 10,000 each), lists and scalars. Anchors, aliases, merge keys, tags, directives and further
// documents are refused: a reader should see what a file means without resolving references. Numbers may be
// written as 0x7FFF, 0o17, 0b101 or 10_000; a leading zero is refused because YAML versions disagree about it.
// A quoted number is text. A key with nothing behind it counts as absent for lists, mappings and pointers, and is
// an error for scalars. Durations are written with units: 300ms, 30s, 5m, 1h30m, 1d, 1d12h.
//
// Chinese input methods put full-width and typographic characters where YAML wants ASCII: where a mistake stands at one
// of them, the message says so. A plain value that holds ": " is refused, because it has swallowed the key after it.
//
// Columns count characters (not bytes) from 1, as an editor shows them.
//
// The package has no state; everything may be called from several goroutines. It never panics on input.
package yamlfile

import (
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"linli/internal/telemetry"
)

// MaxSize is the largest file accepted, in bytes.
const MaxSize = 4 << 20

// maxDepth bounds the nesting of mappings and lists, maxKeys the keys of one mapping: the YAML library needs time
// that grows with the square of the latter.
const (
	maxDepth = 64
	maxKeys  = 10_000
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
	// Near is, of an unknown key, the known one that was probably meant; otherwise empty.
	Near string
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

// Err returns the mistakes sorted by place, each once, or nil where there are none.
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
	seen := make(map[Error]bool, len(es))
	once := make(Errors, 0, len(es))
	for _, e := range es {
		if !seen[*e] {
			seen[*e] = true
			once = append(once, e)
		}
	}
	return once
}

// Decode decodes the YAML document src into the struct that into points to. file is used in positions only.
//
// Struct fields are matched by their `yaml:"name"` tag; `yaml:"name,required"` makes a missing key a mistake;
// fields without a tag are left alone. A field of type Pos tagged `yaml:",pos"` receives the place of its mapping;
// an embedded struct tagged `yaml:",inline"` has its keys in the mapping itself.
// Supported types: string, bool, ints, floats, time.Duration (written with a unit: 5s, 3m), pointers (nil when
// absent), slices, map[string]T, Map[T] (a mapping in its order, with positions), structs, At[T], Node and *Node
// (left undecoded), Text, and types that implement Unmarshaler.
//
// Everything that can be decoded is, so that later checks can find further mistakes; the error is Errors with all
// mistakes found, in order. A field whose value was refused keeps what it had.
func Decode(file string, src []byte, into any) error {
	n, err := Parse(file, src)
	if n == nil {
		return err
	}
	var errs Errors
	errs.Append(n.Pos, err)
	errs.Append(n.Pos, n.Decode(into))
	ExplainWide(file, src, errs)
	return errs.Err()
}

// Unmarshaler is implemented by types with a form of their own (a short form beside a mapping, for instance). It
// is not called for a key with nothing behind it. It should decode all it can, and return Errors where it finds
// several mistakes; an error without a place is reported at n.Pos.
type Unmarshaler interface {
	UnmarshalYAMLFile(n *Node) error
}

// Node is a part of a parsed document, as an Unmarshaler gets it.
type Node struct {
	Pos Pos

	kind   nodeKind
	text   string // of a scalar
	quoted bool   // the scalar was quoted or a block of text, so it can only be text
	keys   []At[string]
	items  []*Node // of a list; the values of a mapping, beside keys
}

type nodeKind uint8

const (
	nullNode nodeKind = iota
	scalarNode
	mapNode
	listNode
)

// IsScalar reports whether the node is one value.
func (n *Node) IsScalar() bool { return n.kind == scalarNode }

// IsMap reports whether the node is a mapping.
func (n *Node) IsMap() bool { return n.kind == mapNode }

// IsList reports whether the node is a list.
func (n *Node) IsList() bool { return n.kind == listNode }

// IsNull reports whether there is nothing behind the key (or null, or ~).
func (n *Node) IsNull() bool { return n.kind == nullNode }

// Scalar returns a scalar's text as written (without quotes), "" for other nodes.
func (n *Node) Scalar() string { return n.text }

// Quoted reports whether the scalar was written in quotes or as a block of text: it is text, whatever it looks like.
func (n *Node) Quoted() bool { return n.quoted }

// Items returns the elements of a list, nil for other nodes.
func (n *Node) Items() []*Node {
	if n.kind != listNode {
		return nil
	}
	return n.items
}

// Entries returns the keys and values of a mapping in the file's order, nil for other nodes. Keys are unique only
// where the node has been decoded without error.
func (n *Node) Entries() Map[*Node] {
	if n.kind != mapNode {
		return nil
	}
	entries := make(Map[*Node], len(n.keys))
	for i, k := range n.keys {
		entries[i] = Entry[*Node]{Key: k, Value: n.items[i]}
	}
	return entries
}

// Decode decodes the node into what into points to, as the function Decode does.
func (n *Node) Decode(into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return errors.New("yamlfile: Decode needs a pointer to decode into")
	}
	var d decoder
	d.decode(n, v.Elem())
	return d.errs.Err()
}

// Map is a mapping with names of the user's choice, in the order of the file and with the places of its keys.
type Map[T any] []Entry[T]

// Entry is one key of a Map with its value.
type Entry[T any] struct {
	Key   At[string]
	Value T
}

// Get returns the value of key, or false.
func (m Map[T]) Get(key string) (T, bool) {
	for i := range m {
		if m[i].Key.Value == key {
			return m[i].Value, true
		}
	}
	var zero T
	return zero, false
}

// UnmarshalYAMLFile decodes a mapping.
func (m *Map[T]) UnmarshalYAMLFile(n *Node) error {
	var d decoder
	if n.kind != mapNode {
		d.expected(n, "a mapping")
		return d.errs.Err()
	}
	*m = make(Map[T], 0, len(n.keys))
	d.eachKey(n, func(i int) {
		e := Entry[T]{Key: n.keys[i]}
		d.decode(n.items[i], reflect.ValueOf(&e.Value).Elem())
		*m = append(*m, e)
	})
	return d.errs.Err()
}

// Text is a text for people that may be written in both languages, {zh: 大门, en: Main gate}, or once for both.
type Text struct{ telemetry.Text }

// UnmarshalYAMLFile decodes either form.
func (t *Text) UnmarshalYAMLFile(n *Node) error {
	if n.IsScalar() {
		t.Zh, t.En = n.text, n.text
		return nil
	}
	if !n.IsMap() {
		var d decoder
		d.expected(n, "a text or {zh: ..., en: ...}")
		return d.errs.Err()
	}
	return n.Decode(&t.Text)
}
