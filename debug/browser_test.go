package debug_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/debug"
	"github.com/go-resilient/resilient/internal/chromium"
	"github.com/stretchr/testify/require"
)

// roundTrip is a function as a Base.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func answer(req *http.Request, status int) *http.Response {
	return &http.Response{StatusCode: status, Header: make(http.Header), Body: http.NoBody, Request: req}
}

// atOnce is a schedule of short pauses.
type atOnce struct{}

func (atOnce) NextBackOff() time.Duration { return time.Millisecond }

// looked is a client whose servers fail as the test wants, and its page.
type looked struct {
	client *http.Client
	rt     *resilient.Transport
	rec    *debug.Recorder
	page   string
	stop   func()
	down   atomic.Bool // shop.test
	asked  sync.Map    // the URIs that the page asked for
}

func newLooked(t *testing.T, cfg resilient.Config) *looked {
	t.Helper()
	l := &looked{}
	var err error
	l.rec, err = debug.New(debug.Config{})
	require.NoError(t, err)
	if cfg.Base == nil {
		cfg.Base = roundTrip(l.roundTrip)
	}
	cfg.Observer, cfg.HonorsKeys = l.rec.Observer(), resilient.AnyHost
	l.rt, err = resilient.NewTransport(cfg)
	require.NoError(t, err)
	l.client = &http.Client{Transport: l.rt}
	mux := http.NewServeMux()
	mux.Handle("/debug/resilient/", l.rec.Handler(l.rt))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.asked.Store(r.RequestURI, true)
		mux.ServeHTTP(w, r)
	}))
	l.stop = sync.OnceFunc(func() { // an open page would hold up Close
		srv.CloseClientConnections()
		srv.Close()
	})
	t.Cleanup(l.stop)
	l.page = srv.URL + "/debug/resilient/"
	return l
}

func (l *looked) roundTrip(req *http.Request) (*http.Response, error) {
	if l.down.Load() && req.URL.Host == "shop.test" {
		return nil, errors.New("read tcp: connection reset by <b>peer</b>")
	}
	return answer(req, http.StatusOK), nil
}

