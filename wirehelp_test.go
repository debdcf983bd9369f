package resilient_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// A farEnd is the server of these tests. It writes and breaks off the raw bytes
// that it is told to, and counts what it has read. One script serves each
// connection, over loopback or in memory; in memory a test may be in a bubble.
type farEnd struct {
	t      *testing.T
	tls    *tls.Config // nil: plaintext
	script func(*peer)

	mu    sync.Mutex
	seen  []arrival
	conns []*peer
	live  int
	done  sync.WaitGroup
}

// arrival is one request of which the far end has read the head.
type arrival struct {
	head *http.Request // nil over HTTP/2
	body int           // bytes of it
	conn int           // of which connection, from 0
}

// peer is one connection at the far end.
type peer struct {
	net.Conn
	end *farEnd
	raw net.Conn // under TLS
	n   int      // from 0
	r   *bufio.Reader

	numbers map[uint32]int // of requests, by stream: their frames come mixed
}

// inMemory serves connections that are made by its dial function.
func inMemory(t *testing.T, script func(*peer)) *farEnd {
	f := &farEnd{t: t, script: script}
	t.Cleanup(f.close)
	return f
}

// onLoopback serves a TCP port of this machine; the second value is its address.
func onLoopback(t *testing.T, script func(*peer)) (*farEnd, string) {
	f := &farEnd{t: t, script: script}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.serve(conn)
		}
	})
	t.Cleanup(func() { l.Close(); f.close() })
	return f, l.Addr().String()
}

func (f *farEnd) dial(context.Context, string, string) (net.Conn, error) {
	near, far := pipe()
	f.serve(far)
	return near, nil
}

func (f *farEnd) serve(raw net.Conn) {
	p := &peer{Conn: raw, raw: raw, end: f, numbers: make(map[uint32]int)}
	if f.tls != nil {
		p.Conn = tls.Server(raw, f.tls)
	}
	p.r = bufio.NewReader(p.Conn)
	f.mu.Lock()
	p.n = len(f.conns)
	f.conns = append(f.conns, p)
	f.live++
	f.mu.Unlock()
	f.done.Go(func() {
		f.script(p)
		p.Close()
		f.mu.Lock()
		f.live--
		f.mu.Unlock()
	})
}

func (f *farEnd) close() {
	f.mu.Lock()
	for _, p := range f.conns {
		p.raw.Close()
	}
	f.mu.Unlock()
	f.done.Wait()
}

func (f *farEnd) arrivals() []arrival {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]arrival(nil), f.seen...)
}

func (f *farEnd) note(a arrival) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, a)
	return len(f.seen)
}

func (f *farEnd) opened() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// open is how many connections have not ended.
func (f *farEnd) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live
}

// head reads the head of a request; nil if the client has gone away.
func (p *peer) head() *http.Request {
	req, err := http.ReadRequest(p.r)
	if err != nil {
		return nil
	}
	p.end.note(arrival{head: req, conn: p.n})
	return req
}

// request reads a whole request and tells how many have now arrived, on any
// connection; 0 if the client has gone away.
func (p *peer) request() int {
	req, err := http.ReadRequest(p.r)
	if err != nil {
		return 0
	}
	n, err := io.Copy(io.Discard, req.Body)
	if err != nil {
		return 0
	}
	return p.end.note(arrival{head: req, body: int(n), conn: p.n})
}

func (p *peer) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p, format, args...)
}

func (p *peer) answer(status int) {
	p.say("HTTP/1.1 %d %s\r\nContent-Length: 2\r\n\r\nok", status, http.StatusText(status))
}

// rst breaks the connection off as a crashed machine does.
func (p *peer) rst() {
	switch c := p.raw.(type) {
	case *net.TCPConn:
		_ = c.SetLinger(0)
		c.Close()
	case *pipeEnd:
		c.reset()
	}
}

// fin ends the connection in an orderly way.
func (p *peer) fin() { p.raw.Close() }

// answerAll is the script of a server that does as it is asked.
func answerAll(p *peer) {
	for p.request() > 0 {
		p.answer(200)
	}
}

// HTTP/2 frames (RFC 9113, sections 4.1 and 6).
const (
	frameData     = 0x0
	frameHeaders  = 0x1
	frameRST      = 0x3
	frameSettings = 0x4
	framePing     = 0x6
	frameGoAway   = 0x7

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
)

// HTTP/2 error codes (RFC 9113, section 7).
const (
	codeNo       = 0x0
	codeProtocol = 0x1
	codeInternal = 0x2
	codeRefused  = 0x7
	codeCancel   = 0x8
	codeCalm     = 0xb
	codeNeedH1   = 0xd
)

func (p *peer) frame(kind, flags byte, stream uint32, payload ...byte) {
	head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(head[5:], stream)
	_, _ = p.Write(append(head, payload...))
}

