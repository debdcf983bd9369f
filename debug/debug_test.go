package debug_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/debug"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

func shortHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:4])
}

// state is what the page's JSON says, as far as the tests look at it.
type state struct {
	Now   time.Time
	Hosts struct {
		Total, Found int
		InTrouble    int `json:"in_trouble"`
		Shown        []struct {
			Host, Breaker, Trouble string
			Waiting, Trips         int
		}
	}
	Operations struct {
		Recorded  bool
		Found     int
		InTrouble int `json:"in_trouble"`
		Shown     []operation
	}
}

type operation struct {
	ID                                int
	Method, URL, Outcome, Stop, Error string
	KeyHash                           string  `json:"key_hash"`
	Took                              float64 `json:"took_ms"`
	Status                            int
	Left                              int `json:"attempts_left_out"`
	Attempts                          []struct {
		N, Status            int
		Host, Verdict, Error string
		At                   float64 `json:"at_ms"`
		Took                 float64 `json:"took_ms"`
		Wait                 float64 `json:"wait_ms"`
	}
}

func ask(t *testing.T, h http.Handler, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return w
}

func stateOf(t *testing.T, h http.Handler, query string) (s state) {
	t.Helper()
	w := ask(t, h, http.MethodGet, "/debug/resilient/state.json"+query)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &s))
	return s
}

// inBubble runs f in virtual time.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// watched is a client in a bubble, its recorder and its page.
type watched struct {
	client *http.Client
	rec    *debug.Recorder
	page   http.Handler
}

func newWatched(t testing.TB, cfg resilient.Config, keeps int) *watched {
	t.Helper()
	rec, err := debug.New(debug.Config{Operations: keeps})
	require.NoError(t, err)
	cfg.Observer, cfg.HonorsKeys = rec.Observer(), resilient.AnyHost
	rt, err := resilient.NewTransport(cfg)
	require.NoError(t, err)
	return &watched{&http.Client{Transport: rt}, rec, rec.Handler(rt)}
}

func (w *watched) send(t testing.TB, method, url string, header ...string) error {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("secret-body")
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.client.Do(req)
	if err == nil {
		require.NoError(t, resp.Body.Close())
	}
	return err
}

// statuses answers the arrivals in turn, the last for ever; 0 is a reset.
func statuses(all ...int) roundTrip {
	var mu sync.Mutex
	return func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		status := all[0]
		all = all[min(1, len(all)-1):]
		mu.Unlock()
		time.Sleep(40 * time.Millisecond)
		if status == 0 {
			return nil, errors.New("connection reset")
		}
		return answer(req, status), nil
	}
}

func second() resilient.Schedule { return everySecond{} }

type everySecond struct{}

func (everySecond) NextBackOff() time.Duration { return time.Second }

func TestAConfigThatCannotBeIsAnErrorThatNamesTheField(t *testing.T) {
	for n, want := range map[int]string{-1: "debug: Config.Operations: -1 is negative", 10_001: "debug: Config.Operations: 10001 is more than 10000"} {
		_, err := debug.New(debug.Config{Operations: n})
		require.EqualError(t, err, want)
	}
}

func TestAZeroRecorderKeepsTwoHundred(t *testing.T) {
	var rec debug.Recorder
	page := rec.Handler(nil)
	require.Zero(t, stateOf(t, page, "").Operations.InTrouble)
	for range 300 {
		rec.Observer().End(t.Context(), resilient.Operation{}, errors.New("x"))
	}
	require.Equal(t, 200, stateOf(t, page, "").Operations.Found)
}

func TestARecorderThatWasNotMadeRecordsNothing(t *testing.T) {
	var rec *debug.Recorder
	rt, err := resilient.NewTransport(resilient.Config{MaxAttempts: 1, Observer: rec.Observer(),
		Base: roundTrip(func(req *http.Request) (*http.Response, error) { return answer(req, 500), nil })})
	require.NoError(t, err)
	w := &watched{client: &http.Client{Transport: rt}}
	require.NoError(t, w.send(t, "GET", "http://api.test/"))
	require.False(t, stateOf(t, rec.Handler(rt), "").Operations.Recorded)
}

