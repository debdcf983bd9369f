package faultinject

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

func TestTheExampleInThePackageCommentIsTheOneThatRuns(t *testing.T) {
	comment, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(comment)) {
		if code, ok := strings.CutPrefix(line, "//\t"); ok {
			lines++
			if !strings.Contains(string(example), "\n\t"+code) {
				t.Errorf("not in the example: %s", code)
			}
		}
	}
	if lines == 0 {
		t.Error("no example")
	}
}

func TestEveryExportedNameIsExplained(t *testing.T) {
	fset := token.NewFileSet()
	var files []*ast.File
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".go") && !strings.HasSuffix(e.Name(), "_test.go") {
			f, err := parser.ParseFile(fset, e.Name(), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
	}
	p, err := doc.NewFromFiles(fset, files, "faultinject")
	if err != nil {
		t.Fatal(err)
	}
	explained := func(name, text string) {
		if text == "" {
			t.Error("no comment:", name)
		}
	}
	for _, f := range p.Funcs {
		explained(f.Name, f.Doc)
	}
	for _, typ := range p.Types {
		explained(typ.Name, typ.Doc)
		for _, f := range append(typ.Funcs, typ.Methods...) {
			explained(typ.Name+"."+f.Name, f.Doc)
		}
	}
}
