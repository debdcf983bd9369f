package idempotency_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

var errDown = errors.New("connection refused")

// faulty is a Memory that a test can make fail. fail is asked before each call,
// by the method's name; lose after it, so that the call took place unheard.
type faulty struct {
	*idempotency.Memory
	fail, lose func(method string) error

	mu    sync.Mutex
	calls map[string]int
}

func newFaulty(t *testing.T) *faulty {
	memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	require.NoError(t, err)
	return &faulty{Memory: memory, calls: make(map[string]int)}
}

// during fails the methods for as long from now on.
func during(d time.Duration, methods ...string) func(string) error {
	end := time.Now().Add(d)
	return func(method string) error {
		for _, m := range methods {
			if m == method && time.Now().Before(end) {
				return errDown
			}
		}
		return nil
	}
}

func (s *faulty) call(ctx context.Context, method string, do func() error) error {
	s.mu.Lock()
	s.calls[method]++
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.fail != nil {
		if err := s.fail(method); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if s.lose != nil {
		return s.lose(method)
	}
	return nil
}

func (s *faulty) Claim(ctx context.Context, c idempotency.Claim) (rec idempotency.Record, claimed bool, err error) {
	err = s.call(ctx, "Claim", func() (err error) {
		rec, claimed, err = s.Memory.Claim(ctx, c)
		return err
	})
	return rec, claimed && err == nil, err
}

func (s *faulty) Renew(ctx context.Context, h idempotency.Holder, lease, keep time.Duration) error {
	return s.call(ctx, "Renew", func() error { return s.Memory.Renew(ctx, h, lease, keep) })
}

func (s *faulty) Complete(ctx context.Context, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	return s.call(ctx, "Complete", func() error { return s.Memory.Complete(ctx, h, result, keep) })
}

func (s *faulty) Release(ctx context.Context, h idempotency.Holder) error {
	return s.call(ctx, "Release", func() error { return s.Memory.Release(ctx, h) })
}

func (s *faulty) Abandon(ctx context.Context, h idempotency.Holder, keep time.Duration) error {
	return s.call(ctx, "Abandon", func() error { return s.Memory.Abandon(ctx, h, keep) })
}

func (s *faulty) Lookup(ctx context.Context, id idempotency.ID) (rec idempotency.Record, err error) {
	err = s.call(ctx, "Lookup", func() (err error) {
		rec, err = s.Memory.Lookup(ctx, id)
		return err
	})
	return rec, err
}

func with(s idempotency.Store) func(*idempotency.Config) {
	return func(c *idempotency.Config) { c.Store = s }
}

func TestNothingIsDoneWhileTheStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, service := newFaulty(t), &till{}
		store.fail = during(time.Second, "Claim")
		h := guard(t, service, with(store))
		a := ask(h, post("k", "1"))
		require.Equal(t, 503, a.status)
		require.Equal(t, "store-unavailable", a.problem())
		require.Equal(t, "1", a.header.Get("Retry-After"))
		require.Zero(t, service.charged.Load())
		time.Sleep(time.Second)
		require.Equal(t, 201, ask(h, post("k", "1")).status)
	})
}

func TestAStoreThatHangsIsOneThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := &till{}
		h := guard(t, service, with(hanging{newFaulty(t)}), func(c *idempotency.Config) { c.StoreTimeout = time.Second })
		start := time.Now()
		require.Equal(t, "store-unavailable", ask(h, post("k", "1")).problem())
		require.Equal(t, time.Second, time.Since(start))
		require.Zero(t, service.charged.Load())
	})
}

type hanging struct{ *faulty }

func (hanging) Claim(ctx context.Context, _ idempotency.Claim) (idempotency.Record, bool, error) {
	<-ctx.Done()
	return idempotency.Record{}, false, ctx.Err()
}

