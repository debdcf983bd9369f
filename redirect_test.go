package resilient_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// hops is every host at once: it acts on each request, notes its key and sends
// it on as next says.
type hops struct {
	status int
	next   map[string]string // by host and path

	mu   sync.Mutex
	keys map[string]string // by method, host and path
}

func (h *hops) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keys == nil {
		h.keys = make(map[string]string)
	}
	h.keys[r.Method+" "+r.Host+r.URL.Path] = r.Header.Get("Idempotency-Key")
	if to := h.next[r.Host+r.URL.Path]; to != "" {
		http.Redirect(w, r, to, h.status)
	}
}

func TestAHopThatCannotBeDialledDoesNotUnsayTheOneThatActed(t *testing.T) {
	refuseGet := faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		if x.Path == "/receipt" {
			return faultinject.RefuseDial()
		}
		return faultinject.Pass()
	})
	// What is above us may put its own request into the answer, and so hide the record.
	outside := func(inner http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := inner.RoundTrip(req)
			if resp != nil {
				resp.Request = req
			}
			return resp, err
		})
	}
	for _, hidden := range []bool{false, true} {
		t.Run(fmt.Sprintf("record hidden %v", hidden), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &hops{status: http.StatusSeeOther, next: map[string]string{"api.test/charges": "/receipt"}}
				client := newClient(t, faultinject.Handler(s, refuseGet), func(c *resilient.Config) { c.CountReplays = true })
				earlier := 1
				if hidden {
					client.Transport, earlier = outside(client.Transport), 0
				}
				got := do(t, client, newRequest(t, http.MethodPost, "x"))
				require.ErrorIs(t, got.stop, resilient.ErrAttempts)
				require.Equal(t, resilient.Unknown, got.outcome, "the POST was executed")
				require.Equal(t, earlier+4, got.attempts)
				if !hidden {
					require.Equal(t, http.StatusSeeOther, got.record.Attempts[0].Status)
					require.Equal(t, http.MethodPost, got.record.Attempts[0].Method)
				}
			})
		})
	}
}

func TestARefusedDialAfterSafeHopsIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &hops{status: http.StatusFound, next: map[string]string{"api.test/charges": "http://gone.test/"}}
		base := faultinject.Handler(s, faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
			if x.Host == "gone.test" {
				return faultinject.RefuseDial()
			}
			return faultinject.Pass()
		}))
		got := do(t, newClient(t, base, func(c *resilient.Config) { c.CountReplays = true }), newRequest(t, http.MethodGet, ""))
		require.Equal(t, resilient.NotSent, got.outcome)
		require.Equal(t, 5, got.attempts)
	})
}

func TestTheRecordOfALaterHopHoldsTheAttemptsOfAllHops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &hops{status: http.StatusTemporaryRedirect, next: map[string]string{
			"api.test/charges": "http://api.test/b", "api.test/b": "http://other.test/c",
		}}
		base := faultinject.Handler(s, faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
			if x.Nth == 1 && x.Path == "/c" {
				return faultinject.RefuseDial()
			}
			return faultinject.Pass()
		}))
		got := do(t, newClient(t, base, noKeys), newRequest(t, http.MethodPost, "x"))
		require.Equal(t, http.StatusOK, got.status)
		require.Len(t, got.record.Attempts, 4)
		for i, a := range got.record.Attempts {
			require.Equal(t, i+1, a.N)
			require.Equal(t, []int{307, 307, 0, 200}[i], a.Status)
			require.Equal(t, []string{"api.test", "api.test", "other.test", "other.test"}[i], a.Host)
		}
		require.Equal(t, "http://other.test/c", got.record.URL)
	})
}

func TestWhichHopsCarryTheKey(t *testing.T) {
	const here, there = "POST api.test/b", "POST other.test/b"
	for _, tt := range []struct {
		name   string
		status int
		to     string
		wish   string // by WithKey
		header string
		hop    string // where to look
		key    string // "same": the first hop's
	}{
		{"307 to the same origin keeps a minted key", 307, "/b", "", "", here, "same"},
		{"308 to the same origin keeps a minted key", 308, "/b", "", "", here, "same"},
		{"307 to the same origin keeps the key of WithKey", 307, "/b", "mine", "", here, "mine"},
		{"307 to another origin drops a minted key", 307, "http://other.test/b", "", "", there, ""},
		{"307 to another origin drops the key of WithKey", 307, "http://other.test/b", "mine", "", there, ""},
		{"307 to another origin keeps the key that stands in the header", 307, "http://other.test/b", "", "mine", there, "mine"},
		{"307 to another port is another origin", 307, "http://api.test:81/b", "", "", "POST api.test:81/b", ""},
		{"303 carries no minted key", 303, "/b", "", "", "GET api.test/b", ""},
		{"302 carries no minted key", 302, "/b", "", "", "GET api.test/b", ""},
		{"301 carries no key of WithKey", 301, "/b", "mine", "", "GET api.test/b", ""},
		{"303 carries the key that stands in the header, as net/http sends it", 303, "/b", "", "mine", "GET api.test/b", "mine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &hops{status: tt.status, next: map[string]string{"api.test/charges": tt.to}}
				req := newRequest(t, http.MethodPost, "x")
				if tt.wish != "" {
					req = req.WithContext(resilient.WithKey(req.Context(), resilient.Key{Value: tt.wish}))
				}
				if tt.header != "" {
					req.Header.Set("Idempotency-Key", tt.header)
				}
				got := do(t, newClient(t, faultinject.Handler(s, nil), honoured), req)
				require.Equal(t, http.StatusOK, got.status)
				key, arrived := s.keys[tt.hop]
				require.True(t, arrived, "%v", s.keys)
				if tt.key == "same" {
					require.NotEmpty(t, key)
					tt.key = s.keys["POST api.test/charges"]
				}
				require.Equal(t, tt.key, key)
			})
		})
	}
}
