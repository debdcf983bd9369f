package faultinject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// call is the caller's side of one RoundTrip: its ways of giving up, its body
// and its trace.
type call struct {
	req   *http.Request
	addr  string // host:port
	trace *httptrace.ClientTrace
	shut  sync.Once
	body  []byte
}

func newCall(req *http.Request) *call {
	c := &call{req: req, trace: httptrace.ContextClientTrace(req.Context())}
	if c.trace == nil {
		c.trace = &httptrace.ClientTrace{}
	}
	if req.URL != nil {
		c.addr = hostPort(req)
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

// check refuses what net/http refuses before it does anything.
func (c *call) check() error {
	switch {
	case c.req.URL == nil:
		return errors.New("http: nil Request.URL")
	case c.req.Header == nil:
		return errors.New("http: nil Request.Header")
	case c.req.URL.Host == "":
		return errors.New("http: no Host in request URL")
	}
	return c.gone()
}

// gone returns why the caller has given up, or nil.
func (c *call) gone() error {
	select {
	case <-c.req.Cancel:
		return errCanceled
	default:
		return context.Cause(c.req.Context())
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

// readBody reads the request's body, up to its declared length or half of it, as net/http does while it writes the request. A caller that gives up has
// its body closed, which ends a Read that hangs.
func (c *call) readBody(half bool) error {
	if c.req.Body == nil {
		return nil
	}
	stop := context.AfterFunc(c.req.Context(), func() { c.closeBody() })
	defer stop()
	declared := c.req.ContentLength
	if declared == 0 && c.req.Body != http.NoBody {
		declared = -1 // unknown: net/http's own rule
	}
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
	if gone := c.gone(); gone != nil {
		return gone
	}
	return err
}

func (c *call) checkLength(declared int64) error {
	extra, err := io.Copy(io.Discard, io.LimitReader(c.req.Body, 1))
	if n := int64(len(c.body)) + extra; err == nil && n != declared {
		err = fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w",
			fmt.Errorf("http: ContentLength=%d with Body length %d", declared, n))
	}
	return err
}

// getConn opens the trace of an exchange.
func (c *call) getConn() {
	if c.trace.GetConn != nil {
		c.trace.GetConn(c.addr)
	}
}

// refuse plays a dial struck by f.
func (c *call) refuse(f Fault) error {
	done := traceDial(c.trace, f, c.addr)
	if f.kind != blackhole {
		err := dialError(f, c.addr)
		done(err)
		return err
	}
	err := c.wait(nil)
	if err == errCanceled {
		err = errCanceledInPool
	}
	return err
}

// write plays the sending of the request, as far as f lets it go.
func (c *call) write(f Fault) error {
	reused := f.kind == closeIdle
	if !reused {
		traceDial(c.trace, Pass(), c.addr)(nil)
	}
	if c.trace.GotConn != nil {
		c.trace.GotConn(httptrace.GotConnInfo{Conn: &inert{address(c.addr)}, Reused: reused, WasIdle: reused})
	}
	if c.trace.WroteHeaders != nil {
		c.trace.WroteHeaders()
	}
	err := c.readBody(f.kind == cutRequest)
	if closed := c.closeBody(); err == nil && closed != nil {
		err = fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", closed)
	}
	if c.trace.WroteRequest != nil {
		c.trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	return err
}

func (c *call) firstByte() {
	if c.trace.GotFirstResponseByte != nil {
		c.trace.GotFirstResponseByte()
	}
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