// send makes a keyed POST, or a GET without a key.
func (l *looked) send(ctx context.Context, url, key string) error {
	method, body := http.MethodGet, io.Reader(nil)
	if key != "" {
		method, body = http.MethodPost, strings.NewReader("10 EUR")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := l.client.Do(req)
	if err == nil {
		err = resp.Body.Close()
	}
	return err
}

func TestThePageShowsAnOutageInABrowser(t *testing.T) {
	b := chromium.New(t)
	l := newLooked(t, resilient.Config{FailFast: true, MaxAttempts: 3, Backoff: func() resilient.Schedule { return atOnce{} }})
	send := func(url, key string) error { return l.send(t.Context(), url, key) }
	b.Look(1100, "light")
	b.Open(l.page, `$("state").classList.contains("live")`)
	require.NoError(t, send("http://shop.test/", ""))
	require.NoError(t, send("http://other.test/", ""))
	row := b.Eval(`return (await until(() => [...$("hosts").rows].find(r => r.textContent.includes("http://shop.test")))).innerText`)
	require.Contains(t, row, "closed")
	require.Contains(t, b.Eval(`return $("hosts-note").textContent`), "all well")

	l.down.Store(true)
	require.Error(t, send("http://shop.test/charge?token=secret", "k-17"))
	op := b.Eval(`return (await until(() => $("operations").querySelector("li"))).innerText`)
	for _, part := range []string{"POST http://shop.test/charge", "key " + shortHash("k-17"), "outcome unknown", "attempts exhausted", "<b>peer</b>"} {
		require.Contains(t, op, part)
	}
	require.NotContains(t, op, "secret")
	require.Equal(t, "3", b.Eval(`return String($("operations").querySelectorAll("li .track i.transient").length)`))

	for range 10 {
		require.Error(t, send("http://shop.test/orders", ""))
	}
	require.Equal(t, "http://shop.test", b.Eval(`return (await until(() => document.querySelector("tr.bad button"))).textContent`),
		"the host in trouble comes first")
	b.Eval(`await until(() => document.querySelector("tr.bad").innerText.includes("open") && $("news").textContent.includes("http://shop.test open"))`)
	require.Contains(t, b.Eval(`return $("operations").innerText`), "Not sent: circuit open")

	require.Equal(t, "1", b.Eval(`fill("key", "k-17"); return String(await until(() => $("operations").children.length === 1 ? 1 : 0))`), "found by its key")
	b.Eval(`fill("key", "other"); await until(() => $("operations").children.length === 0)`)
	b.Eval(`fill("key", "` + shortHash("k-17") + `"); await until(() => $("operations").children.length === 1)`)
	b.Eval(`fill("key", ""); fill("q", "other"); await until(() => $("hosts").rows.length === 1 && $("hosts").innerText.includes("other.test"))`)
	b.Eval(`fill("q", ""); await until(() => $("hosts").rows.length === 2)`)
	byKeyboard(t, b)
	b.Eval(`$("pause").click()`)
	require.Error(t, send("http://shop.test/late", ""))
	require.Equal(t, "0", b.Eval(`await until(() => held); return String($("operations").textContent.split("/late").length - 1)`), "paused")
	b.Eval(`$("pause").click(); await until(() => $("operations").textContent.includes("/late"))`)
	l.asked.Range(func(uri, _ any) bool {
		require.NotContains(t, uri, "k-17", "a key stays in the page")
		return true
	})
	for _, width := range []int{390, 1100} {
		for _, scheme := range []string{"light", "dark"} {
			b.Look(width, scheme)
			require.Equal(t, "", b.Eval(`const d = document.documentElement; return d.scrollWidth > d.clientWidth ? d.scrollWidth + " wide" : ""`))
			dark := b.Eval(`return String(getComputedStyle(document.body).backgroundColor === "rgb(22, 24, 27)")`)
			require.Equal(t, fmt.Sprint(scheme == "dark"), dark)
		}
	}
	picture(t)
}

// A page that is paused shows what it showed, whatever comes meanwhile.
func TestThePageInABrowserIsTrueThroughPausesAndLostConnections(t *testing.T) {
	b := chromium.New(t)
	l := newLooked(t, resilient.Config{FailFast: true, MaxAttempts: 1, MaxRetryAfter: time.Hour, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == "slow.test" {
			resp := answer(req, http.StatusTooManyRequests)
			resp.Header.Set("Retry-After", "3600")
			return resp, nil
		}
		return nil, errors.New("connection reset")
	})})
	require.False(t, strings.Contains(served(t, l.page), "none yet"), "with the script off, or before it has heard anything, nothing is known")
	require.NoError(t, l.send(t.Context(), "http://slow.test/", ""))
	for range 10 {
		require.Error(t, l.send(t.Context(), "http://down.test/", "k-1"))
	}
	old := resilient.Operation{Method: "GET", URL: "http://old.test/", Attempts: []resilient.Attempt{{N: 1, Start: time.Now().AddDate(-1, 0, 0)}}}
	l.rec.Observer().End(t.Context(), old, errors.New("long ago"))
	l.rec.Observer().End(t.Context(), waitedInVain(), nil)
	b.Look(1100, "light")
	b.Open(l.page, `$("state").classList.contains("live") && $("operations").children.length === 13`)

	require.Contains(t, b.Eval(`return $("operations").children[1].querySelector("time").textContent`), old.Attempts[0].Start.Format(time.DateOnly),
		"what did not happen today has a date")
	require.Contains(t, b.Eval(`return $("operations").children[0].innerText`), "503 transient, 1.0 s; then waited 2.0 s")
	b.Eval(`$("q").focus(); fill("q", "slow"); await until(() => $("hosts").rows.length === 1)`)
	require.Empty(t, b.Eval(`return $("news").textContent`), "what a filter hides is not over")
	b.Eval(`fill("q", ""); await until(() => $("hosts").rows.length === 2)`)

	b.Eval(`$("operations").querySelector("button").focus(); window.first = document.activeElement`)
	b.Eval(`const was = stream; document.dispatchEvent(new Event("visibilitychange")); await until(() => stream !== was && last.fresh && stream.readyState === 1)`)
	require.Equal(t, "true", b.Eval(`return String(document.activeElement === window.first)`), "who comes back to the page finds what had his focus")

	b.Eval(`$("pause").click(); window.shown = $("operations").textContent`)
	require.Error(t, l.send(t.Context(), "http://down.test/late", ""))
	b.Eval(`await until(() => held); held = null; document.dispatchEvent(new Event("visibilitychange")); await until(() => held)`)
	require.Equal(t, "true", b.Eval(`return String($("operations").textContent === window.shown)`), "a pause outlasts a connection")
	b.Eval(`const real = Date.now; Date.now = () => real() + 1800e3; $("pause").click(); window.left = $("hosts").innerText; Date.now = real`)
	require.Equal(t, "true", b.Eval(`return String(window.left.match(/to be left alone for (\d+) min/)[1] <= 30)`), "half of an hour is over")
	require.Contains(t, b.Eval(`return $("operations").textContent`), "/late")

	l.stop()
	b.Eval(`await until(() => /^no connection since \d\d:\d\d:\d\d, trying again$/.test($("state").textContent))`)
	require.Equal(t, "true", b.Eval(`const real = Date.now; Date.now = () => real() + 600e3; const was = $("hosts").innerText; tick(); const is = $("hosts").innerText; Date.now = real; return String(was === is)`),
		"nobody knows how long it has been so")
}

