package resilient_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// newTransport is newClient without the client.
func newTransport(t *testing.T, base http.RoundTripper, change ...func(*resilient.Config)) *resilient.Transport {
	t.Helper()
	rt, ok := newClient(t, base, change...).Transport.(*resilient.Transport)
	require.True(t, ok)
	return rt
}

func TestTwoLayersDoNotMultiply(t *testing.T) {
	for _, tt := range []struct {
		method string
		sent   int
	}{
		{"POST", 4}, {"PUT", 4}, {"DELETE", 4},
		{"GET", 7}, // its first attempt is the caller's own request and bears no mark
	} {
		t.Run(tt.method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := faultinject.Handler(answerOK, always(faultinject.Respond(503)))
				inner := newTransport(t, base, honoured)
				got := do(t, newClient(t, inner, honoured), newRequest(t, tt.method, ""))
				require.Equal(t, 503, got.status)
				require.Len(t, base.Deliveries(), tt.sent)
				require.Equal(t, 4, got.attempts)
			})
		})
	}
}

func TestALayerBelowTakesTheKeyOfTheLayerAbove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(lost())
		inner := newTransport(t, base) // not told that the server honours keys
		got := do(t, newClient(t, inner, honoured), newRequest(t, http.MethodPost, "x"))
		require.Equal(t, 200, got.status)
		require.Len(t, base.Deliveries(), 2)
		for _, d := range base.Deliveries() {
			require.Equal(t, got.record.Key, d.Key)
		}
	})
}

func TestWhatALayerBelowProvedUnsentIsUnsentAbove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := faultinject.Handler(answerOK, always(faultinject.RefuseDial()))
		inner := newTransport(t, base)
		// Something in between, of which nothing is known.
		between := roundTrip(func(req *http.Request) (*http.Response, error) { return inner.RoundTrip(req) })
		got := do(t, newClient(t, between, func(c *resilient.Config) { c.BaseIsWire = false }), newRequest(t, http.MethodPost, "x"))
		require.Equal(t, resilient.NotSent, got.outcome)
		require.Equal(t, 4, got.attempts)
		require.Len(t, base.Deliveries(), 4)
	})
}

func TestATokenFetchedBelowIsAnOperationOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tokens, charges []string
		wire := faultinject.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if key := r.Header.Get("Idempotency-Key"); r.URL.Path == "/token" {
				tokens = append(tokens, key)
			} else {
				charges = append(charges, key)
			}
		}), faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
			if x.Path == "/token" && x.Nth == 1 {
				return faultinject.RefuseDial()
			}
			return faultinject.Pass()
		}))
		inner := &http.Client{Transport: newTransport(t, wire)}
		signing := roundTrip(func(req *http.Request) (*http.Response, error) {
			token, err := http.NewRequestWithContext(req.Context(), http.MethodPost, "http://api.test/token", nil)
			require.NoError(t, err)
			resp, err := inner.Do(token)
			require.NoError(t, err, "it is repeated as any operation is")
			require.NoError(t, resp.Body.Close())
			return wire.RoundTrip(req)
		})
		req := newRequest(t, http.MethodPost, "x")
		ctx := resilient.WithMaxAttempts(resilient.WithKey(req.Context(), resilient.Key{Value: "mine"}), 1)
		require.Equal(t, 200, do(t, newClient(t, signing), req.WithContext(ctx)).status)
		require.Equal(t, []string{"mine"}, charges)
		require.Len(t, tokens, 1)
		require.NotContains(t, tokens, "mine")
	})
}

// TestWhoeverReplacesTheDefaultTransport changes what all tests of a process
// share, so each case runs in a process of its own.
func TestWhoeverReplacesTheDefaultTransport(t *testing.T) {
	for name, run := range map[string]func(*testing.T, *resilient.Transport, string){
		"is used from the next request on":                         replacedDefault,
		"by the client itself gets no endless loop":                defaultIsUs,
		"by a layer around the client itself gets no endless loop": defaultAroundUs,
		"not at all has its own connections left alone":            defaultAsItWas,
		"by a layer that asks for a token gets no endless loop":    defaultFetchesTokens,
		"but has taught it a protocol is served over it":           defaultKnowsProtocol,
	} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv("RESILIENT_DEFAULT_TRANSPORT") == "" {
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
				cmd.Env = append(os.Environ(), "RESILIENT_DEFAULT_TRANSPORT=1")
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				return
			}
			server := httptest.NewServer(answerOK)
			defer server.Close()
			rt, err := resilient.NewTransport(resilient.Config{})
			require.NoError(t, err)
			run(t, rt, server.URL)
			rt.CloseIdleConnections()
		})
	}
}

// fetch makes a safe and an unsafe request and hands back how often they went through.
func fetch(t *testing.T, client *http.Client, url string) {
	t.Helper()
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		req, err := http.NewRequestWithContext(ctx, method, url, nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		cancel()
	}
}

func replacedDefault(t *testing.T, rt *resilient.Transport, url string) {
	var used atomic.Int32
	http.DefaultTransport = roundTrip(func(req *http.Request) (*http.Response, error) {
		used.Add(1)
		return answer(req, 200), nil
	})
	fetch(t, &http.Client{Transport: rt}, url)
	require.EqualValues(t, 2, used.Load())
	http.DefaultTransport = nil
	fetch(t, &http.Client{Transport: rt}, url)
	require.EqualValues(t, 2, used.Load())
}

func defaultKnowsProtocol(t *testing.T, rt *resilient.Transport, _ string) {
	http.DefaultTransport.(*http.Transport).RegisterProtocol("memory", roundTrip(func(req *http.Request) (*http.Response, error) {
		return answer(req, 200), nil
	}))
	fetch(t, &http.Client{Transport: rt}, "memory://api.test/")
}

func defaultIsUs(t *testing.T, rt *resilient.Transport, url string) {
	http.DefaultTransport = rt
	fetch(t, http.DefaultClient, url)
}

func defaultAroundUs(t *testing.T, rt *resilient.Transport, url string) {
	var used atomic.Int32
	http.DefaultTransport = roundTrip(func(req *http.Request) (*http.Response, error) {
		if used.Add(1) > 100 {
			return nil, errors.New("an endless loop")
		}
		return rt.RoundTrip(req.Clone(req.Context()))
	})
	fetch(t, http.DefaultClient, url)
	fetch(t, &http.Client{Transport: rt}, url)
	require.LessOrEqual(t, used.Load(), int32(8))
}

func defaultAsItWas(t *testing.T, rt *resilient.Transport, url string) {
	fetch(t, http.DefaultClient, url)
	fetch(t, &http.Client{Transport: rt}, url)
	rt.CloseIdleConnections()
	reused := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.True(t, reused, "closing our idle connections closes nobody else's")
}
