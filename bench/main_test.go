package main

import (
	"encoding/xml"
	"errors"
	"go/build"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/internal/storm"
	"github.com/stretchr/testify/require"
)

// tiny is enough for each part to show that it works.
func tiny() Sizes {
	s := storms()[0]
	s.Rate, s.Clients, s.Before, s.During, s.After = 100, 2, time.Second, 2*time.Second, 3*time.Second
	return Sizes{
		CostRounds: 1, CostOperations: 10, WholeRounds: 1, WholeOperations: 8,
		ChargeSeeds: 1, Charges: 60, StormSeeds: 1, WishRuns: 2, Leavers: 5, Storms: []storm.Situation{s},
	}
}

func TestEveryClientSendsAndAllButTheBareOneRepeatAGet(t *testing.T) {
	for _, p := range slices.Concat(Peers(), []Peer{oursCarried}) {
		t.Run(p.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ledger := &faultinject.Ledger{}
				server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost {
						ledger.ServeHTTP(w, r)
					}
				})
				base := faultinject.Handler(server, faultinject.Match("GET /", faultinject.Script(faultinject.Respond(503))))
				client, err := p.New(Env{Base: base, URL: "http://api.test"})
				require.NoError(t, err)
				a, err := client.Send(t.Context(), get)
				require.NoError(t, err)
				sent := len(base.Deliveries())
				if p.Name == bare {
					require.Equal(t, 503, a.Status)
					require.Equal(t, 1, sent)
				} else {
					require.Equal(t, 200, a.Status)
					require.Equal(t, 2, sent)
				}
				keyed := post
				keyed.Key = "mine"
				require.NoError(t, succeed(t.Context(), client, keyed))
				last := base.Deliveries()[sent]
				require.Equal(t, "mine", last.Key)
				require.Equal(t, len(post.Body), last.Length)
				require.Len(t, ledger.Entries(), 1)
			})
		})
	}
}

func TestOursDoublesNothingAndTellsNoUntruth(t *testing.T) {
	for _, s := range chargings {
		for _, p := range []Peer{oursShipped, oursUnbounded, oursCarried} {
			t.Run(s.Name+"/"+p.Name, func(t *testing.T) {
				var tally Tally
				require.NoError(t, alive(t)(func() (err error) {
					tally, err = s.run(p, 1, 150)
					return err
				}))
				require.Zero(t, tally.Fates[doubled])
				require.Zero(t, tally.Untrue)
				require.Zero(t, tally.FailedDone, "an error that says nothing")
				if p.Name == oursCarried.Name && s.Honours {
					require.Equal(t, 150, tally.Fates[once])
				}
			})
		}
	}
}

func TestTheFaultsDoubleForWhoeverRepeatsWhatMayHaveBeenDone(t *testing.T) {
	ignored := chargings[3]
	require.False(t, ignored.Honours)
	for p, doubles := range map[*Peer]bool{&retryable: true, &azurePeer: true, &plain: false} {
		require.NoError(t, alive(t)(func() error {
			tally, err := ignored.run(*p, 1, 100)
			require.Equal(t, doubles, tally.Fates[doubled] > 10, p.Name)
			require.Equal(t, 100, tally.Operations)
			return err
		}))
	}
}

func TestAFateIsToldFromTheLedgerAndTheCaller(t *testing.T) {
	for _, tt := range []struct {
		said    Said
		effects int
		fate    int
	}{
		{Done, 1, once}, {Done, 2, doubled}, {Failed, 2, doubled}, {Failed, 1, hidden}, {Refused, 1, hidden},
		{Unknown, 1, unsure}, {Unknown, 0, unsure}, {Failed, 0, undone}, {NotSent, 0, undone},
	} {
		require.Equal(t, tt.fate, fate(tt.said, tt.effects), "%v", tt)
	}
	entries := []faultinject.Entry{{Path: "/v1/charges/1"}}
	require.Equal(t, 2, chargings[0].tally([]Said{Done, NotSent}, entries, 0).Untrue)
}

func TestAnAnswerToDiscardIsNotOfTheSizeThatOneClientReads(t *testing.T) {
	redials := func(p Peer, of Ending) (n float64) {
		require.NoError(t, alive(t)(func() error {
			left, err := of.run(p, 20)
			n = left.redials()
			return err
		}))
		return n
	}
	for _, p := range []Peer{retryable, httpretryPeer} {
		require.Less(t, redials(p, endings[0]), 50., p.Name)
		require.Greater(t, redials(p, endings[1]), 50., p.Name)
	}
	require.Less(t, redials(oursUnbounded, endings[1]), 50.)
	require.Greater(t, redials(oursUnbounded, endings[2]), 50.)
}

