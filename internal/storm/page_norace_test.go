//go:build !race

package storm

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

const docs = "../../docs"

// The table of the situations is compared in the root's tests, which make it
// anyway; those of the fleets take minutes.
func TestThePageShowsWhatTheCodeGives(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "storms.md"))
	require.NoError(t, err)
	tables, err := Live(func(s Situation, p Policy, seed uint64) (run *Run, err error) {
		synctest.Test(t, func(*testing.T) { run, err = s.Run(p, seed) })
		return run, err
	}).Compared()
	require.NoError(t, err)
	for name, table := range tables {
		require.Equal(t, table, Table(string(page), name), "go run ./internal/storm/cmd/storms -clients 0")
	}
}

func TestThePicturesCanBeSeen(t *testing.T) {
	brownOut, outage := Fleets(1)
	for _, s := range []Situation{brownOut, outage} {
		picture, err := os.ReadFile(filepath.Join(docs, "storms-"+s.Name+".svg"))
		require.NoError(t, err)
		require.Less(t, len(picture), 60<<10)
		for _, p := range Policies() {
			require.Contains(t, string(picture), ">"+p.Name+"<")
		}
		require.NotContains(t, strings.ReplaceAll(string(picture), "http://www.w3.org/2000/svg", ""), "://")
		d := xml.NewDecoder(strings.NewReader(string(picture)))
		for err == nil {
			_, err = d.Token()
		}
		require.True(t, errors.Is(err, io.EOF), err)
	}
}

func TestATableHasAPlaceOrIsRefused(t *testing.T) {
	page := "a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\nkept\n<!-- end -->\n"
	got, err := Rewrite(page, map[string]string{"x": "new\n"})
	require.NoError(t, err)
	require.Equal(t, strings.Replace(page, "old", "new", 1), got)
	require.Equal(t, "new\n", Table(got, "x"))
	_, err = Rewrite(page, map[string]string{"z": ""})
	require.ErrorContains(t, err, `"z"`)
}
