package resilient_test

// What holds for every wait, whoever asked for it and whoever else calls.

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// diary is a Base that notes when its attempts arrive, and answers as told.
type diary struct {
	answer func(req *http.Request, n int) *http.Response // n counts from 0

	mu sync.Mutex
	at []time.Time
}

func (d *diary) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer req.Body.Close()
	}
	d.mu.Lock()
	n := len(d.at)
	d.at = append(d.at, time.Now())
	d.mu.Unlock()
	return d.answer(req, n), nil
}

func (d *diary) arrivals() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.at)
}

// firstly answers the first arrival so, and all others well.
func firstly(status int, header ...string) *diary {
	return &diary{answer: func(req *http.Request, n int) *http.Response {
		if n == 0 {
			return answer(req, status, header...)
		}
		return answer(req, 200)
	}}
}

// askings are the forms in which a server asks for time.
func askings() map[string]func(d time.Duration) string {
	return map[string]func(time.Duration) string{
		"seconds": func(d time.Duration) string { return fmt.Sprintf("Retry-After: %d", d/time.Second) },
		"date": func(d time.Duration) string { // has no fractions, and must not be sooner
			return "Retry-After: " + time.Now().Add(d+time.Second-1).UTC().Format(http.TimeFormat)
		},
		"milliseconds": func(d time.Duration) string { return fmt.Sprintf("Retry-After-Ms: %d", d/time.Millisecond) },
	}
}

func TestNoAttemptComesSoonerThanAskedNorLaterThanTheDeadline(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	forms := askings()
	waited, stopped := 0, 0
	for range 500 {
		status := []int{429, 503}[rng.IntN(2)]
		form := forms[[]string{"seconds", "date", "milliseconds"}[rng.IntN(3)]]
		limit := time.Duration(rng.IntN(120)) * time.Second // 0: none
		asked := make([]time.Duration, 4)
		for i := range asked {
			asked[i] = time.Duration(rng.IntN(60)) * time.Second
		}
		synctest.Test(t, func(t *testing.T) {
			base := &diary{answer: func(req *http.Request, n int) *http.Response {
				return answer(req, status, form(asked[n]))
			}}
			req := newRequest(t, "GET", "")
			if limit > 0 {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				req = req.WithContext(ctx)
			}
			start := time.Now()
			got := do(t, newClient(t, base), req)
			require.Equal(t, status, got.status)
			at := base.arrivals()
			for i := 1; i < len(at); i++ {
				require.GreaterOrEqual(t, at[i].Sub(at[i-1]), asked[i-1])
				waited++
			}
			require.Equal(t, at[len(at)-1], time.Now(), "slept, only to give up")
			if len(at) < 4 {
				stopped++
				require.ErrorIs(t, got.stop, resilient.ErrNoTime)
				require.False(t, got.record.NotBefore.Before(start.Add(limit)), "there was time")
			}
			require.True(t, limit == 0 || time.Since(start) < limit)
		})
	}
	require.Greater(t, waited, 200)
	require.Greater(t, stopped, 100)
}

