package site_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"linli/internal/site"
)

var update = flag.Bool("update", false, "rewrite schema.json")

func TestTheCommittedSchemaIsUpToDate(t *testing.T) {
	if *update {
		if err := os.WriteFile("schema.json", site.Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, site.Schema()) {
		t.Error("schema.json differs from Schema(): run go test ./internal/site -update")
	}
}

// schema checks values against the part of JSON schema that Schema uses; a keyword beyond it is an error, so that
// nothing is taken for checked that is not.
type schema struct{ defs map[string]any }

func newSchema(t *testing.T) (schema, map[string]any) {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(site.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	defs, _ := root["$defs"].(map[string]any)
	return schema{defs}, root
}

func (s schema) check(path string, rules map[string]any, v any) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	}
	object, _ := v.(map[string]any)
	list, _ := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	for keyword, rule := range rules {
		switch keyword {
		case "$schema", "$defs", "title", "description":
		case "$ref":
			def := s.defs[strings.TrimPrefix(rule.(string), "#/$defs/")].(map[string]any)
			errs = append(errs, s.check(path, def, v))
		case "anyOf":
			var none []error
			for _, option := range rule.([]any) {
				err := s.check(path, option.(map[string]any), v)
				if err == nil {
					none = nil
					break
				}
				none = append(none, err)
			}
			errs = append(errs, none...)
		case "type":
			types, several := rule.([]any)
			if !several {
				types = []any{rule}
			}
			if !slices.ContainsFunc(types, func(want any) bool { return isType(want.(string), v) }) {
				fail("%v is not %v", v, rule)
			}
		case "properties":
			for key, sub := range rule.(map[string]any) {
				if value, ok := object[key]; ok {
					errs = append(errs, s.check(path+"."+key, sub.(map[string]any), value))
				}
			}
		case "additionalProperties":
			known, _ := rules["properties"].(map[string]any)
			for key, value := range object {
				if _, ok := known[key]; ok {
					continue
				}
				if sub, ok := rule.(map[string]any); ok {
					errs = append(errs, s.check(path+"."+key, sub, value))
				} else {
					fail("unknown key %s", key)
				}
			}
		case "required":
			for _, key := range rule.([]any) {
				if _, ok := object[key.(string)]; !ok && object != nil {
					fail("no %s", key)
				}
			}
		case "items":
			for i, item := range list {
				errs = append(errs, s.check(fmt.Sprintf("%s[%d]", path, i), rule.(map[string]any), item))
			}
		case "minItems", "maxItems":
			if n, bound := float64(len(list)), rule.(float64); list != nil && (keyword == "minItems" && n < bound || keyword == "maxItems" && n > bound) {
				fail("%v items", n)
			}
		case "minimum", "maximum":
			if bound := rule.(float64); isNumber && (keyword == "minimum" && number < bound || keyword == "maximum" && number > bound) {
				fail("%v is beyond the %s %v", number, keyword, bound)
			}
		case "pattern":
			if isText && !regexp.MustCompile(rule.(string)).MatchString(text) {
				fail("%q does not match %s", text, rule)
			}
		case "enum":
			if !slices.Contains(rule.([]any), v) {
				fail("%v is none of %v", v, rule)
			}
		default:
			fail("the test does not know the keyword %s", keyword)
		}
	}
	return errors.Join(errs...)
}

func isType(want string, v any) bool {
	switch v := v.(type) {
	case nil:
		return want == "null"
	case map[string]any:
		return want == "object"
	case []any:
		return want == "array"
	case string:
		return want == "string"
	case bool:
		return want == "boolean"
	case float64:
		return want == "number" || want == "integer" && v == float64(int64(v))
	}
	return false
}

