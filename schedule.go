package resilient

import (
	crand "crypto/rand"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The default schedule's first upper bound, and the one no pause exceeds.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
)

// A Schedule is the row of pauses of one operation: each call says how long to
// wait before the next attempt. A negative duration ends the operation's
// retries. What the server asks for (Retry-After) is a floor under each pause,
// and the schedule moves on all the same.
//
// Every operation has a Schedule of its own and calls it from one goroutine at
// a time, so it may count without a lock. The BackOff of
// github.com/cenkalti/backoff, v4 and v5, is one.
type Schedule interface {
	// NextBackOff is the next pause; negative ends the operation's retries.
	NextBackOff() time.Duration
}

// newSchedule is the default: full jitter, where the pause before retry n (from
// 0) is uniform in [0, min(10s, 100ms·2ⁿ)]. Cutting off the drawn pause instead
// of its bound would gather the late ones at the cap, which is what jitter is
// there to prevent.
//
// The backoff draws from its interval ± RandomizationFactor; at a factor of 1
// that reaches from 0 to twice the interval, hence the halves.
func newSchedule() Schedule {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(firstPause/2),
		backoff.WithMaxInterval(longestPause/2),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(1),
		backoff.WithMaxElapsedTime(0), // the operation's deadline decides
	)
}

// pause joins the schedule's next pause and what the server asked for: it is
// the longer of the two, and never shorter than asked. A negative next, the end
// of the schedule, stays negative.
//
// Above what was asked lies jitter, upward only, so that callers told the same
// moment do not wake together. Its stretch is a tenth of what was asked, since
// a longer rest gathers more callers: at least the schedule's first bound, or a
// rest of milliseconds would be left in one beat, and at most its last, or a
// rest of an hour would cost six minutes more.
func pause(next, asked time.Duration, chance *jitter) time.Duration {
	if next < 0 || asked <= 0 {
		return next
	}
	stretch := min(max(asked/10, firstPause), longestPause)
	return max(next, asked+min(chance.upTo(stretch), maxDuration-asked))
}

// jitter is the chance of one Transport: for rests that servers ask for, and for
// the intervals between probes. It has a source of its own, seeded from
// crypto/rand, so that a test which replaces that (testing/cryptotest) sees the
// same intervals each time. It is asked only where there is trouble, so a lock
// costs nothing. Safe for concurrent use.
type jitter struct {
	mu     sync.Mutex
	source rand.PCG
}

func newJitter() *jitter {
	var seed [16]byte
	_, _ = crand.Read(seed[:]) // it never fails
	j := new(jitter)
	j.source.Seed(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:]))
	return j
}

// upTo is uniform in [0, most]. A negative most counts as zero.
func (j *jitter) upTo(most time.Duration) time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return time.Duration(rand.New(&j.source).Uint64N(uint64(max(most, 0)) + 1))
}