func TestOnlyOperationsInTroubleAreKept(t *testing.T) {
	inBubble(t, "with each attempt, each wait and the reason of the end", func(t *testing.T) {
		w := newWatched(t, resilient.Config{Base: statuses(200, 503, 0, 200, 500, 404, 0), Backoff: second, MaxAttempts: 3}, 0)
		require.NoError(t, w.send(t, "GET", "http://api.test/well"))
		require.NoError(t, w.send(t, "POST", "http://api.test/charge", "Idempotency-Key", "k1"))
		require.NoError(t, w.send(t, "GET", "http://api.test/absent"))
		require.Error(t, w.send(t, "GET", "http://api.test/gone"))
		s := stateOf(t, w.page, "")
		require.Equal(t, time.Now().UTC(), s.Now, "by which the times are to be read")
		require.True(t, s.Operations.Recorded)
		require.Equal(t, 3, s.Operations.InTrouble)
		gone, absent, charge := s.Operations.Shown[0], s.Operations.Shown[1], s.Operations.Shown[2]
		require.Equal(t, "http://api.test/charge", charge.URL)
		require.Equal(t, shortHash("k1"), charge.KeyHash)
		require.Equal(t, 200, charge.Status)
		require.InDelta(t, 2120, charge.Took, 0.01)
		require.Len(t, charge.Attempts, 3)
		require.Equal(t, []string{"transient", "transient", "done"}, []string{charge.Attempts[0].Verdict, charge.Attempts[1].Verdict, charge.Attempts[2].Verdict})
		require.InDelta(t, 1040, charge.Attempts[1].At, 0.01)
		require.InDelta(t, 1000, charge.Attempts[1].Wait, 0.01)
		require.Equal(t, "connection reset", charge.Attempts[1].Error)
		require.Equal(t, 404, absent.Status, "answered at last")
		require.Equal(t, "attempts exhausted", gone.Stop)
		require.Equal(t, "outcome unknown", gone.Outcome)
		require.Zero(t, gone.Status)
	})
	inBubble(t, "but no redirect, whose hops are all answered", func(t *testing.T) {
		w := newWatched(t, resilient.Config{Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 200)
			if req.URL.Path == "/old" {
				resp = answer(req, 301)
				resp.Header.Set("Location", "/new")
			}
			return resp, nil
		})}, 0)
		require.NoError(t, w.send(t, "GET", "http://api.test/old"))
		require.Zero(t, stateOf(t, w.page, "").Operations.InTrouble)
	})
	inBubble(t, "and an answer that might not be asked for again", func(t *testing.T) {
		w := newWatched(t, resilient.Config{Base: statuses(503), MaxAttempts: 1}, 0)
		require.NoError(t, w.send(t, "GET", "http://api.test/"))
		op := stateOf(t, w.page, "").Operations.Shown[0]
		require.Equal(t, 503, op.Status)
		require.Equal(t, "attempts exhausted", op.Stop)
	})
}

func TestThePageShowsNoBodyNoQueryNoHeaderAndNoKey(t *testing.T) {
	inBubble(t, "not even of an error that quotes them", func(t *testing.T) {
		w := newWatched(t, resilient.Config{MaxAttempts: 1, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("Post %q with %s: reset", req.URL, req.Header.Get("Authorization"))
		})}, 0)
		require.Error(t, w.send(t, "POST", "http://user:secret-pass@api.test/charge?token=secret-query#secret-part",
			"Authorization", "Bearer secret-header", "Idempotency-Key", "secret-key"))
		body := ask(t, w.page, "GET", "/x/state.json").Body.String()
		require.Contains(t, body, "http://api.test/charge")
		require.Contains(t, body, shortHash("secret-key"))
		require.NotContains(t, body, "secret")
	})
}

func TestHostileTextsStayTexts(t *testing.T) {
	inBubble(t, "in JSON and in events, whatever a host or an error is called", func(t *testing.T) {
		const evil = "</script><img src=x onerror=alert(1)>\r\n\r\ndata: forged\u2028"
		w := newWatched(t, resilient.Config{MaxAttempts: 1, HostKey: func(*http.Request) string { return evil },
			Base: roundTrip(func(*http.Request) (*http.Response, error) { return nil, errors.New(evil) })}, 0)
		require.Error(t, w.send(t, "GET", "http://api.test/"))
		s := stateOf(t, w.page, "")
		require.Equal(t, evil, s.Hosts.Shown[0].Host)
		require.Equal(t, evil, s.Operations.Shown[0].Attempts[0].Error)
		v := watch(t, w.page, "")
		defer v.leave()
		text := v.heard()
		require.Equal(t, 1, strings.Count(text, "\n\n"), "one event")
		require.NotContains(t, text, "<")
		require.NotContains(t, text, "\ndata: forged")
	})
}

