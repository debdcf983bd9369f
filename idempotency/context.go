package idempotency

import (
	"context"
	"sync"
	"time"

	"github.com/go-resilient/resilient"
)

// runContext is the context of a run. It has the values of its caller's and
// outlives it: what has begun under a key is finished. It ends when the lease is
// lost, when the run takes too long, and with the run. The client of package
// resilient finds in it the key that those of its requests derive from.
//
// What costs something is made when somebody asks for it; most handlers do not.
type runContext struct {
	caller context.Context
	op     any       // the operation
	parent ID        // of the keys that derive from it
	first  time.Time // when an earlier run began, zero if there was none
	limit  time.Time // when it ends by itself, zero if it does not

	mu    sync.Mutex
	inner context.Context // nil until asked for
	end   context.CancelCauseFunc
	timer *time.Timer // for limit; nil until asked for
	cause error       // not nil: it ended before it was asked for
}

func (c *runContext) Deadline() (time.Time, bool) { return time.Time{}, false }

func (c *runContext) Done() <-chan struct{} { return c.made().Done() }

func (c *runContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inner != nil:
		return c.inner.Err()
	case c.ended() != nil:
		return context.Canceled
	}
	return nil
}

// ended is why the context ended before it was asked for, nil if it did not.
func (c *runContext) ended() error {
	if c.cause == nil && !c.limit.IsZero() && !time.Now().Before(c.limit) {
		c.cause = ErrRunLimit
	}
	return c.cause
}

func (c *runContext) Value(key any) any {
	if key == (operationKey{}) {
		return c.op
	}
	return c.made().Value(key)
}

func (c *runContext) made() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		ctx := resilient.WithParentKey(context.WithoutCancel(c.caller), resilient.Key{Value: c.parent.String(), FirstSent: c.first})
		c.inner, c.end = context.WithCancelCause(ctx)
		if cause := c.ended(); cause != nil {
			c.end(cause)
		} else if !c.limit.IsZero() {
			c.timer = time.AfterFunc(time.Until(c.limit), func() { c.cancel(ErrRunLimit) })
		}
	}
	return c.inner
}

// cancel ends the context, unless it has ended.
func (c *runContext) cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	switch {
	case c.inner != nil:
		c.end(cause)
	case c.cause == nil:
		c.cause = cause
	}
}

// operationKey is what an operation is found by in its context.
type operationKey struct{}

// storeContext is a context for one call of a store, with a deadline that costs
// something only if the store waits: it counts from when the store first asks.
type storeContext struct {
	context.Context
	timeout time.Duration

	mu     sync.Mutex
	inner  context.Context // nil until asked for
	end    context.CancelFunc
	closed bool
}

func (c *storeContext) Deadline() (time.Time, bool) { return c.made().Deadline() }

func (c *storeContext) Done() <-chan struct{} { return c.made().Done() }

func (c *storeContext) Err() error { return c.made().Err() }

func (c *storeContext) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner == nil {
		return c.Context.Value(key)
	}
	return inner.Value(key) // package context looks for itself there
}

func (c *storeContext) made() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.end = context.WithTimeout(c.Context, c.timeout)
		if c.closed {
			c.end()
		}
	}
	return c.inner
}

// unused is c, or another one if c has served.
func (c *storeContext) unused() *storeContext {
	if c.Context != nil {
		return new(storeContext)
	}
	return c
}

// close ends the context.
func (c *storeContext) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.inner != nil {
		c.end()
	}
}
