package faultinject

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Server serves a handler over real connections and strikes on them as its
// plan says: over a [Network], or over TCP. It is also an http.Handler by itself, for
// a server of one's own.
//
// The plan is asked for each connection accepted and for each request; dial
// faults pass here and belong into [Network.Plan]. [CloseIdle] on a connection that
// is not reused is the same as [DropBefore].
//
// A client may speak HTTP/1.1 or HTTP/2, with TLS or without. Over HTTP/2 a fault
// that ends the connection ends it for all of its streams, however healthy their
// own exchanges; [ResetStream] ends one, and [GoAway] and [GoAwayAfter] let the
// others finish. What replaces an answer byte by byte, such as [MalformedStatus],
// resets the stream there by INTERNAL_ERROR.
//
// What passes is as if the handler stood there alone: it has the connection's
// own ResponseWriter, to stream, upgrade or send trailers, and reads the body as
// it comes. The same holds after an [Interim] answer. For any other fault the body
// is read first, and an answer that a fault spoils is held back until the handler
// has returned. Made by [Serve]. Safe for concurrent use.
type Server struct {
	journal
	// URL is where the server is reached, such as "https://pay.test".
	URL string

	plan     Plan
	handler  http.Handler
	proxy    *proxy    // the handler, if it is one
	identity *identity // nil: no TLS of ours
	network  *Network  // nil: TCP
	accepts  journal
	clients  clients
	http     http.Server
	serving  group // the loop that accepts
	busy     group // requests
	ending   context.Context
	end      context.CancelFunc
	once     sync.Once
}

// Serve starts to serve h on l. A nil l starts nothing: then the Server is
// an http.Handler alone. A nil plan lets all pass; a nil h is http.DefaultServeMux.
// For TLS hand it a tls.NewListener.
func Serve(l net.Listener, h http.Handler, plan Plan) *Server {
	s := newServer(h, plan)
	if l != nil {
		s.listen(l)
	}
	return s
}

func newServer(h http.Handler, plan Plan) *Server {
	now := time.Now()
	s := &Server{journal: journal{born: now}, accepts: journal{born: now}, handler: orDefault(h), plan: plan}
	s.ending, s.end = context.WithCancel(context.Background())
	return s
}

func (s *Server) listen(l net.Listener) {
	scheme := "http://"
	if isTLS(l) {
		scheme = "https://"
	}
	s.URL = scheme + l.Addr().String()
	s.start(l)
}

func (s *Server) start(l net.Listener) {
	s.http.Handler, s.http.ConnContext = s, withConn
	s.http.Protocols = new(http.Protocols)
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)                                 // TLS is below us: see accepted
	s.serving.start(func() { s.http.Serve(&doorway{Listener: l, server: s}) }) // ends with Close
}

// Transport returns a new *http.Transport that reaches the server: it dials
// through the server's network, trusts its certificate and, over TLS, offers
// HTTP/2 before HTTP/1.1. For either alone, or HTTP/2 without TLS, set its
// Protocols. Close closes its idle connections.
func (s *Server) Transport() *http.Transport {
	t := &http.Transport{MaxIdleConnsPerHost: 1 << 20, ForceAttemptHTTP2: true}
	if s.network != nil {
		t.DialContext = s.network.DialContext
	}
	if s.identity != nil {
		t.TLSClientConfig = s.identity.client()
	}
	s.clients.add(t)
	return t
}

// Client returns a new client with a [Server.Transport].
func (s *Server) Client() *http.Client { return &http.Client{Transport: s.Transport()} }

// Keep limits the record of the exchanges to the last n, and so that of the
// connections, for whoever runs for long: 0 or less means all, as at first. Effects
// too are those of the exchanges kept. An operation that does not arrive among some
// 65,000 others may be forgotten, and is then counted from 1 again.
func (s *Server) Keep(n int) {
	s.journal.Keep(n)
	s.accepts.Keep(n)
}

// Accepts returns the record of all connections accepted, in their order.
func (s *Server) Accepts() []Delivery { return s.accepts.Deliveries() }

// Settle waits until no request is being handled any more, [Late] ones
// included.
func (s *Server) Settle() { s.busy.wait() }

