package resilient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// try is what one attempt brought, before policy has looked at it.
type try struct {
	judgement
	resp  *http.Response
	err   error
	start time.Time
	took  time.Duration
	sight sight

	unpaid bool                    // the repeat is not charged
	cancel context.CancelCauseFunc // ends the attempt's context; nil without one
	stop   error                   // why a Fatal attempt is the last, where the verdict does not say

	believed bool // Base speaks net/http: what was seen is evidence
	pending  bool // an earlier attempt under the same key ended unknown
}

// judge reaches the judgement of an attempt of op.
func (op *operation) judge(t *try) {
	switch bodyErr := op.upload.failure(); {
	case t.resp != nil || gone(op.req) != nil:
	case bodyErr != nil:
		t.fatal(nil, op.wire)
		t.err = bodyErr
		return
	case op.timeUp() && isTimeout(t.err):
		t.fatal(ErrNoTime, op.wire)
		return
	}
	t.believed, t.pending = op.wire, op.pending(t)
	op.t.judge(op.req, t)
	if op.spares(t) {
		t.unpaid, t.report = true, neutral
	}
}

// spares reports whether t is held against nobody: the budget does not pay for
// its repeat and the breaker is not told. net/http would send the request again
// by itself, had we not kept the body from it.
//
// It met the end of a used connection: each is good for one, and only while the
// host's answers are good; one that answers ill, or not at all, earns nobody a
// repeat. A request that cannot have been looked at is spared once in any case,
// since many of them can share a connection. Or it was refused, as one too many
// for its connection, whose limit nobody knew yet; the second refusal on one
// connection says more.
func (op *operation) spares(t *try) bool {
	switch stale := t.stale(); {
	case stale && t.sight.alone && !op.host.unwell.Load():
		return t.verdict == Transient || t.verdict == Unsent
	case stale:
		return t.verdict == Unsent && !op.hurried
	case t.resp == nil && isRefusedStream(t.err):
		return t.verdict == Unsent && op.firstRefusal(t.sight.conn)
	}
	return false
}

// firstRefusal notes that conn refused a stream, and reports whether the attempt
// before was not refused by the same.
func (op *operation) firstRefusal(conn net.Conn) bool {
	before := op.refusedOn
	op.refusedOn = conn
	return conn != before
}

// stale reports whether the attempt met the end of a connection that had served
// before, which says nothing about the host. A time-out does, and so do an
// HTTP/2 stream that was ended on a connection that lives, be it by NO_ERROR, and a
// request that net/http would not have stopped sending.
func (t *try) stale() bool {
	_, ofStream := errors.AsType[streamError](t.err)
	return t.resp == nil && t.sight.reused && !isTimeout(t.err) && !ofStream &&
		!isRefusedStream(t.err) && !errors.Is(t.err, errSentAgain)
}

// judge reaches the judgement of an attempt at req.
func (t *Transport) judge(req *http.Request, last *try) {
	stop := gone(req)
	switch {
	case last.resp != nil:
		last.judgement = judgeAnswer(last.resp, last.sight, last.pending)
		if last.err != nil && stop == nil && last.verdict == Done { // its body was cut short
			last.verdict, last.report = Transient, failure
		}
	case stop != nil:
		last.fatal(stop, last.believed)
		last.err = joinCause(last.err, context.Cause(req.Context()))
		if !errors.Is(last.err, stop) { // net/http says no more of Request.Cancel than its text
			last.err = &concealed{last.err.Error(), fmt.Errorf("%w: %w", stop, last.err)}
		}
		return
	default:
		last.judgement = judgeError(last.err, last.sight, last.believed)
		last.once = last.once || last.verdict == Transient && brokeUpload(req, last.err, last.sight)
		if inner, ok := errors.AsType[*Error](last.err); ok {
			last.believe(inner, inner.Method == methodOf(req) && inner.URL == plainURL(req.URL))
		}
	}
	if t.cfg.Classify != nil {
		if v := t.cfg.Classify(req, last.resp, last.err, last.verdict); v != last.verdict && v < Unsent {
			last.overrule(v)
		}
	}
}

// fatal is the judgement of an attempt that nothing can mend and that says
// nothing about the host.
func (t *try) fatal(stop error, believed bool) {
	t.stop = stop
	t.judgement = judgement{verdict: Fatal, report: neutral}
	if believed && t.sight.replays == 0 && t.sight.neverSent() {
		t.outcome = NotSent
	}
}

// believe takes the word of a transport of ours below us, if it speaks of the
// same request. What became of another one that Base made (a token fetched
// before ours, a note written after it) proves nothing of ours.
func (t *try) believe(e *Error, same bool) {
	switch {
	case errors.Is(e.Stop, ErrOpen):
		t.verdict, t.report = Fatal, neutral
		if same {
			t.outcome = e.Outcome
		}
	case !same:
	case e.Outcome == NotSent:
		t.judgement = judgement{verdict: Unsent, outcome: NotSent, report: failure}
	default:
		t.judgement = judgement{verdict: Transient, report: failure}
	}
}

// overrule takes the caller's verdict. What the server can have done stays.
func (t *try) overrule(v Verdict) {
	t.verdict = v
	switch v {
	case Done, Fatal:
		t.report = neutral
		if t.resp != nil {
			t.report = success
		}
	case Transient:
		t.report = failure
	case Throttled:
		t.report = neutral
		if t.resp != nil && t.resp.StatusCode == http.StatusServiceUnavailable {
			t.report = failure
		}
	case Unsent: // not his to say
	}
}

// pending reports whether something sent under the key before t's answer came
// ended unknown, so that a 409 can be that one, still running: an earlier attempt,
// or a copy that net/http sent again.
func (op *operation) pending(t *try) bool {
	switch {
	case op.key.value == "" || op.key.resumed:
		return op.key.resumed
	case t.sight.replays > 0:
		return true
	}
	for _, a := range op.attempts[op.earlier:] {
		if a.Outcome == Unknown {
			return true
		}
	}
	return false
}

// timeUp reports whether Config.Timeout is over.
func (op *operation) timeUp() bool {
	total := op.t.cfg.Timeout
	return total > 0 && time.Since(op.began) >= total
}

// joinCause adds the caller's own reason to what else is known. A context that
// ended without one says no more than the Stop reason does.
func joinCause(err, cause error) error {
	switch {
	case err == nil:
		return cause
	case cause == nil, errors.Is(err, cause), cause == context.Canceled, cause == context.DeadlineExceeded: //nolint:errorlint // just these
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
