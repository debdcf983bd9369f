package idempotency_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

func TestAFieldIsKeptHoweverItsNameIsWritten(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header()["ETag"] = []string{`"e"`}
		w.Header()["location"] = []string{"/1"}
		w.Header()["set-cookie"] = []string{"session=1"}
		w.WriteHeader(201)
	}})
	ask(h, post("k", "1"))
	a := ask(h, post("k", "1"))
	require.Equal(t, `"e"`, a.header.Get("Etag"))
	require.Equal(t, "/1", a.header.Get("Location"))
	require.NotContains(t, a.header, "set-cookie")
}

func TestAnAnswerThatBreaksOffIsNotPassedForAWholeOne(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, "half ")
	}})
	server := httptest.NewServer(h)
	defer server.Close()
	resp, err := server.Client().Do(keyed(t, server.URL, "k", nil))
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, resp.Body.Close())
	resp, body := send(t, server.Client(), keyed(t, server.URL, "k", nil))
	require.Equal(t, 201, resp.StatusCode)
	require.Contains(t, body, "answer-not-kept")
}

// The lengths that a handler announces mean what they mean without a key.
func TestAnnouncedLengths(t *testing.T) {
	for _, tt := range []struct {
		name, method, length string
		status               int
		writes               []string
		again                string
	}{
		{"more than announced", "POST", "5", 200, []string{"12345", "678"}, "12345"},
		{"as much", "POST", "5", 200, []string{"12", "345"}, "12345"},
		{"nonsense", "POST", "five", 200, []string{"12345"}, "12345"},
		{"none announced", "POST", "0", 200, []string{"1"}, ""},
		{"an answer to HEAD", "HEAD", "5", 200, nil, ""},
		{"no content", "POST", "5", 204, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", tt.length)
				w.WriteHeader(tt.status)
				for _, s := range tt.writes {
					_, _ = io.WriteString(w, s)
				}
			})
			mux := http.NewServeMux()
			mux.Handle("/plain", handler)
			mux.Handle("/keyed", guard(t, handler, func(c *idempotency.Config) { c.Methods = []string{"POST", "HEAD"} }))
			overHTTP(t, mux, func(t *testing.T, url string, client *http.Client) {
				look := func(path string) (status int, body, kind string) {
					req := keyed(t, url+path, t.Name(), nil)
					req.Method = tt.method
					resp, err := client.Do(req)
					require.NoError(t, err)
					defer resp.Body.Close()
					got, _ := io.ReadAll(resp.Body)
					return resp.StatusCode, string(got), resp.Header.Get("Content-Type")
				}
				status, body, _ := look("/plain")
				keyedStatus, keyedBody, _ := look("/keyed")
				require.Equal(t, status, keyedStatus)
				require.Equal(t, body, keyedBody)
				_, body, kind := look("/keyed")
				require.Equal(t, tt.again, body)
				require.NotEqual(t, "application/problem+json", kind)
			})
		})
	}
}

func TestAnAnswerWithoutABodyIsKeptThoughItIsFlushed(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(202)
		w.(http.Flusher).Flush()
	}})
	first, again := ask(h, post("k", "1")), ask(h, post("k", "1"))
	require.Equal(t, 202, again.status)
	require.Equal(t, first.body, again.body)
}

func TestReplaysAreNotSniffedEither(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, _ *http.Request, _ int) { http.Error(w, "<html>", 400) }})
	first, again := ask(h, post("k", "1")), ask(h, post("k", "1"))
	require.Equal(t, first.header.Get("X-Content-Type-Options"), again.header.Get("X-Content-Type-Options"))
}

func TestATrailerMayHaveBeenAHeaderBefore(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "Sum")
		w.Header().Set("Sum", "0")
		_, _ = io.WriteString(w, "x")
		w.Header().Set("Sum", "12")
	})
	server := httptest.NewServer(guard(t, handler))
	defer server.Close()
	resp, _ := send(t, server.Client(), keyed(t, server.URL, "k", nil))
	require.Equal(t, "12", resp.Trailer.Get("Sum"))
}

func TestAnswersOfOneByte(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, r *http.Request, _ int) { _, _ = io.Copy(w, r.Body) }},
		func(c *idempotency.Config) { c.MaxAnswer, c.MaxBody = 1, 2 })
	for _, body := range []string{"", "1", "12", "123"} {
		first, again := ask(h, post("k"+body, body)), ask(h, post("k"+body, body))
		switch len(body) {
		case 0, 1:
			require.Equal(t, []any{200, body}, []any{again.status, again.body})
		case 2:
			require.Equal(t, body, first.body)
			require.Equal(t, "answer-not-kept", again.problem())
		default:
			require.Equal(t, 413, first.status)
		}
	}
}

// Twenty at once get one answer, and write to it as they like.
func TestReplaysShareNothingThatTheyWriteTo(t *testing.T) {
	keys := guard(t, &till{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys.ServeHTTP(w, r)
		for name, values := range w.Header() {
			if name != "Idempotent-Replayed" && name != "Idempotency-Key-Lifetime" {
				values[0] = "mine"
			}
			w.Header().Add(name, "more")
		}
	})
	ask(h, post("k", "1"))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { require.Equal(t, "charge 1", ask(h, post("k", "1")).body) })
	}
	all.Wait()
	a := ask(keys, post("k", "1"))
	require.Equal(t, []string{"/charges/1"}, a.header["Location"])
	require.Equal(t, []string{"true"}, a.header["Idempotent-Replayed"])
	require.Equal(t, []string{"86400"}, a.header["Idempotency-Key-Lifetime"])
}

func TestAFieldWithALineBreakDoesNotBecomeTwo(t *testing.T) {
	server := httptest.NewServer(guard(t, &till{then: func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Location", "/1\r\nSet-Cookie: session=1")
		w.WriteHeader(201)
	}}))
	defer server.Close()
	for range 2 {
		resp, _ := send(t, server.Client(), keyed(t, server.URL, "k", bytes.NewReader(nil)))
		require.Empty(t, resp.Header.Get("Set-Cookie"))
		require.Equal(t, 201, resp.StatusCode)
	}
}
