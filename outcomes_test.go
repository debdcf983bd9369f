package resilient_test

// What docs/outcomes.md and the pages on moving here say, where no other test does.

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

func TestNotBeforeIsNeverTheTimeOfAnAttemptAlreadyMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := faultinject.Respond(503)
		got := do(t, newClient(t, script(fail, fail, fail, fail)), newRequest(t, "GET", ""))
		require.ErrorIs(t, got.stop, resilient.ErrAttempts)
		require.Zero(t, got.record.NotBefore)

		last := faultinject.Respond(503, "Retry-After: 7")
		got = do(t, newClient(t, script(fail, fail, fail, last)), newRequest(t, "GET", ""))
		require.ErrorIs(t, got.stop, resilient.ErrAttempts)
		require.WithinDuration(t, time.Now().Add(7*time.Second), got.record.NotBefore, time.Millisecond)
	})
}

func TestAKeyThatWasSentBeforeIsNeverToldNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := faultinject.RefuseDial()
		key := resilient.Key{Value: "k", FirstSent: time.Now().Add(-time.Minute)}
		req := newRequest(t, "POST", "x").WithContext(resilient.WithKey(t.Context(), key))
		got := do(t, newClient(t, script(refused, refused, refused, refused)), req)
		require.Equal(t, resilient.Unknown, got.outcome)
	})
}

func TestABaseThatIsNotVouchedForMakesEveryErrorUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := faultinject.RefuseDial()
		for _, wire := range []bool{false, true} {
			got := do(t, newClient(t, script(refused, refused, refused, refused), func(c *resilient.Config) { c.BaseIsWire = wire }), newRequest(t, "POST", "x"))
			if wire {
				require.Equal(t, resilient.NotSent, got.outcome)
				require.Equal(t, 4, got.attempts)
			} else {
				require.Equal(t, resilient.Unknown, got.outcome)
				require.Equal(t, 1, got.attempts)
			}
		}
	})
}

func TestCountReplaysLetsAGetEndNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := faultinject.RefuseDial()
		for _, counts := range []bool{false, true} {
			got := do(t, newClient(t, script(refused, refused, refused, refused), func(c *resilient.Config) { c.CountReplays = counts }), newRequest(t, "GET", ""))
			require.Equal(t, counts, got.outcome == resilient.NotSent)
		}
	})
}

// http.Client.Timeout hides the error in some runs; our own limits never do.
func TestConfigTimeoutLeavesTheErrorToBeFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, script(faultinject.Stall()), func(c *resilient.Config) { c.Timeout = time.Second })
		got := do(t, client, newRequest(t, "POST", "x")) // it fails where there is no *resilient.Error
		require.Equal(t, resilient.Unknown, got.outcome)
		timeout, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](got.err)
		require.True(t, ok && timeout.Timeout())
	})
}

func TestCheckRedirectIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, script(faultinject.Respond(302, "Location: /elsewhere")))
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		require.Equal(t, 302, do(t, client, newRequest(t, "GET", "")).status)
	})
}
