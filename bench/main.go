// Bench compares this module's client with others that repeat requests, in one
// run, and prints a page of Markdown. From the root:
//
//	go run ./bench              # prints the page, in some minutes
//	go run ./bench -out docs    # writes docs/comparison.md and the pictures
//
// Much of it is virtual time, by testing/synctest, which only tests can have; so
// the program is made one by testing.Main and prints PASS.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
)

func main() {
	out := flag.String("out", "", "the directory for comparison.md and its pictures; none: the page is printed")
	testing.Main(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: "bench",
		F: func(t *testing.T) {
			said := func(part string) { fmt.Fprintln(os.Stderr, "bench:", part) }
			report, err := compare(Peers(), full, alive(t), said)
			if err == nil {
				err = report.write(*out)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	}}, nil, nil)
}

// alive gives each bubble to the test.
func alive(t *testing.T) bubble {
	return func(f func() error) (err error) {
		synctest.Test(t, func(*testing.T) { err = f() })
		return err
	}
}

func (r *Report) write(dir string) error {
	page, err := r.Page()
	if err != nil {
		return err
	}
	if dir == "" {
		_, err = os.Stdout.WriteString(page)
		return err
	}
	files := r.Pictures()
	files["comparison.md"] = page
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return err
}
