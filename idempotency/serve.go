package idempotency

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

// work is what a key protects.
type work interface {
	// do runs it, and returns its answer and what it says of its outcome.
	do(ctx context.Context) (Answer, ending)
	// deliver hands an answer to whoever asked.
	deliver(a Answer, from source)
	// request is the request that asked, nil if none did.
	request() *http.Request
}

// source says where an answer comes from.
type source uint8

const (
	theRun         source = iota // itself, and what it had put into the header is there
	theTransaction               // of the run
	anEarlierRun
)

// serve is the whole of it: claim the key, work, store the answer, deliver. The
// error, an *Error, is why nothing was delivered.
func (o *operation) serve(ctx context.Context, w work) error {
	o.ctx.op, o.ctx.parent, o.ctx.caller = o, o.claim.ID, context.WithoutCancel(ctx)
	rec, claimed, err := o.enter(ctx)
	if err != nil {
		return err
	}
	if !claimed {
		return o.replay(ctx, rec, w)
	}
	o.fence = rec.Fence
	began := RunBegan
	if rec.TakenOver {
		began, o.ctx.first = RunTakenOver, time.Now().Add(-rec.Age)
	}
	o.tell(ctx, Event{Kind: began, Age: rec.Age})
	return o.run(w, rec)
}

// enter claims the key, or says why that cannot be.
func (o *operation) enter(ctx context.Context) (Record, bool, error) {
	var deadline time.Time
	if wait := o.engine.cfg.Wait; wait > 0 {
		deadline = time.Now().Add(wait)
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		rec, claimed, err := o.take(ctx)
		if err != nil {
			return rec, false, o.refuse(ctx, StoreFailed, rec, &Error{Reason: ErrStore, RetryAfter: time.Second, Cause: err})
		}
		if !claimed && rec.Fingerprint != o.claim.Fingerprint {
			return rec, false, o.refuse(ctx, Mismatched, rec, &Error{Reason: ErrReused})
		}
		if claimed || rec.State != Running || deadline.IsZero() {
			return rec, claimed, nil
		}
		left := time.Until(deadline)
		if left <= 0 || !sleep(ctx, min(left, pause/2+rand.N(pause))) {
			return rec, false, nil
		}
	}
}

// take claims once, and again if the store fails for a moment: the same claim, so
// that one that took place unheard is not lost. A store that hangs is not asked
// again. If it never answers, what it may have claimed is given back when it does.
func (o *operation) take(ctx context.Context) (Record, bool, error) {
	giveBack := release
	if o.claim.TakeOver {
		giveBack = abandonment
	}
	for pause := 20 * time.Millisecond; ; pause *= 3 {
		rec, claimed, err := o.claimUnder(o.claiming.unused())
		if err == nil || errors.Is(err, ErrFull) {
			return rec, claimed, err
		}
		hangs := errors.Is(err, context.DeadlineExceeded)
		if hangs || pause > 100*time.Millisecond || !sleep(ctx, pause) {
			alone := o.alone()
			go insist(o.ctx.caller, o.engine.cfg.Lease, func() error { return alone.call(giveBack, nil) })
			return Record{}, false, err
		}
	}
}

// claimUnder does not end with the caller: a claim that is cut off may have taken
// place.
func (o *operation) claimUnder(c *storeContext) (Record, bool, error) {
	c.Context, c.timeout = o.ctx.caller, o.engine.cfg.StoreTimeout
	defer c.close()
	return o.engine.cfg.Store.Claim(c, o.claim)
}

// replay hands out what the record holds for a run that is not ours.
func (o *operation) replay(ctx context.Context, rec Record, w work) error {
	switch rec.State {
	case Completed:
		answer, err := decodeAnswer(rec.Result)
		if err == nil && o.http {
			err = answer.checkHTTP()
		}
		if err != nil {
			return o.refuse(ctx, StoreFailed, rec, &Error{Reason: ErrStore, Cause: err})
		}
		o.tell(ctx, Event{Kind: Replayed, Status: answer.Status, Age: rec.Age})
		w.deliver(answer, anEarlierRun)
		return nil
	case Running:
		return o.refuse(ctx, InProgress, rec, &Error{Reason: ErrInProgress, RetryAfter: patience(rec)})
	case Expired:
		return o.refuse(ctx, ResultExpired, rec, &Error{Reason: ErrResultExpired})
	default:
		return o.refuse(ctx, UnknownHeld, rec, o.unknown())
	}
}

// patience is when to ask again for a run in progress: it may well take as long
// again as it has taken, and no longer than its lease.
func patience(rec Record) time.Duration {
	return max(min(rec.Age, rec.Left), time.Second)
}

// run does the work under the claim and settles the key.
func (o *operation) run(w work, rec Record) error {
	o.hold()
	defer o.letGo()
	defer o.ctx.cancel(context.Canceled)
	settled := false
	defer func() {
		if !settled { // the work panicked, or ended the goroutine
			o.abort()
		}
	}()
	if rec.TakenOver && o.engine.cfg.OnUnknown.recover != nil {
		done, err := o.recover(w, rec)
		if done {
			settled = true
			return err
		}
	}
	answer, end := w.do(&o.ctx)
	settled = true
	return o.settle(w, answer, end)
}