// plain decodes YAML into what json.Unmarshal would give.
func plain(t *testing.T, src []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(src, &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v = nil
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTheSchemaAcceptsWhatLoads(t *testing.T) {
	s, root := newSchema(t)
	accept := func(name string, src []byte) {
		if err := s.check("", root, plain(t, src)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		accept(file, src)
	}
	for _, snippet := range snippets(t) {
		accept(snippet.name, snippet.src)
	}
}

// TestTheSchemaTakesWhatCheckTakes: an editor that marks what is right teaches people to ignore it.
func TestTheSchemaTakesWhatCheckTakes(t *testing.T) {
	s, root := newSchema(t)
	lib, packs := shipped(t)
	for _, part := range []string{
		"config:", "uplink:", "zones:", "devices:", "buses:", "rules:", "place:", "console:", "journal:", "title: 5", "place: {city: 5}",
		"buses: [{id: b, gpio: {chip: 5}, lines: }]", "buses: [{id: b, gpio: {chip: 5, key_file: k}, lines: [{id: r, wiegand: {d0: 1, d1: 2, bits: }}], units: }]",
		"buses: [{id: b, gpio: {chip: x, key_file: 5}, lines: [{id: r, wiegand: {d0: 1, d1: 2}}]}]",
		"buses: [{id: b, modbus_tcp: {address: 'a:502'}, units: [{id: u, address: 1, profile: xy_md02, config: }]}]",
		"buses: [{id: b, modbus_tcp: {listen: ':4001', registration: 5}}]",
		"zones: [{id: z, kind: area, zones: , title: true}]", "rules: [{pack: fire, params: }]",
		"schedules:", "schedules: {a: , b: [], c: [{days: , zones: }], d: [{days: [workdays, sun], from: '06:30', to: '24:00'}]}",
	} {
		src := []byte("version: 1\nsite: a\n" + part + "\n")
		if _, err := site.Load("site.yaml", src, lib, packs); err != nil {
			t.Errorf("%s: %v", part, err)
		}
		if err := s.check("", root, plain(t, src)); err != nil {
			t.Errorf("%s: the schema refuses it: %v", part, err)
		}
	}
}

func TestTheSchemaRefusesWhatItCanSee(t *testing.T) {
	s, root := newSchema(t)
	for _, line := range []string{
		"version: 2", "site: Sunshine", "zonse: []", "zones: [{id: a, kind: tower}]", "zones: [{kind: area}]",
		"zones: [{id: a, kind: area, zones: [{id: b, kind: tower}]}]",
		"buses: [{id: a, modbus_rtu: {device: /dev/ttyS1, baud: 9601}}]",
		"buses: [{id: a, units: [{id: b, address: 300, profile: c}]}]",
		"buses: [{id: a, timeout: 5}]", "buses: [{id: a, timeout: soon}]",
		"devices: [{id: a, zone: b, points: {x: io1}}]", "devices: [{id: a, zone: b, points: {x: {from: io1.di1, map: [[1, 2]]}}}]",
		"devices: [{id: a, zone: b, points: {x: {value: [1]}}}]",
		"uplink: {brokers: [mqtt://a:1883]}", "uplink: {brokers: [tcp://a:1883], compression: lz4}",
		"journal: {max_bytes: 1000}", "schedules: {a: [{days: [monday]}]}", "schedules: {a: {from: '06:00'}}",
	} {
		if s.check("", root, plain(t, []byte("version: 1\nsite: a\n"))) != nil {
			t.Fatal("the schema refuses a minimal file")
		}
		src := "version: 1\nsite: a\n"
		if key, _, _ := strings.Cut(line, ":"); strings.Contains(src, key+":") {
			src = strings.Replace("version: 1\nsite: a\n", key+":", "unused:", 1)
			src = strings.Join(slices.DeleteFunc(strings.SplitAfter(src, "\n"), func(l string) bool { return strings.HasPrefix(l, "unused") }), "")
		}
		if s.check("", root, plain(t, []byte(src+line))) == nil {
			t.Errorf("the schema accepts %s", line)
		}
	}
}

func TestEveryKeyIsDescribed(t *testing.T) {
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if props, ok := v["properties"].(map[string]any); ok {
				for key, p := range props {
					if _, short := props["zh"]; short { // the languages of a text explain themselves
						continue
					}
					if d, _ := p.(map[string]any)["description"].(string); d == "" {
						t.Errorf("%s.%s has no description", path, key)
					}
				}
			}
			for key, sub := range v {
				walk(path+"/"+key, sub)
			}
		case []any:
			for _, sub := range v {
				walk(path, sub)
			}
		}
	}
	_, root := newSchema(t)
	walk("", root)
}

// TestEveryKeyIsDocumented: docs/site-file.md names every key that a site file may have.
func TestEveryKeyIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/site-file.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if props, ok := v["properties"].(map[string]any); ok {
				for key := range props {
					if !regexp.MustCompile("(?m)(^|[`{, ])" + key + "[`:]").Match(doc) {
						t.Errorf("docs/site-file.md does not name %s/%s", path, key)
					}
				}
			}
			for key, sub := range v {
				walk(path+"/"+key, sub)
			}
		case []any:
			for _, sub := range v {
				walk(path, sub)
			}
		}
	}
	_, root := newSchema(t)
	walk("", root)
}

// snippet is one yaml block of a document.
type snippet struct {
	name string
	src  []byte
}

// snippets returns the yaml blocks of docs/site-file.md as whole files: a block without version is put into a small
// site, in place of that one's sections of the same names.
func snippets(t *testing.T) []snippet {
	t.Helper()
	doc, err := os.ReadFile("../../docs/site-file.md")
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile("testdata/shipped.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var found []snippet
	var block []string
	inside := false
	for i, line := range strings.Split(string(doc), "\n") {
		switch {
		case strings.HasPrefix(line, "```yaml"):
			inside, block = true, nil
		case inside && strings.HasPrefix(line, "```"):
			inside = false
			src := strings.Join(block, "\n") + "\n"
			if !strings.HasPrefix(src, "version:") {
				src = merge(string(base), src)
			}
			found = append(found, snippet{fmt.Sprintf("docs/site-file.md:%d", i+1-len(block)), []byte(src)})
		case inside:
			block = append(block, line)
		}
	}
	if len(found) < 5 {
		t.Fatalf("%d snippets in docs/site-file.md", len(found))
	}
	return found
}

// merge replaces the top-level sections of base that part has.
func merge(base, part string) string {
	var out strings.Builder
	drop := false
	for _, line := range strings.SplitAfter(base, "\n") {
		if key, _, ok := strings.Cut(line, ":"); ok && line[0] >= 'a' && line[0] <= 'z' {
			drop = strings.HasPrefix(part, key+":") || strings.Contains(part, "\n"+key+":")
		}
		if !drop {
			out.WriteString(line)
		}
	}
	return out.String() + part
}

func TestDocumentationLoads(t *testing.T) {
	lib, packs := shipped(t)
	whole, err := os.ReadFile("testdata/shipped.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range append(snippets(t), snippet{"testdata/shipped.yaml", whole}) {
		if _, err := site.Load(s.name, s.src, lib, packs); err != nil {
			t.Errorf("%s: %v\n%s", s.name, err, s.src)
		}
	}
}
