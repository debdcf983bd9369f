package idempotency_test

// Behind a real net/http server, over HTTP/1.1 and HTTP/2.

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

// overHTTP runs a test over both versions.
func overHTTP(t *testing.T, h http.Handler, test func(t *testing.T, url string, client *http.Client)) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			server := httptest.NewUnstartedServer(h)
			server.EnableHTTP2 = version == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			test(t, server.URL, server.Client())
		})
	}
}

func send(t *testing.T, client *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func keyed(t *testing.T, url, key string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	require.NoError(t, err)
	req.Header.Set("Idempotency-Key", key)
	return req
}

func TestAHandlerUnderAKeySeesAndSendsWhatItWouldWithoutOne(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "Sum")
		w.Header().Set("Got-Trailer", r.Trailer.Get("Checksum"))
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
		w.Header().Set("Sum", "12")
		w.Header().Set("Too-Late", "yes")
		w.Header().Set(http.TrailerPrefix+"Unannounced", "1")
	})
	mux := http.NewServeMux()
	mux.Handle("/plain", handler)
	mux.Handle("/keyed", guard(t, handler))
	overHTTP(t, mux, func(t *testing.T, url string, client *http.Client) {
		type seen struct {
			status, hints   int
			body            string
			header, trailer http.Header
		}
		look := func(path string) (s seen) {
			req := keyed(t, url+path, t.Name(), struct{ io.Reader }{strings.NewReader("hello")})
			req.Trailer = http.Header{"Checksum": {"abc"}}
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(int, textproto.MIMEHeader) error { s.hints++; return nil },
			}))
			resp, body := send(t, client, req)
			s.status, s.body, s.header, s.trailer = resp.StatusCode, body, resp.Header, resp.Trailer
			s.header.Del("Date")
			s.header.Del("Idempotency-Key-Lifetime")
			return s
		}
		require.Equal(t, look("/plain"), look("/keyed"))
	})
}

func TestAnAnswerThatIsFlushedArrivesAsItIsWritten(t *testing.T) {
	goOn := make(chan struct{})
	h := guard(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetWriteDeadline(time.Time{})
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "one")
		_ = rc.Flush()
		<-goOn
		_, _ = io.WriteString(w, "two")
	}))
	overHTTP(t, h, func(t *testing.T, url string, client *http.Client) {
		goOn = make(chan struct{})
		resp, err := client.Do(keyed(t, url, t.Name(), nil))
		require.NoError(t, err)
		defer resp.Body.Close()
		first := make([]byte, 3)
		_, err = io.ReadFull(resp.Body, first)
		require.NoError(t, err)
		require.Equal(t, "one", string(first))
		again, body := send(t, client, keyed(t, url, t.Name(), nil))
		require.Equal(t, 409, again.StatusCode, "it is still being written")
		require.Contains(t, body, "in-progress")
		close(goOn)
		rest, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "two", string(rest))
	})
}

func TestAConnectionCannotBeTakenOverUnderAKey(t *testing.T) {
	server := httptest.NewServer(guard(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _, err := http.NewResponseController(w).Hijack()
		require.ErrorIs(t, err, http.ErrNotSupported)
	})))
	defer server.Close()
	resp, _ := send(t, server.Client(), keyed(t, server.URL, "k", nil))
	require.Equal(t, 200, resp.StatusCode)
}

// Our own client sends once more after a lost answer, and finds what was done;
// and it does not insist where that would be no use.
func TestOurClientUnderstandsTheMiddleware(t *testing.T) {
	service := &till{}
	h := guard(t, service, func(c *idempotency.Config) { c.Retention = time.Hour })
	lost := 0
	losing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Lose") != "" && lost == 0 {
			lost++
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
	server := httptest.NewServer(losing)
	defer server.Close()
	client, err := resilient.NewClient(resilient.Config{
		HonorsKeys: resilient.Hosts(server.URL), Keys: resilient.KeyConfig{SendFirstSent: true},
	})
	require.NoError(t, err)
	post := func(ctx context.Context, body string, lines ...string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, strings.NewReader(body))
		require.NoError(t, err)
		for _, line := range lines {
			name, value, _ := strings.Cut(line, ": ")
			req.Header.Set(name, value)
		}
		return send(t, client, req)
	}
	resp, body := post(t.Context(), "1", "Lose: 1")
	require.Equal(t, 201, resp.StatusCode)
	require.Equal(t, "charge 1", body)
	require.Equal(t, "true", resp.Header.Get("Idempotent-Replayed"))
	require.EqualValues(t, 1, service.charged.Load())

	ctx := resilient.WithKey(t.Context(), resilient.Key{Value: "mine"})
	post(ctx, "1")
	resp, _ = post(resilient.WithKey(t.Context(), resilient.Key{Value: "mine"}), "2")
	require.Equal(t, 422, resp.StatusCode)
	require.True(t, resilient.KeyMismatch(resp))
	require.EqualValues(t, 2, service.charged.Load())
}

// A handler's calls to other services are steps of its caller's operation.
func TestTheHandlersOwnCallsHaveKeysOfTheirOwnThatStayTheSame(t *testing.T) {
	var keys []string
	behind := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
	}))
	defer behind.Close()
	client, err := resilient.NewClient(resilient.Config{HonorsKeys: resilient.AnyHost})
	require.NoError(t, err)
	runs := 0
	h := guard(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		runs++
		for range 2 {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, behind.URL, bytes.NewReader(nil))
			require.NoError(t, err)
			send(t, client, req)
		}
		if runs%2 == 1 {
			panic("oh")
		}
	}), func(c *idempotency.Config) { c.OnUnknown = idempotency.Reexecute() })
	for _, tenant := range []string{"a", "b"} {
		for range 2 {
			ask(h, post("k", "1", "Tenant: "+tenant))
		}
	}
	require.Len(t, keys, 8)
	require.Equal(t, keys[:2], keys[2:4], "the same when it runs again")
	require.Equal(t, keys[4:6], keys[6:8])
	for i, key := range keys[:2] {
		require.NotContains(t, append(keys[:i:i], keys[4:]...), key, "and different for each call and caller")
	}
}
