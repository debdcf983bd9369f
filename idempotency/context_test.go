package idempotency_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

func TestTheContextOfARunBehavesLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type name struct{}
		var child, plain context.Context
		var after sync.WaitGroup
		h := guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) {
			ctx := r.Context()
			require.NoError(t, ctx.Err())
			require.Equal(t, "v", ctx.Value(name{}))
			var cancel context.CancelFunc
			child, cancel = context.WithTimeout(ctx, time.Hour)
			_ = cancel // forgotten: the end of the run does it
			plain = context.WithValue(ctx, name{}, "w")
			after.Add(1)
			context.AfterFunc(ctx, after.Done)
			<-child.Done()
			require.ErrorIs(t, context.Cause(child), idempotency.ErrRunLimit)
			require.ErrorIs(t, context.Cause(plain), idempotency.ErrRunLimit)
			require.ErrorIs(t, plain.Err(), context.Canceled)
		}}, func(c *idempotency.Config) { c.RunLimit = time.Second })
		ctx := context.WithValue(t.Context(), name{}, "v")
		require.Equal(t, 200, ask(h, post("k", "1").WithContext(ctx)).status)
		after.Wait()
	})
}

func TestTheContextOfARunEndsWithIt(t *testing.T) {
	var kept context.Context
	h := guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) { kept = r.Context() }})
	ask(h, post("k", "1"))
	require.ErrorIs(t, kept.Err(), context.Canceled)
	<-kept.Done()
	require.ErrorIs(t, context.Cause(kept), context.Canceled)
	child, cancel := context.WithCancel(kept)
	defer cancel()
	<-child.Done()
	idempotency.NotApplied(kept) // too late
	require.True(t, ask(h, post("k", "1")).replayed())
}

type stuckRenewals struct{ *faulty }

func (stuckRenewals) Renew(ctx context.Context, _ idempotency.Holder, _, _ time.Duration) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestARunLearnsSoonThatItsLeaseMayBeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var took time.Duration
		var cause error
		h := guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) {
			<-r.Context().Done()
			took, cause = time.Since(start), context.Cause(r.Context())
		}}, with(stuckRenewals{newFaulty(t)}), func(c *idempotency.Config) { c.OnUnknown = idempotency.Reexecute() })
		ask(h, post("k", "1"))
		require.ErrorIs(t, cause, idempotency.ErrLeaseLost)
		require.LessOrEqual(t, took, 500*time.Millisecond, "a lease of 400 ms")
	})
}

func TestHandlersWithinATimeLimit(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(keys func(http.Handler) http.Handler, h http.Handler) http.Handler
		want int
	}{
		{"inside: its answer is the answer", func(keys func(http.Handler) http.Handler, h http.Handler) http.Handler {
			return keys(http.TimeoutHandler(h, time.Second, "late"))
		}, 503},
		{"outside: the handler's answer is still kept", func(keys func(http.Handler) http.Handler, h http.Handler) http.Handler {
			return http.TimeoutHandler(keys(h), time.Second, "late")
		}, 201},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			keys, err := idempotency.New(idempotency.Config{Scope: idempotency.OneScope})
			require.NoError(t, err)
			service := &till{then: func(w http.ResponseWriter, r *http.Request, _ int) {
				time.Sleep(2 * time.Second)
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "/1")
				w.WriteHeader(201)
			}}
			h := tt.wrap(keys, service)
			large := strings.Repeat("x", 2<<20)
			require.Equal(t, 503, ask(h, post("k", large)).status)
			time.Sleep(3 * time.Second)
			a := ask(h, post("k", large))
			require.Equal(t, tt.want, a.status)
			require.True(t, a.replayed())
			require.EqualValues(t, 1, service.charged.Load())
		})
	}
}

// The limit shows however the handler asks, and when.
func TestTheLimitOfARunIsSeenByWhoAsksLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) {
			ctx := r.Context()
			require.NoError(t, ctx.Err())
			time.Sleep(time.Second)
			require.ErrorIs(t, ctx.Err(), context.Canceled)
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), idempotency.ErrRunLimit)
		}}, func(c *idempotency.Config) { c.RunLimit = time.Second })
		require.Equal(t, 200, ask(h, post("k", "1")).status)
		forever := guard(t, &till{then: func(_ http.ResponseWriter, r *http.Request, _ int) {
			time.Sleep(time.Hour)
			require.NoError(t, r.Context().Err())
		}}, func(c *idempotency.Config) { c.RunLimit = -1 })
		require.Equal(t, 200, ask(forever, post("k", "1")).status)
	})
}