// Close ends the listener, all connections, those that a handler has taken over
// included, and the contexts of the requests, and waits for the handlers. What was
// to be delivered late is not any more.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		err = s.http.Close()
		s.end()
		s.clients.close()
	})
	s.serving.wait()
	s.busy.wait()
	s.proxy.letGo()
	return err
}

// ServeHTTP lets the handler answer, or strikes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	defer context.AfterFunc(s.ending, stop)() // which net/http's Close does not do
	own := r.WithContext(ctx)
	// net/http looks at the request that it made, to remove the files of a form.
	defer func() { r.Pattern, r.MultipartForm = own.Pattern, own.MultipartForm }()
	s.busy.during(func() { s.serve(w, own) })
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	from := originOf(r)
	x, key := identify(r)
	x.Conn = from.number()
	d := s.arrive(from.plan(at(AtRequest, s.plan)), x, key)
	r = s.proxy.enter(r, &s.journal, d)
	from.doom(d.Fault)
	switch d.Fault.kind {
	case invalid:
		instead(d.Fault).writeTo(w)
	case interim:
		announce(w, r, d.Fault)
		s.through(w, r, d)
	case pass:
		s.through(w, r, d)
	default:
		s.strike(w, r, d)
	}
}

// through lets the handler answer by itself.
func (s *Server) through(w http.ResponseWriter, r *http.Request, d *Delivery) {
	r.Body = s.stream(d, r.Body)
	s.noteRun(d)
	s.handler.ServeHTTP(w, r)
}

// announce sends an interim answer.
func announce(w http.ResponseWriter, r *http.Request, f Fault) {
	if !r.ProtoAtLeast(1, 1) {
		return // RFC 9110, section 15.2
	}
	header := f.interimHeader(time.Now())
	maps.Copy(w.Header(), header)
	w.WriteHeader(f.status)
	for name := range header {
		w.Header().Del(name)
	}
}

// strike is the fate of a request that does not pass.
func (s *Server) strike(w http.ResponseWriter, r *http.Request, d *Delivery) {
	body := s.receive(r, d)
	fresh := func(ctx context.Context) *http.Request {
		again := r.WithContext(ctx)
		if again.Body = http.NoBody; len(body) > 0 {
			again.Body = io.NopCloser(bytes.NewReader(body))
		}
		s.noteRun(d)
		return again
	}
	ctx, f := r.Context(), d.Fault.overHTTP1() // over HTTP/2 it is doomed already
	switch f.kind {
	case closeIdle, dropBefore:
		kill(w, f.how)
	case cutRequest:
		end(seize(w), f.how)
	case respond:
		instead(f).writeTo(w)
	case late:
		<-ctx.Done()
		if s.pause(context.Background(), f.wait) {
			run(s.handler, fresh(context.WithoutCancel(ctx)))
		}
		panic(http.ErrAbortHandler)
	case delay:
		if !s.pause(ctx, f.wait) {
			panic(http.ErrAbortHandler)
		}
		s.handler.ServeHTTP(w, fresh(ctx))
	case duplicate:
		if run(s.handler, fresh(ctx)).aborted {
			panic(http.ErrAbortHandler)
		}
		s.handler.ServeHTTP(w, fresh(ctx))
	default:
		s.spoil(w, r, run(s.handler, fresh(ctx)), f)
	}
}

// receive reads the request's body, as far as the fault lets it arrive.
func (s *Server) receive(r *http.Request, d *Delivery) []byte {
	var src io.Reader = r.Body
	if d.Fault.kind == cutRequest {
		src = io.LimitReader(src, max(r.ContentLength, 0)/2)
	}
	body, err := io.ReadAll(src)
	if err != nil {
		panic(http.ErrAbortHandler) // the client has left; net/http ends the connection
	}
	if d.Fault.kind != closeIdle {
		s.noteBody(d, body)
	}
	return body
}

