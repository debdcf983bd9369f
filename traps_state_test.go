package resilient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// dribble is a body of 100 bytes, one a second.
type dribble struct {
	left   int
	done   chan struct{}
	closed *atomic.Int32
	once   sync.Once
}

func newDribble(closed *atomic.Int32) *dribble {
	return &dribble{left: 100, done: make(chan struct{}), closed: closed}
}

func (d *dribble) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
	case <-d.done:
		return 0, http.ErrBodyReadAfterClose
	}
	if d.left == 0 {
		return 0, io.EOF
	}
	d.left--
	return copy(p, "x"), nil
}

func (d *dribble) Close() error {
	d.closed.Add(1)
	d.once.Do(func() { close(d.done) })
	return nil
}

// Trap 7: the last attempt is special.
func TestTheLastAnswerIsReadableAndCostsNoMoreThanTheWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed []*atomic.Int32
		start := time.Now()
		client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 503)
			if closed = append(closed, new(atomic.Int32)); len(closed) < 4 {
				resp.Body, resp.ContentLength = newDribble(closed[len(closed)-1]), 100
			} else {
				resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("y", 100))), 100
			}
			return resp, nil
		}))
		resp, err := client.Do(newRequest(t, http.MethodGet, ""))
		require.NoError(t, err)
		took := time.Since(start)
		op, ok := resilient.OperationOf(resp)
		require.True(t, ok)
		require.Len(t, op.Attempts, 4)
		var waits time.Duration
		for _, a := range op.Attempts {
			waits += a.Wait
		}
		require.Zero(t, op.Attempts[3].Wait, "no sleep after the last")
		// Each answer given up is worth 50 ms to keep its connection, before the wait and after it.
		require.LessOrEqual(t, took, waits+3*100*time.Millisecond)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Len(t, body, 100)
		require.NoError(t, resp.Body.Close())
		for i, n := range closed[:3] {
			require.NotZero(t, n.Load(), "body %d is closed", i+1)
		}
	})
}

// Trap 7 again: what a Base may return and must not.
func TestABaseThatBreaksItsContractDoesNoHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int32
		both := roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200)
			resp.Body = newDribble(&closed)
			return resp, errors.New("both")
		})
		got := do(t, newClient(t, both), newRequest(t, http.MethodGet, ""))
		require.ErrorContains(t, got.err, "both")
		require.EqualValues(t, 4, closed.Load())
		neither := roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil })
		got = do(t, newClient(t, neither), newRequest(t, http.MethodPost, "x"))
		require.ErrorContains(t, got.err, "neither a response nor an error")
		require.Equal(t, resilient.Unknown, got.outcome)
		require.Equal(t, 1, got.attempts)
		bare := roundTrip(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 204}, nil })
		require.Equal(t, 204, do(t, newClient(t, bare), newRequest(t, http.MethodPost, "x")).status)
	})
}

// Trap 7 once more: an answer whose body is cut off already is none.
func TestAnAnswerThatComesAsTheTimeRunsOutIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int32
		calls := 0
		late := roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200)
			if calls++; calls == 1 {
				<-req.Context().Done()
				resp.Body = newDribble(&closed)
			}
			return resp, nil
		})
		got := do(t, newClient(t, late, func(c *resilient.Config) { c.AttemptTimeout = time.Second }), newRequest(t, http.MethodPut, "x"))
		require.Equal(t, 200, got.status)
		require.Equal(t, 2, got.attempts)
		require.Equal(t, resilient.Unknown, got.record.Attempts[0].Outcome)
		require.EqualValues(t, 1, closed.Load())
	})
}

// Trap 8: the cause is lost.
func TestTheDeadlineDoesNotHideTheAnswersBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, http.MethodGet, "")
		req.URL.RawQuery = "token=canary-1234"
		ctx, cancel := context.WithTimeout(req.Context(), 5*time.Second)
		defer cancel()
		got := do(t, newClient(t, script(faultinject.Respond(503), faultinject.Respond(503), faultinject.Stall())), req.WithContext(ctx))
		require.ErrorIs(t, got.err, context.DeadlineExceeded)
		require.Equal(t, resilient.Unknown, got.outcome)
		require.Len(t, got.record.Attempts, 3)
		require.Equal(t, 503, got.record.Attempts[1].Status)
		e, ok := errors.AsType[*resilient.Error](got.err)
		require.True(t, ok)
		require.NotContains(t, e.Error(), "canary")

		got = do(t, newClient(t, script(faultinject.Stall()), func(c *resilient.Config) { c.AttemptTimeout = time.Second; c.MaxAttempts = 1 }), newRequest(t, http.MethodGet, ""))
		require.ErrorContains(t, got.err, "attempt timed out after 1s (client side)")
		require.ErrorIs(t, got.stop, resilient.ErrAttempts)
	})
}

