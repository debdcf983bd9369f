package idempotency_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

// unheard is a store whose answers to claims get lost for a while, though the
// claims take place.
type unheard struct {
	idempotency.Store
	lost bool
}

func (u *unheard) Claim(ctx context.Context, c idempotency.Claim) (idempotency.Record, bool, error) {
	rec, claimed, err := u.Store.Claim(ctx, c)
	if u.lost {
		return idempotency.Record{}, false, errors.New("the connection broke")
	}
	return rec, claimed, err
}

func TestAClaimThatIsGivenBackForgetsNoEarlierRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
		require.NoError(t, err)
		store := &unheard{Store: memory}
		service := &till{then: func(http.ResponseWriter, *http.Request, int) { panic("oh") }}
		h := guard(t, service, func(c *idempotency.Config) {
			c.Store = store
			c.OnUnknown = idempotency.Recover(func(context.Context, idempotency.Unresolved) (idempotency.Answer, error) {
				return idempotency.Answer{Status: 201, Body: []byte("found")}, nil
			})
		})
		ask(h, post("k", "1"))
		store.lost = true
		require.Equal(t, "store-unavailable", ask(h, post("k", "1")).problem())
		time.Sleep(time.Second)
		store.lost = false
		require.Equal(t, "found", ask(h, post("k", "1")).body)
		require.EqualValues(t, 1, service.charged.Load())
	})
}

// What a run that was begun anew has not done, the one before it may have.
func TestARunBegunAnewCannotSayOfItsKeyThatNothingWasDone(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		then   func(w http.ResponseWriter, r *http.Request)
	}{
		{"by its answer", 503, func(w http.ResponseWriter, r *http.Request) {
			idempotency.NotApplied(r.Context())
			w.WriteHeader(http.StatusServiceUnavailable)
		}},
		{"before it panics", -1, func(_ http.ResponseWriter, r *http.Request) {
			idempotency.NotApplied(r.Context())
			panic("oh")
		}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			var ages []time.Duration
			h := guard(t, &till{then: func(w http.ResponseWriter, r *http.Request, n int) {
				switch n {
				case 1:
					panic("oh")
				case 2:
					tt.then(w, r)
				default:
					w.WriteHeader(201)
				}
			}}, func(c *idempotency.Config) {
				c.OnUnknown = idempotency.Reexecute()
				c.Observer.Event = func(_ context.Context, e idempotency.Event) {
					if e.Kind == idempotency.RunTakenOver {
						ages = append(ages, e.Age)
					}
				}
			})
			ask(h, post("k", "1"))
			time.Sleep(time.Second)
			require.Equal(t, tt.status, ask(h, post("k", "1")).status)
			time.Sleep(time.Second)
			require.Equal(t, "key-reused", ask(h, post("k", "2")).problem())
			require.Equal(t, 201, ask(h, post("k", "1")).status)
			require.Equal(t, []time.Duration{time.Second, 2 * time.Second}, ages, "the keys of its calls are as old as the first run")
		})
	}
}

// Between its two runs somebody else has done it.
func TestARunThatHasLostItsKeyCannotSayThatNothingWasDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := &till{then: func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				time.Sleep(2 * time.Second) // longer than the limit and a lease
				idempotency.NotApplied(r.Context())
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.WriteHeader(201)
		}}
		h := guard(t, service, func(c *idempotency.Config) {
			c.RunLimit, c.OnUnknown = time.Second, idempotency.Reexecute()
		})
		first := make(chan answer)
		go func() { first <- ask(h, post("k", "1")) }()
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, 201, ask(h, post("k", "1")).status)
		a := <-first
		require.Equal(t, 201, a.status)
		require.True(t, a.replayed())
	})
}