func TestALeakIsSeen(t *testing.T) {
	for p, leaks := range map[*Peer]bool{&failsafeRetry: true, &oursShipped: false} {
		require.NoError(t, alive(t)(func() error {
			left, err := endings[0].run(*p, 4)
			require.Equal(t, leaks, left.Connections > 0, p.Name)
			require.Equal(t, leaks, left.Goroutines > 0, p.Name)
			return err
		}))
	}
}

func TestAWishIsHeededAndTheTableSaysSo(t *testing.T) {
	cells := func(p Peer) (all []string) {
		for _, w := range wishes {
			require.NoError(t, alive(t)(func() error {
				h, err := w.heed(p, 3)
				all = append(all, w.Tell(h))
				return err
			}))
		}
		return all
	}
	for _, cell := range cells(oursShipped) {
		require.Regexp(t, `^\*\*.*\*\*$`, cell)
	}
	now := "the answer, at once"
	require.Equal(t, []string{now, now, now, now, "**" + now + "**", "**" + now + "**"}, cells(plain))
	require.Equal(t, []string{"**2 s**", "**2 s**", "**4 s**", "1 s", "24 h", "error after 5 s"}, cells(retryable))
}

func TestWhoIsAheadByMoreThanTheSpreadIsNamedWithTheReason(t *testing.T) {
	peers := []Peer{plain, rehttpPeer, httpretryPeer, oursShipped}
	zero := make([]Overhead, len(peers))
	r := &Report{Peers: peers, Payers: peers, Get: slices.Clone(zero), Post: slices.Clone(zero), HTTP1: make([]Whole, len(peers)), HTTP2: make([]Whole, len(peers))}
	for range chargings {
		r.Chargings = append(r.Chargings, make([]Tally, len(peers)))
	}
	for range endings {
		r.Endings = append(r.Endings, make([]Left, len(peers)))
	}
	r.Get[1].Time, r.Get[2].Time, r.Get[3].Time = Spread{100, 150, 310}, Spread{100, 150, 290}, Spread{300, 400, 500}
	lines := strings.Split(strings.TrimSpace(r.Behind()), "\n")
	require.Len(t, lines, 3)
	require.Equal(t, "| GET over a stub, µs above net/http | 0.40 | httpretry (0.15) | "+noState+" |", lines[2])
}

func TestEveryFigureInWhichAnotherIsAheadIsNamed(t *testing.T) {
	peers := []Peer{plain, stripePeer, retryable, oursShipped}
	r := &Report{
		Sizes: tiny(), Peers: peers, Payers: peers,
		Get: make([]Overhead, 4), Post: make([]Overhead, 4), HTTP1: make([]Whole, 4), HTTP2: make([]Whole, 4),
	}
	for range chargings {
		tallies := make([]Tally, 4)
		for i := range tallies {
			tallies[i] = Tally{Operations: 100, Fates: [fates]int{once: 90}}
		}
		r.Chargings = append(r.Chargings, tallies)
	}
	for range endings {
		r.Endings = append(r.Endings, make([]Left, 4))
	}
	r.Storms = [][]storm.Figures{make([]storm.Figures, 4)}
	require.NotContains(t, r.Behind(), "%")
	r.Storms[0][3].Peak, r.Storms[0][3].P99 = 1, time.Second
	r.Post[3].Bytes, r.HTTP1[3].Slowest, r.HTTP2[3].Rate = 4096, exactly(1), exactly(-1)
	r.Chargings[0][3].Fates[once], r.Chargings[0][3].RefusedYet = 80, 10
	r.Chargings[0][2].Fates[doubled] = 5
	page := r.Behind()
	for _, part := range []string{
		"| peak: connections are refused | 1.0 | net/http (0.0), stripe-go (0.0), go-retryablehttp (0.0) |",
		"| 99 % within, after, s: connections are refused | 1.00 | net/http (0.00), stripe-go (0.00), go-retryablehttp (0.00) |",
		"| POST of 1 KiB over a stub, KiB above net/http | 4.0 | stripe-go (0.0), go-retryablehttp (0.0) |",
		"| GET on loopback, 99 % within, in net/http's: HTTP/1.1 | 1.00 | stripe-go (0.00), go-retryablehttp (0.00) |",
		"| GETs a second on loopback, in net/http's: HTTP/2 | -1.00 | stripe-go (0.00), go-retryablehttp (0.00) |",
		"one arrival in ten struck | 80.0 | net/http (90.0), stripe-go (90.0), go-retryablehttp (90.0) | " + riskless + "; " + doubling + " |",
		"| told an error or given an error status, yet done, %: keys honoured, one arrival in ten struck | 10.0 | net/http (0.0), stripe-go (0.0)",
	} {
		require.Contains(t, page, part)
	}
}

