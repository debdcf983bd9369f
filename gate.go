package resilient

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The numbers below were settled by simulation: a shared client and fleets of
// 20 and 200 against a server that fails for seconds or minutes, browns out,
// hangs, or fails one call in five. Each comment says what moving it costs.
const (
	probeShortest = 350 * time.Millisecond // shorter: a fleet's probes weigh; longer: its recovery does
	probeLongest  = 2 * time.Second        // shorter: a large fleet's probes weigh; longer: seconds of refusals at the end
	probeCallers  = 50                     // so many callers turned away make a probe due sooner; fewer: wire; more: they outlast the hold
	probeBusy     = 200 * time.Millisecond // but not sooner than this; shorter than the hold, or it would not help
	probeGrowth   = 20                     // an interval is a 20th of the time shut; doubling outgrows the outage
	probeJitter   = 4                      // an interval is longer or shorter by up to a quarter

	gateWaiters = 1000 // bounds memory alone

	rampStart = 4  // calls at once after the first good probe
	rampKnee  = 16 // below it the limit doubles each round trip, above it grows by a quarter
	quarters  = 4  // the limit is kept in quarters of a call
)

// The gate's modes.
const (
	free uint32 = iota // the breaker is asked and nothing else
	shut               // one probe at a time; callers wait, or are refused
	ramp               // let in as fast as good answers come back
)

// gate stands in front of one host's breaker. The breaker alone decides
// closed, open or half-open; the gate decides when to ask it, who waits and how
// fast they go afterwards. No waiter is released faster than the host answers:
// all of them let go at once would knock over what has just come back.
//
// In the free mode a caller costs one atomic load more than the breaker, and
// there is no goroutine and no timer; mu is taken by the first caller in each
// bucket of the breaker's window. Otherwise all is kept under mu, and the
// breaker is asked under mu alone. Lock order: gate, then breaker; no user code runs under
// either.
//
// The half-open slot belongs to the gate, not to a probe: one that hangs,
// panics or is abandoned delays the next by an interval at most.
type gate struct {
	mode    atomic.Uint32 // what callers read; the breaker stores shut here when it opens
	breaker *breaker
	chance  *jitter
	hold    time.Duration // how long an operation may wait here, from its start; 0: not at all
	stall   time.Duration // how long a full ramp waits for an answer

	mu      sync.Mutex
	phase   uint32 // the mode last acted on: behind by a trip that nobody has noticed yet
	trip    uint32 // counts them: a pass of an earlier one changes nothing
	waiting []*waiter
	timer   *time.Timer
	armed   time.Time // when timer fires; zero: it is stopped

	since, next time.Time   // shut: from when, and when a probe is due
	asked       time.Time   // the latest probe's start, or since
	turned      int         // callers since then who could not go
	slot        func(error) // the breaker's half-open slot, while we have it
	probe       uint32      // the latest probe's number
	out         bool        // it has not answered
	proven      bool        // an earlier one did well while the breaker could not hear of it

	limit, inflight int       // ramp: limit in quarters; only calls let in since it began
	moved           time.Time // the last answer
}

// visit is one caller at the gate.
type visit struct {
	ctx      context.Context
	cancel   <-chan struct{} // http.Request.Cancel; may be nil
	now      time.Time       // when this attempt begins; zero: to be asked of the clock
	started  time.Time       // when the operation began; zero: now
	deadline time.Time       // the operation's own; zero: none
}

// refusal says why a caller was not let in. The zero refusal means he was.
type refusal struct {
	err  error     // ErrOpen, or errGone
	next time.Time // when the next probe is due; zero: the host is being let in again, there is none
}

// pass is the leave to make one attempt. The zero pass is that of a host
// without a breaker.
type pass struct {
	g     *gate
	tally *tally // nil for a probe
	mode  uint32
	trip  uint32
	probe uint32
}

type waiter struct {
	until  time.Time
	answer chan answer // one, sent by whoever takes him off the list
}

type answer struct {
	pass
	refusal
}

// newGate returns the gate of one host. A hold of zero refuses whoever cannot
// go at once.
func newGate(hold, attemptTimeout time.Duration, chance *jitter) *gate {
	g := &gate{hold: hold, chance: chance, stall: max(probeLongest, attemptTimeout)}
	g.breaker = newBreaker(attemptTimeout, func() { g.mode.Store(shut) })
	return g
}

// enter lets the caller in, or holds him for a while, or refuses him. A pass
// must be given back by done.
func (g *gate) enter(v visit) (pass, refusal) {
	if v.now.IsZero() {
		v.now = time.Now()
	}
	if g.mode.Load() == free {
		if t := g.breaker.admit(v.now); t != nil {
			return pass{g: g, tally: t}, refusal{}
		}
	}
	return g.ask(v)
}

