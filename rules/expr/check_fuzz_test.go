package expr_test

import (
	"strings"
	"testing"

	"linli/rules/expr"
)

// treeWriter writes expressions that parse, out of bytes: well formed, and mostly wrong.
type treeWriter struct {
	data []byte
	b    strings.Builder
}

func (w *treeWriter) next() int {
	if len(w.data) == 0 {
		return 0
	}
	v := w.data[0]
	w.data = w.data[1:]
	return int(v)
}

func (w *treeWriter) pick(list ...string) string { return list[w.next()%len(list)] }

var leaves = []string{"fill_pct", "weight_kg", "lid_open", "fire", "label", "stream", "deposit", "swipe", "no_such_point", "BinFull",
	"zone.smoke_detector.alarm", "building.smoke_detector.obscuration_dbm", "site.smart_bin.fill_pct", "site.smart_bin.swipe", "floor.smart_bin.fire",
	"zone.no_class.x", "site.smart_bin.no_point", "0", "1", "2.5", "90", "0.9", "500ms", "10m", "40d", "true", "false", `"kitchen"`, `"22:00"`, `"deposit_hours"`,
	`"smart_bin"`, `"building"`, `"${word}"`, `"${none}"`, "${limit}", "${dwell}", "${share}", "${none}"}

var calls = []string{"any", "all", "count", "avg", "max", "min", "at_least", "active", "silent", "no_reading", "no_protection", "faulty", "life_safety",
	"is_a", "bad", "known", "provided", "abs", "round", "greatest", "least", "within", "absent_for", "undecided", "schedule", "hour", "weekday", "between",
	"duration_true", "avg_over_time", "max_over_time", "min_over_time", "quantile_over_time", "integral", "leq", "delta", "increase", "rate", "changes",
	"count_over_time", "sequence", "no_such_function"}

// node writes one node.
func (w *treeWriter) node(depth int) {
	switch kind := w.next(); {
	case depth == 0 || kind < 96:
		w.b.WriteString(w.pick(leaves...))
	case kind < 128:
		w.b.WriteString("(not (")
		w.node(depth - 1)
		w.b.WriteString("))")
	case kind < 136:
		w.b.WriteString("-(")
		w.node(depth - 1)
		w.b.WriteString(")")
	case kind < 192:
		w.b.WriteString("(")
		w.node(depth - 1)
		w.b.WriteString(w.pick(" and ", " or ", " + ", " - ", " * ", " / ", " < ", " <= ", " > ", " >= ", " == ", " != "))
		w.node(depth - 1)
		w.b.WriteString(")")
	default:
		w.b.WriteString(w.pick(calls...) + "(")
		for i := range w.next() % 5 {
			if i > 0 {
				w.b.WriteString(", ")
			}
			w.node(depth - 1)
		}
		w.b.WriteString(")")
	}
}

// FuzzCheck checks random well-formed trees against a site. A mistake has its place within the text and a message; what
// has none is typed through and through.
func FuzzCheck(f *testing.F) {
	for i := range 40 {
		f.Add([]byte{200, byte(i), 2, 10, byte(i), 10, 23, 180, 7, byte(3 * i), 10, byte(i)})
		f.Add([]byte{180, byte(i), 240, byte(i), 1, 10, byte(5 * i), 6, 10, byte(7 * i)})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w := &treeWriter{data: data}
		w.node(5)
		src := w.b.String()
		n, err := expr.Parse(src)
		if err != nil {
			if strings.Contains(err.Error(), "longer than") || strings.Contains(err.Error(), "more than") {
				return
			}
			t.Fatalf("%q: %v", src, err)
		}
		scope := testScope()
		out, errs := expr.Check(n, scope, expr.TypeBool)
		last := 0
		for _, e := range errs {
			if e.Offset < last || e.Offset >= len(src) || e.Msg == "" {
				t.Fatalf("%q: mistake at %d (after one at %d): %s", src, e.Offset, last, e.Msg)
			}
			last = e.Offset
		}
		if len(errs) > 0 {
			return
		}
		if out.Type != expr.TypeBool {
			t.Fatalf("%q is %v, and nobody says so", src, out.Type)
		}
		again, errs := expr.Check(n, scope, expr.TypeBool)
		if len(errs) > 0 || again.String() != out.String() {
			t.Fatalf("%q: checked twice it is %q and %q, %v", src, out, again, errs)
		}
		out.Walk(func(n *expr.Node) {
			if n.Op == expr.OpParam {
				t.Fatalf("%q: a parameter is left", src)
			}
		})
	})
}