// The cells in which clients are known to differ, and a jitter in all of them.
func TestWhoAsksForTimeGetsIt(t *testing.T) {
	forms := askings()
	const asked = 7 * time.Second
	for _, tt := range []struct {
		name   string
		status int
		header func() string
		stops  bool
	}{
		{"429 in seconds", 429, func() string { return forms["seconds"](asked) }, false},
		{"429 by a date", 429, func() string { return forms["date"](asked) }, false},
		{"503 in seconds", 503, func() string { return forms["seconds"](asked) }, false},
		{"503 by a date", 503, func() string { return forms["date"](asked) }, false},
		{"503 in milliseconds", 503, func() string { return forms["milliseconds"](asked) }, false},
		{"429 for a day", 429, func() string { return "Retry-After: 86400" }, true},
		{"429 for longer than time goes", 429, func() string { return "Retry-After: 99999999999999999999" }, true},
		{"503 beyond the deadline", 503, func() string { return "Retry-After: 31" }, true},
	} {
		inStorm(t, tt.name, func(t *testing.T) {
			var waits []time.Duration
			for range 50 { // clients, each told the same
				base := firstly(tt.status, tt.header())
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				start := time.Now()
				got := do(t, newClient(t, base), newRequest(t, "GET", "").WithContext(ctx))
				cancel()
				if tt.stops {
					require.Equal(t, tt.status, got.status)
					require.ErrorIs(t, got.stop, resilient.ErrNoTime)
					require.Zero(t, time.Since(start))
					require.False(t, got.record.NotBefore.Before(start.Add(31*time.Second)))
					continue
				}
				require.Equal(t, 200, got.status)
				require.Len(t, base.arrivals(), 2)
				waits = append(waits, base.arrivals()[1].Sub(start))
			}
			if !tt.stops {
				slices.Sort(waits)
				require.GreaterOrEqual(t, waits[0], asked)
				require.Less(t, waits[49], asked+2*time.Second)
				require.Greater(t, waits[49]-waits[0], 300*time.Millisecond, "all in one beat")
			}
		})
	}
}

func TestMaxRetryAfterIsTheLongestWaitAServerCanAskFor(t *testing.T) {
	for _, tt := range []struct {
		max   time.Duration
		asked int
		waits bool
	}{{0, 60, true}, {0, 61, false}, {2 * time.Second, 2, true}, {2 * time.Second, 3, false}} {
		inStorm(t, fmt.Sprint(tt.asked, " of ", tt.max), func(t *testing.T) {
			base := firstly(503, fmt.Sprint("Retry-After: ", tt.asked))
			client := newClient(t, base, func(c *resilient.Config) { c.MaxRetryAfter = tt.max })
			start, asked := time.Now(), time.Duration(tt.asked)*time.Second
			got := do(t, client, newRequest(t, "GET", ""))
			if tt.waits {
				require.Equal(t, 200, got.status)
				require.GreaterOrEqual(t, time.Since(start), asked)
				return
			}
			require.Equal(t, 503, got.status)
			require.ErrorIs(t, got.stop, resilient.ErrNoTime)
			require.Zero(t, time.Since(start))
			require.False(t, got.record.NotBefore.Before(start.Add(asked)))
		})
	}
}

// Full jitter: over many operations the pauses fill the whole of the range, and
// no part of it more than another (the test of Kolmogorov and Smirnov).
func TestPausesAreUniformOverOperations(t *testing.T) {
	const operations = 2000
	inStorm(t, "three pauses each", func(t *testing.T) {
		var pauses [3][]float64 // as shares of their upper bound
		for range operations {
			base := &diary{answer: func(req *http.Request, _ int) *http.Response { return answer(req, 500) }}
			do(t, newClient(t, base), newRequest(t, "GET", ""))
			at := base.arrivals()
			require.Len(t, at, 4)
			for i := range pauses {
				limit := float64(100*time.Millisecond) * math.Pow(2, float64(i))
				pauses[i] = append(pauses[i], float64(at[i+1].Sub(at[i]))/limit)
			}
		}
		for i, p := range pauses {
			slices.Sort(p)
			worst := 0.0
			for k, x := range p {
				worst = max(worst, math.Abs(x-float64(k)/operations), math.Abs(x-float64(k+1)/operations))
			}
			// Chance exceeds this once in 100,000 times.
			require.Less(t, worst, 2.5/math.Sqrt(operations), "pause %d", i+1)
		}
	})
}