// closed reports that the host is healthy and nobody waits for it: what the
// gate knows of it can be forgotten.
func (g *gate) closed() bool {
	if g.mode.Load() == free {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode.Load() != shut && len(g.waiting) == 0 && g.inflight == 0
}

// done gives the pass back with what became of the attempt: exactly once, also
// when the attempt panicked.
func (p pass) done(r report) {
	switch {
	case p.g == nil:
	case p.mode == ramp:
		p.g.ramped(p, r)
	case p.mode == shut:
		p.g.probed(p, r)
	default:
		p.tally.done(r)
		if r == failure && p.g.mode.Load() != free {
			p.g.noteTrip()
		}
	}
}

// noteTrip dates the trip, so that the first probe is due an interval after it
// and not after the next caller.
func (g *gate) noteTrip() {
	g.mu.Lock()
	defer g.unlock()
	g.follow(time.Now())
}

// ask is enter once the host is in trouble, or was a moment ago.
func (g *gate) ask(v visit) (pass, refusal) {
	g.mu.Lock()
	now := time.Now()
	if p, ok := g.letIn(now); ok {
		g.unlock()
		return p, refusal{}
	}
	g.turned++
	w := &waiter{until: g.patience(v, now)}
	if !g.worthWaiting(w, now) || len(g.waiting) >= gateWaiters {
		r := g.refuse()
		g.unlock()
		return pass{}, r
	}
	w.answer = make(chan answer, 1)
	g.waiting = append(g.waiting, w)
	g.unlock()
	return g.wait(v, w)
}

// wait holds the caller until he is let in or refused, or goes away.
func (g *gate) wait(v visit, w *waiter) (pass, refusal) {
	hold := time.NewTimer(time.Until(w.until))
	defer hold.Stop()
	gone := true
	select {
	case a := <-w.answer:
		return a.pass, a.refusal
	case <-v.ctx.Done():
	case <-v.cancel:
	case <-hold.C:
		gone = v.ctx.Err() != nil
	}
	a := g.leave(w)
	if gone {
		a.pass.done(neutral) // a probe he never sent; the zero pass otherwise
		return pass{}, refusal{err: errGone}
	}
	return a.pass, a.refusal
}

// leave takes w off the list, unless he has been answered meanwhile.
func (g *gate) leave(w *waiter) answer {
	g.mu.Lock()
	defer g.unlock()
	if i := slices.Index(g.waiting, w); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
		return answer{refusal: g.refuse()}
	}
	return <-w.answer
}

// patience is the instant until which the caller would wait.
func (g *gate) patience(v visit, now time.Time) time.Time {
	if v.started.IsZero() {
		v.started = now
	}
	until := v.started.Add(g.hold)
	if !v.deadline.IsZero() && v.deadline.Before(until) {
		return v.deadline
	}
	return until
}

// worthWaiting reports whether w can still be let in within his patience.
func (g *gate) worthWaiting(w *waiter, now time.Time) bool {
	return now.Before(w.until) && (g.phase != shut || g.out || !g.next.After(w.until))
}

func (g *gate) refuse() refusal {
	if g.phase != shut {
		return refusal{err: ErrOpen}
	}
	return refusal{err: ErrOpen, next: g.next}
}

// unlock is the way out of every locked section: it leaves the timer running
// if, and only if, somebody waits for the next probe.
func (g *gate) unlock() {
	defer g.mu.Unlock()
	var due time.Time
	if g.phase == shut && len(g.waiting) > 0 {
		due = g.next
	}
	switch {
	case due.Equal(g.armed):
		return
	case due.IsZero():
		g.timer.Stop()
	case g.timer == nil:
		g.timer = time.AfterFunc(time.Until(due), g.wake)
	default:
		g.timer.Reset(time.Until(due))
	}
	g.armed = due
}

// wake makes the oldest waiter the probe that is due.
func (g *gate) wake() {
	g.mu.Lock()
	defer g.unlock()
	g.armed = time.Time{}
	g.release(time.Now())
}

// follow notices that the breaker has opened. Whoever first has the lock after
// a trip does it: the call that tripped it, as a rule.
func (g *gate) follow(now time.Time) {
	if g.phase == shut || g.mode.Load() != shut {
		return
	}
	g.phase = shut
	g.trip++
	g.out, g.proven, g.inflight = false, false, 0
	g.since, g.asked, g.turned = now, now, 0
	g.next = now.Add(g.interval(now))
}

// interval is the time to the next probe: in proportion to the outage, so that
// its end costs a fixed share of its length. A client so busy that a probe is
// lost among its callers looks more often: its probes weigh nothing, and the end
// found late is refusals by the hundred.
func (g *gate) interval(now time.Time) time.Duration {
	d := min(max(now.Sub(g.since)/probeGrowth, probeShortest), probeLongest)
	if g.turned > 0 { // if as many come as came, probeCallers in
		d = min(d, max(now.Sub(g.asked)*probeCallers/time.Duration(g.turned), probeBusy))
	}
	return d - d/probeJitter + g.chance.upTo(2*d/probeJitter)
}