// spoil is the fate of an answer after the handler has run.
func (s *Server) spoil(w http.ResponseWriter, r *http.Request, a *reply, f Fault) {
	switch {
	case a.aborted:
		panic(http.ErrAbortHandler)
	case f.kind == loseResponse:
		kill(w, f.how)
	case f.kind == maskResponse:
		instead(f).writeTo(w)
	case f.kind == malformedStatus:
		s.babble(w, notHTTP+"\r\n", "", 0)
	case f.kind == oversizedHeader:
		s.babble(w, "HTTP/1.1 200 OK\r\n", "X-Fill: "+strings.Repeat("x", 1000)+"\r\n", 16<<20)
	case f.kind == stall:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case !a.hasBody(r.Method):
		a.writeTo(w)
	default:
		s.spoilBody(w, r, a, f)
	}
}

func (s *Server) spoilBody(w http.ResponseWriter, r *http.Request, a *reply, f Fault) {
	switch f.kind {
	case corruptBody:
		if f.at < len(a.body) {
			a.body[f.at] ^= 1
		}
		a.writeTo(w)
	case malformedChunk:
		s.babble(w, a.chunked()+notHTTP+"\r\n", "", 0)
	case trickleBody, bandwidth:
		s.dribble(w, r, a, f)
	case cutBody, stallBody:
		a.promise(f.at)
		a.writeTo(w)
		http.NewResponseController(w).Flush()
		if f.kind == stallBody {
			<-r.Context().Done()
		}
		kill(w, f.how)
	}
}

// dribble writes the answer piece by piece, each when its time has come.
func (s *Server) dribble(w http.ResponseWriter, r *http.Request, a *reply, f Fault) {
	body := a.body
	a.body = nil
	a.writeTo(w)
	out := http.NewResponseController(w)
	for passed := 0; passed < len(body); {
		out.Flush()
		n := min(f.piece(passed), len(body)-passed)
		if !s.pause(r.Context(), f.pause(passed, n)) {
			panic(http.ErrAbortHandler)
		}
		w.Write(body[passed : passed+n])
		passed += n
	}
}

// promise cuts the body after n bytes under a head that announces more.
func (a *reply) promise(n int) {
	a.sent.Set("Content-Length", strconv.Itoa(max(len(a.body), n+1)))
	a.body = a.body[:min(n, len(a.body))]
}

// chunked is the head of the answer as it would announce chunks.
func (a *reply) chunked() string {
	a.sent.Del("Content-Length")
	a.sent.Set("Transfer-Encoding", "chunked")
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	a.sent.Write(&head)
	head.WriteString("\r\n")
	return head.String()
}

func (a *reply) writeTo(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.sent)
	w.WriteHeader(a.status)
	w.Write(a.body) // a client that has left is no concern of ours
}

// pause reports whether d passed before ctx ended and the server closed.
func (s *Server) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-s.ending.Done():
	}
	return false
}

// seize takes the connection from under w, with what was written before.
func seize(w http.ResponseWriter) net.Conn {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // over HTTP/2 the stream ends as it is doomed to
	}
	buf.Flush()
	return conn
}

// kill ends a connection on which nothing is left unread.
func kill(w http.ResponseWriter, how How) {
	conn := seize(w)
	if how == RST {
		reset(conn)
	}
	conn.Close()
}

// babble says what is no answer, the filling until it is too much for the
// client or comes to limit bytes.
func (s *Server) babble(w http.ResponseWriter, start, filling string, limit int) {
	conn := seize(w)
	defer conn.Close()
	defer context.AfterFunc(s.ending, func() { conn.Close() })() // also if the client does not read
	_, err := io.WriteString(conn, start)
	for n := 0; n < limit && err == nil; n += len(filling) {
		_, err = io.WriteString(conn, filling)
	}
}

// patience is how long a server that has closed its half waits for the client
// to close the other.
const patience = time.Second

// end ends a connection on which there may be something left to read. TCP would
// turn an orderly end into a reset then, so the rest is read first (RFC 9112,
// section 9.6).
func end(conn net.Conn, how How) {
	defer conn.Close()
	if how == RST {
		reset(conn)
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		conn.SetReadDeadline(time.Now().Add(patience))
		io.Copy(io.Discard, conn)
	}
}

// reset ends a connection by a reset.
func reset(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
	conn.Close()
}
