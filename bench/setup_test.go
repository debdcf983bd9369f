package main

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// unprinted is what makes a Client of a client, and no setting of it.
var unprinted = []string{
	"URL", "Honours", "New", "Response", "StatusCode", "StatusTooManyRequests", "Counts", "RoundTripper", "CircuitBreaker", "NewCircuitBreaker",
	"Config", "NewClient", "Client", "Transport", "Base", "Policy",
}

// placeholders are the words of what is printed that are no code.
var placeholders = []string{"base", "url", "stack", "client"}

func TestTheConfigurationPrintedIsTheCodeThatRuns(t *testing.T) {
	code := parsed(t)
	for name, p := range map[string]Peer{
		"plain": plain, "handWritten": handWritten, "retryable": retryable, "failsafeRetry": failsafeRetry, "failsafeBreaker": failsafeBreaker,
		"restyPeer": restyPeer, "rehttpPeer": rehttpPeer, "httpretryPeer": httpretryPeer, "heimdallPeer": heimdallPeer, "azurePeer": azurePeer,
		"awsPeer": awsPeer, "stripePeer": stripePeer, "oursUnbounded": oursUnbounded, "oursShipped": oursShipped, "oursCarried": oursCarried,
	} {
		printed := words(p.Setup)
		running := code.words(name)
		for _, word := range printed {
			require.True(t, slices.Contains(running, word) || slices.Contains(placeholders, word), "%s: %q is printed, and not in the code", name, word)
		}
		for _, word := range code.settings(name) {
			require.True(t, slices.Contains(printed, word) || slices.Contains(unprinted, word), "%s: %q is in the code, and not printed", name, word)
		}
	}
}

// words are the names and literals of a piece of Go.
func words(text string) (all []string) {
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(text)), []byte(text), nil, 0)
	for {
		switch _, tok, lit := s.Scan(); tok {
		case token.EOF:
			return all
		case token.IDENT, token.INT, token.FLOAT, token.STRING:
			all = append(all, lit)
		}
	}
}

// declared is what the files of the peers declare, by name; methods stand with
// their type.
type declared map[string][]ast.Node

func parsed(t *testing.T) declared {
	files, err := filepath.Glob("peers_*.go")
	require.NoError(t, err)
	all := make(declared)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				all.add(d)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && len(v.Values) > 0 {
						all[v.Names[0].Name] = append(all[v.Names[0].Name], v.Values[0])
					}
				}
			}
		}
	}
	return all
}

func (d declared) add(f *ast.FuncDecl) {
	name := f.Name.Name
	if f.Recv != nil {
		of := f.Recv.List[0].Type
		if star, ok := of.(*ast.StarExpr); ok {
			of = star.X
		}
		name = of.(*ast.Ident).Name
	}
	d[name] = append(d[name], f)
}

// walk visits a peer but what is printed of it, and all that it is made of here.
func (d declared) walk(name string, visit func(ast.Node)) {
	seen := map[string]bool{name: true}
	for next := []string{name}; len(next) > 0; next = next[1:] {
		for _, node := range d[next[0]] {
			ast.Inspect(node, func(n ast.Node) bool {
				if field, ok := n.(*ast.KeyValueExpr); ok {
					if key, ok := field.Key.(*ast.Ident); ok && next[0] == name && slices.Contains([]string{"Setup", "Why", "Name", "Module", "Beside"}, key.Name) {
						return false
					}
				}
				if id, ok := n.(*ast.Ident); ok && !seen[id.Name] {
					seen[id.Name] = true
					next = append(next, id.Name)
				}
				visit(n)
				return true
			})
		}
	}
}

func (d declared) words(name string) (all []string) {
	d.walk(name, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.Ident:
			all = append(all, n.Name)
		case *ast.BasicLit:
			all = append(all, n.Value)
		}
	})
	return all
}

// settings are the fields that a peer's New sets, and the methods it calls.
func (d declared) settings(name string) (all []string) {
	makers := make(declared)
	for of, nodes := range d {
		if f, ok := nodes[0].(*ast.FuncDecl); !ok || f.Recv == nil {
			makers[of] = nodes
		}
	}
	makers.walk(name, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			all = append(all, n.Sel.Name)
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok {
				all = append(all, key.Name)
			}
		}
	})
	return all
}
