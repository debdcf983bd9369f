package resilient_test

// What the client does to a server in trouble. All of it is virtual time; the
// server and its situations are those of internal/storm.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/internal/storm"
	"github.com/stretchr/testify/require"
)

// call is what became of one operation.
type call struct {
	begun, took time.Duration
	ok          bool
	stop        error
	attempts    int
}

// send makes one GET with a deadline of ten seconds.
func send(t testing.TB, client *http.Client, url string, start time.Time) (c call) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c.begun = time.Since(start)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
		return c
	}
	resp, err := client.Do(req)
	c.took = time.Since(start) - c.begun
	c.attempts = 1
	var op resilient.Operation
	if err == nil {
		c.ok = resp.StatusCode == http.StatusOK
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		op, _ = resilient.OperationOf(resp)
	} else if e, ok := errors.AsType[*resilient.Error](err); ok {
		op = e.Operation
		c.attempts = len(op.Attempts)
	}
	c.attempts, c.stop = max(c.attempts, len(op.Attempts)), op.Stop
	return c
}

// load offers operations at a mean rate for a time, at random moments, to the
// clients in turn, and returns what became of them in the order of their begin.
func load(t testing.TB, seed uint64, rate float64, lasts time.Duration, clients ...*http.Client) []call {
	var (
		rng   = rand.New(rand.NewPCG(seed, 0))
		start = time.Now()
		wg    sync.WaitGroup
		mu    sync.Mutex
		all   []call
	)
	for i := 0; time.Since(start) < lasts; i++ {
		client := clients[i%len(clients)]
		wg.Go(func() {
			c := send(t, client, "http://api.test/items", start)
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		})
		time.Sleep(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b call) int { return int(a.begun - b.begun) })
	return all
}

// docs/storms.md shows these figures. RESILIENT_NIGHTLY makes ten times as many
// runs.
func TestAStormIsNotJoinedAndItsEndIsNotMissed(t *testing.T) {
	page, err := os.ReadFile("docs/storms.md")
	require.NoError(t, err)
	for _, row := range storm.Rows() {
		if raced() && row.Situation.During > time.Minute {
			continue // the same code as in the shorter ones, for half a minute each
		}
		t.Run(row.Name, func(t *testing.T) {
			seeds := stormSeeds(row.Seeds)
			all := weather(t, row.Situation, storm.AsItShips, seeds)
			m := storm.Median(all)
			t.Logf("%+v", m)
			if seeds >= row.Seeds { // one run is no median
				require.Empty(t, row.Exceeded(m))
			}
			if seeds == row.Seeds {
				require.Contains(t, string(page), row.Line(m), "go run ./internal/storm/cmd/storms -clients 0")
			}
			for _, run := range all {
				require.LessOrEqual(t, run.Failed, row.Worst, "a single run")
			}
		})
	}
}

// Without us it must be a storm, or the rest proves nothing.
func TestWithoutTheClientThereIsAStorm(t *testing.T) {
	outage := storm.Rows()[0].Situation
	none, backoff := storm.Policies()[0], storm.Policies()[2]
	alone, rash := weather(t, outage, none, 1)[0], weather(t, outage, backoff, 1)[0]
	require.InDelta(t, 1, alone.Wire, 0.01)
	require.Greater(t, rash.Wire, 3.5)

	slow := smallFleet()
	rash, ours := weather(t, slow, backoff, 1)[0], weather(t, slow, storm.AsItShips, 1)[0]
	require.Equal(t, slow.After, rash.Recovery, "never")
	require.Less(t, ours.Recovery, slow.After)
	require.InDelta(t, 1, ours.Late, 0.05)
}

func TestAStormCanBeRepeated(t *testing.T) {
	for _, s := range []storm.Situation{storm.Rows()[1].Situation, storm.Rows()[3].Situation, smallFleet()} {
		t.Run(s.Name, func(t *testing.T) {
			before := runtime.GOMAXPROCS(1)
			first := weather(t, s, storm.AsItShips, 1)
			runtime.GOMAXPROCS(max(before, 4))
			defer runtime.GOMAXPROCS(before)
			require.Equal(t, first, weather(t, s, storm.AsItShips, 1))
		})
	}
}

// smallFleet is the ten thousand rare callers and their brown-out, a tenth of both.
func smallFleet() storm.Situation {
	slow, _ := storm.Fleets(1000)
	slow.Rate /= 10
	slow.Server.Workers /= 10
	return slow
}

