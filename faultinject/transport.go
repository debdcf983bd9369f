package faultinject

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Transport is an http.RoundTripper that strikes as its plan says, without a
// socket. Errors have the types, and httptrace the events, that net/http would
// give to a client of HTTP/1.1; each body fault comes out of Body.Read. A request
// to https also meets the faults of TLS, and those that only HTTP/2 knows
// ([HTTP2Faults]) as the first request of an HTTP/2 connection meets them.
//
// It keeps to the contract of http.RoundTripper: it reads the request's body
// to its declared length where the fault says that it arrived, closes it once,
// lets go of the request when it returns, and waits for nothing longer than
// the request's context and Request.Cancel allow.
//
// What it gives up for its speed: it has no connections, so nothing is pooled
// and net/http's own replays do not happen (use a [Network] to meet them), and
// the body of a request that is struck is held in memory. Made by [Handler] or
// [Wrap]. Safe for concurrent use.
type Transport struct {
	journal
	plan    Plan
	next    http.RoundTripper
	handler http.Handler
	busy    group
}

// Wrap returns a Transport in front of next, which has the requests that
// arrive. The httptrace events of those that pass, or whose answer is only
// delayed or spoilt in its body, are next's own.
//
// A request that passes goes on as it is, its body read as next reads it, and
// so does the answer: trailers, upgrades and all. A nil plan lets all pass; a nil
// next is http.DefaultTransport.
func Wrap(next http.RoundTripper, plan Plan) *Transport {
	if next == nil {
		next = http.DefaultTransport
	}
	return &Transport{journal: journal{born: time.Now()}, next: next, plan: plan}
}

// Handler returns a Transport that answers from h, to which a request looks as
// if it had come over HTTP/1.1. The answer is complete when the caller has its
// head: a handler that streams, upgrades, sends trailers or interim answers
// belongs on a [Network]. A nil plan lets all pass; a nil h is
// http.DefaultServeMux, as for a server of net/http.
//
// When a caller gives up, the context of its request in h ends too, and h
// goes on by itself; [Transport.Settle] waits for it. A panic in h ends the test
// program, http.ErrAbortHandler apart: that ends the connection, as on a server.
func Handler(h http.Handler, plan Plan) *Transport {
	return &Transport{journal: journal{born: time.Now()}, handler: orDefault(h), plan: plan}
}

// Settle waits until nothing is under way any more: handlers whose caller gave
// up, and [Late] deliveries, each of which takes its time. Call it when the
// operations have returned.
func (t *Transport) Settle() { t.busy.wait() }

// CloseIdleConnections passes the wish on to the RoundTripper below.
func (t *Transport) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// RoundTrip makes the exchange, or what the plan makes of it.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.check(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	x, key := identify(req)
	d := t.arrive(t.plan, x, key)
	if t.next != nil && d.Fault == Pass() {
		return t.through(req, d)
	}
	c := newCall(req)
	defer c.closeBody()
	if err := t.send(c, d); err != nil {
		return nil, err
	}
	resp, err := t.answer(c, d)
	if err != nil {
		return nil, err
	}
	if t.plays(d.Fault) {
		c.firstByte()
	}
	return resp, nil
}

// through leaves the exchange to the RoundTripper below.
func (t *Transport) through(req *http.Request, d *Delivery) (*http.Response, error) {
	t.noteRun(d)
	if t.plan == nil {
		return t.next.RoundTrip(req)
	}
	out := t.metered(req, d)
	resp, err := t.next.RoundTrip(out)
	if resp != nil && resp.Request == out {
		resp.Request = req
	}
	return resp, err
}

// metered is the request with a body that is counted, each time anew if it is
// sent again; without a body it is the request itself.
func (t *Transport) metered(req *http.Request, d *Delivery) *http.Request {
	body := t.stream(d, req.Body)
	if body == req.Body {
		return req
	}
	out := req.WithContext(req.Context())
	out.Body = body
	if req.GetBody != nil {
		out.GetBody = func() (io.ReadCloser, error) {
			again, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			return t.stream(d, again), nil
		}
	}
	return out
}

// plays reports whether the events of an exchange are ours to fire: the
// RoundTripper below has those of the exchanges that it answers.
func (t *Transport) plays(f Fault) bool {
	return t.handler != nil || f.kind != delay && !f.bodily()
}

