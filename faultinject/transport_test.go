package faultinject

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// echo answers with the body that it was sent.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Write(b)
})

// countedBody fails the test if it is not closed exactly once.
type countedBody struct {
	io.Reader
	mu     sync.Mutex
	closed int
}

func (b *countedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func post(ctx context.Context, body io.Reader, length int64) *http.Request {
	r, err := http.NewRequestWithContext(ctx, "POST", "http://shop.test/charge", body)
	if err != nil {
		panic(err)
	}
	r.ContentLength = length
	r.Header.Set("Idempotency-Key", "k1")
	return r
}

func bubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestNilMeansWhatItMeansToNetHTTP(t *testing.T) {
	get := httptest.NewRequest("GET", "http://shop.test/nowhere", nil)
	resp, err := Handler(nil, nil).RoundTrip(get)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Error("handler:", resp, err)
	}
	w := httptest.NewRecorder()
	if Serve(nil, nil, nil).ServeHTTP(w, get); w.Code != http.StatusNotFound {
		t.Error("server:", w.Code)
	}
	if _, err = Wrap(nil, nil).RoundTrip(httptest.NewRequest("GET", "none://shop.test", nil)); err == nil {
		t.Error("http.DefaultTransport knows the scheme none")
	}
}

func TestEveryFaultClosesTheBodyOnceAndRecordsWhatArrived(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		for _, f := range append(Catalogue(), Pass()) {
			bubble(t, fmt.Sprint(f, wrapped), func(t *testing.T) {
				rt := Handler(echo, Script(f))
				if wrapped {
					rt = Wrap(Handler(echo, nil), Script(f))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				body := &countedBody{Reader: strings.NewReader("12345678")}
				req := post(ctx, body, 8)
				resp, err := rt.RoundTrip(req)
				if body.closed != 1 {
					t.Errorf("closed %d times", body.closed)
				}
				if err == nil {
					if resp.Request != req {
						t.Error("the answer belongs to another request")
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				rt.Settle()
				checkRecord(t, rt.Deliveries(), f)
			})
		}
	}
}

// checkRecord holds the record of one exchange against the truth of its fault.
func checkRecord(t *testing.T, all []Delivery, f Fault) {
	t.Helper()
	if len(all) != 1 {
		t.Fatal("deliveries:", len(all))
	}
	d := all[0]
	runs, length := 0, 8
	switch f.Truth() {
	case Applied:
		runs = 1
	case MaybePartly:
		length = 4
	case NeverSent:
		length = 0
	}
	if f == Duplicate() {
		runs = 2
	}
	if d.Fault != f || d.Key != "k1" || d.Op != "k1" || d.Nth != 1 || d.Runs != runs || d.Length != length || d.Reach() != f.Truth() {
		t.Errorf("%+v, want %d runs and %d bytes", d, runs, length)
	}
	if length > 0 && d.Sum != sha256.Sum256([]byte("12345678")[:length]) {
		t.Error("sum of other bytes")
	}
}

func TestALateRequestIsHandledAfterItsCallerHasGone(t *testing.T) {
	bubble(t, "late", func(t *testing.T) {
		start, ran := time.Now(), time.Duration(0)
		rt := Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ran = time.Since(start)
			if r.Context().Err() != nil || r.Header.Get("X-A") != "before" {
				t.Error("the late request went with its caller")
			}
		}), Script(Late(3*time.Second)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req := post(ctx, http.NoBody, 0)
		req.Header.Set("X-A", "before")
		_, err := rt.RoundTrip(req)
		req.Header.Set("X-A", "after") // the request is the caller's again
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second || rt.Effects()["k1"] != 0 {
			t.Error(err, time.Since(start), rt.Effects())
		}
		rt.Settle()
		if ran != 4*time.Second || rt.Effects()["k1"] != 1 {
			t.Error(ran, rt.Effects())
		}
	})
}

func TestAWithdrawnRequestIsNotHandledAfterItsDelay(t *testing.T) {
	bubble(t, "delay", func(t *testing.T) {
		rt := Handler(echo, Script(Delay(3*time.Second)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := rt.RoundTrip(post(ctx, http.NoBody, 0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		rt.Settle()
		if d := rt.Deliveries()[0]; d.Runs != 0 || d.Reach() != Delivered {
			t.Error(d, d.Reach())
		}
	})
}

func TestACallerWhoGivesUpLearnsItsOwnReason(t *testing.T) {
	mine := errors.New("mine")
	hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, f := range []Fault{
		Blackhole(), SlowDial(time.Hour), Stall(), Late(0), Delay(time.Hour), StallBody(0), TrickleBody(1, time.Hour), Pass(),
	} {
		for _, legacy := range []bool{false, true} {
			bubble(t, fmt.Sprint(f, legacy), func(t *testing.T) {
				rt := Handler(echo, Script(f))
				if f == Pass() {
					rt = Handler(hang, nil)
				}
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, mine)
				defer cancel()
				req := post(ctx, strings.NewReader("abc"), 3)
				if legacy {
					gone := make(chan struct{})
					req.Cancel = gone
					time.AfterFunc(time.Second, func() { close(gone) })
				}
				resp, err := rt.RoundTrip(req)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if !legacy && err != mine || legacy && !strings.Contains(fmt.Sprint(err), "request canceled") {
					t.Error(err)
				}
				cancel()
				rt.Settle()
			})
		}
	}
}

func TestACallerWhoseBodyHangsCanStillGiveUp(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		mine := errors.New("mine")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, mine)
		defer cancel()
		pipe, _ := io.Pipe()
		rt := Handler(echo, nil)
		if _, err := rt.RoundTrip(post(ctx, pipe, -1)); err != mine || rt.Deliveries()[0].Reach() != MaybePartly {
			t.Error(err, rt.Deliveries())
		}
	})
}

func TestABodyIsLostWithTheContextOfItsRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := Handler(echo, nil).RoundTrip(post(ctx, strings.NewReader("abc"), 3))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if b, err := io.ReadAll(resp.Body); err != context.Canceled {
		t.Errorf("%q %v", b, err)
	}
}

func TestACallerWhoHasGivenUpStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rt := Handler(echo, nil)
	body := &countedBody{Reader: strings.NewReader("x")}
	if _, err := rt.RoundTrip(post(ctx, body, 1)); err != context.Canceled || body.closed != 1 {
		t.Error(err, body.closed)
	}
	if n := len(rt.Deliveries()); n != 0 {
		t.Error("deliveries:", n)
	}
}

func TestTheBodyMustHaveItsDeclaredLength(t *testing.T) {
	for _, declared := range []int64{2, 4} {
		rt := Handler(echo, nil)
		_, err := rt.RoundTrip(post(t.Context(), strings.NewReader("123"), declared))
		if err == nil || !strings.Contains(err.Error(), "ContentLength=") {
			t.Error(declared, err)
		}
		if n := rt.Effects()["k1"]; n != 0 {
			t.Error("handled", n)
		}
	}
	rt := Handler(echo, nil)
	if _, err := rt.RoundTrip(post(t.Context(), endless{}, 4)); err == nil {
		t.Error("an endless body of declared length")
	}
	own := errors.New("own")
	if _, err := rt.RoundTrip(post(t.Context(), io.MultiReader(strings.NewReader("1"), failing{own}), 2)); err != own {
		t.Error(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestTheHandlerSeesWhatTheWireWouldBring(t *testing.T) {
	type secret struct{}
	rt := Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Idempotency-Key") != "k2" || r.Header.Get("X-Pad") != "v" || len(r.Header["Empty"]) != 0 {
			t.Error(r.Header)
		}
		if r.Host != "shop.test" || r.URL.Path != "/a b" || r.RequestURI != "/a%20b?q=1" || r.URL.Host != "" {
			t.Error(r.Host, r.URL, r.RequestURI)
		}
		if r.Context().Value(secret{}) != nil {
			t.Error("a value of the caller's context travelled")
		}
		w.Header().Set("X-Before", "1")
		w.WriteHeader(201)
		w.Header().Set("X-After", "1")
	}), nil)
	ctx := context.WithValue(t.Context(), secret{}, 1)
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://shop.test/a%20b?q=1#frag", nil)
	req.Header = http.Header{"idempotency-key": {"k2"}, "X-Pad": {"  v "}, "Empty": {}}
	resp, err := rt.RoundTrip(req)
	if err != nil || resp.StatusCode != 201 || resp.Header.Get("X-After") != "" || resp.Header.Get("Date") == "" {
		t.Error(resp, err)
	}
	if _, ok := req.Header["idempotency-key"]; !ok {
		t.Error("the caller's header was changed")
	}
}

