package resilient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// A timeoutError is a limit of ours that ran out.
type timeoutError struct {
	what  string
	limit time.Duration
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("%s after %v (client side)", e.what, e.limit)
}

// Timeout makes it a timeout in the eyes of net.Error and url.Error.
func (e *timeoutError) Timeout() bool { return true }

// Is makes it a deadline exceeded, as net/http's own timeouts are.
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

var (
	errNoAnswer = errors.New("neither a response nor an error came from Base")
	errPanic    = errors.New("the attempt panicked")
)

// attempt makes one attempt: the request's copy, Base, the judgement. Once
// nothing can keep it from being made, the answer of the attempt before it is
// discarded. The error is why there was nothing to hand to Base. In a panic below
// last is left as far as it came.
func (op *operation) attempt(last, before *try) (stop error) {
	op.notBefore = time.Time{} // what stood there was for this attempt
	ctx, cancel := op.attemptContext()
	ev := op.watched(len(op.attempts) == op.earlier)
	if ev != nil {
		if cancel != nil && !hasBody(op.req) {
			ev.cut = cancel
			ev.once, ev.most = !op.repeatable, int32(min(op.maxAttempts-len(op.attempts)+op.earlier, math.MaxInt32))
		}
		ev.http1 = isHTTP1(op.base)
		ctx = httptrace.WithClientTrace(ctx, ev.watch(isLarge(op.req)))
	}
	last.cancel = cancel
	now := time.Now()
	dated := op.key.date(now) // before the copy is made, which may tell it
	out, err := op.outgoing(ctx)
	if err != nil {
		if dated {
			op.key.firstSent = time.Time{}
		}
		return err
	}
	if op.t.cfg.Prepare != nil { // which may have fetched a token
		now = time.Now()
	}
	if !dated && op.key.expired(now, op.t.cfg.Keys.TTL) { // since leave was asked for
		closeBody(out.Body)
		return ErrKeyExpired
	}
	if ev != nil {
		ev.url = out.URL // not the caller's, which may be his again when a hook comes late
	}
	if last.start = now; before != nil {
		op.discard(before)
		last.start = time.Now() // it may have been slow
	}
	unbound := op.bound(last.start, cancel)
	last.resp, last.err = op.base.RoundTrip(out) //nolint:bodyclose // the caller closes it, or the loop
	last.took = time.Since(last.start)
	last.sort()
	unbound()
	last.cutShort(ctx)
	last.sight = ev.sight(ctx.Err() == nil && !isClosed(op.req.Cancel))
	op.settle(last, out)
	op.judge(last)
	last.err = conceal(last.err, out) // which bears more secrets than the caller's request
	return nil
}

// finish ends the attempt's context, if it has one.
func (t *try) finish() {
	if t.cancel != nil {
		t.cancel(nil)
	}
}

// breaks is how to break a Read of the answer's body without closing it; nil if
// there is no way.
func (t *try) breaks() func() {
	if t.cancel == nil {
		return nil
	}
	cancel := t.cancel
	return func() { cancel(nil) }
}

// discard ends an answer of an earlier attempt, if there is one.
func (op *operation) discard(before *try) {
	if before != nil && before.resp != nil {
		discard(before.resp, before.breaks())
	}
}

// attemptContext is the operation itself wherever nothing must be cut short.
func (op *operation) attemptContext() (context.Context, context.CancelCauseFunc) {
	ctx := op.t.cfg.Observer.attemptStart(op, len(op.attempts)+1)
	cuts := op.watches() && !hasBody(op.req)
	if !cuts && op.attemptTimeout == 0 && op.t.cfg.Timeout == 0 && op.t.cfg.BodyIdleTimeout == 0 {
		return ctx, nil
	}
	return context.WithCancelCause(ctx)
}

// watches reports whether evidence is gathered: it is believed only from
// net/http, and a safe request pays for it only if the caller wants to know, or
// where net/http's own sending again must be bounded.
func (op *operation) watches() bool {
	wary := op.wary || len(op.attempts) > op.earlier
	return op.wire && (wary || !isSafe(op.req.Method) || op.t.cfg.CountReplays)
}

// watched returns where the evidence of this attempt goes, nil if there is none.
func (op *operation) watched(first bool) *evidence {
	switch {
	case !op.watches():
		return nil
	case first:
		return &op.evidence
	}
	return new(evidence)
}

