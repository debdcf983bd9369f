package resilient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// RoundTrip makes the operation that req asks for: as many attempts as are
// harmless, allowed and worth their while. An answer is returned as that answer
// whatever its status; an error is an [*Error] that says whether the server can
// have acted.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		closeBody(req.Body)
		return nil, &Error{Operation: Operation{Method: methodOf(req), Outcome: NotSent}, cause: errors.New("http: nil Request.URL")}
	}
	start := t.now()
	h := t.hosts.acquire(t.hostOf(req))
	defer h.release()
	if !h.budget.full() {
		h.budget.deposit(start)
	}
	var (
		last   try
		no     refusal
		passes = t.passes(req) && !h.loses(start)
	)
	if passes {
		if last, no = t.passThrough(req, h, start); last.resp != nil && last.verdict == Done {
			h.heard(last.report)
			return last.resp, nil
		}
	}
	op, err := t.begin(req, h, start)
	if err != nil {
		return op.end(&try{err: err}, nil)
	}
	var stop error
	switch {
	case !passes:
		last, stop = op.attemptAfter(nil, 0)
	case no.err != nil:
		stop = op.refused(no)
	}
	if stop != nil {
		return op.end(&try{}, stop)
	}
	return op.run(last)
}

// passes reports whether the first attempt can be the caller's own request. A
// replaced http.DefaultTransport may lead back to us, so it gets a marked copy.
func (t *Transport) passes(req *http.Request) bool {
	if !t.plain || !isSafe(req.Method) || hasBody(req) || req.Response != nil || scopeOf(req.Context()) != nil {
		return false
	}
	if _, err := t.cfg.Keys.callerKey(req.Header); err != nil {
		return false // begin refuses it before anything is sent
	}
	_, fixed := t.base(req.URL.Scheme)
	return fixed
}

// passThrough makes the first attempt of a safe request, nearly always the only
// one, with no copy and no record.
func (t *Transport) passThrough(req *http.Request, h *host, start time.Duration) (last try, no refusal) {
	if h.gate != nil {
		var leave pass
		deadline, _ := req.Context().Deadline()
		leave, no = h.gate.enter(visit{ctx: req.Context(), cancel: req.Cancel, deadline: deadline, now: t.epoch.Add(start)})
		if no.err != nil {
			return last, no
		}
		defer func() { leave.done(last.report) }()
	}
	base, _ := t.base(req.URL.Scheme)
	last.resp, last.err = base.RoundTrip(req) //nolint:bodyclose // the caller closes it, or the loop
	if last.resp != nil && last.err == nil && last.resp.StatusCode < http.StatusBadRequest && t.cfg.Classify == nil {
		last.judgement = judgement{verdict: Done, outcome: Answered, report: success}
		return last, no
	}
	now := time.Now()
	last.took = now.Sub(t.epoch) - start
	last.start = now.Add(-last.took) // not from epoch: the clock may have been set since
	last.sort()
	if last.resp != nil {
		complete(last.resp, req)
	}
	t.judge(req, &last)
	return last, no
}

// run is the loop: judge, wait, attempt. last is kept until the next attempt can
// be made, so that whatever ends the operation meanwhile, the answer it has can be
// returned.
func (op *operation) run(last try) (*http.Response, error) {
	for {
		op.host.heard(last.report)
		if last.resp == nil && last.report == failure {
			op.host.lose(op.t.now())
		}
		wait, stop := time.Duration(0), last.stop
		final := last.verdict == Done || last.verdict == Fatal
		if !final {
			wait, stop = op.next(&last)
		}
		op.record(&last, wait)
		if final || stop != nil {
			return op.end(&last, stop)
		}
		if last.resp != nil {
			wait = setAside(last.resp, wait)
		}
		next, stop := op.attemptAfter(&last, wait)
		if stop != nil {
			op.refund(&last)
			return op.end(&last, stop)
		}
		last = next
	}
}

// attemptAfter waits, asks for leave and makes an attempt, after last or as the
// first. The leave is given back whatever happens, a panic below included. The
// error is why there is no attempt.
func (op *operation) attemptAfter(last *try, wait time.Duration) (next try, stop error) {
	if stop = op.sleep(wait); stop != nil {
		return next, stop
	}
	leave, stop := op.admit(last)
	if stop != nil {
		return next, stop
	}
	returned := false
	defer func() {
		if !returned { // Base, Prepare or Classify panicked
			next.drop()
			op.upload.finish(false)
		}
		if next.resp == nil {
			next.finish()
		}
		leave.done(next.report)
		if !returned {
			if last != nil && next.start.IsZero() { // paid for, and not sent
				op.refund(last)
				last.drop()
			}
			op.abandoned(&next)
		}
	}()
	stop = op.attempt(&next, last)
	returned = true
	return next, stop
}

// abandoned tells the observer of an operation that a panic ends, so that what
// it began for it ends too. The panic goes on.
func (op *operation) abandoned(last *try) {
	last.fatal(nil, false)
	last.err = errPanic
	if !last.start.IsZero() { // else it was not handed to Base
		last.took = time.Since(last.start)
		op.record(last, 0)
	}
	_, _ = op.end(last, nil) //nolint:bodyclose // there is no answer
}