func TestAnAbortedHandlerEndsTheConnection(t *testing.T) {
	abort := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, f := range []Fault{Pass(), MaskResponse(504), CutBody(1, RST), Duplicate()} {
		bubble(t, f.String(), func(t *testing.T) {
			rt := Handler(abort, Script(f))
			if _, err := rt.RoundTrip(post(t.Context(), nil, 0)); err != io.EOF || rt.Effects()["k1"] != 1 {
				t.Error(err, rt.Effects())
			}
			_, s, client := shop(t, abort, Script(f))
			if _, err := client.Do(post(t.Context(), nil, 0)); !errors.Is(err, io.EOF) || s.Effects()["k1"] != 1 {
				t.Error(err, s.Effects())
			}
		})
	}
}

func TestWrapPassesAHealthyExchangeOn(t *testing.T) {
	var seen *http.Request
	upgraded := io.NopCloser(strings.NewReader("raw"))
	answer := &http.Response{StatusCode: 101, Body: upgraded}
	rt := Wrap(roundTripper(func(r *http.Request) (*http.Response, error) {
		seen = r
		return answer, nil
	}), nil)
	req := post(t.Context(), bytes.NewReader([]byte("abc")), 3)
	req.GetBody = nil // the caller forbids replays
	resp, err := rt.RoundTrip(req)
	if err != nil || resp != answer || resp.Body != upgraded || seen.GetBody != nil || seen.ContentLength != 3 {
		t.Error(resp, err, seen.ContentLength)
	}
	if b, _ := io.ReadAll(seen.Body); string(b) != "abc" {
		t.Errorf("%q", b)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestATransportServesManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	rt := Handler(echo, Random(1, 0.5, LoseResponse(RST), Respond(503), CutBody(1, FIN)))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			req := post(t.Context(), strings.NewReader("abc"), 3)
			req.Header.Set("Idempotency-Key", fmt.Sprint(i))
			if resp, err := rt.RoundTrip(req); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	struck := 0
	for _, d := range rt.Deliveries() {
		if d.Fault != Pass() {
			struck++
		}
	}
	if len(rt.Deliveries()) != 50 || struck == 0 || struck == 50 {
		t.Error(len(rt.Deliveries()), struck)
	}
}

func TestAHandlerThatEndsItsGoroutineDoesNotHangTheCaller(t *testing.T) {
	rt := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runtime.Goexit() }), nil)
	if _, err := rt.RoundTrip(post(t.Context(), nil, 0)); err != io.EOF {
		t.Error(err)
	}
}

func TestOverHTTPSBothSidesSeeTLS(t *testing.T) {
	rt := Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			t.Error("the handler sees plain text")
		}
	}), nil)
	req, _ := http.NewRequestWithContext(t.Context(), "HEAD", "https://shop.test/", nil)
	if resp, err := rt.RoundTrip(req); err != nil || resp.TLS == nil {
		t.Error(resp, err)
	}
}

