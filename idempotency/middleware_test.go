package idempotency_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

// till is a service whose effects are counted: its handler charges, and then
// does whatever a test wants of it.
type till struct {
	charged atomic.Int32
	then    func(w http.ResponseWriter, r *http.Request, n int) // n counts runs from 1
}

func (s *till) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(s.charged.Add(1))
	if s.then != nil {
		s.then(w, r, n)
		return
	}
	w.Header().Set("Location", "/charges/"+strconv.Itoa(n))
	w.WriteHeader(http.StatusCreated)
	_, _ = fmt.Fprintf(w, "charge %d", n)
}

// guard puts a handler behind the middleware.
func guard(t testing.TB, h http.Handler, options ...func(*idempotency.Config)) http.Handler {
	t.Helper()
	cfg := idempotency.Config{
		Scope: func(r *http.Request) string { return "tenant " + r.Header.Get("Tenant") },
		Lease: 400 * time.Millisecond,
	}
	for _, o := range options {
		o(&cfg)
	}
	middleware, err := idempotency.New(cfg)
	require.NoError(t, err)
	return middleware(h)
}

// post is a request with a key; header lines are "Name: value".
func post(key, body string, lines ...string) *http.Request {
	req := httptest.NewRequest(http.MethodPost, "/charges?currency=eur", strings.NewReader(body))
	req.Header.Set("Content-Type", "text/plain")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Content-Type" {
			req.Header.Del(name)
		}
		req.Header.Add(name, value)
	}
	return req
}

// answer is what a client gets; a panic of the handler's is status -1.
type answer struct {
	status int
	body   string
	header http.Header
}

func (a answer) replayed() bool { return a.header.Get("Idempotent-Replayed") == "true" }

// problem is the last part of the problem's type.
func (a answer) problem() string {
	_, after, _ := strings.Cut(a.body, `"type":"`)
	uri, _, _ := strings.Cut(after, `"`)
	_, name, _ := strings.Cut(uri, "#")
	return name
}

func ask(h http.Handler, req *http.Request) (a answer) {
	rec := httptest.NewRecorder()
	defer func() {
		if recover() != nil {
			a = answer{status: -1, header: make(http.Header)}
		}
	}()
	h.ServeHTTP(rec, req)
	resp := rec.Result()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(body), resp.Header}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// What goes wrong where, and how often the handler has run at the end: once. Each
// row is a way in which a middleware of this kind is known to fail.
func TestAKeyIsWorkedOnOnce(t *testing.T) {
	const key = "k-1"
	large := strings.Repeat("x", 2<<20)
	for _, tt := range []struct {
		name          string
		then          func(w http.ResponseWriter, r *http.Request, n int)
		first, second *http.Request
		wants         int    // the status of the repetition
		problem       string // and its problem, if it is one
	}{
		{"a plain repetition", nil, post(key, "1"), post(key, "1"), 201, ""},
		{"500 after the effect", func(w http.ResponseWriter, _ *http.Request, _ int) { http.Error(w, "oh", 500) },
			post(key, "1"), post(key, "1"), 500, ""},
		{"a panic after the effect", func(http.ResponseWriter, *http.Request, int) { panic("oh") },
			post(key, "1"), post(key, "1"), 409, "outcome-unknown"},
		{"the handler gives up the connection", func(http.ResponseWriter, *http.Request, int) { panic(http.ErrAbortHandler) },
			post(key, "1"), post(key, "1"), 409, "outcome-unknown"},
		{"a handler slower than its lease", func(w http.ResponseWriter, _ *http.Request, _ int) { time.Sleep(2 * time.Second); w.WriteHeader(201) },
			post(key, "1"), post(key, "1"), 201, ""},
		{"an answer that is flushed", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.WriteHeader(202)
			_, _ = io.WriteString(w, "one ")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "two")
		}, post(key, "1"), post(key, "1"), 202, "answer-not-kept"},
		{"an answer of 2 MiB", func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = io.WriteString(w, large) },
			post(key, "1"), post(key, "1"), 200, "answer-not-kept"},
		{"a request of 2 MiB", nil, post(key, large), post(key, large), 201, ""},
		{"another body under the same key", nil, post(key, "1"), post(key, "2"), 422, "key-reused"},
		{"another content type under the same key", nil, post(key, "1"), post(key, "1", "Content-Type: application/json"), 422, "key-reused"},
		{"the key in quotes, then bare", nil, post(`"k-1"`, "1"), post(key, "1"), 201, ""},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			service := &till{then: tt.then}
			h := guard(t, service)
			first := ask(h, tt.first)
			time.Sleep(time.Second) // longer than the lease
			again := ask(h, tt.second)
			require.Equal(t, tt.wants, again.status, again.body)
			require.Equal(t, tt.problem, again.problem())
			require.EqualValues(t, 1, service.charged.Load())
			if again.problem() == "" {
				require.Equal(t, first.body, again.body)
				require.Equal(t, first.header.Get("Location"), again.header.Get("Location"))
				require.True(t, again.replayed())
			}
			require.False(t, first.replayed())
		})
	}
}

func TestACallerWhoLeavesLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := &till{then: func(w http.ResponseWriter, r *http.Request, _ int) {
			select {
			case <-r.Context().Done():
				http.Error(w, "gone", 500)
			case <-time.After(time.Second):
				w.WriteHeader(201)
			}
		}}
		h := guard(t, service)
		ctx, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer leave()
		ask(h, post("k", "1").WithContext(ctx))
		again := ask(h, post("k", "1"))
		require.Equal(t, 201, again.status)
		require.True(t, again.replayed())
		require.EqualValues(t, 1, service.charged.Load())
	})
}

func TestOfTwentyAtOnceOneRuns(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait time.Duration
		want map[int]int
	}{
		{"the others are told to come back", 0, map[int]int{201: 1, 409: 19}},
		{"or wait for the answer, if told to", 5 * time.Second, map[int]int{201: 20}},
		{"but not longer than told to", 500 * time.Millisecond, map[int]int{201: 1, 409: 19}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			service := &till{then: func(w http.ResponseWriter, _ *http.Request, _ int) {
				time.Sleep(time.Second)
				w.WriteHeader(201)
			}}
			h := guard(t, service, func(c *idempotency.Config) { c.Wait = tt.wait })
			var mu sync.Mutex
			got := make(map[int]int)
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					a := ask(h, post("k", "1"))
					mu.Lock()
					defer mu.Unlock()
					got[a.status]++
					if a.status == 409 {
						require.Equal(t, "in-progress", a.problem())
						require.Equal(t, "1", a.header.Get("Retry-After"))
					}
				})
			}
			all.Wait()
			require.Equal(t, tt.want, got)
			require.EqualValues(t, 1, service.charged.Load())
		})
	}
}

func TestKeysOfTwoScopesNeverMeet(t *testing.T) {
	h := guard(t, &till{})
	require.Equal(t, "charge 1", ask(h, post("k", "1", "Tenant: a")).body)
	require.Equal(t, "charge 2", ask(h, post("k", "1", "Tenant: b")).body)
	require.Equal(t, "charge 1", ask(h, post("k", "1", "Tenant: a")).body)
	nobody := guard(t, &till{}, func(c *idempotency.Config) { c.Scope = func(*http.Request) string { return "" } })
	require.Equal(t, "scope-missing", ask(nobody, post("k", "1")).problem())
}

func TestAHandlerThatHangsHoldsItsKeyNoLongerThanTheLimitAndALease(t *testing.T) {
	bubble(t, "in memory", func(t *testing.T) { hangs(t, nil) })
	bubble(t, "in a store that outlives the process", func(t *testing.T) { hangs(t, newFaulty(t)) })
}