func TestAnOperationTakesBoundedRoomWhateverHappensToIt(t *testing.T) {
	inBubble(t, "a thousand attempts with errors of a megabyte", func(t *testing.T) {
		long := strings.Repeat("é", 1<<19)
		rec, err := debug.New(debug.Config{Operations: 50})
		require.NoError(t, err)
		op := resilient.Operation{Method: "GET" + long, URL: "http://api.test/x" + long, Stop: errors.New(long), Key: "k"}
		for n := range 1000 {
			op.Attempts = append(op.Attempts, resilient.Attempt{N: n + 1, Host: long, Err: errors.New(long), Verdict: resilient.Transient, Start: time.Now()})
		}
		before := heap()
		for range 100 {
			rec.Observer().End(t.Context(), op, errors.New(long))
		}
		grown := heap() - before
		require.Positive(t, grown)
		require.Less(t, grown, int64(50*12<<10))
		t.Logf("%d KiB for 50 operations", grown>>10)
		s := stateOf(t, rec.Handler(nil), "")
		require.Equal(t, 100, s.Operations.InTrouble)
		require.Len(t, s.Operations.Shown, 50)
		last := s.Operations.Shown[0]
		require.Equal(t, 100, last.ID)
		require.Len(t, last.Attempts, 20)
		require.Equal(t, 980, last.Left)
		require.Equal(t, []int{1, 10, 991, 1000}, []int{last.Attempts[0].N, last.Attempts[9].N, last.Attempts[10].N, last.Attempts[19].N})
		require.NotContains(t, last.URL, "\ufffd", "cut between letters")
		require.True(t, strings.HasSuffix(last.URL, "…"))
		runtime.KeepAlive(rec)
		runtime.KeepAlive(op)
	})
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Ten thousand hosts and a storm of operations: one update stays small, and
// those in trouble are in it.
func TestAnUpdateIsBoundedHoweverMuchThereIs(t *testing.T) {
	inBubble(t, "the worst hosts come first, and a filter finds the others", func(t *testing.T) {
		w := newWatched(t, resilient.Config{MaxAttempts: 1, FailFast: true, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			if strings.HasPrefix(req.URL.Host, "down") {
				return answer(req, 503), nil
			}
			return answer(req, 200), nil
		})}, 10_000)
		for i := range 9_990 {
			require.NoError(t, w.send(t, "GET", fmt.Sprintf("http://up%d.test/", i)))
		}
		for i := range 10 {
			for range 1000 {
				_ = w.send(t, "GET", fmt.Sprintf("http://down%d.test/Orders/%s", i, strings.Repeat("x", 400)))
			}
		}
		s := stateOf(t, w.page, "")
		require.Equal(t, 10_000, s.Hosts.Total)
		require.Equal(t, 10, s.Hosts.InTrouble)
		require.Len(t, s.Hosts.Shown, 50)
		for i, h := range s.Hosts.Shown {
			require.Equal(t, i < 10, h.Trouble == "open", h)
			require.Equal(t, i < 10, h.Breaker == "open", h)
		}
		require.Len(t, s.Operations.Shown, 50)
		require.Equal(t, 10_000, s.Operations.Found)
		v := watch(t, w.page, "")
		defer v.leave()
		require.Less(t, len(v.heard()), 64<<10)
		t.Logf("%d bytes in an update", len(v.heard()))

		s = stateOf(t, w.page, "?q=UP777.")
		require.Equal(t, 1, s.Hosts.Found)
		require.Equal(t, "http://up777.test", s.Hosts.Shown[0].Host)
		require.Zero(t, s.Operations.Found)
		s = stateOf(t, w.page, "?q=down3.test/orders")
		require.Equal(t, 1000, s.Operations.Found)
		require.Zero(t, stateOf(t, w.page, "?key_hash=00000000").Operations.Found)
		require.Equal(t, 10_000, stateOf(t, w.page, "?q="+strings.Repeat("x", 300)).Operations.Found, "a long filter is cut, and still finds")
	})
}

// viewer is one who reads events, until he leaves or, being slow, cannot be
// written to.
type viewer struct {
	leave  func()
	ended  chan struct{}
	code   int
	header http.Header

	mu       sync.Mutex
	text     strings.Builder
	flushed  int
	deadline time.Time
	slow     bool
}

