package resilient

import (
	"fmt"
	"time"
)

// pause is the wait before the next attempt; false if the schedule has ended.
func (op *operation) pause(last *try) (time.Duration, bool) {
	if op.schedule == nil {
		if op.schedule = op.t.cfg.Backoff(); op.schedule == nil {
			op.schedule = newSchedule()
		}
	}
	next := time.Duration(0)
	if last.stale() && !op.hurried {
		op.hurried = true
	} else if next = op.schedule.NextBackOff(); next < 0 {
		return 0, false
	}
	return pause(next, max(last.rest, op.host.cooling(op.t.now())), op.t.chance), true
}

// sleep waits, and wakes at once if the caller gives up.
func (op *operation) sleep(wait time.Duration) error {
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-op.req.Context().Done():
		case <-op.req.Cancel:
		}
	}
	return gone(op.req)
}

// admit asks for leave to make an attempt, after last or as the first.
func (op *operation) admit(last *try) (pass, error) {
	if stop := gone(op.req); stop != nil {
		return pass{}, stop
	}
	now := op.start
	if last != nil || op.t.cfg.CoolFirst {
		if stop := op.cool(); stop != nil {
			return pass{}, stop
		}
		now = time.Now()
	}
	if op.key.expired(now, op.t.cfg.Keys.TTL) {
		return pass{}, ErrKeyExpired
	}
	if op.host.gate == nil {
		return pass{}, nil
	}
	leave, no := op.host.gate.enter(visit{
		ctx: op.req.Context(), cancel: op.req.Cancel,
		started: op.start, deadline: op.deadline, now: now,
	})
	if no.err != nil {
		return pass{}, op.refused(no)
	}
	return leave, nil
}

// refused is why the gate gave no leave.
func (op *operation) refused(no refusal) error {
	if stop := gone(op.req); stop != nil {
		return stop
	}
	op.notBefore = no.next
	if left := time.Until(no.next); left > 0 {
		return fmt.Errorf("%w: next probe in %v", ErrOpen, left.Round(time.Millisecond))
	}
	return ErrOpen
}

// cool waits until the host's cool-down is over, which others may have set or
// lengthened meanwhile; in all never longer than a server may ask for. Whoever
// finds it lengthened is one of many, and the more the longer it lasts: they spread
// out accordingly, since all at once they would knock over what has just come back,
// but not beyond the time that there is.
func (op *operation) cool() error {
	for waited := time.Duration(0); ; {
		left := op.host.cooling(op.t.now())
		if left <= 0 {
			return nil
		}
		room := op.t.cfg.MaxRetryAfter - waited - left
		wait, now := pause(0, left, op.t.chance), time.Now()
		spread := min(waited, room)
		if !op.deadline.IsZero() {
			spread = min(spread, op.deadline.Sub(now)-wait-1)
		}
		wait += op.t.chance.upTo(spread)
		op.notBefore = now.Add(wait)
		if room < 0 || !op.deadline.IsZero() && !op.notBefore.Before(op.deadline) {
			return ErrNoTime
		}
		if op.key.expired(op.notBefore, op.t.cfg.Keys.TTL) {
			return ErrKeyExpired
		}
		if stop := op.sleep(wait); stop != nil {
			return stop
		}
		waited += wait
	}
}

// pays reports whether another attempt after last is the budget's to grant.
func (op *operation) pays(last *try) bool { return !op.t.cfg.NoBudget && !last.unpaid }

func (op *operation) refund(last *try) {
	if op.pays(last) {
		op.host.budget.refund(op.t.now())
	}
}
