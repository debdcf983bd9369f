package resilient_test

// The rules of this repository that a machine can check. CONTRIBUTING.md says
// them in words.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var houseRootImports = []string{
	"github.com/cenkalti/backoff/v4",
	"github.com/google/uuid",
	"github.com/sony/gobreaker/v2",
}

func TestWhoImportsTheRootGetsThreeModulesAndNoMore(t *testing.T) {
	root, err := build.ImportDir(".", 0)
	require.NoError(t, err)
	require.ElementsMatch(t, houseRootImports, houseForeign(root.Imports))

	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	require.NoError(t, json.Unmarshal(houseGo(t, "mod", "edit", "-json"), &mod))
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	require.ElementsMatch(t, slices.Concat(houseRootImports, []string{"github.com/stretchr/testify"}), direct,
		"a heavier library belongs in a nested module; docs/design.md says why for each of these")
}

func TestWhoTestsWithOurPackagesGetsTheStandardLibraryOnly(t *testing.T) {
	for _, dir := range []string{"faultinject", "idempotency/idempotencytest"} {
		pkg, err := build.ImportDir(dir, 0)
		require.NoError(t, err)
		require.Empty(t, houseForeign(slices.Concat(pkg.Imports, pkg.TestImports, pkg.XTestImports)))
	}
}

func TestTheExamplesOfFaultinjectUseNothingElseOfOurs(t *testing.T) {
	pkg, err := build.ImportDir("examples/faults", 0)
	require.NoError(t, err)
	imports := slices.Concat(pkg.Imports, pkg.TestImports, pkg.XTestImports)
	require.Empty(t, houseForeign(imports))
	require.NotContains(t, imports, "github.com/go-resilient/resilient")
}

// houseForeign is what is neither of the standard library nor ours.
func houseForeign(imports []string) []string {
	return slices.DeleteFunc(slices.Clone(imports), func(path string) bool {
		first, _, _ := strings.Cut(path, "/")
		ours := strings.HasPrefix(path+"/", "github.com/go-resilient/resilient/")
		return ours || !strings.Contains(first, ".")
	})
}

func TestNoTwoFilesOfAPackageUseEachOther(t *testing.T) {
	for _, dir := range []string{".", "debug", "idempotency"} {
		uses := houseUses(t, dir)
		for _, file := range slices.Sorted(maps.Keys(uses)) {
			require.Empty(t, houseCircle(uses, []string{file}), "arrows between files go down only (docs/design.md)")
		}
	}
}

// houseUses tells for each file of a package which names of which other files it uses.
func houseUses(t *testing.T, dir string) map[string]map[string]string {
	fset, parsed := houseParse(t, dir)
	exports := make(map[string]string)
	for line := range strings.Lines(string(houseGo(t, "list", "-deps", "-export", "-f", "{{.ImportPath}}={{.Export}}", "./"+dir))) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		exports[path] = file
	}
	compiled := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	info := types.Info{Uses: make(map[*ast.Ident]types.Object)}
	check := types.Config{Importer: compiled}
	pkg, err := check.Check("resilient", fset, slices.Collect(maps.Values(parsed)), &info)
	require.NoError(t, err)

	uses := make(map[string]map[string]string)
	for id, obj := range info.Uses {
		from, to := fset.Position(id.Pos()).Filename, fset.Position(obj.Pos()).Filename
		if obj.Pkg() != pkg || from == to {
			continue
		}
		if uses[from] == nil {
			uses[from] = make(map[string]string)
		}
		uses[from][to] = max(uses[from][to], obj.Name()) // any will do, but the same each time
	}
	return uses
}

// houseCircle follows the uses from the end of path and reports the way back to its start.
func houseCircle(uses map[string]map[string]string, path []string) string {
	last := path[len(path)-1]
	for _, next := range slices.Sorted(maps.Keys(uses[last])) {
		if next == path[0] {
			return houseTell(uses, append(path, next))
		}
		if slices.Contains(path, next) {
			continue // a circle that does not touch the start is found from its own files
		}
		if found := houseCircle(uses, append(path, next)); found != "" {
			return found
		}
	}
	return ""
}

func houseTell(uses map[string]map[string]string, circle []string) string {
	var b strings.Builder
	for i, file := range circle[:len(circle)-1] {
		fmt.Fprintf(&b, "%s uses %s of %s\n", file, uses[file][circle[i+1]], circle[i+1])
	}
	return b.String()
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	var bare []string
	for _, dir := range []string{".", "debug", "faultinject", "idempotency", "idempotency/idempotencytest", "resilientpg", "resilientredis"} {
		fset, files := houseParse(t, dir)
		for _, file := range files {
			for _, id := range houseUndocumented(fset, file) {
				bare = append(bare, fmt.Sprintf("%s: %s", fset.Position(id.Pos()), id.Name))
			}
		}
	}
	slices.Sort(bare)
	require.Empty(t, strings.Join(bare, "\n"))
}

