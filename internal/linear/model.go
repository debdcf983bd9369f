package linear

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/go-resilient/resilient/idempotency"
)

type method string

const (
	claim    method = "Claim"
	renew    method = "Renew"
	complete method = "Complete"
	release  method = "Release"
	abandon  method = "Abandon"
	lookup   method = "Lookup"
)

// A call is what a caller asks of a key.
type call struct {
	method      method
	token       idempotency.Token
	fingerprint idempotency.Fingerprint // of a claim
	takeOver    bool                    // by a claim
	lease       time.Duration           // of a claim or a renewal
}

func (c call) String() string {
	s := fmt.Sprintf("%s by %x", c.method, c.token[:2])
	if c.method == claim {
		s += fmt.Sprintf(" for %x, TakeOver %t", c.fingerprint[:1], c.takeOver)
	}
	if c.method == claim || c.method == renew {
		s += fmt.Sprintf(", lease %s", c.lease)
	}
	return s
}

// An answer is what a store says.
type answer struct {
	lost    bool // ErrLost
	claimed bool
	rec     idempotency.Record // of Claim and Lookup
}

func (a answer) String() string {
	if a.lost {
		return "lost"
	}
	return fmt.Sprintf("claimed %t, %s for %x with fence %d, TakenOver %t, result %x",
		a.claimed, a.rec.State, a.rec.Fingerprint[:1], a.rec.Fence, a.rec.TakenOver, a.rec.Result)
}

// make makes the call. Who completes leaves its token as the result.
func (c call) make(ctx context.Context, s idempotency.Store, id idempotency.ID) (a answer, err error) {
	h := idempotency.Holder{ID: id, Token: c.token}
	switch c.method {
	case claim:
		a.rec, a.claimed, err = s.Claim(ctx, idempotency.Claim{
			ID: id, Fingerprint: c.fingerprint, Token: c.token, TakeOver: c.takeOver, Lease: c.lease, Keep: long,
		})
	case renew:
		err = s.Renew(ctx, h, c.lease, long)
	case complete:
		err = s.Complete(ctx, h, c.token[:], idempotency.Keep{Result: long, Key: long})
	case release:
		err = s.Release(ctx, h)
	case abandon:
		err = s.Abandon(ctx, h, long)
	case lookup:
		a.rec, err = s.Lookup(ctx, id)
	}
	if errors.Is(err, idempotency.ErrLost) {
		a.lost, err = true, nil
	}
	return a, err
}

// A key is what there is to know of a key, had all calls come one by one.
type key struct {
	state       idempotency.State // all but Expired: nothing is kept for so short
	holder      idempotency.Token // the last
	fingerprint idempotency.Fingerprint
	fence       uint64
	takenOver   bool
	brief       bool   // the lease lapses at any time
	last        uint64 // fence of any run
}

// model is the contract. When a brief lease lapses nobody can tell, so that a
// key has several states until an answer says which it was.
var model = porcupine.NondeterministicModel{
	Init: func() []any { return []any{key{}} },
	Step: func(state, input, output any) (next []any) {
		now, c, a := state.(key), input.(call), output.(answer)
		if after, ok := now.step(c, a); ok {
			next = append(next, after)
		}
		if now.state == idempotency.Running && now.brief {
			now.state = idempotency.Unknown
			if after, ok := now.step(c, a); ok {
				next = append(next, after)
			}
		}
		return next
	},
}

// step is the key after the call, and whether the answer is one that it may give.
func (k key) step(c call, a answer) (key, bool) {
	switch c.method {
	case claim:
		return k.claim(c, a)
	case lookup:
		return k, k.shown(a.rec)
	case renew, complete, release, abandon:
		return k.hold(c, a)
	}
	return k, false
}

func (k key) claim(c call, a answer) (key, bool) {
	fresh := true
	switch {
	case k.state == idempotency.Absent:
		k = key{fingerprint: c.fingerprint, last: k.last}
	case k.state != idempotency.Completed && k.holder == c.token:
		fresh = false
	case k.state == idempotency.Unknown && c.takeOver && k.fingerprint == c.fingerprint:
		k.takenOver = true
	default:
		return k, !a.claimed && k.shown(a.rec)
	}
	if fresh {
		if a.rec.Fence <= k.last {
			return k, false
		}
		k.fence, k.last = a.rec.Fence, a.rec.Fence
	}
	k.state, k.holder, k.brief = idempotency.Running, c.token, c.lease == brief
	return k, a.claimed && a.rec.TakenOver == k.takenOver && k.shown(a.rec)
}

func (k key) hold(c call, a answer) (key, bool) {
	mine := k.state != idempotency.Absent && k.holder == c.token
	switch {
	case c.method == release && k.state == idempotency.Absent:
		return k, !a.lost
	case c.method == complete && mine && k.state == idempotency.Completed:
		return k, !a.lost
	case !mine || k.state == idempotency.Completed:
		return k, a.lost
	}
	switch c.method {
	case renew:
		k.state, k.brief = idempotency.Running, c.lease == brief
	case complete:
		k.state = idempotency.Completed
	case abandon:
		k.state = idempotency.Unknown
	case release:
		k = key{last: k.last}
	case claim, lookup:
	}
	return k, !a.lost
}

// shown reports whether the record is this key's.
func (k key) shown(rec idempotency.Record) bool {
	result := ""
	if k.state == idempotency.Completed {
		result = string(k.holder[:])
	}
	return rec.State == k.state && rec.Fingerprint == k.fingerprint && rec.Fence == k.fence && string(rec.Result) == result
}
