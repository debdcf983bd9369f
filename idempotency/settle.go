package idempotency

import (
	"context"
	"errors"
	"time"
)

// settleFor is how long an operation goes on trying, behind its caller's back,
// to store what came of it when the store is down.
const settleFor = 15 * time.Minute

// persist stores what came of a run: as long as the caller can be expected to
// wait, then in the background. The store being down is not the run's fault, and
// as long as the key is not taken over, late is as good as at once.
func (o *operation) persist(what request, result []byte) error {
	err := o.callUnder(o.settling.unused(), what, result)
	if err == nil || errors.Is(err, ErrLost) {
		return err
	}
	ctx := o.ctx.caller
	err = insist(ctx, o.engine.cfg.Lease, func() error { return o.call(what, result) })
	if err == nil || errors.Is(err, ErrLost) {
		return err
	}
	o.tell(ctx, Event{Kind: StoreFailed, Err: err})
	alone := o.alone()
	go func() {
		if err := insist(ctx, settleFor, func() error { return alone.call(what, result) }); err != nil {
			alone.tell(ctx, Event{Kind: StoreFailed, Err: err})
		}
	}()
	return err
}

func (o *operation) complete(result []byte) error { return o.persist(completion, result) }

func (o *operation) release() error {
	err := o.persist(release, nil)
	if err == nil {
		o.tell(&o.ctx, Event{Kind: NothingDone})
	}
	return err
}

func (o *operation) abandon() error {
	o.letGo() // a renewal that comes after it would hold the key for one more lease
	o.tell(&o.ctx, Event{Kind: OutcomeLost})
	return o.persist(abandonment, nil)
}

// lookup asks the store how the key stands.
func (o *operation) lookup() (rec Record, err error) {
	cfg := &o.engine.cfg
	ctx := o.ctx.caller
	err = insist(ctx, cfg.StoreTimeout, func() error {
		c, cancel := context.WithTimeout(ctx, cfg.StoreTimeout)
		defer cancel()
		rec, err = cfg.Store.Lookup(c, o.claim.ID)
		return err
	})
	return rec, err
}
