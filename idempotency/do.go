package idempotency

import (
	"bytes"
	"context"
	"errors"
	"net/http"
)

// Do runs fn unless it has been run under this key before, and returns its
// result, which is stored first. fingerprint is of what the key is used for, as
// made by [FingerprintOf]: the same key with another one is refused.
//
// fn is run on the caller's goroutine, under a context that ends when the lease
// on the key is lost or the run takes too long, and not with ctx. An error that
// fn returns leaves the outcome unknown, unless it is [ErrNotApplied] or
// [NotApplied] was called: then the key is free again, but after [Reexecute],
// where fn speaks for this run only and the outcome of the key stays unknown. Do
// returns fn's error in all these cases, and otherwise an [*Error].
func (e *Engine) Do(ctx context.Context, scope, key string, fingerprint Fingerprint, fn func(context.Context) ([]byte, error)) ([]byte, error) {
	if key == "" || scope == "" {
		return nil, errors.New("idempotency: Do: scope and key must not be empty")
	}
	job := &job{fn: fn}
	o := &operation{engine: e, claim: e.newClaim(e.idOf(scope, key), fingerprint), scope: scope, key: key}
	err := o.serve(ctx, job)
	switch {
	case err != nil: // also where fn says that nothing was done, and an earlier run may have
		return nil, err
	case job.err != nil:
		return nil, job.err
	}
	return job.answer.Body, nil
}

// job is a function as work.
type job struct {
	fn     func(context.Context) ([]byte, error)
	answer Answer
	err    error
}

func (j *job) do(ctx context.Context) (Answer, ending) {
	body, err := j.fn(ctx)
	switch {
	case err == nil:
		return Answer{Body: body}, finished
	case errors.Is(err, ErrNotApplied):
		j.err = err
		return Answer{}, notApplied
	}
	j.err = err
	return Answer{}, uncertain
}

// deliver takes over fn's own error too where its transaction was committed all
// the same.
func (j *job) deliver(a Answer, from source) {
	if from != theRun {
		a.Body = bytes.Clone(a.Body) // the caller may alter it, and a store may share it
	}
	if from != theRun || j.err == nil {
		j.answer, j.err = a, nil
	}
}

func (j *job) request() *http.Request { return nil }

// Settle is for operators: it stores the answer for a key whose outcome is
// unknown. An *Error with ErrInProgress means that somebody runs under it; one
// without an Err* of this package's, that the key is not known.
func (e *Engine) Settle(ctx context.Context, scope, key string, answer Answer) error {
	if answer.Status != 0 {
		if err := answer.checkHTTP(); err != nil {
			return err
		}
	}
	return e.resolve(ctx, scope, key, func(ctx context.Context, h Holder) error {
		return e.cfg.Store.Complete(ctx, h, answer.encode(e.keeps), e.cfg.keep())
	})
}

// Forget is for operators: it says of a key whose outcome is unknown that
// nothing was done under it, so that the next repetition runs. Its errors are
// those of Settle.
func (e *Engine) Forget(ctx context.Context, scope, key string) error {
	return e.resolve(ctx, scope, key, func(ctx context.Context, h Holder) error { return e.cfg.Store.Release(ctx, h) })
}

func (e *Engine) resolve(ctx context.Context, scope, key string, settle func(context.Context, Holder) error) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StoreTimeout)
	defer cancel()
	id := e.idOf(scope, key)
	rec, err := e.cfg.Store.Lookup(ctx, id)
	if err != nil {
		return &Error{Reason: ErrStore, Cause: err}
	}
	switch rec.State {
	case Absent:
		return errors.New("idempotency: the key is not known")
	case Running:
		return &Error{Reason: ErrInProgress, RetryAfter: patience(rec)}
	case Completed, Expired:
		return errors.New("idempotency: the key is settled")
	case Unknown:
	}
	claim := e.newClaim(id, rec.Fingerprint)
	claim.TakeOver = true
	rec, claimed, err := e.cfg.Store.Claim(ctx, claim)
	if err == nil && !claimed {
		return &Error{Reason: ErrInProgress, RetryAfter: patience(rec)}
	}
	if err == nil {
		err = settle(ctx, claim.Holder())
	}
	if err != nil {
		return &Error{Reason: ErrStore, Cause: err}
	}
	return nil
}