func TestACallOfTheStoreThatTookPlaceUnheardIsNotLost(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		then         func(w http.ResponseWriter, r *http.Request, n int)
		first, again int
		runs         int32
	}{
		{"a claim", "Claim", nil, 201, 201, 1},
		{"a completion", "Complete", nil, 201, 201, 1},
		{"a release", "Release", func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				idempotency.NotApplied(r.Context())
				w.WriteHeader(429)
			}
		}, 429, 200, 2},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			store, service := newFaulty(t), &till{then: tt.then}
			store.lose = during(50*time.Millisecond, tt.method)
			h := guard(t, service, with(store))
			require.Equal(t, tt.first, ask(h, post("k", "1")).status)
			require.Equal(t, tt.again, ask(h, post("k", "1")).status)
			require.EqualValues(t, tt.runs, service.charged.Load())
		})
	}
}

// The claim may have taken place: what nobody runs must not stay in progress.
func TestAClaimThatWasNeverHeardOfIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, service := newFaulty(t), &till{}
		store.lose = during(200*time.Millisecond, "Claim")
		h := guard(t, service, with(store))
		require.Equal(t, 503, ask(h, post("k", "1")).status)
		time.Sleep(200 * time.Millisecond) // less than the lease
		require.Equal(t, 201, ask(h, post("k", "1")).status)
	})
}

func TestAnAnswerThatCannotBeStoredIsNotGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, service := newFaulty(t), &till{}
		store.fail = during(2*time.Second, "Complete", "Renew")
		h := guard(t, service, with(store))
		a := ask(h, post("k", "1"))
		require.Equal(t, 503, a.status)
		require.Equal(t, "outcome-unknown", a.problem())
		require.Empty(t, a.header.Get("Location"), "nothing of the answer goes out")
		time.Sleep(400 * time.Millisecond) // the lease lapses
		require.Equal(t, "outcome-unknown", ask(h, post("k", "1")).problem())
		time.Sleep(8 * time.Second) // the store is back, and the run goes on trying
		a = ask(h, post("k", "1"))
		require.Equal(t, "charge 1", a.body)
		require.True(t, a.replayed())
		require.EqualValues(t, 1, service.charged.Load())
	})
}

func TestARunThatIsTakenOverIsToldAndItsAnswerIsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		var cause error
		service := &till{then: func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				<-r.Context().Done() // the first hangs, cut off from the store
				cause = context.Cause(r.Context())
			}
			_, _ = w.Write([]byte{'0' + byte(n)})
		}}
		store.fail = during(time.Second, "Renew")
		var counts idempotency.Counts
		h := guard(t, service, with(store), func(c *idempotency.Config) {
			c.OnUnknown, c.Observer = idempotency.Reexecute(), counts.Observer()
		})
		var first sync.WaitGroup
		first.Go(func() {
			a := ask(h, post("k", "1"))
			require.Equal(t, "2", a.body)
			require.True(t, a.replayed())
		})
		time.Sleep(401 * time.Millisecond) // the lease has lapsed
		require.Equal(t, "2", ask(h, post("k", "1")).body)
		first.Wait()
		require.ErrorIs(t, cause, idempotency.ErrLeaseLost)
		require.EqualValues(t, 1, counts.Of(idempotency.LeaseLost))
		require.EqualValues(t, 1, counts.Of(idempotency.RunTakenOver))
	})
}

func TestWaitingForAnAnswerAsksTheStoreMoreThanOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		h := guard(t, &till{then: func(http.ResponseWriter, *http.Request, int) { time.Sleep(2 * time.Second) }},
			with(store), func(c *idempotency.Config) { c.Wait = 10 * time.Second })
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { require.Equal(t, 200, ask(h, post("k", "1")).status) })
		}
		all.Wait()
		require.Greater(t, store.calls["Claim"], 5)
		require.Less(t, store.calls["Claim"], 30)
	})
}

