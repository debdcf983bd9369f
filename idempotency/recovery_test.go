package idempotency_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

func TestWhatARecoverySaysOfItselfIsNotTheHandlersWord(t *testing.T) {
	for _, say := range []func(context.Context){idempotency.NotApplied, idempotency.OutcomeUnknown} {
		service := &till{then: func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				panic("oh")
			}
			w.WriteHeader(201)
		}}
		finds := 0
		h := guard(t, service, func(c *idempotency.Config) {
			c.OnUnknown = idempotency.Recover(func(ctx context.Context, _ idempotency.Unresolved) (idempotency.Answer, error) {
				say(ctx)
				if finds++; finds == 1 {
					panic("oh")
				}
				return idempotency.Answer{}, idempotency.ErrNotApplied
			})
		})
		require.Equal(t, -1, ask(h, post("k", "1")).status)
		require.Equal(t, -1, ask(h, post("k", "1")).status)
		require.Equal(t, 422, ask(h, post("k", "2")).status, "the key is not free")
		require.Equal(t, 201, ask(h, post("k", "1")).status)
		a := ask(h, post("k", "1"))
		require.Equal(t, 201, a.status)
		require.True(t, a.replayed())
		require.EqualValues(t, 2, service.charged.Load())
	}
}

func TestATransactionThatARecoveryBeganIsNotTheHandlers(t *testing.T) {
	store := newFaulty(t)
	service := &till{then: func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			panic("oh")
		}
		w.WriteHeader(201)
	}}
	h := guard(t, service, with(store), func(c *idempotency.Config) {
		c.OnUnknown = idempotency.Recover(func(ctx context.Context, _ idempotency.Unresolved) (idempotency.Answer, error) {
			_, err := idempotency.Join(ctx, store, idempotency.Answer{Status: 200})
			require.NoError(t, err)
			return idempotency.Answer{}, idempotency.ErrNotApplied
		})
	})
	ask(h, post("k", "1"))
	require.Equal(t, 201, ask(h, post("k", "1")).status)
	require.True(t, ask(h, post("k", "1")).replayed())
	require.EqualValues(t, 2, service.charged.Load())
}

func TestWhatARecoveryFoundIsTheSameForWhoeverAsks(t *testing.T) {
	h := guard(t, &till{then: func(http.ResponseWriter, *http.Request, int) { panic("oh") }}, func(c *idempotency.Config) {
		c.OnUnknown = idempotency.Recover(func(context.Context, idempotency.Unresolved) (idempotency.Answer, error) {
			return idempotency.Answer{Status: 201, Header: http.Header{
				"Location": {"/1"}, "Set-Cookie": {"session=1"}, "Content-Length": {"77"}, "X-Other": {"o"},
			}, Body: []byte("found")}, nil
		})
	})
	ask(h, post("k", "1"))
	first, again := ask(h, post("k", "1")), ask(h, post("k", "1"))
	require.Equal(t, again, first)
	require.Equal(t, "/1", again.header.Get("Location"))
	require.Equal(t, "found", again.body)
}

func TestASettledAnswerThatIsNoneForHTTPIsRefused(t *testing.T) {
	store := newFaulty(t)
	h := guard(t, &till{then: func(http.ResponseWriter, *http.Request, int) { panic("oh") }}, with(store))
	ask(h, post("k", "1", "Tenant: a"))
	engine, err := idempotency.NewEngine(idempotency.Config{Store: store})
	require.NoError(t, err)
	settle := func(status int) error {
		return engine.Settle(t.Context(), "tenant a", "k", idempotency.Answer{Status: status, Body: []byte("found")})
	}
	for _, status := range []int{-1, 101, 1000} {
		require.ErrorContains(t, settle(status), "Answer.Status")
	}
	require.NoError(t, settle(0), "right for a key of Do")
	a := ask(h, post("k", "1", "Tenant: a"))
	require.Equal(t, 503, a.status)
	require.Equal(t, "store-unavailable", a.problem())
}

func TestWhoeverCanBeHelpedByARepetitionIsNotToldOtherwise(t *testing.T) {
	store := newFaulty(t)
	h := guard(t, &till{then: func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			_, err := idempotency.Join(r.Context(), store, idempotency.Answer{Status: 201})
			require.NoError(t, err)
			idempotency.OutcomeUnknown(r.Context())
		}
	}}, with(store), func(c *idempotency.Config) { c.OnUnknown = idempotency.Reexecute() })
	a := ask(h, post("k", "1"))
	require.Equal(t, "outcome-unknown", a.problem())
	require.Empty(t, a.header.Get("X-Should-Retry"))
	require.Equal(t, "1", a.header.Get("Retry-After"))
	require.Equal(t, 200, ask(h, post("k", "1")).status)
}
