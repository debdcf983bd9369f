package resilient

import (
	"sync/atomic"
	"time"
)

// A balance is kept as time. At a tenth of a token a second, one token is ten
// seconds and the full ten are a hundred, so refilling costs no arithmetic at
// all: it is the passing of time.
const (
	budgetRetry   = 10 * time.Second  // what a retry costs: one token
	budgetEarning = 1 * time.Second   // what an operation earns: a tenth of one
	budgetCap     = 100 * time.Second // ten tokens
)

// budget holds the retries to one host to a share of the operations begun
// there: over any stretch of time at most 10 + 0.1 for each operation + 0.1 a
// second. It is fed by operations started, not by those that succeed, so that
// it neither starves nor collapses while everything fails.
//
// The zero budget is full. All methods are safe for concurrent use and none of
// them blocks; now is the time since the transport was made. The cap is ten
// because smaller ones cost honest retries (three loses 1 % of the operations
// at 10 % errors) and larger ones gain nothing.
type budget struct {
	// emptyAt is the instant at which the budget was last empty, so that the
	// balance is the time since. It is counted from just before the earliest
	// one there can be, a full cap before the transport was made, because zero
	// stands for full.
	emptyAt atomic.Int64
}

// full reports, by one load, that there is nothing to deposit. A budget that
// only the passing of time has filled says so after the next deposit.
func (b *budget) full() bool { return b.emptyAt.Load() == 0 }

// deposit credits the start of an operation.
func (b *budget) deposit(now time.Duration) { b.credit(budgetEarning, now) }

// refund takes back the withdrawal for a retry that was never sent.
func (b *budget) refund(now time.Duration) { b.credit(budgetRetry, now) }

// withdraw pays for one retry, and reports whether there was enough to.
func (b *budget) withdraw(now time.Duration) bool {
	for {
		old := b.emptyAt.Load()
		have := stored(old, now)
		if have < budgetRetry {
			return false
		}
		if b.emptyAt.CompareAndSwap(old, word(have-budgetRetry, now)) {
			return true
		}
	}
}

// balance is what there is to withdraw, in retries.
func (b *budget) balance(now time.Duration) float64 {
	return float64(stored(b.emptyAt.Load(), now)) / float64(budgetRetry)
}

func (b *budget) credit(d, now time.Duration) {
	for {
		old := b.emptyAt.Load()
		if old == 0 || b.emptyAt.CompareAndSwap(old, word(stored(old, now)+d, now)) {
			return
		}
	}
}

// stored is the balance that word w means at now. It is below zero only for a
// caller whose now is older than that of the withdrawal he follows.
func stored(w int64, now time.Duration) time.Duration {
	if w == 0 {
		return budgetCap
	}
	return min(now-(time.Duration(w)-budgetCap-1), budgetCap)
}

// word is the inverse of stored.
func word(balance, now time.Duration) int64 {
	if balance >= budgetCap {
		return 0
	}
	return int64(now - balance + budgetCap + 1)
}

const (
	doubtAfter = time.Second // shorter, and blips cost operations; longer, and outages cost retries
	doubtEnds  = time.Minute // without a failure, and without an attempt that could have failed
)

// doubt is what the breaker cannot know of a host that is seldom called: that it
// has failed, and nothing else, since then. After a second of that a retry is
// mostly in vain, and ten thousand callers with full budgets, who need not have
// failed ten times each, can keep a host from ever coming back. So operations
// that begin after it are made once, until one is answered. What began before
// keeps its retries, however long its attempts take: an operation is never
// judged by its own failures.
//
// The zero doubt is none. It is a word each for the beginning and the latest
// failure, so an answer costs one load. Safe for concurrent use; now is the time
// since the transport was made.
type doubt struct {
	since, last atomic.Int64 // zero: none
}

// fail notes a failure, and reports whether an operation that began then may
// make another attempt.
func (d *doubt) fail(began, now time.Duration) bool {
	now = max(now, 1)
	since := d.beginning(now)
	if since == 0 {
		since = now
		d.since.Store(int64(now))
	}
	d.last.Store(int64(now)) // after since: it would make an old one count again
	return began-since < doubtAfter
}

// lift ends it: the host has answered.
func (d *doubt) lift() {
	if d.since.Load() != 0 {
		d.since.Store(0)
	}
}

// beginning is the first failure of those that no answer has followed yet; zero:
// there is none.
func (d *doubt) beginning(now time.Duration) time.Duration {
	if now-time.Duration(d.last.Load()) >= doubtEnds {
		return 0
	}
	return time.Duration(d.since.Load())
}