func TestDo(t *testing.T) {
	fingerprint := idempotency.FingerprintOf([]byte("charge"), []byte("100"))
	failed := errors.New("failed")
	for _, tt := range []struct {
		name        string
		do          func(ctx context.Context) ([]byte, error)
		first       error
		again       error // nil: the same result
		fingerprint idempotency.Fingerprint
		runs        int
	}{
		{"a result is kept", func(context.Context) ([]byte, error) { return []byte("r"), nil }, nil, nil, fingerprint, 1},
		{"so is none", func(context.Context) ([]byte, error) { return nil, nil }, nil, nil, fingerprint, 1},
		{"an error leaves the outcome unknown", func(context.Context) ([]byte, error) { return nil, failed }, failed, idempotency.ErrOutcomeUnknown, fingerprint, 1},
		{"one that says that nothing was done does not", func(context.Context) ([]byte, error) { return nil, idempotency.ErrNotApplied }, idempotency.ErrNotApplied, idempotency.ErrNotApplied, fingerprint, 2},
		{"nor one after NotApplied", func(ctx context.Context) ([]byte, error) {
			idempotency.NotApplied(ctx)
			return nil, failed
		}, failed, failed, fingerprint, 2},
		{"another use of the key", func(context.Context) ([]byte, error) { return nil, nil }, nil, idempotency.ErrReused, idempotency.FingerprintOf([]byte("charge1"), []byte("00")), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			engine, err := idempotency.NewEngine(idempotency.Config{})
			require.NoError(t, err)
			runs := 0
			fn := func(ctx context.Context) ([]byte, error) {
				runs++
				scope, key, ok := idempotency.Key(ctx)
				require.Equal(t, []any{"queue", "message 1", true}, []any{scope, key, ok})
				require.Positive(t, idempotency.Fence(ctx))
				return tt.do(ctx)
			}
			want, err := engine.Do(t.Context(), "queue", "message 1", fingerprint, fn)
			require.ErrorIs(t, err, tt.first)
			got, err := engine.Do(t.Context(), "queue", "message 1", tt.fingerprint, fn)
			if tt.again == nil {
				require.NoError(t, err)
				require.Equal(t, string(want), string(got))
			} else {
				require.ErrorIs(t, err, tt.again)
			}
			require.Equal(t, tt.runs, runs)
		})
	}
	engine, err := idempotency.NewEngine(idempotency.Config{})
	require.NoError(t, err)
	_, err = engine.Do(t.Context(), "", "k", fingerprint, nil)
	require.Error(t, err)
}

// An operator has found out what became of it.
func TestAnOperatorSettlesAnUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, err := idempotency.NewEngine(idempotency.Config{})
		require.NoError(t, err)
		do := func(key string, fail bool) ([]byte, error) {
			return engine.Do(t.Context(), "s", key, idempotency.Fingerprint{}, func(context.Context) ([]byte, error) {
				if fail {
					return nil, errDown
				}
				return []byte("anew"), nil
			})
		}
		for _, key := range []string{"done", "not done"} {
			_, err = do(key, true)
			require.ErrorIs(t, err, errDown)
			_, err = do(key, false)
			require.ErrorIs(t, err, idempotency.ErrOutcomeUnknown)
		}
		require.NoError(t, engine.Settle(t.Context(), "s", "done", idempotency.Answer{Body: []byte("found")}))
		require.NoError(t, engine.Forget(t.Context(), "s", "not done"))
		for key, want := range map[string]string{"done": "found", "not done": "anew"} {
			got, err := do(key, false)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
			require.ErrorContains(t, engine.Forget(t.Context(), "s", key), "settled")
		}
		require.ErrorContains(t, engine.Forget(t.Context(), "s", "never"), "not known")
	})
}

