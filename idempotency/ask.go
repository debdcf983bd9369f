package idempotency

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// request is what an operation that holds a key asks of the store.
type request uint8

const (
	renewal request = iota
	completion
	release
	abandonment
)

// call asks the store once.
func (o *operation) call(what request, result []byte) error {
	return o.callUnder(new(storeContext), what, result)
}

func (o *operation) callUnder(c *storeContext, what request, result []byte) error {
	cfg := &o.engine.cfg
	timeout := cfg.StoreTimeout
	if what == renewal {
		timeout = min(timeout, cfg.Lease/3) // there is no use in one that outlasts the lease
	}
	c.Context, c.timeout = o.ctx.caller, timeout
	defer c.close()
	switch holder := o.claim.Holder(); what {
	case renewal:
		return cfg.Store.Renew(c, holder, cfg.Lease, o.claim.Keep)
	case completion:
		return cfg.Store.Complete(c, holder, result, cfg.keep())
	case release:
		return cfg.Store.Release(c, holder)
	default:
		return cfg.Store.Abandon(c, holder, o.claim.Keep)
	}
}

// insist calls the store until it answers, for at most so long.
func insist(ctx context.Context, atMost time.Duration, call func() error) error {
	end := time.Now().Add(atMost)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := call()
		if err == nil || errors.Is(err, ErrLost) {
			return err
		}
		if time.Until(end) <= pause || !sleep(ctx, pause/2+rand.N(pause/2)) {
			return err
		}
	}
}

// sleep waits, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
