package faultinject

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing/synctest"
	"time"
)

// A Level says between which client and which server the faults strike.
type Level uint8

const (
	OnNetwork     Level = iota // net/http's own client and server on a [Network], HTTP/1.1
	OnWarmNetwork              // the same, and a connection that was used before waits idle
	OnHTTP2                    // the same as OnNetwork, over HTTP/2 without TLS
	OnTransport                // a [Transport]: quicker, without connections or net/http's own replays
	OnTLS                      // the same as OnNetwork, over TLS
	OnTLSHTTP2                 // the same as OnNetwork, over HTTP/2 with TLS
)

var levelNames = [...]string{"network", "warm-network", "http2", "transport", "tls", "tls-http2"}

// secure reports whether there is TLS for its faults to strike.
func (l Level) secure() bool { return l == OnTLS || l == OnTLSHTTP2 }

// String returns the name as it stands in a schedule, such as "warm-network".
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level(%d)", l)
}

// methodIdle is the method of the exchange in which a request begins on an idle
// connection, which may have died.
const methodIdle = "IDLE"

const latency = time.Millisecond // one way

// A stage is the server of one schedule and the way to it.
type stage struct {
	base       http.RoundTripper
	close      func()
	settle     func()
	deliveries func() []Delivery // of requests
	left       func() int        // what the client has not closed
}

// A cast is what a stage asks: the handler, and who decides.
type cast interface {
	http.Handler
	Plan
	watcher
}

// A watcher sees what goes through the base.
type watcher interface {
	isOver() bool // nothing may be sent any more
	sent(*http.Request) *sending
	got(*sending, httptrace.GotConnInfo)
	answered(*sending, *http.Response, error)
	bodyFailed(*sending, error)
}

// Where the client is told to be.
const stageHost = "shop.test"

func (l Level) url() string {
	if l.secure() {
		return "https://" + stageHost
	}
	return "http://" + stageHost
}

// stage sets up a level. The authority may be shared between stages.
func (l Level) stage(c cast, authority *Authority) (*stage, error) {
	if l == OnTransport {
		return onTransport(c), nil
	}
	return l.onNetwork(c, authority)
}

func onTransport(c cast) *stage {
	t := Handler(c, c)
	base := &probe{next: t, watcher: c}
	return &stage{
		base: base, settle: t.Settle, deliveries: t.Deliveries,
		left:  func() int { return int(base.bodies.Load()) },
		close: t.Settle,
	}
}

func (l Level) onNetwork(c cast, authority *Authority) (*stage, error) {
	n := NewNetwork()
	n.Plan, n.Up, n.Down, n.Authority = c, latency, latency, authority
	n.dialFor = dialFor
	server, err := n.Serve(l.url(), c, c)
	if err != nil {
		return nil, err
	}
	addr, _, _ := splitURL(server.URL)
	transport := server.Transport()
	transport.Protocols = l.protocols()
	transport.MaxResponseHeaderBytes = 1 << 17 // or reading oversized ones takes most of a search's time
	idle := func(s *sending, info httptrace.GotConnInfo) {
		if info.WasIdle {
			n.desert(info.Conn, c.Decide(Exchange{Op: "idle " + s.Op, Host: s.Host, Method: methodIdle}))
		}
	}
	s := &stage{
		base:   &probe{next: transport, watcher: c, idle: idle},
		settle: server.Settle, deliveries: server.Deliveries,
		left:  func() int { return n.openTo(addr) },
		close: func() { server.Close(); n.Close() },
	}
	if l == OnWarmNetwork {
		err = s.warmUp()
	}
	return s, err
}

// dialFor names a dial by the operation that asked for it, of which net/http
// leaves the values in the context: the number of a dial among all of them would
// change with each one that is not made.
func dialFor(ctx context.Context, addr string) string {
	if s, ok := ctx.Value(sendingKey{}).(*sending); ok {
		return s.Op
	}
	return addr
}

type sendingKey struct{}

func (l Level) protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(l != OnHTTP2 && l != OnTLSHTTP2)
	p.SetHTTP2(l == OnTLSHTTP2)
	p.SetUnencryptedHTTP2(l == OnHTTP2)
	return p
}

// warmUp leaves an idle connection behind.
func (s *stage) warmUp() error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, OnWarmNetwork.url(), nil)
	if err != nil {
		return err
	}
	resp, err := s.base.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil {
		synctest.Wait()
	}
	return err
}

// desert closes the server's end of an idle connection, whose word is then still
// on the way while the client writes.
func (n *Network) desert(conn net.Conn, f Fault) {
	if f.kind != closeIdle {
		return
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	client, ok := conn.(*Conn)
	if !ok {
		return
	}
	if peer := n.peer(client); peer != nil && f.how == RST {
		peer.Reset()
	} else if peer != nil {
		peer.Close()
	}
}

func (n *Network) peer(client *Conn) *Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.local == client.remote && c.remote == client.local {
			return c
		}
	}
	return nil
}

// openTo counts the connections to addr that the dialling side has not closed.
func (n *Network) openTo(addr string) (open int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.remote == address(addr) {
			open++
		}
	}
	return open
}

// A probe is the base that a client is given: it lets a watcher see what goes
// through, and hears from net/http on which connection a request begins, what
// net/http sends again by itself included.
type probe struct {
	next    http.RoundTripper
	watcher watcher
	idle    func(*sending, httptrace.GotConnInfo) // nil without connections
	bodies  atomic.Int64                          // answers whose body is not closed
}

func (p *probe) RoundTrip(req *http.Request) (*http.Response, error) {
	if p.watcher.isOver() { // what it was made of would end the program outside of its bubble
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, errors.New("faultinject: this Run is over: each has a Client of its own")
	}
	s := p.watcher.sent(req)
	ctx := context.WithValue(req.Context(), sendingKey{}, s)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			p.watcher.got(s, info)
			if p.idle != nil {
				p.idle(s, info)
			}
		},
	})
	resp, err := p.next.RoundTrip(req.WithContext(ctx))
	p.watcher.answered(s, resp, err)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	if resp.Body != http.NoBody {
		p.bodies.Add(1)
		resp.Body = &watchedBody{ReadCloser: resp.Body, probe: p, sending: s}
	}
	return resp, nil
}

// CloseIdleConnections passes the wish on.
func (p *probe) CloseIdleConnections() {
	if next, ok := p.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// watchedBody tells how the body of an answer ended.
type watchedBody struct {
	io.ReadCloser
	probe   *probe
	sending *sending
	closed  atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !b.closed.Load() {
		b.probe.watcher.bodyFailed(b.sending, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	if !b.closed.Swap(true) {
		b.probe.bodies.Add(-1)
	}
	return b.ReadCloser.Close()
}
