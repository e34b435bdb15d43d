package rules_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	mutants     = flag.Int("reference.mutate", 0, "try so many changed operators, comparisons and constants, of each side")
	mutateOnly  = flag.String("reference.mutate.only", "", "only of files whose path contains this")
	mutateSteps = flag.Int("reference.mutate.steps", 100_000, "steps that a mutant has to survive")
)

// What is changed: everything that decides in the engine, and all of the reference.
var (
	engineFiles = []string{"expr/value.go", "expr/bind.go", "expr/calendar.go", "expr/window.go", "expr/window_value.go", "expr/rows.go",
		"expr/quantile.go", "expr/sequence.go", "expr/absence.go", "engine.go", "moment.go", "settle.go", "undecided.go", "timetable.go", "schedule.go"}
	referenceFiles = []string{"reference_test.go", "reference_life_test.go", "reference_eval_test.go", "reference_time_test.go"}
)

// TestMutants changes one operator, comparison or constant at a time, in the engine and in the reference, and runs the
// reference test over it. One that the test does not notice is a mistake that it would not notice. It takes some seconds
// for each, so it runs only with -reference.mutate:
//
//	go test ./rules -run TestMutants -reference.mutate=150 -timeout 3h -v
//
// Survivors that change nothing anybody could observe, or that this test cannot see by how it is made, are listed with the
// reason in testdata/mutants.txt.
func TestMutants(t *testing.T) {
	if *mutants == 0 {
		return // a tool for those who change the engine, hours long: see the comment
	}
	known := knownMutants(t)
	for _, side := range []struct {
		name  string
		files []string
	}{{"engine", engineFiles}, {"reference", referenceFiles}} {
		var all []mutant
		for _, file := range side.files {
			if strings.Contains(file, *mutateOnly) {
				all = append(all, mutantsOf(t, file)...)
			}
		}
		n := min(*mutants, len(all))
		killed, tried := 0, 0
		for i := range n {
			m := all[i*len(all)/n]
			if known[m.key()] {
				continue
			}
			switch fate := m.try(t); fate {
			case "":
				t.Errorf("survived: %s", m)
				tried++
			case "does not compile":
			default:
				killed++
				tried++
			}
		}
		t.Logf("%s: %d of %d mutants killed, sampled from %d", side.name, killed, tried, len(all))
	}
}

// knownMutants reads the list of those that may survive: file, line and change of each, tabs between them; a text after
// # is a reason.
func knownMutants(t *testing.T) map[string]bool {
	src, err := os.ReadFile("testdata/mutants.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, line := range strings.Split(string(src), "\n") {
		if line != "" && line[0] != '#' {
			known[line] = true
		}
	}
	return known
}

// mutant is one change.
type mutant struct {
	file       string
	from, to   int // bytes of the file
	text       string
	line       int
	was, whole string // the bytes, and their line
	src        []byte
}

func (m *mutant) key() string {
	return m.file + "\t" + m.whole + "\t" + m.was + " -> " + m.text
}

func (m mutant) String() string { return fmt.Sprintf("%s:%d\t%s", m.file, m.line, m.key()) }

// swapped is what an operator becomes.
var swapped = map[token.Token]token.Token{
	token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL, token.REM: token.MUL,
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR, token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LAND: token.LOR, token.LOR: token.LAND, token.ADD_ASSIGN: token.SUB_ASSIGN, token.SUB_ASSIGN: token.ADD_ASSIGN,
	token.INC: token.DEC, token.DEC: token.INC,
}

// names that stand for each other.
var renamed = map[string]string{"min": "max", "max": "min", "true": "false", "false": "true", "True": "False", "False": "True",
	"yes": "no", "no": "yes", "Lo": "Hi", "Hi": "Lo", "lo": "hi", "hi": "lo"}

// mutantsOf finds every change of a file.
func mutantsOf(t *testing.T, file string) (list []mutant) {
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	add := func(pos token.Pos, was, text string) {
		p := fset.Position(pos)
		whole := strings.Split(string(src), "\n")[p.Line-1]
		list = append(list, mutant{file, p.Offset, p.Offset + len(was), text, p.Line, was, strings.TrimSpace(whole), src})
	}
	operator := func(pos token.Pos, op token.Token) {
		if other, ok := swapped[op]; ok {
			add(pos, op.String(), other.String())
		}
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || notDeciding[fn.Name.Name] {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				operator(n.OpPos, n.Op)
			case *ast.AssignStmt:
				operator(n.TokPos, n.Tok)
			case *ast.IncDecStmt:
				operator(n.TokPos, n.Tok)
			case *ast.UnaryExpr:
				if n.Op == token.NOT {
					add(n.OpPos, "!", "")
				} else if n.Op == token.SUB {
					add(n.OpPos, "-", "+")
				}
			case *ast.CallExpr:
				// Of the signs of infinities 1 is like 2: they are turned round.
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Inf" || sel.Sel.Name == "IsInf") {
					if lit, ok := n.Args[len(n.Args)-1].(*ast.BasicLit); ok && lit.Value == "1" {
						add(lit.Pos(), "1", "-1")
						return false
					}
				}
			case *ast.BasicLit:
				if v, err := strconv.Atoi(n.Value); err == nil {
					add(n.Pos(), n.Value, strconv.Itoa(v+1))
				}
			case *ast.Ident:
				if other, ok := renamed[n.Name]; ok {
					add(n.Pos(), n.Name, other)
				}
			}
			return true
		})
	}
	slices.SortFunc(list, func(a, b mutant) int { return a.from - b.from })
	return list
}

// notDeciding are functions that count what something costs, write or read snapshots, or say something to people.
var notDeciding = map[string]bool{"Bytes": true, "MaxBytes": true, "Cost": true, "bytes": true, "maxBytes": true, "grown": true, "resize": true,
	"AppendState": true, "SetState": true, "Continue": true, "String": true, "evaluate": true, "period": true, "NewSchedule": true, "minuteOf": true, "date": true,
	"Zones": true, "shrink": true, "lines": true}

// try returns what became of the mutant, nothing if it survived.
func (m *mutant) try(t *testing.T) (fate string) {
	dir := t.TempDir()
	changed := filepath.Join(dir, "changed.go")
	src := slices.Concat(m.src[:m.from], []byte(m.text), m.src[m.to:])
	here, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {here: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{changed: src, filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "rules.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		if !strings.Contains(string(out), "build failed") && !strings.Contains(string(out), "# linli") {
			t.Fatalf("%s\n%s", m, out)
		}
		return "does not compile"
	}
	for _, steps := range []int{2000, *mutateSteps} {
		// Killed from outside: one that has lost its way does not always notice its own timeout.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		run := exec.CommandContext(ctx, binary, "-test.run=^TestReference$", "-test.timeout=90s", "-reference.shrink=false", "-reference.steps", strconv.Itoa(steps))
		if run.Run() != nil {
			return "killed"
		}
	}
	return ""
}
