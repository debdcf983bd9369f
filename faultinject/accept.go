package faultinject

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sync"

	"github.com/go-resilient/resilient/internal/httptoken"
)

// doorway is the listener that a Server's net/http accepts from.
type doorway struct {
	net.Listener
	server *Server
	conns  int // accepted so far
}

func (d *doorway) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	d.conns++
	return d.server.admit(c, d.conns), nil
}

// isTLS reports whether l is of the type, which has no name, that
// tls.NewListener returns.
func isTLS(l net.Listener) bool {
	return reflect.TypeOf(l) == reflect.TypeOf(tls.NewListener(nil, nil))
}

// admit asks the plan about a new connection. What the plan says happens in the
// connection's own goroutine, so that nobody waits for it.
func (s *Server) admit(c net.Conn, number int) *accepted {
	a := &accepted{Conn: c, raw: c, number: number}
	secure, wrapped := c.(*tls.Conn)
	if wrapped {
		a.raw = secure.NetConn()
	}
	addr := c.LocalAddr().String()
	x := Exchange{Op: "accept " + addr, Host: addr, Method: MethodAccept, Conn: number}
	plan := at(AtAccept, s.plan)
	if s.identity == nil && !wrapped {
		plan = withoutTLS(plan)
	}
	a.fault = s.accepts.arrive(plan, x, "").Fault
	a.forget = context.AfterFunc(s.ending, func() { a.raw.Close() })
	switch {
	case s.identity != nil:
		a.Conn = tls.Server(c, s.identity.config(a.fault))
	case wrapped && a.fault.kind == badCert:
		a.Conn = tls.Server(a.raw, (&identity{authority: NewAuthority()}).config(a.fault))
	}
	return a
}

// withoutTLS is a plan whose faults of TLS pass.
func withoutTLS(plan Plan) Plan {
	if plan == nil {
		return nil
	}
	return PlanFunc(func(x Exchange) Fault {
		f := plan.Decide(x)
		if slices.Contains(TLSFaults(), f) {
			return Pass()
		}
		return f
	})
}

// accepted is a connection as net/http's server sees it: plain text, whatever is
// below. So one place serves TLS and none, HTTP/1.1 and HTTP/2, whose frames pass
// here in the open. Its first Read shakes hands, or strikes.
type accepted struct {
	net.Conn          // plain text
	raw      net.Conn // below TLS
	number   int
	fault    Fault       // at accept
	forget   func() bool // else the server would close it in the end

	opening, over sync.Once
	refused       bool // nothing more is read

	frames
	in []byte // what they are read through

	mu    sync.Mutex
	reset bool // Close resets
}

// open plays what precedes the first byte of a request.
func (a *accepted) open() {
	switch secure, ok := a.Conn.(*tls.Conn); {
	case a.fault.kind == stallHandshake:
		a.refused = true
	case a.fault.kind == hangUp, a.fault.kind == cutHandshake:
		// When the first byte is here the client has written its request or its
		// hello, and meets the end in place of an answer each time.
		a.refused = true
		a.raw.Read(make([]byte, 1))
		a.finish(a.fault.how)
	case ok:
		err := secure.HandshakeContext(context.Background()) // Close ends it
		if err == nil {
			return
		}
		a.refused = true
		if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && httptoken.Valid(string(plain.RecordHeader[:3])) {
			io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		}
		a.finish(FIN)
	}
}

// Read reads plain text, in which the requests of HTTP/2 are marked.
func (a *accepted) Read(p []byte) (int, error) {
	a.opening.Do(a.open)
	for {
		if n := a.received.take(p); n > 0 || len(p) == 0 {
			return n, nil
		}
		if a.refused {
			io.Copy(io.Discard, a.raw) // to close on unread bytes would reset what was sent
			return 0, io.EOF
		}
		if a.received.plain {
			return a.Conn.Read(p)
		}
		into := p // net/http reads HTTP/1.1 in large pieces, and frames in small ones
		if a.http2.Load() {
			if a.in == nil {
				a.in = make([]byte, 4<<10)
			}
			into = a.in
		}
		n, err := a.Conn.Read(into)
		a.receive(into[:n])
		a.refused = a.endIfDue()
		if n == 0 && !a.refused {
			return 0, err
		}
	}
}

// Write writes plain text, in which the streams of HTTP/2 end as they are doomed to.
func (a *accepted) Write(p []byte) (int, error) {
	if !a.http2.Load() {
		return a.Conn.Write(p)
	}
	var err error
	if out := a.send(p); len(out) > 0 {
		_, err = a.Conn.Write(out)
	}
	a.written()
	a.endIfDue()
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// endIfDue ends the connection once its frames ask for it, and reports whether
// they have.
func (a *accepted) endIfDue() bool {
	how, due := a.due()
	if due {
		a.over.Do(func() { a.finish(how) })
	}
	return due
}

// finish ends the connection as seen by the client, who has what was written.
func (a *accepted) finish(how How) {
	if how == RST {
		a.SetLinger(0)
		a.Close()
		return
	}
	if a.CloseWrite() != nil {
		a.raw.Close()
	}
}

// CloseWrite ends what the client reads, on TLS and below.
func (a *accepted) CloseWrite() error {
	if secure, ok := a.Conn.(*tls.Conn); ok {
		secure.CloseWrite()
	}
	if half, ok := a.raw.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger(0) makes Close a reset, as on a *net.TCPConn.
func (a *accepted) SetLinger(sec int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reset = sec == 0
	if c, ok := a.raw.(interface{ SetLinger(int) error }); ok {
		return c.SetLinger(sec)
	}
	return nil
}

// Close closes the connection; when it resets, TLS says no farewell.
func (a *accepted) Close() error {
	a.forget()
	a.mu.Lock()
	reset := a.reset
	a.mu.Unlock()
	if reset {
		return a.raw.Close()
	}
	return a.Conn.Close()
}

// clients is the transports that a server has made for its clients.
type clients struct {
	mu   sync.Mutex
	made []*http.Transport
}

func (c *clients) add(t *http.Transport) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = append(c.made, t)
}

func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.made {
		t.CloseIdleConnections()
	}
}

// connKey is where the context of a request has its connection.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// origin is where a request came from. Its zero value is a server of somebody
// else's.
type origin struct {
	conn   *accepted
	stream uint32 // 0 on HTTP/1.1
}

// originOf also completes the request by what net/http, which is shown plain text,
// cannot know.
func originOf(r *http.Request) (o origin) {
	o.conn, _ = r.Context().Value(connKey{}).(*accepted)
	if o.conn == nil {
		return o
	}
	if secure, ok := o.conn.Conn.(*tls.Conn); ok {
		state := secure.ConnectionState()
		r.TLS = &state
	}
	if r.ProtoMajor == 2 {
		o.stream = unmark(r.Header)
	}
	return o
}

// number counts the connections of a server, from 1.
func (o origin) number() int {
	if o.conn == nil {
		return 0
	}
	return o.conn.number
}

// plan is the plan for what comes from there.
func (o origin) plan(p Plan) Plan {
	if o.stream != 0 {
		if f := o.conn.enter(o.stream); f != Pass() {
			return PlanFunc(func(Exchange) Fault { return f })
		}
	}
	return p
}

// doom lets the stream end as f says when net/http resets it.
func (o origin) doom(f Fault) {
	if o.stream != 0 {
		o.conn.doom(o.stream, f)
	}
}