func TestACoolDownHoldsTheRetriesOfOthers(t *testing.T) {
	// The first operation is asked for ten seconds. What others meet differs.
	world := func(t *testing.T, cfg resilient.Config) (client *http.Client, next chan int, base *diary) {
		next = make(chan int, 10)
		base = &diary{answer: func(req *http.Request, n int) *http.Response {
			if n == 0 {
				return answer(req, 429, "Retry-After: 10")
			}
			select {
			case status := <-next:
				return answer(req, status)
			default:
				return answer(req, 200)
			}
		}}
		cfg.Base = base
		client = newStormClient(t, cfg)
		var wg sync.WaitGroup
		wg.Go(func() { send(t, client, "http://api.test/1", time.Now()) })
		t.Cleanup(wg.Wait)
		time.Sleep(time.Second)
		return client, next, base
	}
	inStorm(t, "a retry waits for its end", func(t *testing.T) {
		client, next, base := world(t, resilient.Config{})
		start := time.Now()
		next <- 500
		got := do(t, client, newRequest(t, "GET", ""))
		require.Equal(t, 200, got.status)
		require.Equal(t, start, base.arrivals()[1], "a first attempt does not wait")
		require.GreaterOrEqual(t, time.Since(start), 9*time.Second)
		require.Less(t, time.Since(start), 11*time.Second)
	})
	inStorm(t, "a first attempt waits too if asked to", func(t *testing.T) {
		client, _, base := world(t, resilient.Config{CoolFirst: true})
		start := time.Now()
		got := do(t, client, newRequest(t, "GET", ""))
		require.Equal(t, 200, got.status)
		require.GreaterOrEqual(t, base.arrivals()[1].Sub(start), 9*time.Second)
	})
	inStorm(t, "a first attempt that has no time for it is not made", func(t *testing.T) {
		client, _, base := world(t, resilient.Config{CoolFirst: true})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		got := do(t, client, newRequest(t, "GET", "").WithContext(ctx))
		require.ErrorIs(t, got.err, resilient.ErrNoTime)
		require.Equal(t, resilient.NotSent, got.outcome)
		require.False(t, got.record.NotBefore.Before(start.Add(9*time.Second)))
		require.Zero(t, time.Since(start))
		require.Len(t, base.arrivals(), 1)
	})
	inStorm(t, "a good answer to another ends it", func(t *testing.T) {
		client, next, _ := world(t, resilient.Config{})
		require.Equal(t, 200, do(t, client, newRequest(t, "GET", "")).status)
		start := time.Now()
		next <- 500
		require.Equal(t, 200, do(t, client, newRequest(t, "GET", "")).status)
		require.LessOrEqual(t, time.Since(start), 100*time.Millisecond)
	})
	inStorm(t, "another host knows nothing of it", func(t *testing.T) {
		client, next, _ := world(t, resilient.Config{})
		next <- 500
		c := send(t, client, "http://other.test/", time.Now())
		require.True(t, c.ok)
		require.LessOrEqual(t, c.took, 100*time.Millisecond)
	})
}

func TestAKeyIsNotSentAfterItsTimeThoughTheHostWasCoolingLonger(t *testing.T) {
	inStorm(t, "lengthened by another", func(t *testing.T) {
		base := &diary{answer: func(req *http.Request, n int) *http.Response {
			return answer(req, 503, "Retry-After: "+strconv.Itoa([]int{4, 30, 1}[min(n, 2)]))
		}}
		client := newClient(t, base, honoured, func(c *resilient.Config) { c.Keys.TTL = 5 * time.Second })
		go func() {
			time.Sleep(time.Second)
			do(t, client, newRequest(t, "POST", "another"))
		}()
		start := time.Now()
		got := do(t, client, newRequest(t, "POST", "x"))
		require.ErrorIs(t, got.stop, resilient.ErrKeyExpired)
		require.Equal(t, 1, got.attempts)
		require.Less(t, time.Since(start), 10*time.Second)
	})
}