// A transaction of the handler's that settles its key, as a Store over a
// database can offer it.
func TestAnAnswerStoredByTheHandlersTransaction(t *testing.T) {
	for _, tt := range []struct {
		name    string
		commit  bool
		writes  bool // the handler answers by itself too
		status  int
		again   int
		runs    int32
		problem string
	}{
		{"committed: it is the answer", true, false, 201, 201, 1, ""},
		{"committed, and the handler thinks otherwise", true, true, 201, 201, 1, ""},
		{"not committed, as the handler says: nothing was done", false, true, 500, 500, 2, ""},
		{"not committed, and the handler says nothing", false, false, 500, 500, 2, "not-applied"},
		{"not committed, and the handler does not know what else it did", false, false, 409, 409, 1, "outcome-unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := newFaulty(t)
			service := &till{then: func(w http.ResponseWriter, r *http.Request, _ int) {
				w.Header().Set("X-Handler", "1")
				c, err := idempotency.Join(r.Context(), store, idempotency.Answer{Status: 201, Header: http.Header{"Location": {"/1"}}, Body: []byte("one")})
				require.NoError(t, err)
				if tt.commit {
					require.NoError(t, store.Complete(r.Context(), c.Holder, c.Result, c.Keep))
				}
				if tt.writes {
					w.WriteHeader(500)
				}
				if tt.problem == "outcome-unknown" {
					idempotency.OutcomeUnknown(r.Context())
				}
			}}
			h := guard(t, service, with(store))
			a := ask(h, post("k", "1"))
			require.Equal(t, tt.status, a.status)
			require.Equal(t, tt.problem, a.problem())
			if tt.commit {
				require.Equal(t, "one", a.body)
				require.Equal(t, "/1", a.header.Get("Location"))
				require.Empty(t, a.header.Get("X-Handler"))
				require.False(t, a.replayed())
			}
			require.Equal(t, tt.again, ask(h, post("k", "1")).status)
			require.Equal(t, tt.runs, service.charged.Load())
		})
	}
}

// Whether it is committed cannot be seen: then nobody is told that nothing was done.
func TestATransactionOfWhichNothingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		h := guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, n int) {
			if n == 2 {
				return
			}
			_, err := idempotency.Join(r.Context(), store, idempotency.Answer{Status: 201})
			require.NoError(t, err)
			store.fail = during(20*time.Second, "Lookup", "Release")
		}}, with(store))
		a := ask(h, post("k", "1"))
		require.Equal(t, 503, a.status)
		require.Equal(t, "outcome-unknown", a.problem())
		time.Sleep(time.Minute) // the store is back, and hears that nothing was done
		require.Equal(t, 200, ask(h, post("k", "1")).status)
	})
}

// A renewal waits behind the transaction, and finds the key settled.
func TestARunIsNotToldThatItHasLostWhatItsOwnTransactionSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		h := guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) {
			c, err := idempotency.Join(r.Context(), store, idempotency.Answer{Status: 201})
			require.NoError(t, err)
			require.NoError(t, store.Complete(r.Context(), c.Holder, c.Result, c.Keep))
			time.Sleep(time.Second) // renewals come, and the commit is still to be heard of
			require.NoError(t, r.Context().Err())
		}}, with(store))
		require.Equal(t, 201, ask(h, post("k", "1")).status)
	})
}

func TestWhoCannotJoin(t *testing.T) {
	_, err := idempotency.Join(t.Context(), newFaulty(t), idempotency.Answer{Status: 200})
	require.ErrorContains(t, err, "not that of a run")
	ask(guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) {
		_, err = idempotency.Join(r.Context(), newFaulty(t), idempotency.Answer{Status: 200})
	}}), post("k", ""))
	require.ErrorContains(t, err, "another store")
	store := newFaulty(t)
	ask(guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) {
		_, err = idempotency.Join(r.Context(), store, idempotency.Answer{})
	}}, with(store)), post("k", ""))
	require.ErrorContains(t, err, "Answer.Status: 0")
}