// served is the page as it comes.
func served(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return string(text)
}

// waitedInVain is an operation that was given its only answer two seconds late:
// the breaker let in no second attempt.
func waitedInVain() resilient.Operation {
	return resilient.Operation{Method: "GET", URL: "http://late.test/", Outcome: resilient.Answered, Stop: resilient.ErrOpen, Attempts: []resilient.Attempt{{
		N: 1, Start: time.Now().Add(-3 * time.Second), Duration: time.Second, Wait: 2 * time.Second, Status: 503, Verdict: resilient.Transient, Outcome: resilient.Answered,
	}}}
}

// byKeyboard walks through the page by keyboard.
func byKeyboard(t *testing.T, b *chromium.Browser) {
	t.Helper()
	b.Eval(`document.activeElement.blur(); window.scrollTo(0, 0); $("q").focus()`)
	var order []string
	for range 5 {
		order = append(order, b.Eval(`const a = document.activeElement; return a.id || a.textContent`))
		b.Press("Tab", 9)
	}
	require.Equal(t, []string{"q", "key", "pause", "http://shop.test", "http://other.test"}, order)
	b.Eval(`$("hosts").querySelector("button").focus()`)
	b.Press("Enter", 13)
	b.Eval(`await until(() => $("q").value === "shop.test" && document.activeElement === $("q") && $("hosts").rows.length === 1)`)
	b.Eval(`fill("q", ""); await until(() => $("hosts").rows.length === 2); $("pause").focus()`)
	b.Press("Enter", 13)
	require.Equal(t, "Go on, null", b.Eval(`return $("pause").textContent + ", " + $("pause").getAttribute("aria-pressed")`), "its name says it; pressed would say the contrary")
	b.Press("Enter", 13)
}

// picture makes docs/debug-outage.png and its dark sister, with
// RESILIENT_PICTURES=../docs go test -run Browser ./debug
func picture(t *testing.T) {
	t.Helper()
	dir := os.Getenv("RESILIENT_PICTURES")
	if dir == "" {
		return
	}
	b := chromium.New(t)
	var down atomic.Bool
	l := newLooked(t, resilient.Config{Base: roundTrip(func(req *http.Request) (*http.Response, error) {
		time.Sleep(12 * time.Millisecond)
		switch {
		case down.Load() && req.URL.Host == "search.test":
			time.Sleep(30 * time.Millisecond)
			return nil, syscall.ECONNRESET
		case down.Load() && req.URL.Host == "mail.test":
			resp := answer(req, http.StatusTooManyRequests)
			resp.Header.Set("Retry-After", "45")
			return resp, nil
		case down.Load() && req.URL.Host == "pay.test":
			down.Store(false)
			return answer(req, http.StatusServiceUnavailable), nil
		}
		return answer(req, http.StatusOK), nil
	})})
	send := func(url, key string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_ = l.send(ctx, url, key)
	}
	for i := range 40 {
		send([]string{"https://pay.test/charge", "https://mail.test/", "https://search.test/", "https://cdn.test/"}[i%4], "")
	}
	down.Store(true)
	for i := range 6 {
		send("https://search.test/query", fmt.Sprint("query-", i))
	}
	send("https://mail.test/send", "mail-3")
	send("https://pay.test/charge", "charge-7")
	b.Look(1100, "light")
	b.Open(l.page, `$("state").classList.contains("live") && document.querySelector("tr.bad")`)
	for scheme, name := range map[string]string{"light": "debug-outage.png", "dark": "debug-outage-dark.png"} {
		b.Look(1100, scheme)
		b.Eval(`await new Promise(requestAnimationFrame); await new Promise(r => setTimeout(r, 700))`)
		b.Screenshot(filepath.Join(dir, name))
	}
}
