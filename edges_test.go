package resilient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// notWire: nothing is known of Base.
func notWire(cfg *resilient.Config) { cfg.BaseIsWire = false }

func TestARequestOfBasesOwnProvesNothingOfOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		charges := 0
		audit := &http.Client{Transport: newTransport(t, faultinject.Handler(answerOK, always(faultinject.RefuseDial())))}
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			charges++
			resp, err := audit.Post("http://audit.test/", "text/plain", strings.NewReader("charged"))
			if err != nil {
				return nil, fmt.Errorf("audit: %w", err)
			}
			_ = resp.Body.Close()
			return answer(req, 200), nil
		})
		got := do(t, newClient(t, base, notWire), newRequest(t, http.MethodPost, "x"))
		require.Equal(t, 1, charges)
		require.Equal(t, resilient.Unknown, got.outcome)
		require.ErrorIs(t, got.stop, resilient.ErrUnsafe)
	})
}

func TestAKeyMintedAboveIsNobodysWordBelow(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		below      func(*resilient.Config)
		sent       int
	}{
		{"nobody vouches", "x", noKeys, 1},
		{"nobody vouches, no body", "", noKeys, 1},
		{"the layer below knows its server", "x", honoured, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(lost())
				inner := newTransport(t, base, tt.below)
				balance := roundTrip(func(req *http.Request) (*http.Response, error) {
					out := req.Clone(req.Context())
					out.URL.Host = "node1.test"
					return inner.RoundTrip(out)
				})
				got := do(t, newClient(t, balance, notWire), newRequest(t, http.MethodPost, tt.body))
				require.Len(t, base.Deliveries(), tt.sent)
				require.Equal(t, tt.sent == 2, got.status == 200)
			})
		})
	}
}

func TestAnAnswerWhoseBodyIgnoresTheContextHoldsNobodyUp(t *testing.T) {
	for name, change := range map[string]func(*resilient.Config){
		"no limits":       func(*resilient.Config) {},
		"attempt timeout": func(c *resilient.Config) { c.AttemptTimeout = time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				silent, _ := io.Pipe() // ends by Close alone
				closed := &closeCounter{ReadCloser: silent}
				first := true
				base := roundTrip(func(req *http.Request) (*http.Response, error) {
					resp := answer(req, 200)
					if first {
						resp.StatusCode, resp.Body, resp.ContentLength = 503, closed, -1
					}
					first = false
					return resp, nil
				})
				start := time.Now()
				require.Equal(t, 200, do(t, newClient(t, base, change), newRequest(t, http.MethodGet, "")).status)
				require.Less(t, time.Since(start), time.Second)
				require.Equal(t, 1, closed.n)
			})
		})
	}
}

// closeCounter counts how often a body is closed.
type closeCounter struct {
	io.ReadCloser
	n int
}

func (c *closeCounter) Close() error {
	c.n++
	return c.ReadCloser.Close()
}

func TestTheContextOfTheAnswersRequestOutlivesItsBody(t *testing.T) {
	server := httptest.NewServer(answerOK)
	defer server.Close()
	for _, tt := range []struct {
		method string
		change func(*resilient.Config)
	}{
		{http.MethodDelete, notWire},
		{http.MethodGet, func(c *resilient.Config) { c.AttemptTimeout = time.Minute }},
	} {
		t.Run(tt.method, func(t *testing.T) {
			base := new(http.Transport)
			defer base.CloseIdleConnections()
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, tt.method, server.URL, nil)
			require.NoError(t, err)
			resp, err := newClient(t, base, tt.change).Do(req)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.NoError(t, resp.Request.Context().Err(), "as with net/http")
			_, ok := resilient.OperationOf(resp)
			require.True(t, ok)
			cancel()
			require.Error(t, resp.Request.Context().Err())
		})
	}
}

func TestWhoAsksWhetherAnErrorIsTemporaryIsToldWhatNetHTTPTells(t *testing.T) {
	for name, clientOver := range map[string]func(*http.Transport) *http.Client{
		"net/http alone": func(base *http.Transport) *http.Client { return &http.Client{Transport: base} },
		"ours":           func(base *http.Transport) *http.Client { return overWire(t, base) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, base := overHTTP1(t, func(p *peer) { // answers nobody in time
					if p.request() == 1 {
						p.request()
					}
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				for i, want := range []bool{true, false} {
					_, err := clientOver(base).Do(wireKinds[1].request(t, []context.Context{ctx, t.Context()}[i], "http://api.test/"))
					temporary, ok := err.(interface{ Temporary() bool })
					require.True(t, ok)
					require.Equal(t, want, temporary.Temporary(), "%v", err)
				}
			})
		})
	}
}

