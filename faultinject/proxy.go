package faultinject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
)

// Proxy serves on l what an upstream answers, "http://127.0.0.1:8080" or
// "https://api.test/v2", and strikes on the way as on any [Server]. With a nil l
// it is an http.Handler alone. The upstream need not be there yet: until it is,
// answers are 502 and say why.
//
// What passes is passed on as it came, streams and upgrades included, but for
// what belongs to one connection (RFC 9110, section 7.6.1) and for Host, which is
// the upstream's: the plan still has the host that was asked for. No Forwarded
// or X-Forwarded header is added. The upstream is spoken to over HTTP/2 if it
// offers that in TLS, and directly, whatever proxy the environment names.
//
// The record tells an upstream that was asked ([Delivery.Runs], and
// [Delivery.Status] once it has answered) from one that could not be reached. A
// request with an idempotency key is sent upstream once for each run: net/http's
// own replays, which nobody would see here, do not happen.
func Proxy(l net.Listener, upstream string, plan Plan) (*Server, error) {
	target, err := parseUpstream(upstream)
	if err != nil {
		return nil, err
	}
	p := newProxy(target)
	s := Serve(nil, p, plan)
	s.proxy = p
	if l != nil {
		s.listen(l)
	}
	return s, nil
}

// NewProxy is a [Proxy] on a free port of the loopback interface, for the length
// of a test.
func NewProxy(t TB, upstream string, plan Plan) *Server {
	t.Helper()
	s, err := Proxy(nil, upstream, plan)
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	return onLoopback(t, s, "http")
}

func parseUpstream(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil: // its text may show a password
		return nil, errors.New("faultinject: the upstream is not a URL such as http://127.0.0.1:8080")
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, fmt.Errorf("faultinject: the upstream %q is not a URL such as http://127.0.0.1:8080", u.Redacted())
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("faultinject: the upstream %q has more than scheme, host, port and path", u.Redacted())
	}
	return u, nil
}

// proxy is the handler of a [Proxy]. A nil one is no proxy, and its methods do
// nothing.
type proxy struct {
	target    *url.URL
	transport *http.Transport
	reverse   *httputil.ReverseProxy
}

func newProxy(target *url.URL) *proxy {
	p := &proxy{target: target}
	p.transport = &http.Transport{
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // else the client would meet another encoding
		MaxIdleConnsPerHost: 100,
	}
	p.reverse = &httputil.ReverseProxy{
		Transport:      p.transport,
		Rewrite:        p.rewrite,
		FlushInterval:  -1, // at once: who streams means it
		ModifyResponse: noteAnswer,
		ErrorHandler:   p.complain,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	return p
}

func (p *proxy) letGo() {
	if p != nil {
		p.transport.CloseIdleConnections()
	}
}

// entry is what a run of the proxy knows about its place in the record.
type entry struct {
	journal  *journal
	delivery *Delivery
}

type entryKey struct{}

// enter lets the request know its place in the record.
func (p *proxy) enter(r *http.Request, l *journal, d *Delivery) *http.Request {
	if p == nil {
		return r
	}
	return r.WithContext(context.WithValue(r.Context(), entryKey{}, entry{l, d}))
}

func entryOf(r *http.Request) entry { return r.Context().Value(entryKey{}).(entry) }

type reachedKey struct{}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reached := new(atomic.Bool)
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { reached.Store(true) },
	})
	p.reverse.ServeHTTP(w, r.WithContext(context.WithValue(ctx, reachedKey{}, reached)))
}

func (p *proxy) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came, even where it is malformed
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := r.Out.Header[name]; ok { // so spelt, net/http does not take it for a leave to replay
			delete(r.Out.Header, name)
			r.Out.Header[strings.ToLower(name)] = values
		}
	}
	r.SetURL(p.target)
}

func noteAnswer(resp *http.Response) error {
	e := entryOf(resp.Request)
	e.journal.noteStatus(e.delivery, resp.StatusCode)
	return nil
}

// complain answers in place of an upstream that did not.
func (p *proxy) complain(w http.ResponseWriter, r *http.Request, err error) {
	what := "did not answer"
	if !r.Context().Value(reachedKey{}).(*atomic.Bool).Load() {
		what = "could not be reached"
		e := entryOf(r)
		e.journal.unrun(e.delivery)
	}
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody is there to read it
	}
	http.Error(w, fmt.Sprintf("faultinject: the upstream %s %s: %v", p.target, what, err), http.StatusBadGateway)
}
