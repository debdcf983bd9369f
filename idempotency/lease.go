package idempotency

import (
	"errors"
	"time"
)

// hold begins the renewals, where there are any; elsewhere the context sees to
// the limit of the run.
func (o *operation) hold() {
	l, now := &o.lease, time.Now()
	if !o.engine.renews {
		if limit := o.engine.cfg.RunLimit; limit > 0 {
			o.ctx.limit = now.Add(limit)
		}
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began, l.renewed = now, now
	l.timer = time.AfterFunc(o.untilRenewal(now), o.renew)
}

// untilRenewal is the time until the next renewal, or until the run has taken
// too long.
func (o *operation) untilRenewal(now time.Time) time.Duration {
	next := o.engine.cfg.Lease / 3
	if limit := o.engine.cfg.RunLimit; limit > 0 {
		next = min(next, o.lease.began.Add(limit).Sub(now))
	}
	return next
}

// renew renews the lease once and sees to the next time.
func (o *operation) renew() {
	cfg, l := &o.engine.cfg, &o.lease
	asked := time.Now()
	if cfg.RunLimit > 0 && asked.Sub(l.began) >= cfg.RunLimit {
		o.ctx.cancel(ErrRunLimit)
		return
	}
	err := o.call(renewal, nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	now := time.Now()
	_, joint := o.heard()
	switch {
	case joint && err != nil: // its own transaction holds the key, or has settled it
		l.timer.Reset(o.untilRenewal(now))
	case err == nil:
		l.renewed = asked
		l.timer.Reset(o.untilRenewal(now))
	case errors.Is(err, ErrLost):
		o.ctx.cancel(ErrLeaseLost)
	case cfg.OnUnknown.takesOver() && now.Sub(l.renewed) >= cfg.Lease:
		// For all that is known here somebody may have taken over.
		o.ctx.cancel(ErrLeaseLost)
	default:
		l.timer.Reset(cfg.Lease / 10)
	}
}

// letGo ends the renewals. One under way may still arrive; that does no harm.
func (o *operation) letGo() {
	l := &o.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	if l.timer != nil {
		l.timer.Stop()
	}
}
