package resilient_test

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// under makes requests under parent and returns the keys they ended with.
func under(t *testing.T, client *http.Client, parent resilient.Key, requests ...string) (keys []string) {
	t.Helper()
	ctx := resilient.WithParentKey(t.Context(), parent)
	for _, r := range requests {
		keys = append(keys, do(t, client, stepRequest(t, ctx, r)).record.Key)
	}
	return keys
}

// stepRequest is a POST, to a path or to what is written out.
func stepRequest(t *testing.T, ctx context.Context, to string) *http.Request {
	t.Helper()
	req := newRequest(t, http.MethodPost, "x").WithContext(ctx)
	u, err := req.URL.Parse(to)
	require.NoError(t, err)
	req.URL = u
	return req
}

func TestAHandlerThatRunsAgainSendsTheSameKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script()
		client := newClient(t, base)
		parent := resilient.Key{Value: "order-7"}
		calls := []string{"/charges", "/charges", "/mails", "http://other.test/charges"}
		first := under(t, client, parent, calls...)
		again := under(t, client, parent, "/charges?trace=2", "/mails", "http://API.test:80/charges", "http://other.test/charges")
		require.Equal(t, []string{first[0], first[2], first[1], first[3]}, again,
			"the query, the spelling of the host and calls to other URLs change nothing")
		for i, d := range base.Deliveries() {
			require.Equal(t, append(first, again...)[i], d.Key, "that is what the server is sent")
		}

		seen := map[string]bool{"": true}
		for _, key := range append(first, under(t, client, resilient.Key{Value: "order-8"}, calls...)...) {
			require.False(t, seen[key], "a key for each step, and other ones for another operation")
			seen[key] = true
		}
		require.Equal(t, resilient.DeriveKey("order-7", "POST http://api.test/charges 2"), first[1], "a release that changes it would charge twice")
	})
}

func TestAStepKeepsItsKeyOverAttemptsAndHops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &hops{status: http.StatusTemporaryRedirect, next: map[string]string{"api.test/charges": "/b", "api.test/b": "http://other.test/c"}}
		client := newClient(t, faultinject.Handler(s, faultinject.Script(lost())), honoured)
		keys := under(t, client, resilient.Key{Value: "order-7"}, "/charges")
		want := resilient.DeriveKey("order-7", "POST http://api.test/charges 1")
		require.Equal(t, want, s.keys["POST api.test/charges"])
		require.Equal(t, want, s.keys["POST api.test/b"], "the same origin")
		require.Empty(t, s.keys["POST other.test/c"], "as a key that we made")
		require.Empty(t, keys[0])
		require.Equal(t, under(t, newClient(t, script()), resilient.Key{Value: "order-7"}, "/b"),
			[]string{resilient.DeriveKey("order-7", "POST http://api.test/b 1")}, "a hop is no call")
	})
}

func TestADerivedKeyLicensesARepeatOnlyWhereKeysAreHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := resilient.WithParentKey(t.Context(), resilient.Key{Value: "order-7"})
		for name, ctx := range map[string]context.Context{"by its place": ctx, "named": resilient.WithStep(ctx, "charge")} {
			got := do(t, newClient(t, script(lost())), stepRequest(t, ctx, "/charges"))
			require.ErrorIs(t, got.stop, resilient.ErrUnsafe, name)
			got = do(t, newClient(t, script(lost()), honoured), stepRequest(t, ctx, "/charges"))
			require.Equal(t, 2, got.attempts, name)
		}
	})
}

