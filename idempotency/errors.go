package idempotency

import (
	"errors"
	"fmt"
	"time"
)

// Why a key was refused. [Engine.Do] returns them inside an [*Error]; a
// middleware answers with the problem of that name.
var (
	// ErrInProgress: a run under the key has not ended.
	ErrInProgress = errors.New("a run under this key is in progress")
	// ErrReused: the key was used for something else.
	ErrReused = errors.New("the key was used for another request")
	// ErrOutcomeUnknown: a run under the key ended, and nobody knows what it did.
	ErrOutcomeUnknown = errors.New("the outcome of an earlier run under this key is unknown")
	// ErrResultExpired: the key is settled, and the answer is no longer kept.
	ErrResultExpired = errors.New("the answer given under this key is no longer kept")
	// ErrStore: the store could not be asked, and nothing was done because of this
	// call; an earlier one may have.
	ErrStore = errors.New("the store of keys cannot be reached")
)

var (
	// ErrNotApplied says that nothing was done under a key, so that it may be
	// used again: returned, or wrapped, by the function of [Engine.Do] and by a
	// [RecoverFunc].
	ErrNotApplied = errors.New("idempotency: nothing was done")
	// ErrLeaseLost is the cause that ends the context of a run whose key another
	// run has taken over, or may.
	ErrLeaseLost = errors.New("idempotency: the lease on the key is lost")
	// ErrRunLimit is the cause that ends the context of a run that has taken
	// longer than Config.RunLimit.
	ErrRunLimit = errors.New("idempotency: the run has taken longer than Config.RunLimit")
)

// An Error says why a key was refused.
type Error struct {
	// Reason is ErrInProgress, ErrReused, ErrOutcomeUnknown, ErrResultExpired
	// or ErrStore.
	Reason error
	// RetryAfter is when to ask again; zero means that asking again is no use.
	RetryAfter time.Duration
	// Cause is what the store or a RecoverFunc returned; nil if neither failed.
	Cause error
}

// Error is the reason, and the cause if there is one.
func (e *Error) Error() string {
	if e.Cause == nil {
		return "idempotency: " + e.Reason.Error()
	}
	return fmt.Sprintf("idempotency: %v: %v", e.Reason, e.Cause)
}

// Unwrap lets errors.Is find the reason and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Cause}
}
