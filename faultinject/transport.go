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
// give; each body fault comes out of Body.Read.
//
// It keeps to the contract of http.RoundTripper: it reads the request's body
// to its declared length where the fault says that it arrived, closes it once,
// lets go of the request when it returns, and waits for nothing longer than
// the request's context and Request.Cancel allow.
//
// What it gives up for its speed: it has no connections, so nothing is pooled
// and net/http's own replays do not happen (use a [Network] to meet them), and
// bodies of requests are held in memory. Made by [Handler] or [Wrap]. Safe for
// concurrent use.
type Transport struct {
	ledger
	plan    Plan
	next    http.RoundTripper
	handler http.Handler
	busy    group
}

// Wrap returns a Transport in front of next, which has the requests that
// arrive. The httptrace events of those that next answers are next's own. A nil
// plan lets all pass.
func Wrap(next http.RoundTripper, plan Plan) *Transport {
	return &Transport{next: next, plan: plan}
}

// Handler returns a Transport that answers from h, to which a request looks as
// if it had come over HTTP/1.1. The answer is complete when the caller has its
// head: a handler that streams, upgrades or sends trailers belongs on a [Network]. A nil plan lets all
// pass.
//
// When a caller gives up, the context of its request in h ends too, and h
// goes on by itself; [Transport.Settle] waits for it. A panic in h ends the test
// program, http.ErrAbortHandler apart: that ends the connection, as on a server.
func Handler(h http.Handler, plan Plan) *Transport {
	return &Transport{handler: h, plan: plan}
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
	c := newCall(req)
	defer c.closeBody()
	if err := c.check(); err != nil {
		return nil, err
	}
	x, key := identify(req)
	d := t.arrive(t.plan, x, key)
	if d.Fault.dials() {
		c.getConn()
		return nil, c.refuse(d.Fault)
	}
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

// plays reports whether the events of an exchange are ours to fire: the
// RoundTripper below has those of the exchanges that it answers.
func (t *Transport) plays(f Fault) bool {
	return t.handler != nil || f.kind != pass && f.kind != delay && !f.bodily()
}

// send brings the request over, as far as the fault allows.
func (t *Transport) send(c *call, d *Delivery) error {
	var err error
	if t.plays(d.Fault) {
		c.getConn()
		err = c.write(d.Fault)
	} else {
		err = c.readBody(false)
	}
	if err == nil && d.Fault.kind != closeIdle {
		t.noteBody(d, c.body)
	}
	return err
}

// answer is what comes back for a request that was written.
func (t *Transport) answer(c *call, d *Delivery) (*http.Response, error) {
	f := d.Fault
	switch f.kind {
	case closeIdle, dropBefore:
		return nil, dead(f.how, io.EOF, address(c.addr))
	case cutRequest:
		return nil, dead(RST, nil, address(c.addr))
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
	return t.spoil(c, resp, f)
}

// spoil is the fate of an answer after the handler has run.
func (t *Transport) spoil(c *call, resp *http.Response, f Fault) (*http.Response, error) {
	switch f.kind {
	case loseResponse:
		resp.Body.Close()
		return nil, dead(f.how, io.EOF, address(c.addr))
	case maskResponse:
		resp.Body.Close()
		return t.whole(c, instead(f)), nil
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
