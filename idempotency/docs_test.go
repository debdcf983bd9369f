package idempotency

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const docsPage = "../docs/idempotency.md"

func docsText(t *testing.T) string {
	text, err := os.ReadFile(docsPage)
	require.NoError(t, err)
	return string(text)
}

func TestEachProblemIsExplainedWhereItsTypeLeads(t *testing.T) {
	_, problems, ok := strings.Cut(docsText(t), "\n## Problems\n")
	require.True(t, ok)
	problems, _, _ = strings.Cut(problems, "\n## ")
	told := make(map[string]string) // how each section begins
	for _, m := range regexp.MustCompile(`(?m)^### ([a-z-]+)\n\n\*\*(.*?)\.?\*\*`).FindAllStringSubmatch(problems, -1) {
		told[problemBase+m[1]] = m[2]
	}
	declared := docsDeclared(t)
	require.ElementsMatch(t, slices.Collect(maps.Keys(declared)), slices.Collect(maps.Keys(told)))
	for uri, status := range docsStatuses() {
		require.Contains(t, told[uri], status, uri)
		require.Contains(t, declared[uri], status, "the comment of %s", uri)
		delete(declared, uri)
	}
	require.Empty(t, declared, "these have no row in docsStatuses")
}

// docsDeclared is the constants of problem.go, and what is said beside them.
func docsDeclared(t *testing.T) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "problem.go", nil, parser.ParseComments)
	require.NoError(t, err)
	declared := make(map[string]string)
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			value := spec.(*ast.ValueSpec)
			if !value.Names[0].IsExported() {
				continue
			}
			anchor, err := strconv.Unquote(value.Values[0].(*ast.BinaryExpr).Y.(*ast.BasicLit).Value)
			require.NoError(t, err)
			declared[problemBase+anchor] = value.Comment.Text()
		}
	}
	require.NotEmpty(t, declared)
	return declared
}

// docsStatuses is the status by which each problem is sent.
func docsStatuses() map[string]string {
	statuses := map[string]string{ProblemAnswerNotKept: "status"} // of the answer, whatever it was
	for _, p := range []problem{
		problemKeyMissing, problemKeyMalformed, problemFirstSentMalformed, problemScopeMissing, problemBodyUnreadable,
		problemInProgress, problemOutcomeUnknown, problemResultExpired, problemKeyExpired, problemBodyTooLarge,
		problemKeyReused, problemNotApplied, problemStoreUnavailable,
	} {
		statuses[p.uri] = strconv.Itoa(p.status)
	}
	return statuses
}

func TestTheDocumentTellsEverySettingAndItsDefault(t *testing.T) {
	_, settings, ok := strings.Cut(docsText(t), "\n## Every setting\n")
	require.True(t, ok)
	settings, _, _ = strings.Cut(settings, "\n## ")
	told := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.*?) \\|").FindAllStringSubmatch(settings, -1) {
		told[m[1]] = m[2]
	}
	cfg := Config{Scope: OneScope}
	require.NoError(t, cfg.completeHTTP())
	require.NoError(t, cfg.complete())
	v := reflect.ValueOf(cfg)
	require.Len(t, told, v.NumField())
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		require.Contains(t, told, name)
		if want := docsDefault(name, v.Field(i).Interface()); want != "" {
			require.Equal(t, want, told[name], name)
		}
	}
}

// docsDefault is a value as the document has it; empty where only its field counts.
func docsDefault(name string, value any) string {
	switch value := value.(type) {
	case time.Duration:
		switch {
		case name == "RunLimit" && value == 10*defaultLease:
			return "ten leases"
		case name == "Tombstone" && value == defaultRetention:
			return "as `Retention`"
		case value == 0:
			return "none"
		case value%time.Hour == 0:
			return fmt.Sprintf("%d h", value/time.Hour)
		}
		return fmt.Sprintf("%g s", value.Seconds())
	case int64:
		return fmt.Sprintf("%d MiB", value>>20)
	case int:
		return fmt.Sprintf("%d MiB", value>>20)
	case bool:
		return map[bool]string{false: "no", true: "yes"}[value]
	case string:
		return "`" + value + "`"
	case []string:
		return map[bool]string{true: "none", false: strings.Join(value, " and ")}[len(value) == 0]
	}
	return ""
}

func TestTheDocumentNamesEveryEvent(t *testing.T) {
	_, events, ok := strings.Cut(docsText(t), "\n| event | ")
	require.True(t, ok)
	events, _, _ = strings.Cut(events, "\n\n")
	var told []string
	for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(events, -1) {
		told = append(told, m[1])
	}
	require.ElementsMatch(t, kindNames[:], told)
}