// Trap 9: the accounting of outcomes that are nobody's fault.
func TestOverAnyHistoryOnlyTheHostsOwnFailuresCloseIt(t *testing.T) {
	neutral := []faultinject.Fault{
		faultinject.Respond(404), faultinject.Respond(409), faultinject.Respond(429), faultinject.NXDomain(), faultinject.Stall(), faultinject.Pass(),
	}
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 1))
			var strike faultinject.Fault
			base := faultinject.Handler(answerOK, faultinject.PlanFunc(func(faultinject.Exchange) faultinject.Fault { return strike }))
			client := newClient(t, base, func(c *resilient.Config) { c.FailFast, c.MaxAttempts, c.NoBudget = true, 1+int(seed%3), true })
			for range 200 {
				strike = neutral[dice.IntN(len(neutral))]
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				req := newRequest(t, []string{"GET", "PUT", "POST"}[dice.IntN(3)], "").WithContext(ctx)
				if dice.IntN(8) == 0 { // refused here, before anything is sent
					req.Header["Idempotency-Key"] = []string{"a\nb"}
				}
				got := do(t, client, req)
				cancel()
				require.NotErrorIs(t, got.stop, resilient.ErrOpen, "seed %d: %v", seed, strike)
			}
			strike = faultinject.RefuseDial()
			opened := false
			for range 40 {
				opened = opened || errors.Is(do(t, client, newRequest(t, "POST", "")).stop, resilient.ErrOpen)
			}
			require.True(t, opened, "its own failures do")
			strike = faultinject.Pass()
			time.Sleep(time.Minute)
			for range 30 {
				require.Equal(t, 200, do(t, client, newRequest(t, "POST", "")).status, "and its own answers open it again")
			}
		})
	}
}

func TestOverAnyHistoryTheBudgetIsNeverOverdrawn(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			dice, start := rand.New(rand.NewPCG(seed, 2)), time.Now()
			faults := []faultinject.Fault{faultinject.Pass(), faultinject.Respond(404), faultinject.Respond(503), faultinject.RefuseDial(), faultinject.Respond(503)}
			var throw sync.Mutex
			base := faultinject.Handler(answerOK, faultinject.PlanFunc(func(faultinject.Exchange) faultinject.Fault {
				throw.Lock()
				defer throw.Unlock()
				return faults[dice.IntN(len(faults))]
			}))
			client := newClient(t, base, func(c *resilient.Config) { c.NoBreaker, c.CountReplays = true, true })
			operations, retries := 0, 0
			for range 300 {
				operations++
				got := do(t, client, newRequest(t, "PUT", "x"))
				retries += got.attempts - 1
				allowed := 10 + 0.1*float64(operations) + 0.1*time.Since(start).Seconds()
				require.LessOrEqual(t, float64(retries), allowed+1e-6, "seed %d", seed)
			}
			require.Greater(t, retries, 30, "and it is spent")
			faults = []faultinject.Fault{faultinject.Pass()}
			for range 100 {
				do(t, client, newRequest(t, "PUT", "x"))
			}
			faults = []faultinject.Fault{faultinject.Respond(503)}
			var left atomic.Int64
			var wg sync.WaitGroup
			for range 3 { // at once: after a second of failures there would be no retries
				wg.Go(func() { left.Add(int64(do(t, client, newRequest(t, "PUT", "x")).attempts - 1)) })
			}
			wg.Wait()
			require.EqualValues(t, 9, left.Load(), "a hundred good operations fill it")
		})
	}
}

// Trap 10: a probe that goes wrong wedges the host.
func TestAProbeThatGoesWrongDoesNotShutTheHostForGood(t *testing.T) {
	const callers = 1000
	ways := map[string]func(*http.Request) (*http.Response, error){
		"panics": func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) },
		"hangs": func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		},
		"is cancelled": func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Millisecond)
			return nil, context.Canceled
		},
		"streams a body that is never closed": func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200)
			resp.Body = newDribble(new(atomic.Int32))
			return resp, nil
		},
	}
	for name, probe := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mode, inFlight, most, probes atomic.Int32
				client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
					switch mode.Load() {
					case 0:
						return answer(req, 500), nil
					case 1:
						n := inFlight.Add(1)
						defer inFlight.Add(-1)
						most.Store(max(most.Load(), n))
						probes.Add(1)
						return probe(req)
					}
					return answer(req, 200), nil
				}), func(c *resilient.Config) { c.MaxAttempts, c.FailFast = 1, true })
				for range 20 {
					do(t, client, newRequest(t, "POST", ""))
				}
				mode.Store(1)
				time.Sleep(3 * time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				var all sync.WaitGroup
				for range callers {
					all.Go(func() { swallow(client, newRequest(t, "POST", "").WithContext(ctx)) })
				}
				synctest.Wait()
				good := strings.HasPrefix(name, "streams") // its head is an answer, and lets others in
				require.True(t, good || probes.Load() == 1, "one probe at a time, not %d", probes.Load())
				mode.Store(2)
				time.Sleep(5 * time.Second)
				require.Equal(t, 200, do(t, client, newRequest(t, "POST", "")).status)
				all.Wait()
				require.True(t, good || most.Load() == 1, "one probe at a time, not %d", most.Load())
			})
		})
	}
}