// weather runs a situation once for each seed.
func weather(t *testing.T, s storm.Situation, p storm.Policy, seeds uint64) (all []storm.Figures) {
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			run, err := s.Run(p, seed)
			require.NoError(t, err)
			all = append(all, run.Figures())
		})
	}
	return all
}

func stormSeeds(n uint64) uint64 {
	switch {
	case nightly():
		return 10 * n
	case raced():
		return min(n, 1)
	}
	return n
}

// inStorm runs f in a bubble.
func inStorm(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// answering is a Base that answers each arrival at once with what next says:
// a status, or 0 for a connection refused.
type answering struct {
	next func(n int) int

	mu sync.Mutex
	n  int
}

func (a *answering) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	n := a.n
	a.n++
	a.mu.Unlock()
	status := a.next(n)
	if status == 0 {
		return nil, fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED)
	}
	return &http.Response{StatusCode: status, Header: make(http.Header), Body: http.NoBody, Request: req}, nil
}

func (a *answering) arrivals() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

func answersAlways(status int) *answering { return &answering{next: func(int) int { return status }} }

// stops counts the calls that ended for this reason.
func stops(calls []call, reason error) (n int) {
	for _, c := range calls {
		if errors.Is(c.stop, reason) {
			n++
		}
	}
	return n
}

func newStormClient(t *testing.T, cfg resilient.Config) *http.Client {
	client, err := resilient.NewClient(cfg)
	require.NoError(t, err)
	return client
}

func TestTheDefaultClientHasBudgetBreakerAndJitter(t *testing.T) {
	inStorm(t, "a host that only fails is left alone", func(t *testing.T) {
		base := answersAlways(503)
		calls := load(t, 1, 100, 10*time.Second, newStormClient(t, resilient.Config{Base: base}))
		require.Less(t, base.arrivals(), len(calls)/10)
		require.Greater(t, stops(calls, resilient.ErrOpen), len(calls)*8/10)
	})
	inStorm(t, "a host that fails often is not asked twice as often", func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 1))
		fails := make([]bool, 20_000)
		for i := range fails {
			fails[i] = rng.Float64() < 0.4
		}
		base := &answering{next: func(n int) int {
			if fails[n%len(fails)] {
				return 500
			}
			return 200
		}}
		calls := load(t, 1, 100, time.Minute, newStormClient(t, resilient.Config{Base: base}))
		require.Zero(t, stops(calls, resilient.ErrOpen))
		require.Greater(t, stops(calls, resilient.ErrBudget), len(calls)/5)
		requireWithinBudget(t, base.arrivals()-len(calls), len(calls), time.Minute)
	})
	inStorm(t, "clients that fail together do not come back together", func(t *testing.T) {
		var first, second time.Duration // sums
		start, seen := time.Now(), make(map[time.Duration]bool)
		for range 200 { // each a process of its own
			at := time.Now()
			c := send(t, newStormClient(t, resilient.Config{Base: &answering{next: func(n int) int {
				switch n {
				case 1:
					first += time.Since(at)
					seen[time.Since(at)] = true
				case 2:
					second += time.Since(at)
				}
				return [...]int{0, 503, 200}[n]
			}}}), "http://api.test/", start)
			require.True(t, c.ok)
		}
		require.Greater(t, len(seen), 190, "all at one moment")
		require.InDelta(t, 50, first.Milliseconds()/200, 15, "uniform below 100 ms")
		require.InDelta(t, 150, second.Milliseconds()/200, 30, "and then below 200 ms")
	})
}

// requireWithinBudget holds retries to the promise, and the client to using it.
func requireWithinBudget(t *testing.T, retries, operations int, lasted time.Duration) {
	t.Helper()
	most := 10 + 0.1*float64(operations) + 0.1*lasted.Seconds()
	t.Logf("%d retries of %d operations, at most %.0f", retries, operations, most)
	require.LessOrEqual(t, float64(retries), most)
	require.Greater(t, float64(retries), 0.9*most-2)
}

