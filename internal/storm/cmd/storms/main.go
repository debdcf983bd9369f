// Storms lets fleets of clients live through outages, and writes what came of
// it into docs/storms.md and the pictures beside it. From the root:
//
//	go run ./internal/storm/cmd/storms
//
// Time is virtual there, by testing/synctest, which only tests can have; so the
// program is made one by testing.Main and prints PASS.
package main

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/go-resilient/resilient/internal/storm"
)

func main() {
	out := flag.String("out", "docs", "the directory of storms.md")
	clients := flag.Int("clients", 10_000, "in a fleet; 0 leaves the tables and pictures of the fleets as they are")
	testing.Main(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: "storms",
		F: func(t *testing.T) {
			if err := write(*out, *clients, alive(t)); err != nil {
				t.Fatal(err)
			}
		},
	}}, nil, nil)
}

// alive runs each situation as a test.
func alive(t *testing.T) storm.Live {
	return func(s storm.Situation, p storm.Policy, seed uint64) (run *storm.Run, err error) {
		synctest.Test(t, func(*testing.T) { run, err = s.Run(p, seed) })
		return run, err
	}
}

// write makes everything before it changes the first file.
func write(dir string, clients int, live storm.Live) error {
	tables, err := live.Compared()
	if err != nil {
		return err
	}
	if tables["situations"], err = live.Held(storm.Rows()); err != nil {
		return err
	}
	files := make(map[string]string)
	if clients > 0 {
		if err := fleets(clients, live, tables, files); err != nil {
			return err
		}
	}
	page := filepath.Join(dir, "storms.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	files["storms.md"], err = storm.Rewrite(string(text), tables)
	for name, text := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
		}
	}
	return err
}

func fleets(clients int, live storm.Live, tables, files map[string]string) (err error) {
	brownOut, outage := storm.Fleets(clients)
	for _, s := range []storm.Situation{brownOut, outage} {
		if tables[s.Name], files["storms-"+s.Name+".svg"], err = live.Draw(s); err != nil {
			return err
		}
	}
	busy, _ := storm.Fleets(clients / 100)
	tables["busy brown-out"], err = live.Compare(busy)
	return err
}
