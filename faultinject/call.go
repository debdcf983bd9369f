package faultinject

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"github.com/go-resilient/resilient/internal/httptoken"
)

// call is the caller's side of one RoundTrip: its ways of giving up, its body
// and its trace.
type call struct {
	req   *http.Request
	addr  string // host:port
	trace *httptrace.ClientTrace
	shut  sync.Once
	body  []byte
	begun bool // the answer's first byte has come
}

func newCall(req *http.Request) *call {
	c := &call{req: req, addr: hostPort(req), trace: httptrace.ContextClientTrace(req.Context())}
	if c.trace == nil {
		c.trace = &httptrace.ClientTrace{}
	}
	return c
}

func hostPort(req *http.Request) string {
	port := req.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
	}
	return net.JoinHostPort(req.URL.Hostname(), port)
}

// check refuses what net/http refuses before it does anything. The RoundTripper
// below may know other schemes.
func (t *Transport) check(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("http: nil Request.URL")
	case req.Header == nil:
		return errors.New("http: nil Request.Header")
	}
	flaw := cmp.Or(headerFlaw("header", req.Header), headerFlaw("trailer", req.Trailer))
	switch scheme := req.URL.Scheme; {
	case flaw != "":
		return errors.New("net/http: invalid " + flaw)
	case t.handler != nil && scheme != "http" && scheme != "https":
		return fmt.Errorf("unsupported protocol scheme %q", scheme)
	case req.Method != "" && !httptoken.Valid(req.Method):
		return fmt.Errorf("net/http: invalid method %q", req.Method)
	case req.URL.Host == "":
		return errors.New("http: no Host in request URL")
	}
	return gone(req)
}

func headerFlaw(what string, h http.Header) string {
	for name, values := range h {
		if !httptoken.Valid(name) {
			return fmt.Sprintf("%s field name %q", what, name)
		}
		for _, v := range values {
			if strings.ContainsFunc(v, func(r rune) bool { return isControl(r) && r != '\t' }) {
				return fmt.Sprintf("%s field value for %q", what, name)
			}
		}
	}
	return ""
}

// gone returns why the caller has given up, or nil.
func gone(req *http.Request) error {
	select {
	case <-req.Cancel:
		return errCanceled
	default:
		return context.Cause(req.Context())
	}
}

// wait returns when done is closed, or else why the caller gave up.
func (c *call) wait(done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-c.req.Context().Done():
		return context.Cause(c.req.Context())
	case <-c.req.Cancel:
		return errCanceled
	}
}

func (c *call) sleep(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.req.Context().Done():
		return context.Cause(c.req.Context())
	case <-c.req.Cancel:
		return errCanceled
	}
}

// closeBody closes the request's body, once however often it is called.
func (c *call) closeBody() (err error) {
	c.shut.Do(func() {
		if c.req.Body != nil {
			err = c.req.Body.Close()
		}
	})
	return err
}

// declared is the length of the request's body, or -1 if nobody knows it: net/http's
// own rule.
func (c *call) declared() int64 {
	switch {
	case c.req.Body == nil || c.req.Body == http.NoBody:
		return 0
	case c.req.ContentLength == 0:
		return -1
	}
	return c.req.ContentLength
}

// readBody reads the request's body, up to its declared length or half of it, as
// net/http does while it writes the request. A caller that gives up has its body
// closed, which ends a Read that hangs.
func (c *call) readBody(half bool) error {
	if c.req.Body == nil {
		if n := c.req.ContentLength; n != 0 {
			return fmt.Errorf("http: Request.ContentLength=%d with nil Body", n)
		}
		return nil
	}
	stop := context.AfterFunc(c.req.Context(), func() { c.closeBody() })
	defer stop()
	declared := c.declared()
	var src io.Reader = c.req.Body
	switch {
	case half:
		src = io.LimitReader(src, max(declared, 0)/2)
	case declared >= 0:
		src = io.LimitReader(src, declared)
	}
	var err error
	if c.body, err = io.ReadAll(src); err == nil && declared >= 0 && !half {
		err = c.checkLength(declared)
	}
	if gave := gone(c.req); gave != nil {
		return gave
	}
	return err
}

func (c *call) checkLength(declared int64) error {
	extra, err := io.Copy(io.Discard, io.LimitReader(c.req.Body, 1))
	if n := int64(len(c.body)) + extra; err == nil && n != declared {
		err = transportBroken(fmt.Errorf("http: ContentLength=%d with Body length %d", declared, n))
	}
	return err
}

// connect plays the getting of a connection.
func (c *call) connect(f Fault) error {
	if c.trace.GetConn != nil {
		c.trace.GetConn(c.addr)
	}
	reused := f.kind == closeIdle
	if !reused {
		if err := c.dial(f); err != nil {
			return err
		}
		if err := c.handshake(f); err != nil {
			return err
		}
	}
	if c.trace.GotConn != nil {
		c.trace.GotConn(httptrace.GotConnInfo{Conn: &inert{address(c.addr)}, Reused: reused, WasIdle: reused})
	}
	return nil
}

func (c *call) dial(f Fault) error {
	done := traceDial(c.trace, f, c.addr)
	var given error
	switch f.kind {
	case blackhole:
		given = c.wait(nil)
	case slowDial:
		given = c.sleep(f.wait)
	}
	if given == errCanceled {
		return errCanceledInPool
	}
	if given != nil {
		return given // the dial goes on by itself
	}
	err := dialError(f, c.addr)
	done(err)
	return err
}

// write plays the sending of the request, as far as f lets it go.
func (c *call) write(f Fault) error {
	if c.trace.WroteHeaders != nil {
		c.trace.WroteHeaders()
	}
	err := c.readBody(f.kind == cutRequest)
	if closed := c.closeBody(); err == nil && closed != nil {
		err = transportBroken(closed)
	}
	if c.trace.WroteRequest != nil {
		c.trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	return err
}

// firstByte says that the answer begins, once.
func (c *call) firstByte() {
	if !c.begun && c.trace.GotFirstResponseByte != nil {
		c.trace.GotFirstResponseByte()
	}
	c.begun = true
}

// interim plays the coming of an interim answer, and returns what the caller's
// trace has against it.
func (c *call) interim(f Fault) error {
	c.firstByte()
	if c.trace.Got1xxResponse == nil {
		return nil
	}
	return c.trace.Got1xxResponse(f.status, textproto.MIMEHeader(f.interimHeader(time.Now())))
}

// outgoing is a copy of the request for whoever is below, with the body that
// has been read. It can be replayed exactly if the caller's request could.
func (c *call) outgoing(ctx context.Context) *http.Request {
	out := c.req.WithContext(ctx)
	if c.req.Body == nil || c.req.Body == http.NoBody {
		return out
	}
	body := func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(c.body)), nil
	}
	out.Body, _ = body()
	if c.req.GetBody != nil {
		out.GetBody = body
	}
	return out
}