func TestWithoutABreakerTheBudgetAloneBoundsTheRetries(t *testing.T) {
	minute := func(t *testing.T, rate float64, base *answering) (retries int, calls []call, lasted time.Duration) {
		client := newStormClient(t, resilient.Config{Base: base, NoBreaker: true})
		start := time.Now()
		calls = load(t, 2, rate, time.Minute, client)
		return base.arrivals() - len(calls), calls, time.Since(start)
	}
	for _, rate := range []float64{0.5, 20, 400} {
		inStorm(t, fmt.Sprint("of an outage to its first second, at ", rate, " operations a second"), func(t *testing.T) {
			retries, calls, _ := minute(t, rate, answersAlways(0))
			require.LessOrEqual(t, float64(retries), 10+0.1*rate*2)
			require.GreaterOrEqual(t, retries, 3)
			require.Greater(t, stops(calls, resilient.ErrBudget), len(calls)*9/10)
		})
	}
	for _, rate := range []float64{20, 400} {
		inStorm(t, fmt.Sprint("of a host that fails more often than not, at ", rate, " operations a second"), func(t *testing.T) {
			retries, calls, lasted := minute(t, rate, &answering{next: func(n int) int { return [...]int{0, 503, 200}[n%3] }})
			requireWithinBudget(t, retries, len(calls), lasted)
		})
	}
}

func TestWhatDoesNotTripTheBreaker(t *testing.T) {
	inStorm(t, "one answer in five is an error, for ten minutes", func(t *testing.T) {
		var mu sync.Mutex
		rng := rand.New(rand.NewPCG(3, 3))
		base := &answering{next: func(int) int {
			mu.Lock()
			defer mu.Unlock()
			if rng.Float64() < 0.2 {
				return 502
			}
			return 200
		}}
		calls := load(t, 3, 100, 10*time.Minute, newStormClient(t, resilient.Config{Base: base}))
		require.Zero(t, stops(calls, resilient.ErrOpen))
		require.GreaterOrEqual(t, base.arrivals(), len(calls))
	})
	inStorm(t, "callers who cancel", func(t *testing.T) {
		hangs := roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/healthy" {
				return answersAlways(200).RoundTrip(req)
			}
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		client := newStormClient(t, resilient.Config{Base: hangs})
		var wg sync.WaitGroup
		errs := make([]error, 500)
		for i := range errs {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.test/hangs", nil)
				_, errs[i] = client.Do(req)
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, resilient.ErrOpen)
		}
		c := send(t, client, "http://api.test/healthy", time.Now())
		require.True(t, c.ok)
		require.Zero(t, c.took)
	})
	inStorm(t, "a server that asks for patience", func(t *testing.T) {
		base := answersAlways(429)
		calls := load(t, 4, 100, 10*time.Second, newStormClient(t, resilient.Config{Base: base}))
		require.Zero(t, stops(calls, resilient.ErrOpen))
		require.GreaterOrEqual(t, base.arrivals(), len(calls))
	})
}

// heapInUse is what is in use once the garbage is gone.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Ten thousand hosts take 11 MiB: twenty-five would be far more than is allowed here.
func TestHostsWithoutEndCostNoMoreThanTenThousand(t *testing.T) {
	const hosts, most = 25_000, 16 << 20
	for name, key := range map[string]func(*http.Request) string{
		"by URL":     nil,
		"by HostKey": func(req *http.Request) string { return req.URL.Path },
	} {
		inStorm(t, name, func(t *testing.T) {
			rt, err := resilient.NewTransport(resilient.Config{Base: answersAlways(200), HostKey: key})
			require.NoError(t, err)
			before := heapInUse()
			for i := range hosts {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://h%d.test/%d", i, i), nil)
				require.NoError(t, err)
				resp, err := rt.RoundTrip(req)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			grown := heapInUse() - before
			t.Logf("%d KiB for %d hosts", grown>>10, hosts)
			require.Less(t, grown, int64(most))
			runtime.KeepAlive(rt)
		})
	}
}

func TestAFloodOfHostsDoesNotMakeTheClientForgetOneInTrouble(t *testing.T) {
	inStorm(t, "a hundred places", func(t *testing.T) {
		down := make(map[string]int)
		client := newStormClient(t, resilient.Config{MaxHosts: 100, MaxAttempts: 1, FailFast: true,
			Base: roundTrip(func(req *http.Request) (*http.Response, error) {
				if strings.HasPrefix(req.URL.Host, "down") {
					down[req.URL.Host]++
					return nil, syscall.ECONNREFUSED
				}
				return answer(req, 200), nil
			})})
		call := func(format string, i int) call {
			return send(t, client, fmt.Sprintf("http://"+format+".test/", i), time.Now())
		}
		for i := range 50 {
			for range 20 {
				call("down%d", i)
			}
			require.Equal(t, 10, down[fmt.Sprintf("down%d.test", i)], "a run of ten trips")
		}
		for i := range 10_000 {
			require.True(t, call("up%d", i).ok)
		}
		for i := range 50 {
			require.ErrorIs(t, call("down%d", i).stop, resilient.ErrOpen)
		}
	})
}