func watch(t *testing.T, h http.Handler, query string) *viewer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	v := &viewer{ended: make(chan struct{}), header: make(http.Header), code: 200}
	v.leave = func() { cancel(); <-v.ended }
	go func() {
		defer close(v.ended)
		h.ServeHTTP(v, httptest.NewRequestWithContext(ctx, http.MethodGet, "/debug/resilient/events"+query, nil))
	}()
	synctest.Wait()
	return v
}

func (v *viewer) Header() http.Header  { return v.header }
func (v *viewer) WriteHeader(code int) { v.code = code }

func (v *viewer) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.slow {
		time.Sleep(time.Until(v.deadline))
		return 0, errors.New("i/o timeout")
	}
	return v.text.Write(p)
}

func (v *viewer) FlushError() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flushed = v.text.Len()
	return nil
}

func (v *viewer) SetWriteDeadline(d time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.deadline = d
	return nil
}

// heard is all that was flushed.
func (v *viewer) heard() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.text.String()[:v.flushed]
}

// events are the states that were heard.
func (v *viewer) events(t *testing.T) (all []state) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(v.heard()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var s state
			require.NoError(t, json.Unmarshal([]byte(data), &s))
			all = append(all, s)
		}
	}
	return all
}

func TestEventsTellWhatIsNewAndNothingElse(t *testing.T) {
	inBubble(t, "within half a second, with a heartbeat where nothing is", func(t *testing.T) {
		w := newWatched(t, resilient.Config{Base: statuses(200, 500), MaxAttempts: 1}, 0)
		v := watch(t, w.page, "")
		require.Equal(t, "text/event-stream", v.header.Get("Content-Type"))
		require.Len(t, v.events(t), 1, "the state at once")
		time.Sleep(14 * time.Second)
		require.Len(t, v.events(t), 1)
		require.NotContains(t, v.heard(), ": still here")
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, strings.Count(v.heard(), ": still here\n\n"))

		var ids []int
		for range 3 {
			require.NoError(t, w.send(t, "GET", "http://api.test/"))
			time.Sleep(500 * time.Millisecond)
			all := v.events(t)
			ids = append(ids, all[len(all)-1].Operations.InTrouble)
		}
		require.Equal(t, []int{0, 1, 2}, ids)
		ids = nil
		for _, s := range v.events(t) {
			for _, op := range s.Operations.Shown {
				ids = append(ids, op.ID)
			}
		}
		require.Equal(t, []int{1, 2}, ids, "each once")
		v.leave()
	})
	inBubble(t, "of a key, by its hash", func(t *testing.T) {
		w := newWatched(t, resilient.Config{Base: statuses(500), MaxAttempts: 1}, 0)
		v := watch(t, w.page, "?key_hash="+strings.ToUpper(shortHash("k2")))
		for _, key := range []string{"k1", "k2", "k3"} {
			require.NoError(t, w.send(t, "POST", "http://api.test/", "Idempotency-Key", key))
		}
		time.Sleep(time.Second)
		v.leave()
		var found []string
		for _, s := range v.events(t) {
			for _, op := range s.Operations.Shown {
				found = append(found, op.KeyHash)
			}
		}
		require.Equal(t, []string{shortHash("k2")}, found)
	})
}

func TestAServersWriteTimeoutDoesNotEndTheStream(t *testing.T) {
	for _, name := range []string{"HTTP/1.1", "HTTP/2"} {
		inBubble(t, "over a minute of heartbeats by "+name, func(t *testing.T) {
			var protocols http.Protocols
			protocols.SetHTTP1(name == "HTTP/1.1")
			protocols.SetUnencryptedHTTP2(name == "HTTP/2")
			network := faultinject.NewNetwork()
			listener, err := network.Listen("internal.test:80")
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			srv := &http.Server{Handler: debug.Handler(nil), WriteTimeout: time.Second, Protocols: &protocols,
				BaseContext: func(net.Listener) context.Context { return ctx }}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(listener) }()
			base := network.Transport()
			base.Protocols = &protocols
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://internal.test/debug/resilient/events", nil)
			require.NoError(t, err)
			resp, err := base.RoundTrip(req)
			require.NoError(t, err)
			start, beats := time.Now(), 0
			lines := bufio.NewScanner(resp.Body)
			for beats < 4 && lines.Scan() {
				if lines.Text() == ": still here" {
					beats++
				}
			}
			require.NoError(t, lines.Err())
			require.Equal(t, time.Minute, time.Since(start).Round(time.Second))

			stop() // a service that ends its contexts can shut down while pages are open
			require.NoError(t, resp.Body.Close())
			require.NoError(t, srv.Shutdown(t.Context()))
			require.ErrorIs(t, <-served, http.ErrServerClosed)
			base.CloseIdleConnections()
			require.NoError(t, network.Close())
		})
	}
}