// outgoing makes the copy that Base is given. It is a shallow one, since
// Request.Clone would break trailers; header map and URL are its own.
func (op *operation) outgoing(ctx context.Context) (*http.Request, error) {
	out := op.req.WithContext(ctx)
	if len(op.attempts) == op.earlier {
		op.url = *op.req.URL
		out.URL = &op.url
	} else {
		u := *op.req.URL
		out.URL = &u
	}
	out.Header = op.headers()
	if hasBody(op.req) {
		body, err := op.upload.next()
		if err != nil {
			return nil, err
		}
		out.Body = body
		if withholds(op.req) {
			out.GetBody = nil
		}
	}
	if prepare := op.t.cfg.Prepare; prepare != nil {
		if err := prepare(out); err != nil {
			closeBody(out.Body) // or the caller's would stay open below an answer
			return nil, fmt.Errorf("Config.Prepare: %w", err)
		}
	}
	return out, nil
}

// bound ends the attempt when AttemptTimeout or the operation's Timeout runs
// out, until unbound is called. A timer, not a context deadline: a body that flows
// is never cut.
func (op *operation) bound(now time.Time, cancel context.CancelCauseFunc) (unbound func()) {
	limit, what, told := op.attemptTimeout, "attempt timed out", op.attemptTimeout
	if total := op.t.cfg.Timeout; total > 0 {
		if left := op.began.Add(total).Sub(now); limit == 0 || left < limit {
			limit, what, told = max(left, 1), "operation timed out", total
		}
	}
	if limit == 0 {
		return func() {}
	}
	expire := func() { cancel(&timeoutError{what, told}) }
	timer := time.AfterFunc(limit, expire)
	return func() {
		if !timer.Stop() {
			expire() // the timer's own call may still be on its way
		}
	}
}

// sort makes of what Base returned exactly one of an answer and an error.
func (t *try) sort() {
	switch {
	case t.err != nil:
		t.drop()
	case t.resp == nil:
		t.err = errNoAnswer
	}
}

func (t *try) drop() {
	if t.resp != nil {
		closeBody(t.resp.Body)
		t.resp = nil
	}
}

// cutShort names our own limit where it ended the attempt: what Base makes of a
// cancelled context differs between HTTP/1.1 and HTTP/2. An answer that came as
// the attempt was ended is none, since its body is cut already.
func (t *try) cutShort(ctx context.Context) {
	if t.err == nil && ctx.Err() == nil {
		return
	}
	var ours *timeoutError
	if cause := context.Cause(ctx); errors.As(cause, &ours) || errors.Is(cause, errSentAgain) {
		t.drop()
		t.err = cause
	}
}

// settle makes an answer complete, and reads it inside the attempt if asked to.
func (op *operation) settle(t *try, out *http.Request) {
	if t.resp == nil {
		return
	}
	complete(t.resp, out)
	ours := t.cancel != nil || operationOf(t.resp) != op
	if ours {
		op.answered(t.resp)
	}
	op.handBack(t.resp, out, ours)
	if cancel := t.cancel; cancel != nil {
		watch(t.resp, func() { cancel(nil) }, op.t.cfg.BodyIdleTimeout, func() { cancel(ErrStalled) })
	}
	stream := op.req.Method == http.MethodConnect || strings.HasPrefix(t.resp.Header.Get("Content-Type"), "text/event-stream")
	if op.bufferResponse > 0 && op.req.Method != http.MethodHead && !stream {
		t.err = buffer(t.resp, op.bufferResponse)
	}
}

// answered makes the answer's request one by which the next hop finds us. It is
// the one that Base named, which may have followed redirects of its own, and its
// context is the caller's, not that of the attempt, which ends with the body.
func (op *operation) answered(resp *http.Response) {
	resp.Request = resp.Request.WithContext(op)
}

// handBack returns the GetBody that was withheld from Base, since a caller may
// send the answer's request again himself. A Base that sends once has no more use
// for it; any other may still be reading its request, which is then copied, unless
// it is ours already.
func (op *operation) handBack(resp *http.Response, out *http.Request, ours bool) {
	if !withholds(op.req) || !hasBody(resp.Request) || resp.Request.GetBody != nil {
		return
	}
	if !ours && (!op.wire || resp.Request != out) {
		op.answered(resp)
	}
	resp.Request.GetBody = op.req.GetBody
}

// withholds reports whether net/http could send req again behind our back.
func withholds(req *http.Request) bool {
	return hasBody(req) && !isSafe(req.Method) && req.GetBody != nil
}

// complete makes up for a Base that leaves out what net/http always sets.
func complete(resp *http.Response, req *http.Request) {
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	if resp.Request == nil {
		resp.Request = req
	}
}

func closeBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}