func TestARequestThatNetHTTPRefusesIsRefused(t *testing.T) {
	for _, req := range []*http.Request{
		{}, {URL: &url.URL{Scheme: "http", Host: "shop.test"}}, {URL: &url.URL{Path: "/"}, Header: http.Header{}},
	} {
		body := &countedBody{Reader: strings.NewReader("")}
		req.Body = body
		rt := Handler(echo, nil)
		if _, err := rt.RoundTrip(req); err == nil || body.closed != 1 || len(rt.Deliveries()) != 0 {
			t.Error(err, body.closed)
		}
	}
}

func TestABodyIsCutWhereItsLengthIsNotKnown(t *testing.T) {
	for _, f := range []Fault{CutBody(2, FIN), CutBody(9, FIN), CorruptBody(1)} {
		rt := Wrap(roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, ContentLength: -1, Body: io.NopCloser(strings.NewReader("abc"))}, nil
		}), Script(f))
		resp, err := rt.RoundTrip(post(t.Context(), nil, 0))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		want := map[Fault]string{CutBody(2, FIN): "ab", CutBody(9, FIN): "abc", CorruptBody(1): "acc"}[f]
		if string(b) != want || f.Name() == "cut-body" && err != io.ErrUnexpectedEOF || f.Name() != "cut-body" && err != nil {
			t.Errorf("%v: %q %v", f, b, err)
		}
		resp.Body.Close()
		if _, err := resp.Body.Read(b); err == nil || err == io.EOF {
			t.Error("read after Close:", err)
		}
	}
}

func TestATraceMayRefuseAnInterimAnswer(t *testing.T) {
	refused := errors.New("refused")
	bubble(t, "", func(t *testing.T) {
		_, s, client := shop(t, echo, Script(Interim(103)))
		rt := Handler(echo, Script(Interim(103)))
		for name, next := range map[string]http.RoundTripper{"network": client.Transport, "handler": rt} {
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(int, textproto.MIMEHeader) error { return refused },
			})
			if _, err := next.RoundTrip(post(ctx, nil, 0)); !errors.Is(err, refused) {
				t.Error(name, err)
			}
		}
		s.Settle()
		if rt.Effects()["k1"] != 1 || s.Effects()["k1"] != 1 {
			t.Error(rt.Effects(), s.Effects())
		}
	})
}

func TestASlowBodyEndsWithItsReader(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		resp, err := Handler(echo, Script(Bandwidth(1))).RoundTrip(post(t.Context(), strings.NewReader("12345678"), 8))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := io.ReadFull(resp.Body, make([]byte, 2)); err != nil || time.Since(start) != 2*time.Second {
			t.Error(err, time.Since(start))
		}
		time.AfterFunc(time.Second/2, func() { resp.Body.Close() })
		if _, err := resp.Body.Read(make([]byte, 1)); err != errBodyClosed || time.Since(start) != 2500*time.Millisecond {
			t.Error(err, time.Since(start))
		}
	})
}

func TestASlowBodyTakesItsTimeToTheNanosecond(t *testing.T) {
	for f, want := range map[Fault]time.Duration{
		Bandwidth(3):                        2666666666,
		Bandwidth(1 << 62):                  0,
		TrickleBody(3, 7*time.Millisecond):  21 * time.Millisecond,
		TrickleBody(8, time.Second):         time.Second,
		TrickleBody(100, 3*time.Nanosecond): 3,
	} {
		for _, size := range []int{1, 2, 3, 5, 512} {
			bubble(t, fmt.Sprint(f, size), func(t *testing.T) {
				resp, err := Handler(echo, Script(f)).RoundTrip(post(t.Context(), strings.NewReader("12345678"), 8))
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				b, err := io.ReadAll(sipping{resp.Body, size})
				if string(b) != "12345678" || err != nil || time.Since(start) != want {
					t.Errorf("%q %v after %v", b, err, time.Since(start))
				}
			})
		}
	}
}

// sipping reads a few bytes at a time.
type sipping struct {
	io.Reader
	size int
}

func (r sipping) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(r.size, len(p))]) }