func TestViewersAreBounded(t *testing.T) {
	inBubble(t, "sixteen at once; one who leaves makes room, one who does not read is dropped", func(t *testing.T) {
		w := newWatched(t, resilient.Config{Base: statuses(200)}, 0)
		var all []*viewer
		for range 16 {
			all = append(all, watch(t, w.page, ""))
		}
		late := watch(t, w.page, "")
		<-late.ended
		require.Equal(t, http.StatusServiceUnavailable, late.code)
		require.Equal(t, "5", late.header.Get("Retry-After"))
		all[0].leave()
		late = watch(t, w.page, "")
		require.Equal(t, 200, late.code)

		all[1].mu.Lock()
		all[1].slow = true
		all[1].mu.Unlock()
		require.NoError(t, w.send(t, "GET", "http://api.test/"))
		time.Sleep(6 * time.Second)
		<-all[1].ended
		for _, v := range append(all[2:], late) {
			require.Greater(t, len(v.events(t)), 1)
			v.leave()
		}
	})
}

func TestManyWhoLookReadTheHostsOnce(t *testing.T) {
	inBubble(t, "and see them at most half a second late", func(t *testing.T) {
		w := newWatched(t, resilient.Config{Base: statuses(200)}, 0)
		require.Zero(t, stateOf(t, w.page, "").Hosts.Total)
		require.NoError(t, w.send(t, "GET", "http://api.test/"))
		require.Zero(t, stateOf(t, w.page, "").Hosts.Total)
		time.Sleep(460 * time.Millisecond)
		require.Equal(t, 1, stateOf(t, w.page, "").Hosts.Total)
	})
}

func TestThePageCanOnlyBeLookedAt(t *testing.T) {
	w := newWatched(t, resilient.Config{}, 0)
	for path, want := range map[string]string{
		"/debug/resilient/": "text/html; charset=utf-8", "/": "text/html; charset=utf-8", "/any/where/state.json": "application/json",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			got := ask(t, w.page, method, path)
			require.Equal(t, http.StatusOK, got.Code)
			require.Equal(t, want, got.Header().Get("Content-Type"))
			require.Equal(t, "nosniff", got.Header().Get("X-Content-Type-Options"))
			require.Empty(t, got.Header().Get("Access-Control-Allow-Origin"))
			policy := got.Header().Get("Content-Security-Policy")
			require.Contains(t, policy, "default-src 'none'; connect-src 'self'")
			require.NotContains(t, policy, "unsafe")
		}
	}
	require.Equal(t, http.StatusOK, ask(t, w.page, "HEAD", "/events").Code)
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		got := ask(t, w.page, method, "/debug/resilient/state.json")
		require.Equal(t, http.StatusMethodNotAllowed, got.Code)
		require.Equal(t, "GET, HEAD", got.Header().Get("Allow"))
	}
	require.Equal(t, http.StatusNotFound, ask(t, w.page, "GET", "/debug/resilient/other").Code)
}

func TestAClientWithoutARecorderShowsItsHosts(t *testing.T) {
	rt, err := resilient.NewTransport(resilient.Config{Base: statuses(200)})
	require.NoError(t, err)
	w := &watched{client: &http.Client{Transport: rt}}
	require.NoError(t, w.send(t, "GET", "http://api.test/"))
	s := stateOf(t, debug.Handler(rt), "")
	require.Equal(t, "http://api.test", s.Hosts.Shown[0].Host)
	require.False(t, s.Operations.Recorded)
	require.Zero(t, stateOf(t, debug.Handler(nil), "").Hosts.Total)
	inBubble(t, "as they change", func(t *testing.T) {
		rt, err := resilient.NewTransport(resilient.Config{Base: statuses(200)})
		require.NoError(t, err)
		w := &watched{client: &http.Client{Transport: rt}}
		v := watch(t, debug.Handler(rt), "")
		require.NoError(t, w.send(t, "GET", "http://api.test/"))
		time.Sleep(500 * time.Millisecond)
		v.leave()
		require.Len(t, v.events(t), 2)
	})
}