// send brings the request over, as far as the fault allows.
func (t *Transport) send(c *call, d *Delivery) error {
	var err error
	switch {
	case d.Fault.kind == invalid:
		return d.Fault.text()
	case t.plays(d.Fault):
		if err = c.connect(d.Fault); err == nil {
			err = c.write(d.Fault)
		}
	default:
		err = c.readBody(false)
	}
	if err == nil && d.Fault.Truth() != NeverSent {
		t.noteBody(d, c.body)
	}
	return err
}

// answer is what comes back for a request that was written.
func (t *Transport) answer(c *call, d *Delivery) (*http.Response, error) {
	f := d.Fault.overHTTP1()
	var begun error
	switch f.kind {
	case hangUp, closeIdle, cutRequest, dropBefore:
		return nil, c.lost(d.Fault)
	case respond:
		return t.whole(c, instead(f)), nil
	case late:
		err := c.wait(nil)
		t.busy.start(t.later(c, d))
		return nil, err
	case delay:
		if err := c.sleep(f.wait); err != nil {
			return nil, err
		}
	case interim:
		begun = c.interim(f)
	case duplicate:
		first, err := t.deliver(c, d)
		if err != nil {
			return nil, err
		}
		first.Body.Close()
	}
	resp, err := t.deliver(c, d)
	if err != nil {
		return nil, err
	}
	if begun != nil { // the caller wants no more of it
		resp.Body.Close()
		return nil, begun
	}
	return t.spoil(c, resp, d.Fault)
}

// spoil is the fate of an answer after the handler has run.
func (t *Transport) spoil(c *call, resp *http.Response, f Fault) (*http.Response, error) {
	switch f.overHTTP1().kind {
	case loseResponse:
		resp.Body.Close()
		return nil, c.lost(f)
	case maskResponse:
		resp.Body.Close()
		return t.whole(c, instead(f)), nil
	case malformedStatus:
		resp.Body.Close()
		c.firstByte()
		return nil, errMalformed
	case oversizedHeader:
		resp.Body.Close()
		c.firstByte()
		return nil, errOversized
	case stall:
		resp.Body.Close()
		return nil, c.wait(nil)
	}
	if t.handler != nil || f.bodily() { // else as next gave it
		c.strike(resp, f)
	}
	return resp, nil
}

// whole is an answer of ours, as the caller reads it.
func (t *Transport) whole(c *call, a *reply) *http.Response {
	resp := a.response(c.req)
	c.strike(resp, Pass())
	return resp
}

// deliver gives the request to the handler, or to the RoundTripper below.
func (t *Transport) deliver(c *call, d *Delivery) (*http.Response, error) {
	t.noteRun(d)
	if t.handler != nil {
		return t.handle(c)
	}
	ctx := c.req.Context()
	if t.plays(d.Fault) {
		ctx = untraced{ctx}
	}
	resp, err := t.next.RoundTrip(c.outgoing(ctx))
	if err != nil {
		return nil, err
	}
	if resp == nil {
		return nil, errors.New("faultinject: the RoundTripper below returned neither response nor error")
	}
	resp.Request = c.req
	return resp, nil
}

// handle lets the handler answer, and leaves it to itself if the caller does
// not wait for that.
func (t *Transport) handle(c *call) (*http.Response, error) {
	// The values of the caller's context do not travel; its end does.
	ctx, cancel := context.WithCancel(context.Background())
	r := c.received(ctx)
	var a *reply
	done := make(chan struct{})
	t.busy.start(func() {
		defer close(done)
		defer cancel()
		a = run(t.handler, r)
	})
	if err := c.wait(done); err != nil {
		cancel()
		return nil, err
	}
	if a == nil || a.aborted { // nil: the handler ended its goroutine, as t.FailNow does
		return nil, io.EOF
	}
	return a.response(c.req), nil
}

// later delivers the request after its caller has gone. The request is copied
// now: it is the caller's again once RoundTrip has returned.
func (t *Transport) later(c *call, d *Delivery) func() {
	deliver := func(r *http.Request) { run(t.handler, r) }
	r := c.received(context.Background())
	if t.handler == nil {
		r = c.outgoing(context.WithoutCancel(untraced{c.req.Context()}))
		r.Header, r.Trailer, r.Cancel = r.Header.Clone(), r.Trailer.Clone(), nil
		u := *r.URL
		r.URL = &u
		deliver = func(r *http.Request) {
			if resp, err := t.next.RoundTrip(r); err == nil && resp != nil {
				resp.Body.Close()
			}
		}
	}
	return func() {
		<-time.After(d.Fault.wait)
		t.noteRun(d)
		deliver(r)
	}
}
