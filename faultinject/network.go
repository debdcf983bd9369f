package faultinject

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Network is a TCP network in memory, over which the real client and server of
// net/http run, with TLS and HTTP/2 if they like. Inside a bubble of
// testing/synctest all of it happens in virtual time; a real socket would hang
// the bubble.
//
// A name on which somebody has listened exists: dialling it finds the listener
// or is refused. Any other name is NXDOMAIN. A dial into a [Blackhole] outlives
// the request that asked for it, as net/http has it, until
// http.Transport.CloseIdleConnections or Close. Made by [NewNetwork]; set the fields
// before the first dial. Safe for concurrent use.
type Network struct {
	// Plan decides each dial: an [Exchange] whose Op is "dial host:port". Of its
	// faults only [RefuseDial], [NXDomain], [DNSTimeout] and [Blackhole] mean
	// anything to a dial. Nil lets all dials pass.
	Plan Plan
	// Up and Down are how long bytes travel from the dialling end to the
	// listening one, and back. A dial takes both. Zero means no time.
	Up, Down time.Duration

	dials  ledger
	closed chan struct{}

	mu        sync.Mutex
	listeners map[string]*listener
	names     map[string]bool
	conns     map[*Conn]bool
	port      int
	down      bool
}

// NewNetwork returns a network without a listener.
func NewNetwork() *Network {
	return &Network{
		closed:    make(chan struct{}),
		listeners: make(map[string]*listener),
		names:     make(map[string]bool),
		conns:     make(map[*Conn]bool),
		port:      49151, // the dynamic ports begin after it (RFC 6335)
	}
}

// Listen listens at "host:port". Port 0 stands for a free one.
func (n *Network) Listen(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, netError("listen", nil, address(addr), err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		addr = net.JoinHostPort(host, n.nextPortLocked())
	}
	if n.listeners[addr] != nil {
		return nil, netError("listen", nil, address(addr), syscall.EADDRINUSE)
	}
	if n.down {
		return nil, netError("listen", nil, address(addr), syscall.ENETDOWN)
	}
	l := &listener{network: n, addr: address(addr)}
	l.cond.L = &l.mu
	n.listeners[addr], n.names[host] = l, true
	return l, nil
}

func (n *Network) nextPortLocked() string {
	n.port++
	return strconv.Itoa(n.port)
}

// DialContext connects to a listener. It fits http.Transport.DialContext.
func (n *Network) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, netError("dial", nil, address(addr), net.UnknownNetworkError(network))
	}
	d := n.dials.arrive(n.Plan, Exchange{Op: "dial " + addr, Host: addr}, "")
	done := traceDial(httptrace.ContextClientTrace(ctx), d.Fault, addr)
	conn, err := n.dial(ctx, d.Fault, addr)
	done(err)
	if err != nil {
		return nil, err // and not a nil *Conn
	}
	return conn, nil
}

func (n *Network) dial(ctx context.Context, f Fault, addr string) (*Conn, error) {
	if f.kind != blackhole && f.dials() {
		return nil, dialError(f, addr)
	}
	var answer <-chan time.Time
	if f.kind != blackhole {
		timer := time.NewTimer(n.Up + n.Down)
		defer timer.Stop()
		answer = timer.C
	}
	if n.Up+n.Down > 0 || f.kind == blackhole || ctx.Err() != nil {
		select {
		case <-answer:
		case <-ctx.Done():
			return nil, netError("dial", nil, address(addr), ctx.Err())
		case <-n.closed:
		}
	}
	return n.connect(addr)
}

func (n *Network) connect(addr string) (*Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, netError("dial", nil, nil, err)
	}
	n.mu.Lock()
	l := n.listeners[addr]
	if l == nil || n.down {
		f := NXDomain()
		if n.names[host] || net.ParseIP(host) != nil {
			f = RefuseDial()
		}
		n.mu.Unlock()
		return nil, dialError(f, addr)
	}
	local := address(net.JoinHostPort("192.0.2.1", n.nextPortLocked())) // RFC 5737
	up, down := newStream(n.Up), newStream(n.Down)
	client := &Conn{in: down, out: up, local: local, remote: l.addr}
	server := &Conn{in: up, out: down, local: l.addr, remote: local}
	for _, c := range []*Conn{client, server} {
		n.conns[c] = true
		c.forget = func() { n.forget(c) }
	}
	n.mu.Unlock()
	if !l.offer(server) {
		client.Close()
		server.Close()
		return nil, dialError(RefuseDial(), addr)
	}
	return client, nil
}

func (n *Network) forget(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// Open returns how many ends of connections are open, two for each connection
// at rest: zero, once everybody has cleaned up.
func (n *Network) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// Dials returns the record of all dials, in their order.
func (n *Network) Dials() []Delivery { return n.dials.Deliveries() }

// Transport returns a plain *http.Transport that dials through the network,
// with room for any number of idle connections.
func (n *Network) Transport() *http.Transport {
	return &http.Transport{DialContext: n.DialContext, MaxIdleConnsPerHost: 1 << 20}
}

// Close ends all listeners, connections and hanging dials. Later dials are
// refused.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.down {
		n.mu.Unlock()
		return nil
	}
	n.down = true
	close(n.closed)
	var open []interface{ Close() error }
	for _, l := range n.listeners {
		open = append(open, l)
	}
	for c := range n.conns {
		open = append(open, c)
	}
	n.mu.Unlock()
	for _, o := range open {
		o.Close()
	}
	return nil
}

// listener is a queue of connections that nobody has accepted yet.
type listener struct {
	network *Network
	addr    address

	mu     sync.Mutex
	cond   sync.Cond
	queue  []*Conn
	closed bool
}

func (l *listener) Addr() net.Addr { return l.addr }

// offer reports false if the listener is closed.
func (l *listener) offer(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.queue = append(l.queue, c)
		l.cond.Signal()
	}
	return !l.closed
}

func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.cond.Wait()
	}
	if l.closed {
		return nil, netError("accept", nil, l.addr, net.ErrClosed)
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

func (l *listener) Close() error {
	l.mu.Lock()
	was, queue := l.closed, l.queue
	l.closed, l.queue = true, nil
	l.cond.Broadcast()
	l.mu.Unlock()
	if was {
		return netError("close", nil, l.addr, net.ErrClosed)
	}
	l.network.mu.Lock()
	delete(l.network.listeners, string(l.addr))
	l.network.mu.Unlock()
	for _, c := range queue { // nobody will ever accept them
		c.Reset()
	}
	return nil
}