func hangs(t *testing.T, store idempotency.Store) {
	var cause error
	release := make(chan struct{})
	service := &till{then: func(w http.ResponseWriter, r *http.Request, _ int) {
		<-r.Context().Done()
		cause = context.Cause(r.Context())
		<-release
		w.WriteHeader(201)
	}}
	h := guard(t, service, func(c *idempotency.Config) { c.Store, c.RunLimit = store, time.Second })
	var hung sync.WaitGroup
	hung.Go(func() { require.Equal(t, 201, ask(h, post("k", "1")).status) })
	time.Sleep(900 * time.Millisecond)
	require.Equal(t, "in-progress", ask(h, post("k", "1")).problem())
	time.Sleep(500 * time.Millisecond) // the limit and a lease
	require.Equal(t, "outcome-unknown", ask(h, post("k", "1")).problem())
	synctest.Wait()
	require.ErrorIs(t, cause, idempotency.ErrRunLimit)
	close(release) // what it says late is still the truth
	hung.Wait()
	a := ask(h, post("k", "1"))
	require.Equal(t, 201, a.status)
	require.True(t, a.replayed())
	require.EqualValues(t, 1, service.charged.Load())
}

func TestNotAppliedFreesTheKey(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first int
		then  func(w http.ResponseWriter, r *http.Request)
	}{
		{"for a request that does not validate", 422, func(w http.ResponseWriter, r *http.Request) {
			idempotency.NotApplied(r.Context())
			w.WriteHeader(422)
		}},
		{"also if the handler panics then", -1, func(_ http.ResponseWriter, r *http.Request) {
			idempotency.NotApplied(r.Context())
			panic("oh")
		}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := guard(t, &till{then: func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					tt.then(w, r)
					return
				}
				w.WriteHeader(201)
			}})
			require.Equal(t, tt.first, ask(h, post("k", "1")).status)
			a := ask(h, post("k", "another body: nobody has used the key yet"))
			require.Equal(t, 201, a.status)
			require.False(t, a.replayed())
		})
	}
}

func TestTheHandlerMayNotKnowItself(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, r *http.Request, _ int) {
		idempotency.OutcomeUnknown(r.Context())
		w.WriteHeader(502)
	}})
	require.Equal(t, 502, ask(h, post("k", "1")).status)
	require.Equal(t, "outcome-unknown", ask(h, post("k", "1")).problem())
}

func TestAnUnknownOutcomeIsSettledAsThePolicySays(t *testing.T) {
	down := errors.New("the bank does not answer")
	for _, tt := range []struct {
		name    string
		policy  idempotency.Policy
		status  int
		body    string // or problem
		charged int
	}{
		{"Block: never again", idempotency.Block(), 409, "outcome-unknown", 1},
		{"Reexecute: again", idempotency.Reexecute(), 200, "run 2", 2},
		{"Recover: it was done", idempotency.Recover(func(context.Context, idempotency.Unresolved) (idempotency.Answer, error) {
			return idempotency.Answer{Status: 200, Body: []byte("found")}, nil
		}), 200, "found", 1},
		{"Recover: it was not done", idempotency.Recover(func(_ context.Context, u idempotency.Unresolved) (idempotency.Answer, error) {
			_, _ = io.ReadAll(u.Request.Body)
			return idempotency.Answer{}, fmt.Errorf("no charge %s: %w", u.Key, idempotency.ErrNotApplied)
		}), 200, "run 2", 2},
		{"Recover: nobody knows", idempotency.Recover(func(context.Context, idempotency.Unresolved) (idempotency.Answer, error) {
			return idempotency.Answer{}, down
		}), 503, "outcome-unknown", 1},
		{"Recover: it makes no sense", idempotency.Recover(func(context.Context, idempotency.Unresolved) (idempotency.Answer, error) {
			return idempotency.Answer{Status: 7}, nil
		}), 503, "outcome-unknown", 1},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			service := &till{then: func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					panic("oh")
				}
				body, _ := io.ReadAll(r.Body)
				require.Equal(t, "1", string(body))
				_, _ = fmt.Fprintf(w, "run %d", n)
			}}
			h := guard(t, service, func(c *idempotency.Config) { c.OnUnknown = tt.policy })
			require.Equal(t, -1, ask(h, post("k", "1")).status)
			for range 2 {
				a := ask(h, post("k", "1"))
				require.Equal(t, tt.status, a.status)
				if name := a.problem(); name != "" {
					a.body = name
				}
				require.Equal(t, tt.body, a.body)
			}
			require.EqualValues(t, tt.charged, service.charged.Load())
		})
	}
}

