package faultinject

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Server serves a handler over real connections and strikes on them as its
// plan says: over a [Network], or over TCP. It is also an http.Handler by itself, for
// a server of one's own.
//
// A request has arrived when the plan is asked, so that dial faults pass here:
// they belong into [Network.Plan]. [CloseIdle] on a connection that is not reused
// is the same as [DropBefore]. Over HTTP/2 the stream is reset instead of the
// connection, whichever way a fault asks for. Made by [NewServer]. Safe for
// concurrent use.
type Server struct {
	ledger
	// URL is "http://" and the listener's address.
	URL string

	plan    Plan
	handler http.Handler
	http    http.Server
	serving group // the loop that accepts
	busy    group // requests
	closed  chan struct{}
	once    sync.Once
}

// NewServer starts to serve h on l. A nil l starts nothing: then the Server is
// an http.Handler alone. A nil plan lets all pass. For TLS hand it a
// tls.NewListener.
func NewServer(l net.Listener, h http.Handler, plan Plan) *Server {
	s := &Server{handler: h, closed: make(chan struct{})}
	s.plan = PlanFunc(func(x Exchange) (f Fault) {
		if plan != nil {
			f = plan.Decide(x)
		}
		if f.dials() {
			f = Pass()
		}
		return f
	})
	if l != nil {
		s.URL = "http://" + l.Addr().String()
		s.http.Handler = s
		s.serving.start(func() { s.http.Serve(l) }) // ends with Close
	}
	return s
}

// Settle waits until no request is being handled any more, [Late] ones
// included.
func (s *Server) Settle() { s.busy.wait() }

// Close ends the listener and all connections, and waits for the handlers.
// What was to be delivered late is not any more.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closed)
		err = s.http.Close()
	})
	s.serving.wait()
	s.busy.wait()
	return err
}

// ServeHTTP lets the handler answer, or strikes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.busy.during(func() { s.serve(w, r) })
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	x, key := identify(r)
	d := s.arrive(s.plan, x, key)
	body := s.receive(r, d)
	fresh := func(ctx context.Context) *http.Request {
		again := r.WithContext(ctx)
		if again.Body = http.NoBody; len(body) > 0 {
			again.Body = io.NopCloser(bytes.NewReader(body))
		}
		s.noteRun(d)
		return again
	}
	ctx, f := r.Context(), d.Fault
	switch f.kind {
	case closeIdle, dropBefore:
		kill(w, f.how)
	case cutRequest:
		kill(w, RST)
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
	case pass:
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
	case f.kind == stall:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case !a.hasBody(r.Method):
		a.writeTo(w)
	case f.kind == corruptBody:
		if f.at < len(a.body) {
			a.body[f.at] ^= 1
		}
		a.writeTo(w)
	default:
		a.promise(f.at)
		a.writeTo(w)
		http.NewResponseController(w).Flush()
		if f.kind == stallBody {
			<-r.Context().Done()
		}
		kill(w, f.how)
	}
}

// promise cuts the body after n bytes under a head that announces more.
func (a *reply) promise(n int) {
	a.sent.Set("Content-Length", strconv.Itoa(max(len(a.body), n+1)))
	a.body = a.body[:min(n, len(a.body))]
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
	case <-s.closed:
	}
	return false
}

// kill ends the connection under w, with what was written before.
func kill(w http.ResponseWriter, how How) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2 resets the stream
	}
	defer conn.Close()
	buf.Flush()
	if how == FIN {
		return
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
	conn.Close()
}