func TestOnlyAGoodAnswerIsWorthARetryToAHostThatHasOnlyFailed(t *testing.T) {
	for _, tt := range []struct {
		name     string
		status   int
		header   []string
		attempts int // of the next operation, which fails once
	}{
		{"a 200", 200, nil, 2},
		{"a 404", 404, nil, 2},
		{"a 418, which Classify calls fatal", 418, nil, 2},
		{"a 429 says nothing", 429, []string{"X-Should-Retry: false"}, 1},
		{"a 500 that is not to be repeated is one more failure", 500, []string{"X-Should-Retry: false"}, 1},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut} {
			inStorm(t, method+"/"+tt.name, func(t *testing.T) {
				answers := []int{500, 500, 500, 500, tt.status, 500, 200}
				base := &diary{answer: func(req *http.Request, n int) *http.Response {
					if n == 4 {
						return answer(req, tt.status, tt.header...)
					}
					return answer(req, answers[n])
				}}
				client := newClient(t, base, hasty, func(c *resilient.Config) {
					c.Classify = func(_ *http.Request, resp *http.Response, _ error, v resilient.Verdict) resilient.Verdict {
						if resp.StatusCode == 418 {
							return resilient.Fatal
						}
						return v
					}
				})
				require.Equal(t, 4, do(t, client, newRequest(t, method, "")).attempts)
				time.Sleep(2 * time.Second)
				require.Equal(t, tt.status, do(t, client, newRequest(t, method, "")).status)
				require.Equal(t, tt.attempts, do(t, client, newRequest(t, method, "")).attempts)
			})
		}
	}
}

// Others who go on asking are told to wait longer each time, and so is everybody.
func TestACoolDownThatOthersLengthenEndsInTime(t *testing.T) {
	for _, tt := range []struct {
		name        string
		deadline    time.Duration // zero: none
		lengthened  time.Duration // for so long
		least, most time.Duration
		status      int
	}{
		{"for good: after as long as a server may ask for", 0, time.Hour, 55 * time.Second, 64 * time.Second, 429},
		{"up to a moment before the deadline: in time for it", 5 * time.Second, 3500 * time.Millisecond, 4 * time.Second, 5 * time.Second, 200},
	} {
		inStorm(t, tt.name, func(t *testing.T) {
			start := time.Now()
			lengthens := func() bool { return time.Since(start) <= tt.lengthened }
			client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				if req.Method == "POST" || lengthens() {
					return answer(req, 429, "Retry-After: 1"), nil
				}
				return answer(req, 200), nil
			}), func(c *resilient.Config) { c.MaxAttempts = 2 })
			ctx, cancel := context.WithCancel(t.Context())
			var others sync.WaitGroup
			others.Go(func() {
				for ; lengthens() && ctx.Err() == nil; time.Sleep(300 * time.Millisecond) {
					do(t, client, newRequest(t, "POST", ""))
				}
			})
			defer others.Wait()
			defer cancel()
			req := newRequest(t, "GET", "")
			if tt.deadline > 0 {
				limited, done := context.WithTimeout(t.Context(), tt.deadline)
				defer done()
				req = req.WithContext(limited)
			}
			got := do(t, client, req)
			require.Equal(t, tt.status, got.status, "%v", got.err)
			require.GreaterOrEqual(t, time.Since(start), tt.least)
			require.LessOrEqual(t, time.Since(start), tt.most)
			if tt.status != 200 {
				require.ErrorIs(t, got.stop, resilient.ErrNoTime)
			}
		})
	}
}

// failOnce answers the first request to each path with 500, all to /down, and
// the others well.
func failOnce() http.RoundTripper {
	var mu sync.Mutex
	known := make(map[string]bool)
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		first := !known[req.URL.Path]
		known[req.URL.Path] = true
		if first || req.URL.Path == "/down" {
			return answer(req, 500), nil
		}
		return answer(req, 200), nil
	})
}

// mended makes as many operations at once, each of which fails once, and counts
// those for which there was a retry.
func mended(t *testing.T, client *http.Client, operations int) (good int) {
	calls := make([]call, operations)
	at := time.Now()
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			calls[i] = send(t, client, fmt.Sprintf("http://api.test/%d/%d", at.UnixNano(), i), at)
		})
	}
	wg.Wait()
	for _, c := range calls {
		if c.ok {
			good++
		} else if c.stop != resilient.ErrBudget {
			t.Error(c.stop)
		}
	}
	return good
}