func TestWhatIsKeptOfAnAnswer(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, _ *http.Request, _ int) {
		for _, line := range []string{
			"Content-Type: text/x", "Content-Language: en", "Location: /1", "Etag: \"e\"", "Link: <a>", "Link: <b>",
			"X-Mine: m", "X-Other: o", "Set-Cookie: session=1", "Date: now", "Connection: close",
		} {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(203)
		w.Header().Set("Content-Language", "de") // too late, as net/http has it
		_, _ = w.Write([]byte{0, 1, 0xff})
	}}, func(c *idempotency.Config) { c.KeepHeaders = []string{"x-mine"} })
	first, again := ask(h, post("k", "")), ask(h, post("k", ""))
	require.Equal(t, []string{"session=1"}, first.header["Set-Cookie"])
	require.Equal(t, "en", first.header.Get("Content-Language"))
	require.Equal(t, 203, again.status)
	require.Equal(t, "\x00\x01\xff", again.body)
	require.Equal(t, http.Header{
		"Content-Type": {"text/x"}, "Content-Language": {"en"}, "Location": {"/1"}, "Etag": {`"e"`}, "Link": {"<a>", "<b>"}, "X-Mine": {"m"},
		"Idempotent-Replayed": {"true"}, "Idempotency-Key-Lifetime": {"86400"},
	}, again.header)
}

func TestRequestsThatAreRefusedForWhatTheySay(t *testing.T) {
	for _, tt := range []struct {
		name    string
		lines   []string
		body    string
		status  int
		problem string
	}{
		{"two keys", []string{"Idempotency-Key: a", "Idempotency-Key: a"}, "", 400, "key-malformed"},
		{"an empty key", []string{"Idempotency-Key: "}, "", 400, "key-malformed"},
		{"an empty key in quotes", []string{`Idempotency-Key: ""`}, "", 400, "key-malformed"},
		{"an open quote", []string{`Idempotency-Key: "a`}, "", 400, "key-malformed"},
		{"an unknown escape", []string{`Idempotency-Key: "a\n"`}, "", 400, "key-malformed"},
		{"parameters", []string{`Idempotency-Key: "a";b=1`}, "", 400, "key-malformed"},
		{"a key that is too long", []string{"Idempotency-Key: " + strings.Repeat("k", 256)}, "", 400, "key-malformed"},
		{"a key that is not ASCII", []string{"Idempotency-Key: schlüssel"}, "", 400, "key-malformed"},
		{"no key", nil, "", 400, "key-missing"},
		{"a date that is none", []string{"Idempotency-Key: a", "Repeatability-First-Sent: yesterday"}, "", 400, "first-sent-malformed"},
		{"two dates", []string{"Idempotency-Key: a", "Repeatability-First-Sent: " + at(0), "Repeatability-First-Sent: " + at(0)}, "", 400, "first-sent-malformed"},
		{"a date to come", []string{"Idempotency-Key: a", "Repeatability-First-Sent: " + at(10*time.Minute)}, "", 400, "first-sent-malformed"},
		{"an aged key", []string{"Idempotency-Key: a", "Repeatability-First-Sent: " + at(-25*time.Hour)}, "", 412, "key-expired"},
		{"a large body", []string{"Idempotency-Key: a"}, strings.Repeat("x", 2000), 413, "body-too-large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			service := &till{}
			h := guard(t, service, func(c *idempotency.Config) { c.KeyRequired, c.MaxBody = true, 1999 })
			a := ask(h, post("", tt.body, tt.lines...))
			require.Equal(t, tt.status, a.status)
			require.Equal(t, tt.problem, a.problem(), a.body)
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
			require.Zero(t, service.charged.Load())
		})
	}
}