// swallow makes a request that may panic or be refused, and lets its body be.
func swallow(client *http.Client, req *http.Request) {
	defer func() { _ = recover() }()
	_, _ = client.Do(req)
}

// Trap 11: attempts below us that nobody counts.
func TestWhatNetHTTPSendsByItselfIsCounted(t *testing.T) {
	for _, tt := range []struct {
		name     string
		method   string
		body     string
		change   func(*resilient.Config)
		attempts int
		replays  int
	}{
		{"a POST with a body under an honoured key is repeated by us", "POST", "x", honoured, 2, 0},
		{"a POST without a body under an honoured key is replayed", "POST", "", honoured, 2, 1},
		{"a POST without a body under an unvouched key is sent once", "POST", "", noChange, 1, 0},
		{"a POST without a key is sent once", "POST", "", noKeys, 1, 0},
		{"a PUT is repeated by us", "PUT", "x", noChange, 2, 0},
		{"a GET is replayed", "GET", "", func(c *resilient.Config) { c.CountReplays = true }, 2, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, answerOK, faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
					if x.Method != faultinject.MethodDial && x.Path != "/warm" && x.Nth == 1 {
						return faultinject.LoseResponse(faultinject.FIN) // executed, and the used connection ends
					}
					return faultinject.Pass()
				}))
				w.warmUp(t)
				conns := 0
				req := newRequest(t, tt.method, tt.body)
				ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { conns++ }})
				got := do(t, newClient(t, w.base, tt.change, func(c *resilient.Config) { c.BaseIsWire = false }), req.WithContext(ctx))
				require.Len(t, w.arrived("/charges"), tt.attempts)
				require.Equal(t, tt.attempts, got.attempts, "what is reported is what the server saw")
				require.Equal(t, tt.attempts, conns, "the caller's own trace is kept")
				replays := 0
				for _, a := range got.record.Attempts {
					if a.Replay {
						replays++
					}
				}
				require.Equal(t, tt.replays, replays)
				require.Equal(t, tt.attempts == 1, got.err != nil)
			})
		})
	}
}

// Trap 12: copies that share what they should not.
func TestWhatABaseDoesToItsCopyStaysThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type sent struct{ path, header, date, key string }
		var seen []sent
		var mu sync.Mutex
		base := faultinject.Handler(answerOK, always(faultinject.Respond(503)))
		change := func(c *resilient.Config) { c.MaxAttempts, c.NoBudget, c.NoBreaker = 5, true, true }
		req := newRequest(t, http.MethodPost, "x")
		values := append(make([]string, 0, 4), "caller") // with room that an Add could write into
		req.Header["X-Forwarded-For"] = values
		before, url := req.Header.Clone(), *req.URL
		adding := roundTrip(func(r *http.Request) (*http.Response, error) {
			r.Header.Add("X-Forwarded-For", "proxy")
			r.URL.Path = "/v1" + r.URL.Path
			r.Header.Set("Date", time.Now().Format(time.RFC3339Nano))
			mu.Lock()
			seen = append(seen, sent{r.URL.Path, fmt.Sprint(r.Header["X-Forwarded-For"]), r.Header.Get("Date"), r.Header.Get("Idempotency-Key")})
			mu.Unlock()
			return base.RoundTrip(r)
		})
		got := do(t, newClient(t, adding, honoured, change), req)
		require.Equal(t, 5, got.attempts)
		dates := map[string]bool{}
		for _, s := range seen {
			require.Equal(t, "/v1/charges", s.path)
			require.Equal(t, "[caller proxy]", s.header)
			require.Equal(t, got.record.Key, s.key)
			dates[s.date] = true
		}
		require.Len(t, dates, 5, "each attempt is signed anew")
		require.Equal(t, before, req.Header)
		require.Empty(t, values[:2][1])
		require.Equal(t, url, *req.URL)

		// One request, used by two at once, with all that Prepare may change.
		shared := newRequest(t, http.MethodGet, "")
		shared.Header.Set("X-Forwarded-For", "caller")
		client := newClient(t, base, change, func(c *resilient.Config) {
			c.Prepare = func(r *http.Request) error {
				r.Header.Add("X-Forwarded-For", "prepared")
				r.URL.Path += "/x"
				r.URL.RawQuery = "signed"
				return nil
			}
		})
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				resp, err := client.Do(shared)
				if err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		both.Wait()
		require.Equal(t, http.Header{"X-Forwarded-For": {"caller"}}, shared.Header)
		require.Equal(t, "http://api.test/charges", shared.URL.String())
	})
}