func TestABadConfigIsNamed(t *testing.T) {
	for want, set := range map[string]func(*idempotency.Config){
		"Config.Scope":                                 func(c *idempotency.Config) { c.Scope = nil },
		"Config.OnUnknown: Recover(nil)":               func(c *idempotency.Config) { c.OnUnknown = idempotency.Recover(nil) },
		"Config.Lease: -1s":                            func(c *idempotency.Config) { c.Lease = -time.Second },
		"Config.Lease: 1ms":                            func(c *idempotency.Config) { c.Lease = time.Millisecond },
		"Config.Retention: 2562047h":                   func(c *idempotency.Config) { c.Retention = math.MaxInt64 },
		"Config.Retention: -1s":                        func(c *idempotency.Config) { c.Retention = -time.Second },
		"Config.Wait: -1s":                             func(c *idempotency.Config) { c.Wait = -time.Second },
		"Config.StoreTimeout: -1s":                     func(c *idempotency.Config) { c.StoreTimeout = -time.Second },
		"Config.MaxBody: -1":                           func(c *idempotency.Config) { c.MaxBody = -1 },
		"Config.MaxAnswer: -1":                         func(c *idempotency.Config) { c.MaxAnswer = -1 },
		`Config.Header: "a b"`:                         func(c *idempotency.Config) { c.Header = "a b" },
		`Config.Methods: "a b"`:                        func(c *idempotency.Config) { c.Methods = []string{"a b"} },
		`Config.KeepHeaders: "a:"`:                     func(c *idempotency.Config) { c.KeepHeaders = []string{"a:"} },
		"Config.KeepHeaders: Set-Cookie is never kept": func(c *idempotency.Config) { c.KeepHeaders = []string{"set-cookie"} },
	} {
		cfg := idempotency.Config{Scope: idempotency.OneScope}
		set(&cfg)
		_, err := idempotency.New(cfg)
		require.ErrorContains(t, err, "idempotency: "+want)
	}
	_, err := idempotency.NewEngine(idempotency.Config{Scope: idempotency.OneScope})
	require.ErrorContains(t, err, "Config.Scope")
}

func TestWhatOperatorsSee(t *testing.T) {
	var log strings.Builder
	var counts idempotency.Counts
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := guard(t, &till{}, func(c *idempotency.Config) {
		c.Observer = idempotency.Observers(counts.Observer(), idempotency.Observer{}, idempotency.LogTo(nil), idempotency.LogTo(logger))
		c.Secret = []byte("pepper")
	})
	ask(h, post("secret-key", "secret-body", "Tenant: secret-tenant"))
	ask(h, post("secret-key", "secret-body", "Tenant: secret-tenant"))
	ask(h, post("secret-key", "another", "Tenant: secret-tenant"))
	ask(h, post(`"secret-key`, "another", "Tenant: secret-tenant"))
	for kind, want := range map[idempotency.Kind]int64{
		idempotency.RunBegan: 1, idempotency.RunCompleted: 1, idempotency.Replayed: 1, idempotency.Mismatched: 1, idempotency.Refused: 1,
	} {
		require.Equal(t, want, counts.Of(kind), kind)
		require.Contains(t, log.String(), "kind="+kind.String())
		require.Contains(t, counts.String(), `"`+kind.String()+`":1`)
	}
	require.NotContains(t, log.String(), "secret")
	require.Equal(t, 5, strings.Count(log.String(), "\n"))
}

func TestWhoeverAltersAResultOfDoAltersOnlyHisOwn(t *testing.T) {
	engine, err := idempotency.NewEngine(idempotency.Config{})
	require.NoError(t, err)
	do := func() []byte {
		got, err := engine.Do(t.Context(), "s", "k", idempotency.Fingerprint{}, func(context.Context) ([]byte, error) { return []byte("result"), nil })
		require.NoError(t, err)
		return got
	}
	for range 3 {
		got := do()
		require.Equal(t, "result", string(got))
		clear(got)
	}
}

func TestAConfigIsTheCallersAgainAfterNew(t *testing.T) {
	secret, methods := []byte("pepper"), []string{"POST"}
	service := &till{}
	h := guard(t, service, func(c *idempotency.Config) { c.Secret, c.Methods = secret, methods })
	ask(h, post("k", "1"))
	clear(secret)
	clear(methods)
	require.True(t, ask(h, post("k", "1")).replayed())
}
