package site

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"

	"linli/internal/yamlfile"
)

// Patterns that the schema names; the resolver checks the same and says more about it.
const (
	idPattern       = `^[a-z][a-z0-9_]{0,31}$`
	durationPattern = `^([0-9]+(\.[0-9]+)?(d|h|m|s|ms))+$`
	sizePattern     = `^[0-9]+ ?(KiB|MiB|GiB|TiB)$`
	channelPattern  = `^[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,31}$`
)

// Schema returns the JSON schema (2020-12) of the site file, for editors: it knows the keys, their types and what
// can be told about a value on its own. What needs the rest of the file or the library (unknown profiles, channels,
// zones), and rules that concern several keys at once, only Load knows. The committed schema.json is its output.
func Schema() []byte {
	g := schemaWriter{defs: map[string]any{}}
	root := g.object(reflect.TypeFor[siteFile]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Linli site file"
	root["$defs"] = g.defs
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		return nil // Maps, slices, strings, numbers and bools always encode.
	}
	return buf.Bytes()
}

// schemaWriter collects the named parts of a schema while it walks the types.
type schemaWriter struct{ defs map[string]any }

// object returns the schema of a struct type.
func (g *schemaWriter) object(t reflect.Type) map[string]any {
	props, required := map[string]any{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" {
			continue
		}
		props[name] = g.field(f)
		if options == "required" {
			required = append(required, name)
		}
	}
	s := map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	} else {
		s["type"] = []any{"object", "null"} // A key with nothing behind it is an empty mapping.
	}
	return s
}

// field returns the schema of a struct field: its type's, narrowed by its tags.
func (g *schemaWriter) field(f reflect.StructField) map[string]any {
	s := g.of(f.Type)
	narrow := s
	if items, ok := s["items"].(map[string]any); ok {
		narrow = items
	}
	if f.Tag.Get("pattern")+f.Tag.Get("enum") != "" && reflect.DeepEqual(narrow["type"], plainText()) {
		narrow["type"] = "string" // No number or bool fits.
	}
	switch p := f.Tag.Get("pattern"); p {
	case "":
	case "id":
		narrow["pattern"] = idPattern
	default:
		narrow["pattern"] = p
	}
	if list := f.Tag.Get("enum"); list != "" {
		var values []any
		for _, v := range strings.Split(list, ",") {
			if narrow["type"] == "integer" {
				values = append(values, json.Number(v))
			} else {
				values = append(values, v)
			}
		}
		narrow["enum"] = values
	}
	for tag, key := range map[string]string{"min": "minimum", "max": "maximum"} {
		if v := f.Tag.Get(tag); v != "" {
			narrow[key] = json.Number(v)
		}
	}
	s["description"] = f.Tag.Get("doc")
	return s
}

// of returns the schema of a type. Each call returns a fresh map, which the caller may extend.
func (g *schemaWriter) of(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[yamlfile.Text]():
		lang := map[string]any{"type": plainText()}
		return map[string]any{"anyOf": []any{
			map[string]any{"type": plainText()},
			map[string]any{"type": "object", "properties": map[string]any{"zh": lang, "en": lang}, "additionalProperties": false},
		}}
	case reflect.TypeFor[scalar](), reflect.TypeFor[yamlfile.Node]():
		return map[string]any{"type": plainText()}
	case reflect.TypeFor[time.Duration]():
		return map[string]any{"type": "string", "pattern": durationPattern}
	case reflect.TypeFor[size]():
		return map[string]any{"type": "string", "pattern": sizePattern}
	case reflect.TypeFor[line]():
		pair := map[string]any{"type": "array", "items": map[string]any{"type": "number"}, "minItems": 2, "maxItems": 2}
		return map[string]any{"type": "array", "items": pair, "minItems": 2, "maxItems": 2}
	case reflect.TypeFor[pointSpec]():
		return map[string]any{"anyOf": []any{
			map[string]any{"type": "string", "pattern": channelPattern},
			g.object(t),
		}}
	}
	if t.PkgPath() == reflect.TypeFor[yamlfile.Pos]().PkgPath() && strings.HasPrefix(t.Name(), "Map[") {
		value, _ := t.Elem().FieldByName("Value")
		return map[string]any{"type": []any{"object", "null"}, "additionalProperties": g.of(value.Type)}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return map[string]any{"anyOf": []any{g.of(t.Elem()), map[string]any{"type": "null"}}}
	case reflect.Slice:
		return map[string]any{"type": []any{"array", "null"}, "items": g.of(t.Elem())}
	case reflect.String:
		return map[string]any{"type": plainText()}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.Struct:
		// At[T] decodes like a bare T.
		if t.PkgPath() == reflect.TypeFor[yamlfile.Pos]().PkgPath() && strings.HasPrefix(t.Name(), "At[") {
			return g.of(t.Field(0).Type)
		}
		if _, done := g.defs[t.Name()]; !done {
			g.defs[t.Name()] = true // Zones contain zones: mark before walking.
			g.defs[t.Name()] = g.object(t)
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	}
	return map[string]any{}
}

// plainText is what may stand where a text is expected: 5 and true are taken as they are written.
func plainText() []any { return []any{"string", "number", "boolean"} }

// choices returns the enum tag of the field that is written as key in T: the one list of what may stand there.
func choices[T any](key string) []string {
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name == key {
			return strings.Split(t.Field(i).Tag.Get("enum"), ",")
		}
	}
	return nil
}

// known reports whether n is among the choices for key in T.
func known[T any](key string, n int) bool {
	for _, c := range choices[T](key) {
		if c == strconv.Itoa(n) {
			return true
		}
	}
	return false
}
