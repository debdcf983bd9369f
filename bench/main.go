// Bench compares this module's client with others that repeat requests, in one
// run, and prints a page of Markdown. From the root:
//
//	go run ./bench              # prints the page, in some minutes
//	go run ./bench -out docs    # writes docs/comparison.md and the pictures
//
// Much of it is virtual time, by testing/synctest, which only tests can have; so
// the program is made one by testing.Main and says PASS, to standard error.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
)

func main() {
	out, err := options(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	page := os.Stdout
	os.Args, os.Stdout = os.Args[:1], os.Stderr // testing has flags and words of its own
	testing.Main(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: "bench",
		F: func(t *testing.T) {
			said := func(part string) { fmt.Fprintln(os.Stderr, "bench:", part) }
			report, err := compare(Peers(), full, alive(t), said)
			if err == nil {
				err = report.write(out, page)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	}}, nil, nil)
}

// options is the directory to write to. What cannot end well is refused before
// the minutes it takes.
func options(args []string, help io.Writer) (out string, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // an error is printed once, by main
	flags.StringVar(&out, "out", "", "the `directory` for comparison.md and its pictures; without it the page is printed")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(help, "Bench compares HTTP clients that repeat requests, and makes the page docs/comparison.md.\n"+
			"It takes some minutes, and wants a quiet machine. From the root of the repository:\n\n"+
			"\tgo run ./bench [-out directory]\n\n")
		flags.SetOutput(help)
		flags.PrintDefaults()
		return "", err
	} else if err != nil {
		return "", fmt.Errorf("%w; -h explains", err)
	}
	if flags.NArg() > 0 {
		return "", fmt.Errorf("%q is not understood; a directory goes behind -out", flags.Arg(0))
	}
	if out == "" {
		return "", nil
	}
	if at, err := os.Stat(out); err != nil {
		return "", fmt.Errorf("-out: %w", err)
	} else if !at.IsDir() {
		return "", fmt.Errorf("-out: %s is not a directory", out)
	}
	return out, nil
}

// alive gives each bubble to the test.
func alive(t *testing.T) bubble {
	return func(f func() error) (err error) {
		synctest.Test(t, func(*testing.T) { err = f() })
		return err
	}
}

func (r *Report) write(dir string, to io.Writer) error {
	page, err := r.Page()
	if err != nil {
		return err
	}
	if dir == "" {
		_, err = io.WriteString(to, page)
		return err
	}
	files := r.Pictures()
	files["comparison.md"] = page
	return replace(dir, files)
}

// replace puts files into a directory once all of them are written, so that no
// page stands beside another run's pictures.
func replace(dir string, files map[string]string) (err error) {
	aside, err := os.MkdirTemp(dir, ".comparison-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(aside)) }()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(aside, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name := range files {
		if err := os.Rename(filepath.Join(aside, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