// begin reads the client's preface and sends the settings, pairs of id and value.
func (p *peer) begin(settings ...uint32) bool {
	preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	if _, err := io.ReadFull(p.r, preface); err != nil {
		return false
	}
	var payload []byte
	for i := 0; i < len(settings); i += 2 {
		payload = binary.BigEndian.AppendUint16(payload, uint16(settings[i]))
		payload = binary.BigEndian.AppendUint32(payload, settings[i+1])
	}
	p.frame(frameSettings, 0, 0, payload...)
	return true
}

// stream reads frames up to the end of a request and returns its stream; 0 if
// the client has gone away. The second value is the request's number among those
// arrived, on any connection.
func (p *peer) stream() (id uint32, n int) {
	return p.frames(func(kind, flags byte) bool {
		return (kind == frameHeaders || kind == frameData) && flags&flagEndStream != 0
	})
}

// headers reads frames up to the head of a request.
func (p *peer) headers() (id uint32, n int) {
	return p.frames(func(kind, _ byte) bool { return kind == frameHeaders })
}

func (p *peer) frames(enough func(kind, flags byte) bool) (id uint32, n int) {
	head := make([]byte, 9)
	for {
		if _, err := io.ReadFull(p.r, head); err != nil {
			return 0, 0
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		kind, flags := head[3], head[4]
		if _, err := io.CopyN(io.Discard, p.r, length); err != nil {
			return 0, 0
		}
		if kind == frameSettings && flags&flagAck == 0 {
			p.frame(frameSettings, flagAck, 0)
		}
		id = binary.BigEndian.Uint32(head[5:])
		if kind == frameHeaders {
			p.numbers[id] = p.end.note(arrival{conn: p.n})
		}
		if enough(kind, flags) {
			return id, p.numbers[id]
		}
	}
}

// ok answers 200, the eighth entry of the static table, without a body.
func (p *peer) ok(stream uint32) {
	p.frame(frameHeaders, flagEndHeaders|flagEndStream, stream, 0x88)
}

func (p *peer) rstStream(stream, code uint32) {
	p.frame(frameRST, 0, stream, binary.BigEndian.AppendUint32(nil, code)...)
}

func (p *peer) goAway(last, code uint32) {
	p.frame(frameGoAway, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), code)...)
}

// pipe returns both ends of a connection in memory. It is buffered, unlike
// net.Pipe, and fails with the errors that TCP has.
func pipe() (near, far *pipeEnd) {
	up, down := newFlow(), newFlow()
	return &pipeEnd{in: down, out: up}, &pipeEnd{in: up, out: down}
}

// flow is one direction of a pipe.
type flow struct {
	mu    sync.Mutex
	moved sync.Cond
	buf   bytes.Buffer
	read  error // what a Read finds after buf
	write error // what a Write finds
}

const flowSize = 64 << 10

func newFlow() *flow {
	f := &flow{}
	f.moved.L = &f.mu
	return f
}

func (f *flow) end(read, write error, lose bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.read == nil {
		f.read = read
	}
	if f.write == nil {
		f.write = write
	}
	if lose {
		f.buf.Reset()
	}
	f.moved.Broadcast()
}

type pipeEnd struct{ in, out *flow }

func opError(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: pipeAddr{}, Addr: pipeAddr{}, Err: err}
}

func (c *pipeEnd) Read(p []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for c.in.buf.Len() == 0 && c.in.read == nil {
		c.in.moved.Wait()
	}
	if c.in.buf.Len() > 0 {
		c.in.moved.Broadcast()
		return c.in.buf.Read(p)
	}
	if c.in.read == io.EOF {
		return 0, io.EOF
	}
	return 0, opError("read", c.in.read)
}

func (c *pipeEnd) Write(p []byte) (n int, err error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	for len(p) > 0 {
		for c.out.buf.Len() >= flowSize && c.out.write == nil {
			c.out.moved.Wait()
		}
		if c.out.write != nil {
			return n, opError("write", c.out.write)
		}
		part := p[:min(len(p), flowSize-c.out.buf.Len())]
		c.out.buf.Write(part)
		c.out.moved.Broadcast()
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

func (c *pipeEnd) Close() error {
	c.in.end(net.ErrClosed, syscall.EPIPE, true)
	c.out.end(io.EOF, net.ErrClosed, false)
	return nil
}

func (c *pipeEnd) reset() {
	c.in.end(net.ErrClosed, syscall.ECONNRESET, true)
	c.out.end(syscall.ECONNRESET, net.ErrClosed, true)
}

func (*pipeEnd) LocalAddr() net.Addr              { return pipeAddr{} }
func (*pipeEnd) RemoteAddr() net.Addr             { return pipeAddr{} }
func (*pipeEnd) SetDeadline(time.Time) error      { return nil }
func (*pipeEnd) SetReadDeadline(time.Time) error  { return nil }
func (*pipeEnd) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "tcp" }
func (pipeAddr) String() string  { return "192.0.2.1:443" }

// identity is a certificate of the far end's, and who trusts it. It is valid
// in a bubble, whose clock starts in 2000.
type identity struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

// goodIdentity is made once: signing is what takes time in these tests.
var goodIdentity = sync.OnceValue(func() identity {
	return newIdentity("api.test", time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
})

func newIdentity(host string, until time.Time) identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots}
}