// recover asks what an earlier run did. It is done unless that was nothing.
func (o *operation) recover(w work, rec Record) (done bool, err error) {
	defer o.unsay() // what it says of itself is not the handler's word
	answer, err := o.engine.cfg.OnUnknown.recover(&o.ctx, Unresolved{
		Scope: o.scope, Key: o.key, Fence: o.fence, Age: rec.Age, Request: w.request(),
	})
	if err == nil && o.http {
		err = answer.checkHTTP()
	}
	var result []byte
	if err == nil {
		result = answer.encode(o.engine.keeps)
		answer, err = decodeAnswer(result) // as repetitions will get it
	}
	switch {
	case errors.Is(err, ErrNotApplied):
		return false, nil
	case err != nil:
		_ = o.abandon()
		return true, o.refuse(&o.ctx, UnknownHeld, rec, &Error{Reason: ErrOutcomeUnknown, RetryAfter: time.Second, Cause: err})
	}
	if err := o.complete(result); err != nil {
		return true, o.unsettled(w, answer, err)
	}
	o.tell(&o.ctx, Event{Kind: RunRecovered, Status: answer.Status, Age: rec.Age})
	w.deliver(answer, anEarlierRun)
	return true, nil
}

// settle writes down what came of the work, then delivers its answer.
func (o *operation) settle(w work, answer Answer, end ending) error {
	said, joint := o.heard()
	if said != finished && end != notApplied {
		end = said
	}
	if joint {
		return o.settleJoint(w, answer, end)
	}
	switch end {
	case notApplied, uncertain:
		// What the store has not heard yet it hears in the background.
		if err := o.giveUp(end); errors.Is(err, ErrLost) {
			return o.unsettled(w, answer, err)
		}
	default:
		if err := o.complete(answer.encode(o.engine.keeps)); err != nil {
			return o.unsettled(w, answer, err)
		}
		o.tell(&o.ctx, Event{Kind: RunCompleted, Status: answer.Status})
	}
	w.deliver(answer, theRun)
	return nil
}

// settleJoint asks the store whether the handler's transaction was committed:
// then the answer is the one stored with it, and if not, nothing was done. A
// transaction of which neither is certain yet holds the record, so that it can be
// given up only after it has ended.
func (o *operation) settleJoint(w work, answer Answer, end ending) error {
	if stored, ok := o.committed(); ok {
		w.deliver(stored, theTransaction)
		return nil
	}
	if err := o.giveUp(end); err != nil {
		if stored, ok := o.committed(); ok {
			w.deliver(stored, theTransaction)
			return nil
		}
		return o.unsettled(w, answer, err)
	}
	switch { // did it leave the answer to the transaction?
	case !o.http || answer.Status != 0:
	case end == uncertain:
		return o.unknown()
	default:
		answer = problemAnswer(problemNotApplied, "The transaction that would have done it was not committed.")
		w.deliver(answer, theTransaction)
		return nil
	}
	w.deliver(answer, theRun)
	return nil
}

// giveUp gives the key up for a run without an effect, or one that is uncertain.
// A run that was begun anew speaks for itself alone: the one before it may have
// done something, so the key stays unknown.
func (o *operation) giveUp(end ending) error {
	if end == uncertain || !o.ctx.first.IsZero() && o.engine.cfg.OnUnknown.reexecute {
		return o.abandon()
	}
	return o.release()
}

// committed returns the answer that the run's transaction has stored.
func (o *operation) committed() (Answer, bool) {
	rec, err := o.lookup()
	if err != nil || rec.State != Completed || rec.Fence != o.fence {
		return Answer{}, false
	}
	answer, err := decodeAnswer(rec.Result)
	if err == nil {
		o.tell(&o.ctx, Event{Kind: RunCompleted, Status: answer.Status})
	}
	return answer, err == nil
}

// unsettled is for an answer that could not be stored. If another run has the
// key now, its word counts; if nobody knows the key any more, or it has been taken
// for another request since, the answer at hand is still the truth; and if the
// store does not answer, nobody can say what a repetition will find.
func (o *operation) unsettled(w work, answer Answer, err error) error {
	var rec Record
	if errors.Is(err, ErrLost) {
		o.tell(&o.ctx, Event{Kind: LeaseLost, Err: ErrLeaseLost})
		rec, err = o.lookup()
	}
	switch {
	case err != nil:
		return &Error{Reason: ErrOutcomeUnknown, RetryAfter: time.Second, Cause: err}
	case rec.State != Absent && rec.Fingerprint == o.claim.Fingerprint:
		return o.replay(&o.ctx, rec, w)
	case o.http && answer.Status == 0:
		return o.unknown()
	}
	w.deliver(answer, theRun)
	return nil
}

// abort is for a run that panicked.
func (o *operation) abort() {
	said, _ := o.heard()
	if said != notApplied {
		said = uncertain
	}
	_ = o.giveUp(said)
}

// unknown is the error where the outcome is. A repetition is of use where it
// would settle that.
func (o *operation) unknown() *Error {
	err := &Error{Reason: ErrOutcomeUnknown}
	if o.engine.cfg.OnUnknown.takesOver() {
		err.RetryAfter = time.Second
	}
	return err
}

// refuse tells of a refusal and returns it.
func (o *operation) refuse(ctx context.Context, k Kind, rec Record, err *Error) error {
	o.tell(ctx, Event{Kind: k, Age: rec.Age, Err: err})
	return err
}