// letIn gives a pass to one caller, if there is one to give now.
func (g *gate) letIn(now time.Time) (pass, bool) {
	g.follow(now)
	if g.phase == shut {
		if now.Before(g.next) {
			return pass{}, false
		}
		g.next = now.Add(g.interval(now))
		g.asked, g.turned = now, 0
		if !g.takeSlot() { // not ready after all
			return pass{}, false
		}
		if !g.proven {
			g.probe++
			g.out = true
			return pass{g: g, mode: shut, trip: g.trip, probe: g.probe}, true
		}
		g.readmit(now)
	}
	if g.phase == ramp && !g.room(now) {
		return pass{}, false
	}
	t := g.breaker.count(now)
	if t == nil { // it has just opened: believe it
		g.mode.Store(shut)
		g.follow(now)
		return pass{}, false
	}
	if g.phase == ramp {
		g.inflight++
	}
	return pass{g: g, tally: t, mode: g.phase, trip: g.trip}, true
}

// release lets in the oldest waiters, as many as may go.
func (g *gate) release(now time.Time) {
	for len(g.waiting) > 0 {
		p, ok := g.letIn(now)
		if !ok {
			return
		}
		g.waiting[0].answer <- answer{pass: p}
		g.waiting = slices.Delete(g.waiting, 0, 1)
	}
}

// takeSlot makes sure of the breaker's half-open slot. A probe that has not
// answered leaves it to the next.
func (g *gate) takeSlot() bool {
	if g.slot == nil {
		g.slot, _ = g.breaker.library.Allow()
	}
	return g.slot != nil
}

// giveSlot tells the breaker what came of the probe.
func (g *gate) giveSlot(r report) {
	g.slot(r.err())
	g.slot = nil
}

// probed takes a probe's answer. A good one counts however late it comes, or a
// host that takes longer than an interval to answer would never be let in
// again; any other counts only from the latest.
func (g *gate) probed(p pass, r report) {
	g.mu.Lock()
	defer g.unlock()
	now := time.Now()
	if g.phase != shut || p.trip != g.trip {
		return
	}
	switch {
	case r == success && g.takeSlot():
		g.readmit(now)
		g.release(now)
	case r == success: // a later one failed just now; the breaker is deaf until it half-opens
		g.proven = true
		g.expect(now, min(g.next.Sub(now), breakerOpen+time.Millisecond))
	case p.probe == g.probe && g.out:
		g.out = false
		g.giveSlot(r)
		if r == failure {
			g.expect(now, max(g.next.Sub(now), breakerOpen+time.Millisecond))
		}
		g.dismiss(now)
	}
}

func (g *gate) expect(now time.Time, in time.Duration) { g.next = now.Add(in) }

// dismiss refuses the waiters for whom the next probe comes too late: now, not
// when their time is up.
func (g *gate) dismiss(now time.Time) {
	g.waiting = slices.DeleteFunc(g.waiting, func(w *waiter) bool {
		if g.worthWaiting(w, now) {
			return false
		}
		w.answer <- answer{refusal: g.refuse()}
		return true
	})
}

// readmit closes the breaker and begins the ramp.
func (g *gate) readmit(now time.Time) {
	g.giveSlot(success)
	g.breaker.start(now)
	g.phase = ramp
	g.mode.Store(ramp) // nobody can have tripped it yet: all enter through us
	g.limit, g.inflight, g.moved = rampStart*quarters, 0, now
}

// room reports whether one more may go. A ramp is led by its answers; when
// those in flight bring none (long polls, or a host that hangs again), time
// leads it instead, or they would shut everybody out.
func (g *gate) room(now time.Time) bool {
	if g.inflight*quarters < g.limit {
		return true
	}
	if now.Sub(g.moved) < g.stall {
		return false
	}
	g.moved = now
	g.limit *= 2
	return true
}

// ramped takes the answer of a call let in during the ramp. One step up, one
// step down stands still when half of the calls fail, where the breaker trips;
// halving, as TCP does, would stand still at a few calls for as long as one in
// five fails.
func (g *gate) ramped(p pass, r report) {
	g.mu.Lock()
	defer g.unlock()
	now := time.Now()
	p.tally.done(r)
	g.follow(now)
	if g.phase != ramp || p.trip != g.trip {
		return
	}
	g.inflight--
	g.moved = now
	step := quarters
	if g.limit >= rampKnee*quarters {
		step = 1
	}
	switch r {
	case success:
		g.limit += step
	case failure:
		g.limit = max(g.limit-step, quarters)
	}
	g.release(now)
	if len(g.waiting) == 0 && g.limit >= quarters*(2*g.inflight+1) &&
		g.mode.CompareAndSwap(ramp, free) { // never a store: it might erase a trip
		g.phase = free
	}
}
