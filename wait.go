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
	if last.stale() && !op.hurried {
		op.hurried = true
		return 0, true
	}
	next := op.schedule.NextBackOff()
	if next < 0 {
		return 0, false
	}
	return pause(next, max(last.rest, op.host.cooling(op.t.now()))), true
}

// stale reports whether the attempt met the end of a connection that had served
// before, which says nothing about the host. A time-out does, and so does an
// HTTP/2 stream that was ended on a connection that lives.
func (t *try) stale() bool {
	return t.resp == nil && t.sight.reused && !isTimeout(t.err) && streamCode(t.err) == 0 && !isRefusedStream(t.err)
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
// lengthened meanwhile; never longer than a server may ask for.
func (op *operation) cool() error {
	for waited := time.Duration(0); ; {
		left := op.host.cooling(op.t.now())
		if left <= 0 {
			return nil
		}
		wait := pause(0, left)
		op.notBefore = time.Now().Add(wait)
		if waited += left; waited > op.t.cfg.MaxRetryAfter || !op.deadline.IsZero() && !op.notBefore.Before(op.deadline) {
			return ErrNoTime
		}
		if op.key.expired(op.notBefore, op.t.cfg.Keys.TTL) {
			return ErrKeyExpired
		}
		if stop := op.sleep(wait); stop != nil {
			return stop
		}
	}
}

func (op *operation) refund() {
	if !op.t.cfg.NoBudget {
		op.host.budget.refund(op.t.now())
	}
}