func at(ago time.Duration) string { return time.Now().Add(ago).UTC().Format(http.TimeFormat) }

func TestABodyThatEndsEarlyDoesNothing(t *testing.T) {
	service := &till{}
	req := post("k", "12345")
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("123"), failing{errors.New("reset")}))
	a := ask(guard(t, service), req)
	require.Equal(t, "body-unreadable", a.problem())
	require.Equal(t, "true", a.header.Get("X-Should-Retry"), "an earlier copy may have arrived whole")
	require.Zero(t, service.charged.Load())
}

func TestABodyThatThereIsNoRoomForIsNotTheCallersFault(t *testing.T) {
	t.Setenv("TMPDIR", "/nowhere")
	a := ask(guard(t, &till{}), post("k", strings.Repeat("x", 2<<20)))
	require.Equal(t, 503, a.status)
	require.Equal(t, "body-unreadable", a.problem())
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestBodiesOfAnySizeReachTheHandler(t *testing.T) {
	for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, length unknown: %v", size, chunked), func(t *testing.T) {
				content := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
				h := guard(t, &till{then: func(w http.ResponseWriter, r *http.Request, _ int) {
					got, err := io.ReadAll(r.Body)
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, got))
				}})
				for _, want := range []bool{false, true} {
					req := post("k", string(content))
					if chunked {
						req.ContentLength = -1
					}
					a := ask(h, req)
					require.Equal(t, 200, a.status)
					require.Equal(t, want, a.replayed())
				}
			})
		}
	}
}

func TestRequestsWithoutAKeyPassUntouched(t *testing.T) {
	service := &till{}
	h := guard(t, service)
	get := httptest.NewRequest(http.MethodGet, "/", nil)
	get.Header.Set("Idempotency-Key", "k")
	for range 2 {
		require.Equal(t, "86400", ask(h, get).header.Get("Idempotency-Key-Lifetime"), "the retention is advertised before it matters")
		ask(h, post("", "1"))
	}
	require.EqualValues(t, 4, service.charged.Load())
}

func TestAKeyIsRefusedAfterItsAnswerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := &till{}
		h := guard(t, service, func(c *idempotency.Config) { c.Retention, c.Tombstone = time.Hour, time.Hour })
		sent := "Repeatability-First-Sent: " + at(0)
		ask(h, post("k", "1", sent))
		time.Sleep(59 * time.Minute)
		require.Equal(t, 201, ask(h, post("k", "1", sent)).status)
		time.Sleep(2 * time.Minute)
		require.Equal(t, "key-expired", ask(h, post("k", "1", sent)).problem())
		require.Equal(t, "result-expired", ask(h, post("k", "1")).problem(), "who does not say when is still remembered")
		time.Sleep(time.Hour)
		require.Equal(t, "key-expired", ask(h, post("k", "1", sent)).problem())
		require.EqualValues(t, 1, service.charged.Load())
	})
}

func TestAMiddlewareThatStandsTwiceBeforeAHandlerCountsOnce(t *testing.T) {
	keys, err := idempotency.New(idempotency.Config{Scope: idempotency.OneScope})
	require.NoError(t, err)
	service := &till{}
	h := keys(keys(service))
	require.Equal(t, "charge 1", ask(h, post("k", "1")).body)
	require.True(t, ask(h, post("k", "1")).replayed())
	require.EqualValues(t, 1, service.charged.Load())
}