// overHTTP2 serves script over TLS and HTTP/2, and returns the Base to reach it.
func overHTTP2(t *testing.T, script func(*peer)) (*farEnd, *http.Transport) {
	f := inMemory(t, script)
	f.tls = &tls.Config{Certificates: []tls.Certificate{goodIdentity().cert}, NextProtos: []string{"h2"}}
	base := &http.Transport{
		DialContext: f.dial, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: goodIdentity().roots},
	}
	t.Cleanup(base.CloseIdleConnections)
	return f, base
}

// onTCP serves script on loopback, and returns the Base to reach it and its URL.
func onTCP(t *testing.T, script func(*peer)) (*farEnd, *http.Transport, string) {
	f, address := onLoopback(t, script)
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return f, base, "http://" + address + "/"
}

// overHTTP1 serves script over plain connections in memory.
func overHTTP1(t *testing.T, script func(*peer)) (*farEnd, *http.Transport) {
	f := inMemory(t, script)
	base := &http.Transport{DialContext: f.dial}
	t.Cleanup(base.CloseIdleConnections)
	return f, base
}

// serving runs a real server on connections in memory, over HTTP/1.1 or HTTP/2,
// and returns the Base to reach it.
func serving(t *testing.T, http2 bool, handler http.HandlerFunc) *http.Transport {
	l := make(pipeListener)
	var done sync.WaitGroup // of handlers, too, which a closed server would leave behind
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done.Add(1)
		defer done.Done()
		handler(w, r)
	})}
	base := &http.Transport{DialContext: l.dial}
	if http2 {
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{goodIdentity().cert}, NextProtos: []string{"h2"}}
		base.ForceAttemptHTTP2, base.TLSClientConfig = true, &tls.Config{RootCAs: goodIdentity().roots}
		done.Go(func() { _ = srv.ServeTLS(l, "", "") })
	} else {
		done.Go(func() { _ = srv.Serve(l) })
	}
	t.Cleanup(func() {
		base.CloseIdleConnections()
		srv.Close()
		done.Wait()
	})
	return base
}

// pipeListener hands one end of each connection to a server. net.Pipe has the
// deadlines that a server needs.
type pipeListener chan net.Conn

func (l pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return pipeAddr{} }

// every is a schedule without chance: by a second a test can tell a pause from
// none. Below zero it has ended.
type every time.Duration

func (e every) NextBackOff() time.Duration { return time.Duration(e) }

func steady(cfg *resilient.Config) {
	cfg.Backoff = func() resilient.Schedule { return every(time.Second) }
}

func hasty(cfg *resilient.Config) { cfg.Backoff = func() resilient.Schedule { return every(0) } }

// overWire returns a client over a real net/http transport, which needs no word
// of ours to be believed.
func overWire(t *testing.T, base *http.Transport, change ...func(*resilient.Config)) *http.Client {
	t.Helper()
	cfg := resilient.Config{Base: base}
	for _, c := range change {
		c(&cfg)
	}
	client, err := resilient.NewClient(cfg)
	require.NoError(t, err)
	return client
}

// wireKind is one way of asking that net/http or we treat unlike the others.
type wireKind struct {
	name, method, body string
	vouched            bool
}

var wireKinds = []wireKind{
	{"GET", "GET", "", false},
	{"POST", "POST", "amount=1", false},
	{"POST vouched", "POST", "amount=1", true},
	{"bodyless POST", "POST", "", false},
	{"bodyless POST vouched", "POST", "", true},
	{"PUT", "PUT", "amount=1", false},
	{"DELETE", "DELETE", "", false},
}

func (k wireKind) config(cfg *resilient.Config) {
	if k.vouched {
		cfg.HonorsKeys = resilient.AnyHost
	}
}

func (k wireKind) request(t *testing.T, ctx context.Context, url string) *http.Request {
	t.Helper()
	var body io.Reader
	if k.body != "" {
		body = strings.NewReader(k.body)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, url, body)
	require.NoError(t, err)
	return req
}

func newRequestTo(t *testing.T, url string) *http.Request {
	t.Helper()
	return wireKinds[0].request(t, t.Context(), url)
}

// brief tells an operation in a word: its answer's status or its outcome, how
// many requests arrived and, if they differ, how many attempts were reported.
func brief(got told, arrived int) string {
	s := fmt.Sprint(got.status)
	if got.status == 0 {
		s = strings.TrimPrefix(got.outcome.String(), "outcome ")
	}
	if s += fmt.Sprintf(", %d", arrived); got.attempts != arrived {
		s += fmt.Sprintf(" of %d", got.attempts)
	}
	return s
}