// next is all policy and no I/O: how long to wait for the next attempt, or why
// there is none. The budget is asked last, since asking spends.
func (op *operation) next(last *try) (time.Duration, error) {
	now := time.Now()
	op.heed(last, now)
	worthwhile := last.report != failure || op.host.fail(op.start.Sub(op.t.epoch), op.t.now())
	if stop := op.mayRepeat(last); stop != nil {
		return 0, stop
	}
	wait, ok := op.pause(last)
	if !ok {
		return 0, ErrAttempts
	}
	op.notBefore = now.Add(wait)
	switch {
	case last.rest > op.t.cfg.MaxRetryAfter:
		return 0, ErrNoTime
	case !op.deadline.IsZero() && !op.notBefore.Before(op.deadline):
		return 0, ErrNoTime
	case op.key.expired(op.notBefore, op.t.cfg.Keys.TTL):
		return 0, ErrKeyExpired
	case !op.pays(last):
	case !worthwhile:
		return 0, errDoubt
	case !op.host.budget.withdraw(op.t.now()):
		return 0, ErrBudget
	}
	return wait, nil
}

// heed takes note of what the server asked for, whether or not this operation
// goes on.
func (op *operation) heed(last *try, now time.Time) {
	if last.verdict == Throttled {
		op.host.unwell.Store(true)
	}
	if last.rest <= 0 {
		return
	}
	op.notBefore = now.Add(last.rest)
	if since := op.t.now(); last.verdict == Throttled && last.rest <= op.t.cfg.MaxRetryAfter {
		op.host.coolDown(since+last.rest, since)
	}
}

// mayRepeat decides whether another attempt is harmless and possible at all.
func (op *operation) mayRepeat(last *try) error {
	harmless := op.repeatable || last.verdict == Unsent
	if last.verdict == Throttled && last.resp != nil && last.sight.replays == 0 && !harmless && op.t.cfg.TrustRefusal != nil {
		harmless = op.t.cfg.TrustRefusal(last.resp)
	}
	switch {
	case !harmless && op.unvouched:
		return fmt.Errorf("%w: set Config.HonorsKeys if %s honours %s", ErrUnsafe, serverName(op.req.URL), op.t.cfg.Keys.Header)
	case !harmless:
		return ErrUnsafe
	case len(op.attempts)-op.earlier+last.sight.replays+1 >= op.maxAttempts:
		return ErrAttempts
	case last.once && op.onceSpent:
		return ErrAttempts
	}
	op.onceSpent = op.onceSpent || last.once
	return conceal(op.upload.replayable(), op.req)
}

// record writes down an attempt, net/http's own copies of it included, and
// tells the observer.
func (op *operation) record(last *try, wait time.Duration) {
	a := Attempt{
		Method: methodOf(op.req), Host: op.req.URL.Host, Start: last.start, Duration: last.took,
		Err: conceal(last.err, op.req), Verdict: last.verdict, Outcome: last.outcome, Wait: wait,
	}
	if last.resp != nil {
		a.Status = last.resp.StatusCode
		a.ProtoMajor, a.ProtoMinor = uint8(last.resp.ProtoMajor), uint8(last.resp.ProtoMinor)
		a.ReplayedAnswer = isReplayed(last.resp.Header)
	}
	if op.wish != nil && last.outcome != NotSent {
		op.wish.arrived(op.key.firstSent)
	}
	for range last.sight.replays {
		op.note(Attempt{Method: a.Method, Host: a.Host, Start: a.Start, Duration: a.Duration, Verdict: Transient, Replay: true})
	}
	op.note(a)
}

func (op *operation) note(a Attempt) {
	a.N = len(op.attempts) + 1
	op.attempts = append(op.attempts, a)
	op.t.cfg.Observer.attempt(op, a)
}

// end closes the operation: with the answer if there is one and the caller
// still wants it, else with an error.
func (op *operation) end(last *try, stop error) (*http.Response, error) {
	op.stop = conceal(stop, op.req)
	if stop == nil {
		op.notBefore = time.Time{}
	}
	resp := last.resp
	if left := gone(op.req); resp != nil && left != nil && errors.Is(stop, left) {
		closeBody(resp.Body)
		resp = nil
	}
	op.upload.finish(resp != nil)
	if resp != nil {
		if operationOf(resp) != op { // its attempt was the caller's own request
			op.answered(resp)
		}
		op.outcome = Answered
		if o := &op.t.cfg.Observer; o.End != nil && (!o.calm() || trouble(op.attempts, op.stop)) {
			o.End(op, op.snapshot(), nil)
		}
		return resp, nil
	}
	if op.outcome = op.failedOutcome(); op.outcome == NotSent && op.earlier == 0 {
		op.key.firstSent = time.Time{} // no server can know the key: its time has not begun
	}
	if ctx := op.req.Context(); stop != nil && errors.Is(stop, ctx.Err()) {
		last.err = joinCause(last.err, context.Cause(ctx))
	}
	err := &Error{Operation: op.snapshot(), cause: conceal(last.err, op.req)}
	op.t.cfg.Observer.end(op, err.Operation, err)
	return nil, err
}

// failedOutcome is NotSent only if every attempt of every hop is.
func (op *operation) failedOutcome() Outcome {
	if op.acted {
		return Unknown
	}
	for _, a := range op.attempts[op.earlier:] {
		if a.Outcome != NotSent {
			return Unknown
		}
	}
	return NotSent
}
