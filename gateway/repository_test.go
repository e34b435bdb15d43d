package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allowedImports is the import table of docs/ARCHITECTURE.md: which of our packages each of our packages may import,
// tests aside. A package that is not listed fails the test, so that the table stays whole.
var allowedImports = map[string][]string{
	"gateway":              {"*"},
	"drivers":              {"internal/telemetry"},
	"drivers/modbus":       {"internal/telemetry", "firmware-config", "drivers"},
	"drivers/modbus/scan":  {"drivers", "drivers/modbus", "firmware-config", "internal/telemetry"},
	"drivers/gpio":         {"internal/telemetry", "firmware-config", "drivers"},
	"firmware-config":      {"internal/telemetry", "internal/yamlfile"},
	"rules":                {"internal/telemetry", "internal/yamlfile", "rules/expr", "rules/packs", "rules/response"},
	"rules/expr":           {"internal/telemetry", "internal/yamlfile"},
	"rules/packs":          {},
	"rules/response":       {"internal/telemetry"},
	"rules/ruletest":       {"internal/telemetry", "internal/yamlfile", "rules", "rules/expr", "rules/response"},
	"rules/backtest":       {"internal/telemetry", "rules", "rules/expr"},
	"internal/telemetry":   {},
	"internal/yamlfile":    {"internal/telemetry"},
	"internal/site":        {"internal/telemetry", "internal/yamlfile", "firmware-config", "rules"},
	"internal/live":        {"internal/telemetry"},
	"internal/inplace":     {},
	"internal/journal":     {"internal/telemetry", "internal/inplace"},
	"internal/store":       {},
	"internal/audit":       {},
	"internal/alert":       {"internal/telemetry", "internal/store"},
	"internal/wire":        {"internal/telemetry", "internal/alert"},
	"internal/mqtt":        {},
	"internal/uplink":      {"internal/telemetry", "internal/wire", "internal/journal", "internal/alert", "internal/mqtt", "internal/inplace"},
	"internal/ledger":      {},
	"internal/ledger/read": {"internal/ledger", "internal/wire"},
	"internal/ingest":      {"internal/telemetry", "internal/wire", "internal/mqtt", "internal/ledger", "internal/ledger/read"},
	"internal/console": {"internal/telemetry", "internal/site", "rules", "internal/live", "internal/alert",
		"internal/journal"},
	"internal/simulate":    {"internal/telemetry", "firmware-config"},
	"internal/testservers": {},
}

// root is the repository's root as seen from this package.
const root = ".."

// goFiles returns the parsed Go files of the repository that are not tests, by package directory.
func goFiles(t *testing.T) (*token.FileSet, map[string][]*ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	files := map[string][]*ast.File{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "tools" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		files[filepath.ToSlash(dir)] = append(files[filepath.ToSlash(dir)], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d packages found: the walk is broken", len(files))
	}
	return fset, files
}

func TestImportRules(t *testing.T) {
	fset, files := goFiles(t)
	for dir, parsed := range files {
		allowed, listed := allowedImports[dir]
		if !listed {
			t.Errorf("package %s is not in the import table: add it here and in docs/ARCHITECTURE.md", dir)
		}
		for _, f := range parsed {
			for _, imp := range f.Imports {
				path := strings.Trim(imp.Path.Value, `"`)
				ours, ok := strings.CutPrefix(path, "linli/")
				if !ok {
					if dir == "internal/telemetry" && strings.Contains(path, ".") {
						t.Errorf("%s: telemetry is a leaf and imports the standard library alone, not %s", fset.Position(imp.Pos()), path)
					}
					continue
				}
				if !slices.Contains(allowed, ours) && !slices.Contains(allowed, "*") {
					t.Errorf("%s: %s must not import %s (docs/ARCHITECTURE.md, import table)", fset.Position(imp.Pos()), dir, ours)
				}
			}
		}
	}
	for dir := range allowedImports {
		if files[dir] == nil {
			t.Errorf("package %s of the import table does not exist", dir)
		}
	}
}

func TestNoInitAndNoMutableGlobals(t *testing.T) {
	fset, files := goFiles(t)
	for _, parsed := range files {
		for _, f := range parsed {
			for _, decl := range f.Decls {
				switch decl := decl.(type) {
				case *ast.FuncDecl:
					if decl.Recv == nil && decl.Name.Name == "init" {
						t.Errorf("%s: no init(): what it does belongs into the wiring", fset.Position(decl.Pos()))
					}
				case *ast.GenDecl:
					if decl.Tok != token.VAR {
						continue
					}
					for _, spec := range decl.Specs {
						checkVar(t, fset, decl, spec.(*ast.ValueSpec))
					}
				}
			}
		}
	}
}

// checkVar accepts a package-level variable that nobody can change or has reason to: embedded files, sentinel errors,
// compiled patterns, fixed arrays, interface assertions, and the version that the linker sets.
func checkVar(t *testing.T, fset *token.FileSet, decl *ast.GenDecl, spec *ast.ValueSpec) {
	t.Helper()
	if decl.Doc != nil && strings.Contains(commentText(decl.Doc), "//go:embed") {
		return
	}
	for i, name := range spec.Names {
		if name.Name == "_" {
			continue
		}
		if name.Name == "version" && strings.HasSuffix(fset.Position(name.Pos()).Filename, "gateway/version.go") {
			continue
		}
		if i < len(spec.Values) {
			switch v := spec.Values[i].(type) {
			case *ast.CallExpr:
				if sel, ok := v.Fun.(*ast.SelectorExpr); ok {
					pkg, _ := sel.X.(*ast.Ident)
					if pkg != nil {
						switch pkg.Name + "." + sel.Sel.Name {
						case "errors.New", "fmt.Errorf", "regexp.MustCompile", "time.Date", "strings.NewReplacer", "crc32.MakeTable":
							continue
						}
					}
				}
			case *ast.CompositeLit:
				if array, ok := v.Type.(*ast.ArrayType); ok && array.Len != nil {
					continue
				}
			}
		}
		t.Errorf("%s: package-level variable %s: keep state in a type, tables in a function or a fixed array",
			fset.Position(name.Pos()), name.Name)
	}
}

func commentText(g *ast.CommentGroup) string {
	var b strings.Builder
	for _, c := range g.List {
		b.WriteString(c.Text)
	}
	return b.String()
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	_, files := goFiles(t)
	for dir, parsed := range files {
		documented := false
		for _, f := range parsed {
			if f.Doc != nil && len(f.Doc.Text()) > 40 {
				documented = true
			}
		}
		if !documented {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

// TestTopLevel holds the layout that was prescribed.
func TestTopLevel(t *testing.T) {
	for _, name := range []string{"gateway", "drivers", "rules", "firmware-config", "deploy", "internal", "go.mod", "README.md",
		"README.zh-CN.md", "docs/ARCHITECTURE.md", "Makefile", ".ci/run"} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("%s is missing: %v", name, err)
		}
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{"github.com/eclipse/paho.mqtt.golang v1.5.1", "github.com/influxdata/influxdb-client-go/v2 v2.14.0",
		"github.com/goburrow/modbus v0.1.0", "go.uber.org/zap v1.28.0"} {
		if !strings.Contains(string(mod), pkg+"\n") {
			t.Errorf("go.mod does not require %s directly", pkg)
		}
	}
}
