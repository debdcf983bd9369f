package idempotency_test

import (
	"context"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

type slowClaims struct{ *faulty }

func (s slowClaims) Claim(ctx context.Context, c idempotency.Claim) (idempotency.Record, bool, error) {
	select {
	case <-ctx.Done():
		return idempotency.Record{}, false, ctx.Err()
	case <-time.After(300 * time.Millisecond):
		return s.faulty.Claim(ctx, c)
	}
}

func TestACallerWhoLeavesWhileTheStoreIsSlowIsNoFailureOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var counts idempotency.Counts
		h := guard(t, &till{}, with(slowClaims{newFaulty(t)}), func(c *idempotency.Config) { c.Observer = counts.Observer() })
		ctx, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer leave()
		ask(h, post("k", "1").WithContext(ctx))
		require.Zero(t, counts.Of(idempotency.StoreFailed))
		require.True(t, ask(h, post("k", "1")).replayed())
	})
}

type stuckLookup struct{ *faulty }

func (stuckLookup) Lookup(ctx context.Context, _ idempotency.ID) (idempotency.Record, error) {
	<-ctx.Done()
	return idempotency.Record{}, ctx.Err()
}

func TestAnOperatorDoesNotWaitForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, err := idempotency.NewEngine(idempotency.Config{Store: stuckLookup{newFaulty(t)}})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Hour)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, engine.Forget(ctx, "s", "k"), context.DeadlineExceeded)
		require.Less(t, time.Since(start), time.Minute)
	})
}

func TestRequestsAreNotHeldInMemoryWhileTheStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		store.fail = during(time.Minute, "Claim", "Release")
		h := guard(t, &till{}, with(store), func(c *idempotency.Config) { c.Lease = 30 * time.Second })
		gone := func() weak.Pointer[http.Request] {
			req := post("k", "1")
			require.Equal(t, 503, ask(h, req).status)
			return weak.Make(req)
		}()
		runtime.GC()
		runtime.GC()
		require.Nil(t, gone.Value())
		time.Sleep(time.Hour)
	})
}

func TestTheAnswerToAnotherRequestIsNeverGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(t)
		var h http.Handler
		service := &till{then: func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				idempotency.NotApplied(r.Context())
				w.WriteHeader(422)
				return
			}
			w.WriteHeader(201)
		}}
		h = guard(t, service, with(store))
		// The release takes place unheard, and somebody else is quick.
		store.lose = func(method string) error {
			if method != "Release" {
				return nil
			}
			store.lose = nil
			require.Equal(t, 201, ask(h, post("k", "corrected")).status)
			return errDown
		}
		a := ask(h, post("k", "wrong"))
		require.Equal(t, 422, a.status, a.body)
		require.False(t, a.replayed())
	})
}