func TestNoCrowdThatDiffersIsLeftOutOfThePicture(t *testing.T) {
	r := &Report{Chargings: make([][]Tally, len(chargings))}
	picture := r.fates()
	for _, s := range chargings {
		require.Equal(t, s.Struck == grave, strings.Contains(picture, ">"+s.Name+"<"), s.Name)
	}
}

func TestTheWordsAboutTheFaultsAreTheirShares(t *testing.T) {
	const struck = struckBefore + struckAfter
	require.InDelta(t, 0.4, grave*struck, 1e-9, "four in ten")
	require.InDelta(t, 0.1, everyday*struck, 1e-9, "one in ten")
	require.Equal(t, map[string]float64{"before": 15, "after": 25, "dials": 10, "everyday": 10}, new(Report).Shares())
}

func TestThePageAndThePicturesAreTheSameForTheSameReport(t *testing.T) {
	r, err := compare(Peers(), tiny(), alive(t), func(string) {})
	require.NoError(t, err)
	first, err := r.Page()
	require.NoError(t, err)
	pictures := r.Pictures()
	for range 5 {
		again, err := r.Page()
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.Equal(t, pictures, r.Pictures())
	}
	for _, p := range r.Payers {
		require.Contains(t, first, p.Name)
	}
	require.NotContains(t, first, "<no value>")
	require.NotContains(t, first, "NaN")
	require.NotContains(t, first, "| ? |", "a module that go.mod does not have")
	for _, line := range tableLines(first) {
		require.Equal(t, strings.Count(line[0], "|"), strings.Count(line[1], "|"), line[1])
	}
	for _, name := range slices.Sorted(maps.Keys(pictures)) {
		require.Contains(t, first, name)
		d := xml.NewDecoder(strings.NewReader(pictures[name]))
		for err = nil; err == nil; {
			_, err = d.Token()
		}
		require.True(t, errors.Is(err, io.EOF), "%s: %v", name, err)
	}
}

// tableLines pairs each line of a table with the one above it.
func tableLines(page string) (pairs [][2]string) {
	lines := strings.Split(page, "\n")
	for i := range lines[1:] {
		if strings.HasPrefix(lines[i], "|") && strings.HasPrefix(lines[i+1], "|") {
			pairs = append(pairs, [2]string{lines[i], lines[i+1]})
		}
	}
	return pairs
}

func TestEachClientOfTheFeatureTableIsCompared(t *testing.T) {
	names := make(map[string]bool)
	for _, p := range Peers() {
		names[p.Name] = true
	}
	for _, f := range features {
		for name, cell := range f.Cells {
			require.True(t, names[name], "%s of %q", name, f.Name)
			require.True(t, cell.Basis != "" || name == bare, "%s of %q: where was it read?", name, f.Name)
		}
	}
}

func TestWhatTheFeatureTableNamesIsInTheSources(t *testing.T) {
	modules := []string{"github.com/aws/smithy-go"}
	for _, p := range featured(Peers()) {
		if p.Module != "" {
			modules = append(modules, p.Module)
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", slices.Concat([]string{"list", "-m", "-f", "{{.Path}} {{.Dir}}"}, modules)...).Output()
	require.NoError(t, err)
	dirs := map[string]string{"": ".."}
	for line := range strings.Lines(string(out)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		dirs[path] = dir
	}
	for _, f := range features {
		for _, p := range featured(Peers()) {
			file, name, _ := strings.Cut(f.Cells[p.Name].Basis, ": ")
			if file == "" {
				continue
			}
			dir := dirs[p.Module]
			if p.Name == bare {
				dir = filepath.Join(build.Default.GOROOT, "src/net/http")
			}
			text, err := os.ReadFile(filepath.Join(dir, file))
			if errors.Is(err, fs.ErrNotExist) && p.Name == awsPeer.Name {
				text, err = os.ReadFile(filepath.Join(dirs["github.com/aws/smithy-go"], file))
			}
			require.NoError(t, err)
			for part := range strings.SplitSeq(name, ".") {
				require.Contains(t, string(text), part, "%s, %s", p.Name, file)
			}
		}
	}
}
