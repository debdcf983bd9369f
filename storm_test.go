package resilient_test

// What the client does to a server in trouble. All of it is virtual time over a
// server that is a queue.

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// station is a server of ten workers, each of whom needs 20 ms for a request,
// with a queue of a hundred: 500 requests a second. Beyond the queue it answers
// 503. Work whose caller has gone is done all the same.
type station struct {
	outage func(now time.Duration) bool

	start time.Time
	mu    sync.Mutex
	free  workers
	seen  []time.Duration // arrivals
}

const (
	stationWorkers = 10
	stationService = 20 * time.Millisecond
	stationQueue   = 100
)

type workers []time.Duration

func (w workers) Len() int           { return len(w) }
func (w workers) Less(i, j int) bool { return w[i] < w[j] }
func (w workers) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *workers) Push(x any)        { *w = append(*w, x.(time.Duration)) }
func (w *workers) Pop() any          { panic("workers stay") }

func newStation(outage func(time.Duration) bool) *station {
	return &station{outage: outage, start: time.Now(), free: make(workers, stationWorkers)}
}

func (s *station) RoundTrip(req *http.Request) (*http.Response, error) {
	status, wait, err := s.serve()
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return &http.Response{StatusCode: status, Header: make(http.Header), Body: http.NoBody, Request: req}, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// serve books the work and tells when it will be done.
func (s *station) serve() (status int, wait time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(s.start)
	s.seen = append(s.seen, now)
	if s.outage(now) {
		return 0, 0, fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED)
	}
	begin := max(now, s.free[0])
	if begin-now > stationQueue/stationWorkers*stationService {
		return http.StatusServiceUnavailable, time.Millisecond, nil
	}
	done := begin + stationService
	s.free[0] = done
	heap.Fix(&s.free, 0)
	return http.StatusOK, done - now, nil
}

func (s *station) arrivals(from, to time.Duration) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.seen {
		if from <= at && at < to {
			n++
		}
	}
	return n
}

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

const (
	stormRate  = 400.0
	stormFrom  = 5 * time.Second
	stormUntil = stormFrom + 4500*time.Millisecond
	stormAfter = stormUntil + 13*time.Second
)

// storm is what one run of it came to.
type storm struct {
	wire     float64 // arrivals during the outage for each operation offered
	recovery float64 // seconds until 95 % are answered well again
	failed   float64 // per cent of the operations begun after the outage
	p99      float64 // seconds, of those after the outage
}

func weather(t testing.TB, seed uint64, clients int, cfg resilient.Config) (s storm) {
	server := newStation(func(now time.Duration) bool { return stormFrom <= now && now < stormUntil })
	cfg.Base = server
	var all []*http.Client
	for range clients {
		client, err := resilient.NewClient(cfg)
		require.NoError(t, err)
		all = append(all, client)
	}
	calls := load(t, seed, stormRate, stormAfter, all...)
	var offered, failed int
	var took []float64
	for _, c := range calls {
		switch {
		case stormFrom <= c.begun && c.begun < stormUntil:
			offered++
		case c.begun >= stormUntil:
			took = append(took, c.took.Seconds())
			if !c.ok {
				failed++
			}
		}
	}
	slices.Sort(took)
	s.wire = float64(server.arrivals(stormFrom, stormUntil)) / float64(offered)
	s.failed = 100 * float64(failed) / float64(len(took))
	s.p99 = took[len(took)*99/100]
	s.recovery = recovery(calls).Seconds()
	return s
}

// recovery is when, after the outage, the last tenth of a second ended in which
// more than 5 % of the operations begun came to nothing.
func recovery(calls []call) (last time.Duration) {
	const slice = 100 * time.Millisecond
	good, all := make(map[time.Duration]int), make(map[time.Duration]int)
	for _, c := range calls {
		if c.begun >= stormUntil {
			n := (c.begun - stormUntil) / slice
			all[n]++
			if c.ok {
				good[n]++
			}
		}
	}
	for n, count := range all {
		if 20*good[n] < 19*count {
			last = max(last, (n+1)*slice)
		}
	}
	return last
}

func TestAStormIsNotJoinedAndItsEndIsNotMissed(t *testing.T) {
	bare := resilient.Config{MaxAttempts: 1, NoBreaker: true}
	rash := resilient.Config{NoBudget: true, NoBreaker: true}
	for _, tt := range []struct {
		name    string
		clients int
		runs    uint64
		cfg     resilient.Config
		typical storm   // the median run is not worse
		atLeast float64 // on the wire: without us it must be a storm
	}{
		{"net/http alone", 1, 1, bare, storm{1.05, 0.1, 0.1, 0.3}, 0.95},
		{"retries without budget and breaker", 1, 1, rash, storm{5, 0.2, 0.1, 0.4}, 3.5},
		{"the default, one client", 1, 24, resilient.Config{}, storm{0.05, 0.2, 0.1, 0.3}, 0.01},
		{"the default, twenty clients", 20, 4, resilient.Config{}, storm{0.26, 0.2, 0.2, 0.3}, 0.01},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var all []storm
			for seed := range tt.runs {
				synctest.Test(t, func(t *testing.T) {
					all = append(all, weather(t, seed, tt.clients, tt.cfg))
				})
			}
			s := median(all)
			t.Logf("wire %.3fx, recovery %.2f s, failed after %.3f %%, p99 after %.3f s", s.wire, s.recovery, s.failed, s.p99)
			require.LessOrEqual(t, s.wire, tt.typical.wire)
			require.GreaterOrEqual(t, s.wire, tt.atLeast)
			require.LessOrEqual(t, s.recovery, tt.typical.recovery)
			require.LessOrEqual(t, s.failed, tt.typical.failed)
			require.LessOrEqual(t, s.p99, tt.typical.p99)
			for _, run := range all {
				// When chance puts the last failing probe just before the end,
				// the next one comes 440 ms later and nobody waits longer than
				// 300: a seventh of a second of refusals.
				require.LessOrEqual(t, run.recovery, 0.4)
				require.LessOrEqual(t, run.failed, 1.5)
			}
		})
	}
}

// median takes each figure's own.
func median(all []storm) storm {
	of := func(figure func(storm) float64) float64 {
		var v []float64
		for _, s := range all {
			v = append(v, figure(s))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return storm{
		wire:     of(func(s storm) float64 { return s.wire }),
		recovery: of(func(s storm) float64 { return s.recovery }),
		failed:   of(func(s storm) float64 { return s.failed }),
		p99:      of(func(s storm) float64 { return s.p99 }),
	}
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

func TestWithoutABreakerTheBudgetAloneBoundsTheRetriesOfAnOutage(t *testing.T) {
	for _, rate := range []float64{0.5, 20, 400} {
		inStorm(t, fmt.Sprint(rate, " operations a second"), func(t *testing.T) {
			base, lasts := answersAlways(0), time.Minute
			client := newStormClient(t, resilient.Config{Base: base, NoBreaker: true})
			start := time.Now()
			calls := load(t, 2, rate, lasts, client)
			requireWithinBudget(t, base.arrivals()-len(calls), len(calls), time.Since(start))
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