func TestTheBudgetComesBack(t *testing.T) {
	cfg := func() resilient.Config {
		return resilient.Config{Base: failOnce(), NoBreaker: true, Backoff: func() resilient.Schedule { return every(time.Second) }}
	}
	// Ten there were, and up to five are earned by fifty operations: those that
	// begin while it is full earn nothing.
	full := func(t *testing.T, client *http.Client) { require.InDelta(t, 12.5, mended(t, client, 50), 2.5) }
	spent := func(t *testing.T, client *http.Client) {
		full(t, client)
		require.LessOrEqual(t, mended(t, client, 5), 1)
	}
	inStorm(t, "when the caller cancels in the wait", func(t *testing.T) {
		client := newStormClient(t, cfg())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.test/down", nil)
				_, _ = client.Do(req)
			})
		}
		time.Sleep(time.Second / 2)
		cancel()
		wg.Wait()
		spent(t, client)
	})
	inStorm(t, "with a hundred operations that succeed", func(t *testing.T) {
		client := newStormClient(t, cfg())
		spent(t, client)
		for range 100 {
			send(t, client, "http://api.test/well", time.Now())
		}
		full(t, client)
	})
	inStorm(t, "with time", func(t *testing.T) {
		client := newStormClient(t, cfg())
		spent(t, client)
		time.Sleep(100 * time.Second)
		full(t, client)
	})
}

func TestAStalledAnswerFailsItsAttemptWhereAnswersAreReadInIt(t *testing.T) {
	inStorm(t, "and the next is whole", func(t *testing.T) {
		base := &diary{answer: func(req *http.Request, n int) *http.Response {
			resp := answer(req, 200)
			if n == 0 {
				stuck := newWatchedBody("te", context.Canceled)
				stuck.gone = []<-chan struct{}{req.Context().Done(), nil}
				resp.Body = stuck
			}
			return resp
		}}
		client := newClient(t, base, func(c *resilient.Config) {
			c.BufferResponse, c.BodyIdleTimeout = 1<<10, 5*time.Second
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		got := do(t, client, newRequest(t, "GET", "").WithContext(ctx))
		require.Equal(t, 200, got.status)
		require.Equal(t, 2, got.attempts)
		require.ErrorIs(t, got.record.Attempts[0].Err, resilient.ErrStalled)
		require.Less(t, time.Since(start), 6*time.Second)
	})
}

func TestAnOperationThatBeganInTimeKeepsItsRetriesHoweverLongItsAttemptTakes(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		for _, tt := range []struct {
			name     string
			begins   time.Duration
			attempts int
		}{
			{"before the first failure", 0, 4},
			{"within a second of it", 900 * time.Millisecond, 4},
			{"later", 1200 * time.Millisecond, 1},
		} {
			t.Run(method+"/"+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base := roundTrip(func(req *http.Request) (*http.Response, error) {
						if req.URL.Path == "/slow" {
							time.Sleep(3 * time.Second)
						}
						return answer(req, 500), nil
					})
					client := newClient(t, base, func(c *resilient.Config) { c.MaxAttempts = 4 })
					var both sync.WaitGroup
					both.Go(func() {
						time.Sleep(100 * time.Millisecond)
						req := newRequest(t, http.MethodPost, "")
						do(t, client, req)
					})
					time.Sleep(tt.begins)
					req := newRequest(t, method, "")
					req.URL.Path = "/slow"
					got := do(t, client, req)
					require.Equal(t, tt.attempts, got.attempts)
					if tt.attempts == 1 {
						require.ErrorIs(t, got.stop, resilient.ErrBudget)
						require.ErrorContains(t, got.stop, "has only failed")
					}
					both.Wait()
				})
			})
		}
	}
}