// A caller who sends it again himself, after a 401 say, needs its body.
func TestTheAnswersRequestHasTheGetBodyOfTheCallers(t *testing.T) {
	copying := roundTrip(func(req *http.Request) (*http.Response, error) { return answer(req.Clone(req.Context()), 401), nil })
	server := httptest.NewServer(answerOK)
	defer server.Close()
	base := new(http.Transport)
	defer base.CloseIdleConnections()
	for name, rt := range map[string]http.RoundTripper{"net/http": base, "a stub": script(), "one that copies": copying} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("amount=1"))
			require.NoError(t, err)
			resp, err := newClient(t, rt).Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.NotNil(t, resp.Request.GetBody, "as with net/http")
			body, err := resp.Request.GetBody()
			require.NoError(t, err)
			text, err := io.ReadAll(body)
			require.NoError(t, err)
			require.Equal(t, "amount=1", string(text))
			_, ok := resilient.OperationOf(resp)
			require.True(t, ok)
		})
	}
}

// A Base that was not vouched for may read its request for longer than it says.
func TestABaseKeepsItsRequestAsItWasGiven(t *testing.T) {
	var given *http.Request
	client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
		given = req
		return answer(req, http.StatusOK), nil
	}), func(c *resilient.Config) { c.BaseIsWire = false })
	got := do(t, client, newRequest(t, http.MethodPost, "x"))
	require.Equal(t, http.StatusOK, got.status)
	require.Nil(t, given.GetBody)
}

func TestTheRequestThatBaseSaysWasAnsweredIsKept(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, status := range []int{200, 503} {
			base := roundTrip(func(req *http.Request) (*http.Response, error) {
				last, err := http.NewRequest(http.MethodGet, "http://api.test/receipt", nil)
				require.NoError(t, err)
				return answer(last, status), nil
			})
			client := newClient(t, base, func(c *resilient.Config) { c.MaxAttempts = 1 })
			resp, err := client.Do(newRequest(t, method, ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, "/receipt", resp.Request.URL.Path)
		}
	}
}

func TestAHopAfterAnAnswerThatNamesAnotherRequestStillKnowsThePost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := faultinject.Handler(http.RedirectHandler("/receipt", http.StatusSeeOther), faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
			if x.Path == "/receipt" {
				return faultinject.RefuseDial()
			}
			return faultinject.Pass()
		}))
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := wire.RoundTrip(req)
			if err == nil {
				resp.Request, err = http.NewRequestWithContext(req.Context(), http.MethodGet, "http://api.test/signed", nil)
			}
			return resp, err
		})
		client := newClient(t, base, func(c *resilient.Config) { c.CountReplays = true })
		got := do(t, client, newRequest(t, http.MethodPost, "x"))
		require.ErrorIs(t, got.stop, resilient.ErrAttempts)
		require.Equal(t, resilient.Unknown, got.outcome, "the POST was executed")
	})
}

func TestAServerThatRefusesAStreamIsNotCalledAgainAtOnce(t *testing.T) {
	for name, code := range map[string]uint32{
		"ENHANCE_YOUR_CALM": codeCalm, "REFUSED_STREAM": codeRefused, "INTERNAL_ERROR": codeInternal,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, base := overHTTP2(t, second(rstStream(code)))
				client := overWire(t, base, steady)
				require.Equal(t, 200, do(t, client, newRequestTo(t, "https://api.test/")).status)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://api.test/", strings.NewReader("x"))
				require.NoError(t, err)
				start := time.Now()
				got := do(t, client, req)
				require.Equal(t, 200, got.status)
				require.Equal(t, 2, got.attempts)
				require.GreaterOrEqual(t, time.Since(start), time.Second)
			})
		})
	}
}

// defaultFetchesTokens is a case of TestWhoeverReplacesTheDefaultTransport.
func defaultFetchesTokens(t *testing.T, rt *resilient.Transport, url string) {
	calls := 0
	http.DefaultTransport = roundTrip(func(req *http.Request) (*http.Response, error) {
		if calls++; calls > 20 {
			return nil, errors.New("an endless loop")
		}
		if req.URL.Path == "/token" { // as one that rewrites the request does
			out := req.Clone(req.Context())
			out.URL.Path = "/v2/token"
			return rt.RoundTrip(out)
		}
		token, err := http.NewRequestWithContext(req.Context(), http.MethodPost, url+"/token", nil)
		require.NoError(t, err)
		resp, err := rt.RoundTrip(token)
		if err != nil {
			return nil, err
		}
		_ = resp.Body.Close()
		return rt.RoundTrip(req)
	})
	fetch(t, &http.Client{Transport: rt}, url)
	require.LessOrEqual(t, calls, 4)
}

