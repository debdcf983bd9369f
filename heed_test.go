package resilient_test

import (
	"maps"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

func TestA409MeansStillRunningOnlyUnderAKeyWhoseFateIsUnknown(t *testing.T) {
	conflict := faultinject.Respond(409)
	for _, tt := range []struct {
		name     string
		change   func(*resilient.Config)
		faults   []faultinject.Fault
		status   int
		attempts int
	}{
		{"a keyed request waits for its first attempt to end", honoured, []faultinject.Fault{lost(), conflict, conflict}, 200, 4},
		{"on a first attempt it is the answer", honoured, []faultinject.Fault{conflict}, 409, 1},
		{"after an attempt that was not sent it is the answer", honoured, []faultinject.Fault{faultinject.RefuseDial(), conflict}, 409, 2},
		{"after an attempt that was answered it is the answer", honoured, []faultinject.Fault{faultinject.Respond(500), conflict}, 409, 2},
		{"of a stored answer it is the answer", honoured, []faultinject.Fault{lost(), faultinject.Respond(409, "Idempotent-Replayed: true")}, 409, 2},
		{"without a key it is the answer", func(c *resilient.Config) { c.NoKeys = true }, []faultinject.Fault{faultinject.RefuseDial(), conflict}, 409, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := do(t, newClient(t, script(tt.faults...), tt.change), newRequest(t, http.MethodPost, "x"))
				require.Equal(t, tt.status, got.status)
				require.Equal(t, tt.attempts, got.attempts)
			})
		})
	}
	t.Run("a PUT has no key to be running under", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			got := do(t, newClient(t, script(lost(), conflict)), newRequest(t, http.MethodPut, "x"))
			require.Equal(t, 409, got.status)
			require.True(t, got.record.EarlierUnknown(), "it may be the echo of our own success")
		})
	})
}

func TestWhatAServerSaysOfRepeatingIsHeeded(t *testing.T) {
	for _, tt := range []struct {
		name     string
		method   string
		answer   faultinject.Fault
		status   int
		attempts int
	}{
		{"a replayed 500 is final", "GET", faultinject.Respond(500, "Idempotent-Replayed: true"), 500, 1},
		{"a replayed 503 is final, whatever it asks", "GET", faultinject.Respond(503, "Idempotency-Replayed: TRUE", "Retry-After: 1"), 503, 1},
		{"a replayed false says nothing", "GET", faultinject.Respond(500, "Idempotent-Replayed: false"), 200, 2},
		{"Stripe-Should-Retry: false ends a 500", "GET", faultinject.Respond(500, "Stripe-Should-Retry: false"), 500, 1},
		{"X-Should-Retry: false ends a 429", "GET", faultinject.Respond(429, "X-Should-Retry: false", "Retry-After: 1"), 429, 1},
		{"Stripe-Should-Retry: true repeats a 400", "GET", faultinject.Respond(400, "Stripe-Should-Retry: true"), 200, 2},
		{"X-Should-Retry: true repeats a 409", "PUT", faultinject.Respond(409, "X-Should-Retry: true"), 200, 2},
		{"but never what is not repeatable", "POST", faultinject.Respond(409, "X-Should-Retry: true"), 409, 1},
		{"rubbish says nothing", "GET", faultinject.Respond(400, "X-Should-Retry: perhaps"), 400, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := do(t, newClient(t, script(tt.answer), func(c *resilient.Config) { c.CountReplays = true }), newRequest(t, tt.method, ""))
				require.Equal(t, tt.status, got.status)
				require.Equal(t, tt.attempts, got.attempts)
			})
		})
	}
}

func TestKeyMismatchIsA422ToAKeyedRequest(t *testing.T) {
	for _, tt := range []struct {
		name   string
		method string
		header http.Header
		change func(*resilient.Config)
		status int
		want   bool
	}{
		{"a minted key", "POST", nil, honoured, 422, true},
		{"a minted key of an unvouched server", "POST", nil, noChange, 422, true},
		{"a key of the caller's", "PUT", http.Header{"X-Idempotency-Key": {"a"}}, noChange, 422, true},
		{"a header of Config.Keys", "POST", nil, func(c *resilient.Config) { c.Keys.Header = "X-Op" }, 422, true},
		{"no key", "POST", nil, noKeys, 422, false},
		{"no key and no record", "GET", nil, noChange, 422, false},
		{"another status", "POST", nil, honoured, 409, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, tt.method, "")
				maps.Copy(req.Header, tt.header)
				resp, err := newClient(t, script(faultinject.Respond(tt.status)), tt.change).Do(req)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.want, resilient.KeyMismatch(resp))
			})
		})
	}
	require.False(t, resilient.KeyMismatch(nil))
	require.False(t, resilient.KeyMismatch(&http.Response{StatusCode: 422}))
}
