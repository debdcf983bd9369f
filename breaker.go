package resilient

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// ErrOpen is the Stop reason of an operation that this client did not send, or
// did not repeat, because the host has been failing. No server said so.
var ErrOpen = errors.New("circuit open (client side)")

// errGone tells that the caller's context or Request.Cancel ended while he
// waited at the gate.
var errGone = errors.New("caller gone")

// report is what the breaker is told of an attempt. The zero report is neutral,
// and so is what an attempt that ends in a panic leaves behind.
type report uint8

const (
	neutral report = iota // says nothing about the host: a cancelled caller, a 429
	success               // the host is alive: any final answer, a 404 too
	failure
)

// The breaker's two ways of not being told of a success.
var (
	errNeutral = errors.New("neutral")
	errFailure = errors.New("failure")
)

// err is r in the breaker's words.
func (r report) err() error {
	switch r {
	case success:
		return nil
	case failure:
		return errFailure
	default:
		return errNeutral
	}
}

const (
	breakerWindow  = 10 * time.Second
	breakerBuckets = 10

	// The breaker's open time is below the shortest interval between probes, so
	// that whenever the gate thinks a probe is due the breaker is ready.
	breakerOpen = 130 * time.Millisecond

	// No attempt is believed to last longer: it would stretch the window
	// beyond use (and a duration beyond its range).
	longestAttempt = 24 * time.Hour
)

// breaker is gobreaker's, which alone decides closed, open, half-open, at a
// tenth of its price while nothing fails.
//
// Of an attempt that began in the closed state the library needs two things:
// which bucket of its window it began in, and how it ended. It hands out a
// closure for the first, which all attempts of one bucket can share (a tally),
// and of a success there is nothing to tell it as long as it knows of no
// failure: no run to end, and no decision to take, for it is only asked on
// failures. Such successes stay on the tally, and are counted in when it is.
// So an attempt costs two loads and an addition in place of a closure and two
// turns at a lock, and the decisions are the same, which a test holds against
// the library itself.
type breaker struct {
	library  *gobreaker.TwoStepCircuitBreaker[struct{}]
	period   time.Duration // of a bucket
	failures atomic.Uint64 // ever told
	current  atomic.Pointer[tally]
	tallies  [breakerBuckets]atomic.Pointer[tally] // the latest ones

	// Under the gate's lock, as are start and count.
	closed time.Time // when it last became so
	next   int       // tally to be replaced
}

// tally stands for the attempts that began in one bucket of the window.
type tally struct {
	b           *breaker
	from, until time.Time
	tell        func(error) // the library's; to be called any number of times
	calm        uint64      // failures ever told, if none of them is still in the window
	good        atomic.Uint32
	told, bad   atomic.Uint32 // successes and failures that the library has been told of
}

// noCalm is no number of failures.
const noCalm = 1<<64 - 1

// newBreaker returns a closed breaker. opened is called, with the library's
// lock held, each time it opens.
//
// The library dates an outcome by the start of its attempt and drops what is
// older than the window: time-outs longer than the window would never be
// counted. Hence twice the time-out.
func newBreaker(attemptTimeout time.Duration, opened func()) *breaker {
	window := max(breakerWindow, 2*min(attemptTimeout, longestAttempt))
	b := &breaker{period: window / breakerBuckets}
	b.library = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  1,
		Interval:     window,
		BucketPeriod: b.period,
		Timeout:      breakerOpen,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return trips(c.TotalSuccesses+b.untold(), c.TotalFailures, c.ConsecutiveFailures)
		},
		IsExcluded: func(err error) bool { return err == errNeutral },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				opened()
			}
		},
	})
	b.start(time.Now())
	return b
}

// start forgets the window: the library has just closed.
func (b *breaker) start(now time.Time) {
	b.closed = now
	b.current.Store(nil)
	for i := range b.tallies {
		b.tallies[i].Store(nil)
	}
}

// admit returns the tally of an attempt that begins now; nil if there is none
// yet, or the breaker is not closed.
func (b *breaker) admit(now time.Time) *tally {
	if t := b.current.Load(); t != nil && now.Before(t.until) {
		return t
	}
	return nil
}

// count is admit that makes the tally if need be; nil means refused. It must
// not be called in the half-open state.
func (b *breaker) count(now time.Time) *tally {
	if t := b.admit(now); t != nil {
		return t
	}
	failures := b.failures.Load() // before the look at the counts: one told in between is no calm
	tell, err := b.library.Allow()
	if err != nil {
		return nil
	}
	t := &tally{b: b, tell: tell, calm: noCalm}
	t.from = b.closed.Add(now.Sub(b.closed) / b.period * b.period)
	t.until = t.from.Add(b.period)
	if c := b.library.Counts(); c.TotalFailures == 0 && c.ConsecutiveFailures == 0 {
		t.calm = failures
	}
	b.tallies[b.next].Store(t)
	b.next = (b.next + 1) % breakerBuckets
	b.current.Store(t)
	return t
}

// untold is the successes in the window of which the library does not know.
func (b *breaker) untold() (n uint32) {
	now := time.Now()
	for i := range b.tallies {
		if t := b.tallies[i].Load(); t != nil && now.Before(t.from.Add(breakerBuckets*b.period)) {
			n += t.good.Load()
		}
	}
	return n
}

// done counts the outcome of one of the tally's attempts.
func (t *tally) done(r report) {
	switch r {
	case success:
		if t.calm == t.b.failures.Load() {
			t.good.Add(1)
			return
		}
		t.told.Add(1)
		t.tell(nil)
	case failure:
		t.bad.Add(1)
		t.b.failures.Add(1)
		t.tell(errFailure)
	}
}

// trips is the rule, asked after each failure: half of at least twenty, or a
// run of ten that is more than a hiccup.
//
// The ratio alone is slow (half of a window must fail first), a shorter run
// trips at 20 % errors, and a run without its 2 % trips a busy host whenever
// one connection takes its streams down together. Requests in flight and
// neutral outcomes are on neither side.
func trips(successes, failures, run uint32) bool {
	s, f, c := uint64(successes), uint64(failures), uint64(run)
	return s+f >= 20 && 2*f >= s+f || c >= 10 && 50*c >= s+f
}