// An answer that comes just as its time runs out is either none or whole.
func TestAnAnswerAtTheLastMomentIsNotHandedOutDying(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			base := roundTrip(func(req *http.Request) (*http.Response, error) {
				time.Sleep(time.Second)
				resp := answer(req, 200)
				resp.Body = io.NopCloser(&underContext{req.Context(), resp.Body})
				return resp, nil
			})
			client := newClient(t, base, func(c *resilient.Config) { c.AttemptTimeout, c.MaxAttempts = time.Second, 1 })
			resp, err := client.Do(newRequest(t, http.MethodGet, ""))
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				return
			}
			synctest.Wait()
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		})
	}
}

// underContext is a body that breaks off with its request's context.
type underContext struct {
	ctx context.Context
	io.Reader
}

func (u *underContext) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

func TestARepetitionUnderTheSameKeyMakesTheKeyNoYounger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(lost(), lost(), lost(), lost())
		client := newClient(t, base)
		ctx := resilient.WithKey(t.Context(), resilient.Key{Value: "mine"})
		first := do(t, client, newRequest(t, http.MethodPost, "x").WithContext(ctx))
		require.Equal(t, resilient.Unknown, first.outcome)
		require.Len(t, base.Deliveries(), 4)

		time.Sleep(10 * time.Minute) // the server has forgotten the key
		second := do(t, client, newRequest(t, http.MethodPost, "x").WithContext(ctx))
		require.ErrorIs(t, second.stop, resilient.ErrKeyExpired)
		require.Equal(t, resilient.Unknown, second.outcome)
		require.Equal(t, first.record.FirstSent, second.record.FirstSent)
		require.Len(t, base.Deliveries(), 4)
	})
}

// A dialler that asks a resolver over HTTP does so under the context of the
// request, and net/http's trace shows both.
func TestADiallerThatMakesRequestsOfItsOwnStopsNoPost(t *testing.T) {
	resolver := httptest.NewUnstartedServer(answerOK)
	resolver.EnableHTTP2 = true
	resolver.StartTLS()
	defer resolver.Close()
	server := httptest.NewServer(answerOK)
	defer server.Close()
	base := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		query, err := http.NewRequestWithContext(ctx, http.MethodGet, resolver.URL, nil)
		if err != nil {
			return nil, err
		}
		resp, err := resolver.Client().Do(query)
		if err != nil {
			return nil, err
		}
		_ = resp.Body.Close()
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer base.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, nil)
	require.NoError(t, err)
	require.Equal(t, 200, do(t, newClient(t, base), req).status)
}

func TestARequestThatAnnouncesABodyAndHasNoneIsNotTriedAgain(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		base := new(http.Transport)
		server := httptest.NewServer(answerOK)
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL, nil)
		require.NoError(t, err)
		req.ContentLength = 5
		got := do(t, newClient(t, base), req)
		require.ErrorContains(t, got.err, "with nil Body")
		require.Equal(t, 1, got.attempts)
		base.CloseIdleConnections()
		server.Close()
	}
}

func TestATunnelIsNotReadInAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200)
			resp.Body, _ = io.Pipe() // silent, as the far end is until it is spoken to
			resp.ContentLength = -1
			return resp, nil
		})
		rt := newTransport(t, base, func(c *resilient.Config) { c.BufferResponse = 1 << 10 })
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodConnect, "http://proxy.test", nil)
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			resp, err := rt.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}()
		synctest.Wait()
		select {
		case <-done:
		default:
			require.Fail(t, "the tunnel is being read")
		}
	})
}

func TestABaseThatPanicsLeavesNoContextBehind(t *testing.T) {
	var left context.Context
	base := roundTrip(func(req *http.Request) (*http.Response, error) {
		left = req.Context()
		panic("a mistake in Base")
	})
	client := newClient(t, base, func(c *resilient.Config) { c.AttemptTimeout = time.Hour })
	require.Panics(t, func() {
		if resp, err := client.Do(newRequest(t, http.MethodGet, "")); err == nil {
			_ = resp.Body.Close()
		}
	})
	require.Error(t, left.Err())
}

func TestWhatTheCallersReaderSaidIsRedactedInTheStopReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			_, _ = io.Copy(io.Discard, req.Body)
			return answer(req, 503), nil
		})
		broken := iotest.ErrReader(errors.New(`Get "https://store.test/part?signature=secret": EOF`))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://api.test/", broken)
		require.NoError(t, err)
		got := do(t, newClient(t, base), req)
		require.ErrorIs(t, got.stop, resilient.ErrBody)
		require.NotContains(t, got.stop.Error(), "secret")
	})
}
