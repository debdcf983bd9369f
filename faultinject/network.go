package faultinject

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	neturl "net/url"
	"strconv"
	"strings"
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
	// Plan decides each dial: an [Exchange] whose Op is "dial host:port". Only
	// faults that strike there ([AtDial]) do; others pass. Nil lets all dials pass.
	Plan Plan
	// Authority issues the certificates of [Network.Serve]. Nil means one of the
	// network's own; sharing one spares thousands of networks their keys.
	Authority *Authority
	// Up and Down are how long bytes travel from the dialling end to the
	// listening one, and back. A dial takes both. Zero means no time.
	Up, Down time.Duration
	// Jitter is how much longer at most each piece of data travels, by the same
	// numbers in every run; all of it arrives in the order of sending. Zero means
	// none.
	Jitter time.Duration
	// Bandwidth is how many bytes per second a connection carries each way. Zero
	// means no bound.
	Bandwidth int
	// TieBreak is how much longer each way takes over each connection than over the
	// one before, where the way takes time at all. So no two connections have
	// events at one instant, of which Go would choose the first by chance: if
	// decisions are keyed, as those of [Random], and operations start apart, a run
	// repeats to the byte. Two things remain to chance over HTTP/2: the order of
	// requests that waited for the same connection, and the pauses that net/http
	// makes before it replays. [NewNetwork] sets it to 13 ns. Zero means none.
	TieBreak time.Duration

	dialFor func(ctx context.Context, addr string) string // names who dials; nil names addr

	dials  journal
	closed chan struct{}
	own    *Authority

	mu        sync.Mutex
	listeners map[string]*listener
	names     map[string]bool
	conns     map[*Conn]bool
	ports     int    // given out so far
	made      uint64 // connections so far
	down      bool
}

// NewNetwork returns a network without a listener.
func NewNetwork() *Network {
	return &Network{
		dials:     journal{born: time.Now()},
		closed:    make(chan struct{}),
		listeners: make(map[string]*listener),
		names:     make(map[string]bool),
		conns:     make(map[*Conn]bool),
		own:       NewAuthority(),
		TieBreak:  13, // no divisor of anybody's round numbers
	}
}

// Serve starts to serve h at a URL such as "http://pay.test", or
// "https://pay.test:8443" for TLS by a certificate of the network's authority. Port 0
// stands for a free one. A client may speak HTTP/1.1 or HTTP/2, over TLS by
// negotiation (ALPN), else with prior knowledge. A nil plan lets all pass.
func (n *Network) Serve(url string, h http.Handler, plan Plan) (*Server, error) {
	addr, secure, err := splitURL(url)
	if err != nil {
		return nil, err
	}
	l, err := n.Listen(addr)
	if err != nil {
		return nil, err
	}
	s := newServer(h, plan)
	s.network, s.URL = n, strings.TrimSuffix(url, "/")
	if strings.HasSuffix(addr, ":0") {
		s.URL = strings.TrimSuffix(s.URL, addr) + l.Addr().String()
	}
	if secure {
		host, _, _ := net.SplitHostPort(addr)
		s.identity = &identity{authority: cmp.Or(n.Authority, n.own), hosts: []string{host}}
	}
	s.start(l)
	return s, nil
}

// splitURL reads scheme, host and port of a server's URL.
func splitURL(text string) (addr string, secure bool, err error) {
	u, err := neturl.Parse(text)
	if err != nil {
		return "", false, fmt.Errorf("faultinject: URL of a server: %w", err)
	}
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if port == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery+u.Fragment != "" || u.User != nil {
		return "", false, fmt.Errorf(`faultinject: URL of a server: %q is not of the form "https://host[:port]"`, text)
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)), u.Scheme == "https", nil
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
		_, port := n.nextLocked()
		addr = net.JoinHostPort(host, port)
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

// nextLocked returns a port that is free, if it is for the host that comes with
// it: one of the dynamic ports (RFC 6335, section 6) of a host of TEST-NET-1 (RFC
// 5737), in turn.
func (n *Network) nextLocked() (host, port string) {
	const first, ports, hosts = 49152, 1 << 14, 254
	host = fmt.Sprintf("192.0.2.%d", 1+n.ports/ports%hosts)
	port = strconv.Itoa(first + n.ports%ports)
	n.ports++
	return host, port
}

// DialContext connects to a listener. It fits http.Transport.DialContext.
func (n *Network) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, netError("dial", nil, address(addr), net.UnknownNetworkError(network))
	}
	x := dialled(addr)
	if n.dialFor != nil {
		x.Op = "dial " + n.dialFor(ctx, addr)
	}
	d := n.dials.arrive(at(AtDial, n.Plan), x, "")
	done := traceDial(httptrace.ContextClientTrace(ctx), d.Fault, addr)
	conn, err := n.dial(ctx, d.Fault, addr)
	done(err)
	if err != nil {
		return nil, err // and not a nil *Conn
	}
	return conn, nil
}

func dialled(addr string) Exchange {
	return Exchange{Op: "dial " + addr, Host: addr, Method: MethodDial}
}

func (n *Network) dial(ctx context.Context, f Fault, addr string) (*Conn, error) {
	if err := strikeDial(ctx, f, addr, n.Up+n.Down, n.closed); err != nil {
		return nil, err
	}
	return n.connect(addr)
}

// strikeDial plays what f does to a dial that takes d by itself. A nil error lets
// it go on.
func strikeDial(ctx context.Context, f Fault, addr string, d time.Duration, closed <-chan struct{}) error {
	if err := dialError(f, addr); err != nil {
		return err
	}
	var answer <-chan time.Time
	if f.kind == slowDial {
		d += f.wait
	}
	if f.kind != blackhole {
		timer := time.NewTimer(d)
		defer timer.Stop()
		answer = timer.C
	}
	if d > 0 || f.kind == blackhole || ctx.Err() != nil {
		select {
		case <-answer:
		case <-ctx.Done():
			return netError("dial", nil, address(addr), ctx.Err())
		case <-closed:
		}
	}
	return nil
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
	local := address(net.JoinHostPort(n.nextLocked()))
	n.made++
	forth, back := newLine(n, n.Up, n.made, 0), newLine(n, n.Down, n.made, 1)
	up, down := newStream(forth, back.delay), newStream(back, forth.delay)
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
