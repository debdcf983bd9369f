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

func TestTheExamplesInCommentsAreTheOnesThatRun(t *testing.T) {
	unqualified := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "faultinject.", "")
	}
	for _, tt := range []struct{ comment, code, indent string }{
		{"doc.go", "example_test.go", "\t"},
		{"explore.go", "explore_test.go", ""},
	} {
		code, lines := unqualified(tt.code), 0
		for line := range strings.Lines(unqualified(tt.comment)) {
			if example, ok := strings.CutPrefix(line, "//\t"); ok {
				lines++
				if !strings.Contains(code, "\n"+tt.indent+example) {
					t.Errorf("%s: not in %s: %s", tt.comment, tt.code, example)
				}
			}
		}
		if lines == 0 {
			t.Error("no example in", tt.comment)
		}
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