func TestAStepOfWorkThatRanBeforeMayHaveBeenSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := resilient.Key{Value: "order-7", FirstSent: time.Now().Add(-time.Minute)}
		late := resilient.Key{Value: "order-7", FirstSent: time.Now().Add(-time.Hour)}
		for _, named := range []bool{false, true} {
			ctx := func(parent resilient.Key) context.Context {
				ctx := resilient.WithParentKey(t.Context(), parent)
				if named {
					ctx = resilient.WithStep(ctx, "charge")
				}
				return ctx
			}
			inProgress := faultinject.Respond(409)
			got := do(t, newClient(t, script(inProgress, inProgress), honoured), stepRequest(t, ctx(parent), "/charges"))
			require.Equal(t, 200, got.status, "the 409 is the earlier run's request")
			require.True(t, parent.FirstSent.Equal(got.record.FirstSent))
			got = do(t, newClient(t, script(inProgress), honoured), stepRequest(t, ctx(resilient.Key{Value: "order-7"}), "/charges"))
			require.Equal(t, 409, got.status, "nothing was sent before")

			got = do(t, newClient(t, script(), honoured), stepRequest(t, ctx(late), "/charges"))
			require.ErrorIs(t, got.stop, resilient.ErrKeyExpired)
			require.Equal(t, resilient.Unknown, got.outcome)
		}
	})
}

func TestWhatBearsOrNeedsNoKeyOfOursIsNoStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, script())
		ctx := resilient.WithParentKey(t.Context(), resilient.Key{Value: "order-7"})

		req := stepRequest(t, ctx, "/charges")
		req.Header.Set("Idempotency-Key", "mine")
		require.Equal(t, "mine", do(t, client, req).record.Key)
		mine := resilient.WithKey(ctx, resilient.Key{Value: "mine"})
		require.Equal(t, "mine", do(t, client, stepRequest(t, mine, "/charges")).record.Key)
		for _, method := range []string{"GET", "PUT"} {
			req := stepRequest(t, ctx, "/charges")
			req.Method = method
			require.Empty(t, do(t, client, req).record.Key)
		}
		require.Empty(t, do(t, newClient(t, script(), noKeys), stepRequest(t, ctx, "/charges")).record.Key)

		got := do(t, client, stepRequest(t, ctx, "/charges")).record.Key
		require.Equal(t, resilient.DeriveKey("order-7", "POST http://api.test/charges 1"), got, "none of them was counted")
	})
}

func TestADerivedKeyStandsInQuotesWhereMintedOnesDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, seen := headersOf()
		client := newClient(t, base, func(c *resilient.Config) { c.Keys.Quoted = true })
		ctx := resilient.WithStep(resilient.WithParentKey(t.Context(), resilient.Key{Value: "order-7"}), "charge")
		got := do(t, client, stepRequest(t, ctx, "/charges"))
		want := `"` + resilient.DeriveKey("order-7", "charge") + `"`
		require.Equal(t, want, got.record.Key)
		require.Equal(t, []string{want}, (*seen)[0]["Idempotency-Key"])

		got = do(t, client, stepRequest(t, resilient.WithStep(ctx, ""), "/charges"))
		require.Empty(t, got.record.Key, "there is none to resume with")
	})
}

func TestANamedStepHasItsKeyWhereverItStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, script(lost()), func(c *resilient.Config) { c.MaxAttempts = 1 }, honoured)
		ctx := resilient.WithParentKey(t.Context(), resilient.Key{Value: "order-7"})
		charge := func() told { return do(t, client, stepRequest(t, resilient.WithStep(ctx, "charge"), "/charges")) }
		first := charge()
		require.Equal(t, resilient.Unknown, first.outcome)
		require.Equal(t, resilient.DeriveKey("order-7", "charge"), first.record.Key)
		time.Sleep(time.Second)
		again := charge()
		require.Equal(t, first.record.Key, again.record.Key, "the handler itself repeats it")
		require.Equal(t, first.record.FirstSent, again.record.FirstSent, "the server may know it since")
		time.Sleep(time.Hour)
		require.ErrorIs(t, charge().stop, resilient.ErrKeyExpired)

		plain := do(t, client, stepRequest(t, ctx, "/charges"))
		require.Equal(t, resilient.DeriveKey("order-7", "POST http://api.test/charges 1"), plain.record.Key, "named ones are not counted")
	})
}

func TestAStepIsOneOperationAndTheNextIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script()
		client := newClient(t, base)
		ctx := resilient.WithParentKey(t.Context(), resilient.Key{Value: "order-7"})
		step := resilient.WithStep(ctx, "charge")
		require.Equal(t, 200, do(t, client, stepRequest(t, step, "/charges")).status)
		get := stepRequest(t, step, "/charges/7")
		get.Method = http.MethodGet
		require.Equal(t, 200, do(t, client, get).status, "it needs no key")
		for says, req := range map[string]*http.Request{
			`WithStep: "charge"`:           stepRequest(t, step, "/refunds"),
			`"charge" is another request`:  stepRequest(t, resilient.WithStep(ctx, "charge"), "/refunds"),
			"WithStep: empty name":         stepRequest(t, resilient.WithStep(ctx, ""), "/charges"),
			"WithParentKey: empty key":     stepRequest(t, resilient.WithParentKey(ctx, resilient.Key{}), "/charges"),
			"resilient: WithParentKey: em": stepRequest(t, resilient.WithStep(resilient.WithParentKey(ctx, resilient.Key{}), "a"), "/charges"),
		} {
			got := do(t, client, req)
			require.ErrorContains(t, got.err, says)
			require.Equal(t, resilient.NotSent, got.outcome)
		}
		require.Len(t, base.Deliveries(), 2)
	})
}

func TestAStepBelongsToTheParentAboveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, script())
		orphan := resilient.WithStep(t.Context(), "charge")
		a := do(t, client, stepRequest(t, orphan, "/charges")).record.Key
		b := do(t, client, stepRequest(t, orphan, "/refunds")).record.Key
		require.NotEqual(t, a, b, "without a parent it does nothing")
		require.Equal(t, 200, do(t, client, stepRequest(t, resilient.WithStep(t.Context(), ""), "/charges")).status)

		parent := resilient.WithParentKey(orphan, resilient.Key{Value: "order-7"})
		require.Equal(t, resilient.DeriveKey("order-7", "POST http://api.test/charges 1"),
			do(t, client, stepRequest(t, parent, "/charges")).record.Key)
		same := resilient.WithParentKey(resilient.WithStep(parent, "charge"), resilient.Key{Value: "order-7"})
		require.Equal(t, resilient.DeriveKey("order-7", "POST http://api.test/charges 2"),
			do(t, client, stepRequest(t, same, "/charges")).record.Key, "said twice, it counts on")
		inner := resilient.WithParentKey(parent, resilient.Key{Value: "order-8"})
		require.Equal(t, resilient.DeriveKey("order-8", "POST http://api.test/charges 1"),
			do(t, client, stepRequest(t, inner, "/charges")).record.Key)
	})
}

func TestAnotherOperationBelowAStepHasAKeyOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script()
		inner := newTransport(t, base)
		signing := roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := inner.RoundTrip(stepRequest(t, req.Context(), "/token"))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return inner.RoundTrip(req)
		})
		parent := resilient.Key{Value: "order-7"}
		under(t, newClient(t, signing), parent, "/charges", "/token")
		d := base.Deliveries()
		require.Len(t, d, 4)
		step := func(s string) string { return resilient.DeriveKey("order-7", "POST http://api.test"+s) }
		require.Equal(t, step("/charges 1"), d[1].Key, "the layer below hands it on")
		require.Equal(t, step("/token 1"), d[3].Key, "those below were not counted")
		for _, token := range []string{d[0].Key, d[2].Key} {
			require.NotEqual(t, step("/token 1"), token)
			require.NotEqual(t, d[1].Key, token)
		}
	})
}

func TestStepsAreSafeForManyGoroutines(t *testing.T) {
	var mu sync.Mutex
	keys := make(map[string]int)
	client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, req.Body)
		mu.Lock()
		defer mu.Unlock()
		keys[req.Header.Get("Idempotency-Key")]++
		return answer(req, 200), nil
	}))
	ctx := resilient.WithParentKey(t.Context(), resilient.Key{Value: "order-7"})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				do(t, client, stepRequest(t, ctx, "/charges"))
				do(t, client, stepRequest(t, resilient.WithStep(ctx, "mail"), "/mails"))
			}
		})
	}
	all.Wait()
	require.Equal(t, 80, keys[resilient.DeriveKey("order-7", "mail")])
	require.Len(t, keys, 81)
}
