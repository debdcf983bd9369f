package idempotency

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"time"
)

const (
	replayedHeader = "Idempotent-Replayed"
	lifetimeHeader = "Idempotency-Key-Lifetime"
	resultHeader   = "Repeatability-Result"
)

// New makes a middleware that honours idempotency keys as cfg says. A bad Config
// is an error that names the field.
//
// A request with a key is read to its end, and the handler runs under a context
// that does not end with the caller. Its answer is stored before it is sent; a
// repetition gets it from the store with Idempotent-Replayed: true. A 5xx is an
// answer like any other, since something may have been done: a handler that has
// done nothing says so by [NotApplied]. A panic leaves the outcome unknown.
//
// An answer that the handler flushes, or that is longer than Config.MaxAnswer,
// goes out as it is written; its repetition has the same status and header with
// a problem for a body. Trailers are sent and not kept. A connection cannot be
// hijacked under a key.
//
// Every answer carries Idempotency-Key-Lifetime, the seconds for which answers
// are kept. A request whose Repeatability-First-Sent is older is refused.
func New(cfg Config) (func(http.Handler) http.Handler, error) {
	if err := cfg.completeHTTP(); err != nil {
		return nil, err
	}
	engine, err := newEngine(cfg)
	if err != nil {
		return nil, err
	}
	lifetime := []string{strconv.FormatInt(int64(engine.cfg.Retention/time.Second), 10)}
	return func(next http.Handler) http.Handler {
		return &middleware{engine: engine, cfg: &engine.cfg, next: next, lifetime: lifetime}
	}, nil
}

type middleware struct {
	engine   *Engine
	cfg      *Config
	next     http.Handler
	lifetime []string // shared by all answers, and never changed
}

func (m *middleware) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header()[lifetimeHeader] = m.lifetime
	lines := req.Header[m.cfg.Header]
	switch {
	case !m.cfg.covers(req.Method):
		m.next.ServeHTTP(w, req)
	case len(lines) > 0:
		m.serveKey(w, req, lines)
	case m.cfg.KeyRequired:
		m.refuse(w, req, problemKeyMissing, "Send "+m.cfg.Header+".")
	default:
		m.next.ServeHTTP(w, req)
	}
}

// refuse answers a request that its own words forbid to execute.
func (m *middleware) refuse(w http.ResponseWriter, req *http.Request, p problem, detail string) {
	if m.cfg.Observer.Event != nil {
		m.cfg.Observer.Event(req.Context(), Event{Kind: Refused, Method: req.Method, Status: p.status, Err: errors.New(p.title)})
	}
	send(w, problemAnswer(p, detail))
}

func (m *middleware) serveKey(w http.ResponseWriter, req *http.Request, lines []string) {
	key, err := parseKey(lines)
	if err != nil {
		m.refuse(w, req, problemKeyMalformed, m.cfg.Header+": "+err.Error()+".")
		return
	}
	scope := m.cfg.Scope(req)
	if scope == "" {
		m.refuse(w, req, problemScopeMissing, "")
		return
	}
	switch age, err := ageOf(req.Header, time.Now); {
	case err != nil:
		m.refuse(w, req, problemFirstSentMalformed, "Repeatability-First-Sent: "+err.Error()+".")
		return
	case age > m.cfg.Retention:
		w.Header().Set(resultHeader, "rejected")
		w.Header().Set("X-Should-Retry", "false")
		m.refuse(w, req, problemKeyExpired, "It is not executed, since it may have been.")
		return
	}
	x := &exchange{m: m, w: w, req: req}
	if err := x.body.spool(req, m.cfg.MaxBody); err != nil {
		m.refuseBody(w, req, err)
		return
	}
	defer x.body.close()
	x.serve(scope, key)
}

func (m *middleware) refuseBody(w http.ResponseWriter, req *http.Request, err error) {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		m.refuse(w, req, problemBodyTooLarge, "At most "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes.")
		return
	}
	p := problemBodyUnreadable
	if errors.Is(err, errNoRoom) {
		p.title, p.status = "There is no room for the request's body", http.StatusServiceUnavailable
	}
	// An earlier copy may have arrived whole: this is no final answer to it.
	w.Header().Set("X-Should-Retry", "true")
	m.refuse(w, req, p, "")
}

// exchange is a request and its answer as work, and all that there is for it.
type exchange struct {
	m      *middleware
	w      http.ResponseWriter
	req    *http.Request
	before http.Header // what others had set in the answer
	op     operation
	body   body
	rec    recorder
}

func (x *exchange) serve(scope, key string) {
	e := x.m.engine
	x.op.engine, x.op.http, x.op.scope, x.op.key, x.op.method = e, true, scope, key, x.req.Method
	x.op.claim = e.newClaim(e.idOf(scope, key), fingerprint(x.req, x.body.sum))
	if outer := operationOf(x.req.Context()); outer != nil && outer.covers(&x.op) {
		x.m.next.ServeHTTP(x.w, x.under(x.req.Context()))
		return
	}
	x.rec = recorder{w: x.w, limit: x.m.cfg.MaxAnswer, keeps: e.keeps, bare: x.req.Method == http.MethodHead}
	if len(x.w.Header()) > 1 { // than our own
		x.before = maps.Clone(x.w.Header())
	}
	if err := x.op.serve(x.req.Context(), x); err != nil {
		x.refuse(err)
	}
}

func (x *exchange) do(ctx context.Context) (Answer, ending) {
	req := x.under(ctx)
	x.m.next.ServeHTTP(&x.rec, req)
	x.req.MultipartForm = req.MultipartForm // net/http removes the files of the request that it knows
	if x.rec.status == 0 {
		if _, joint := x.op.heard(); !joint {
			x.rec.WriteHeader(http.StatusOK)
		}
	}
	return x.rec.answer(), finished
}

func (x *exchange) request() *http.Request { return x.under(x.req.Context()) }

// under is the request with that context and its body at the beginning.
func (x *exchange) under(ctx context.Context) *http.Request {
	req := x.req.WithContext(ctx)
	x.body.rewind()
	req.Body = &x.body
	return req
}

func (x *exchange) deliver(a Answer, from source) {
	switch {
	case x.rec.streaming: // it is out already
		return
	case from == theRun:
		x.rec.send()
		return
	case a.bodyLost:
		p := problemAnswer(problem{ProblemAnswerNotKept, problemAnswerNotKept.title, a.Status}, "")
		delete(a.Header, "Content-Encoding")
		maps.Copy(p.Header, a.Header)
		p.Header.Set("Content-Type", "application/problem+json")
		a = p
	}
	x.startOver()
	if from == anEarlierRun {
		x.w.Header()[replayedHeader] = yes
	}
	send(x.w, a)
}

// startOver drops what the handler has set in the answer.
func (x *exchange) startOver() {
	header := x.w.Header()
	clear(header)
	header[lifetimeHeader] = x.m.lifetime
	maps.Copy(header, x.before)
}

// refuse answers why the key was refused.
func (x *exchange) refuse(err error) {
	var why *Error
	if x.rec.streaming || !errors.As(err, &why) {
		return
	}
	x.startOver()
	send(x.w, why.refusal())
}

// yes is a header's value, shared and never changed.
var yes = []string{"true"}

func send(w http.ResponseWriter, a Answer) {
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}