func houseUndocumented(fset *token.FileSet, file *ast.File) (bare []*ast.Ident) {
	note := func(documented bool, names ...*ast.Ident) {
		for _, id := range names {
			if id.IsExported() && !documented {
				bare = append(bare, id)
			}
		}
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if houseReachable(decl.Recv) {
				note(decl.Doc != nil, decl.Name)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					note(spec.Doc != nil || spec.Comment != nil || decl.Doc != nil, spec.Names...)
				case *ast.TypeSpec:
					note(spec.Doc != nil || decl.Doc != nil, spec.Name)
					members := houseMembers(spec)
					told, line := len(members) == 1, 0 // the type's comment tells of a lone member
					for _, m := range members {
						below := fset.Position(m.Pos()).Line == line+1 // one comment may serve lines that stand together
						told = m.Doc != nil || m.Comment != nil || told && (below || line == 0)
						line = fset.Position(m.End()).Line
						note(told, m.Names...)
					}
				}
			}
		}
	}
	return bare
}

// houseReachable reports whether a user can name the receiver's type.
func houseReachable(recv *ast.FieldList) bool {
	if recv == nil {
		return true
	}
	name := regexp.MustCompile(`\w+`).FindString(types.ExprString(recv.List[0].Type))
	return ast.IsExported(name)
}

// houseMembers is the fields or the methods that an exported type lists.
func houseMembers(spec *ast.TypeSpec) []*ast.Field {
	if !spec.Name.IsExported() {
		return nil
	}
	switch typ := spec.Type.(type) {
	case *ast.StructType:
		return typ.Fields.List
	case *ast.InterfaceType:
		return typ.Methods.List
	}
	return nil
}

func TestEveryFunctionFitsOnAScreen(t *testing.T) {
	for dir := range strings.Lines(string(houseGo(t, "list", "-f", "{{if .GoFiles}}{{.Dir}}{{end}}", "work"))) {
		fset, files := houseParse(t, strings.TrimSpace(dir))
		for _, file := range files {
			for _, decl := range file.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok {
					start, end := fset.Position(fn.Pos()), fset.Position(fn.End())
					require.LessOrEqual(t, end.Line-start.Line+1, 50, "%s: %s", start, fn.Name.Name)
				}
			}
		}
	}
}

// houseOutsideWorkspace is the modules that go.work leaves out, and why.
var houseOutsideWorkspace = map[string]string{
	"tools": "it has no code, and its two hundred requirements would raise the versions of all the others",
}

func TestGoTestWorkForgetsNoModule(t *testing.T) {
	var work struct {
		Use []struct{ DiskPath string }
	}
	require.NoError(t, json.Unmarshal(houseGo(t, "work", "edit", "-json", "go.work"), &work))
	listed := slices.Collect(maps.Keys(houseOutsideWorkspace))
	for _, use := range work.Use {
		listed = append(listed, filepath.Clean(use.DiskPath))
	}
	var found []string
	for _, path := range houseTree(t) {
		if filepath.Base(path) == "go.mod" {
			found = append(found, filepath.Dir(path))
		}
	}
	require.ElementsMatch(t, found, listed)
}

func TestNoFileKnowsTheMachineItWasWrittenOn(t *testing.T) {
	local := regexp.MustCompile(`(^|[^\w.])/(home|root|tmp|Users|work|workspace)/` +
		`|\b(proxy|sum|index)\.golang\b|\bregistry\.npmjs|\bpypi\.org|\b(docker|ghcr)\.io\b`)
	var found []string
	for _, path := range houseTree(t) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		if bytes.IndexByte(text, 0) >= 0 {
			continue // a profile or a test binary left behind
		}
		for n, line := range bytes.Split(text, []byte("\n")) {
			if local.Match(line) {
				found = append(found, fmt.Sprintf("%s:%d: %s", path, n+1, line))
			}
		}
	}
	require.Empty(t, strings.Join(found, "\n"))
}

func TestTheReadmeShowsWhatTheExampleRuns(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindSubmatch(readme)
	require.NotNil(t, block, "README.md has no block of Go")
	require.Equal(t, houseExample(t, "ExampleNewClient"), strings.TrimSpace(string(block[1])))

	for _, command := range []string{"go run ./examples/payments", "go test work"} {
		require.Contains(t, string(readme), command)
	}
}

// houseExample is the body of an example in example_test.go, without the output it is checked by.
func houseExample(t *testing.T, name string) string {
	text, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	body := regexp.MustCompile(`(?ms)^func ` + name + `\(\) \{\n(.*?)^\}`).FindSubmatch(text)
	require.NotNil(t, body, "example_test.go has no %s", name)
	code, _, _ := strings.Cut(string(body[1]), "\n\t// Output:")
	return strings.TrimSpace(regexp.MustCompile(`(?m)^\t`).ReplaceAllString(code, ""))
}

// houseParse reads the files of a package, without its tests.
func houseParse(t *testing.T, dir string) (*token.FileSet, map[string]*ast.File) {
	pkg, err := build.ImportDir(dir, 0)
	require.NoError(t, err)
	fset, files := token.NewFileSet(), make(map[string]*ast.File)
	for _, name := range pkg.GoFiles {
		name = filepath.Join(dir, name)
		files[name], err = parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
	}
	return fset, files
}

// houseTree is every file of the repository, but for what git and .ci/run keep for themselves.
func houseTree(t *testing.T) (paths []string) {
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && (path == ".git" || path == ".bin") {
			return filepath.SkipDir
		}
		if d != nil && d.Type().IsRegular() && path != ".git" { // a file where the checkout is a worktree
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

func houseGo(t *testing.T, args ...string) []byte {
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	require.NoError(t, err, "go %s: %s", strings.Join(args, " "), &complaint)
	return out
}