func TestOneGoodAttemptCostsTheRecorderNoMemory(t *testing.T) {
	rec, err := debug.New(debug.Config{})
	require.NoError(t, err)
	end, ctx, op := rec.Observer().End, t.Context(), goodOperation()
	require.Zero(t, testing.AllocsPerRun(100, func() { end(ctx, op, nil) }))
}

// Nothing is kept, and the client does not even make a record.
func TestWithARecorderAGETThatGoesWellCostsWhatItCostsWithout(t *testing.T) {
	resp := &http.Response{StatusCode: 200, Body: http.NoBody}
	base := roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil })
	rec, err := debug.New(debug.Config{})
	require.NoError(t, err)
	log := resilient.LogTo(slog.New(slog.DiscardHandler))
	rt, err := resilient.NewTransport(resilient.Config{Base: base, Observer: resilient.Observers(rec.Observer(), log)})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://host.test/", nil)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = rt.RoundTrip(req) }))
}

func goodOperation() resilient.Operation {
	return resilient.Operation{Method: "GET", URL: "http://api.test/", Outcome: resilient.Answered,
		Attempts: []resilient.Attempt{{N: 1, Verdict: resilient.Done, Status: 200}}}
}

func TestOperationsAreReadWhileTheyEnd(t *testing.T) {
	rec, err := debug.New(debug.Config{Operations: 10})
	require.NoError(t, err)
	page := rec.Handler(nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				rec.Observer().End(context.Background(), resilient.Operation{}, errors.New("x")) //nolint:usetesting // t.Context is not for other goroutines
			}
		})
	}
	for range 50 {
		ops := stateOf(t, page, "").Operations
		for i, op := range ops.Shown {
			require.Equal(t, ops.InTrouble-i, op.ID)
		}
	}
	all.Wait()
	last := stateOf(t, page, "").Operations
	require.Equal(t, 800, last.InTrouble)
	require.Len(t, last.Shown, 10)
}

// BenchmarkRecorder is what the Recorder adds to a client: nothing, until an
// operation is in trouble.
func BenchmarkRecorder(b *testing.B) {
	rec, err := debug.New(debug.Config{})
	require.NoError(b, err)
	resp := &http.Response{StatusCode: 200, Body: http.NoBody}
	base := roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil })
	for _, row := range []struct {
		name string
		cfg  resilient.Config
	}{{"GET without it", resilient.Config{Base: base}}, {"GET with it", resilient.Config{Base: base, Observer: rec.Observer()}}} {
		b.Run(row.name, func(b *testing.B) {
			rt, err := resilient.NewTransport(row.cfg)
			require.NoError(b, err)
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://host.test/", nil)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = rt.RoundTrip(req)
			}
		})
	}
	b.Run("an operation in trouble", func(b *testing.B) {
		op := goodOperation()
		op.Attempts = append([]resilient.Attempt{{N: 1, Verdict: resilient.Transient, Err: errors.New("connection reset")}}, op.Attempts...)
		end, ctx := rec.Observer().End, b.Context()
		b.ReportAllocs()
		for b.Loop() {
			end(ctx, op, nil)
		}
	})
}

// BenchmarkUpdate is one page's update with 10,000 hosts known, the reading of
// which is shared, and 10,000 operations kept.
func BenchmarkUpdate(b *testing.B) {
	w := newWatched(b, resilient.Config{Base: roundTrip(func(req *http.Request) (*http.Response, error) { return answer(req, 200), nil })}, 10_000)
	for i := range 10_000 {
		_ = w.send(b, "GET", fmt.Sprintf("http://host%d.test/", i))
		w.rec.Observer().End(b.Context(), goodOperation(), errors.New("x"))
	}
	for _, query := range []string{"", "?q=host777"} {
		b.Run("state.json"+query, func(b *testing.B) {
			req := httptest.NewRequestWithContext(b.Context(), "GET", "/state.json"+query, nil)
			b.ReportAllocs()
			for b.Loop() {
				rec := httptest.NewRecorder()
				w.page.ServeHTTP(rec, req)
				b.SetBytes(int64(rec.Body.Len()))
			}
		})
	}
}
