package idempotencytest

import (
	"errors"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

var times = []rule{
	{"a lease lapses to unknown, and not before its time", func(t *trial) {
		c, begun := newClaim(), time.Now()
		rec := t.claim(leased(c, short))
		if rec.Left > short+slack {
			t.Errorf("%s left of a lease of %s", rec.Left, short)
		}
		seen := t.becomes(c.ID, idempotency.Running, idempotency.Unknown)
		if took := time.Since(begun); took < short-slack {
			t.Errorf("it lapsed after %s, want %s", took, short)
		}
		if seen.Fence != rec.Fence || seen.Fingerprint != c.Fingerprint {
			t.Errorf("claimed as %+v and lapsed as %+v", rec, seen)
		}
	}},
	{"what is left of a lease is told, and grows less", func(t *trial) {
		c, begun := newClaim(), time.Now()
		t.claim(c)
		t.pause(2 * slack)
		left, gone := t.stands(c.ID, idempotency.Running).Left, time.Since(begun)
		if left > c.Lease-slack || left < c.Lease-gone-slack {
			t.Errorf("%s left of %s, and %s are gone", left, c.Lease, gone)
		}
	}},
	{"the age is counted from the first claim, through everything but a release", func(t *trial) {
		c, begun := newClaim(), time.Now()
		aged := func(what string, rec idempotency.Record) {
			t.Helper()
			if gone := time.Since(begun); rec.Age > gone+slack || rec.Age < 2*slack {
				t.Errorf("after %s the age is %s, and %s are gone", what, rec.Age, gone)
			}
		}
		t.claim(c)
		t.pause(3 * slack)
		aged("a claim", t.stands(c.ID, idempotency.Running))
		aged("another claim", t.claim(c))
		t.must(t.store.Renew(t.Context(), c.Holder(), long, time.Hour))
		aged("a renewal", t.stands(c.ID, idempotency.Running))
		t.unknown(c)
		aged("an end", t.refused(again(c), idempotency.Unknown))
		c = takingOver(again(c))
		aged("a takeover", t.claim(c))
		t.complete(c, nil, forgetLate)
		aged("a completion", t.refused(again(c), idempotency.Completed))

		c = newClaim()
		t.claim(c)
		t.pause(3 * slack)
		t.must(t.store.Release(t.Context(), c.Holder()))
		begun = time.Now()
		if rec := t.claim(again(c)); rec.Age > time.Since(begun)+slack {
			t.Errorf("the age of a new claim is %s", rec.Age)
		}
	}},
	{"a key is known for longer than its result", func(t *trial) {
		c := newClaim()
		rec := t.claim(c)
		t.complete(c, []byte("done"), idempotency.Keep{Result: short, Key: time.Hour})
		seen := t.becomes(c.ID, idempotency.Completed, idempotency.Expired)
		if seen.Fingerprint != c.Fingerprint || seen.Fence != rec.Fence {
			t.Errorf("claimed as %+v and expired as %+v", rec, seen)
		}
		for _, other := range []idempotency.Claim{c, again(c), takingOver(again(c))} {
			t.refused(other, idempotency.Expired)
		}
	}},
	{"a result that is not to be kept at all is expired at once", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.complete(c, []byte("done"), idempotency.Keep{Key: time.Hour})
		t.refused(again(c), idempotency.Expired)
	}},
	{"a key that was kept for its time is forgotten and can be claimed anew", func(t *trial) {
		c, begun := newClaim(), time.Now()
		t.claim(c)
		t.complete(c, []byte("done"), idempotency.Keep{Result: short, Key: 2 * short})
		t.becomes(c.ID, idempotency.Completed, idempotency.Expired, idempotency.Absent)
		if took := time.Since(begun); took < 2*short-slack {
			t.Errorf("forgotten after %s, want %s", took, 2*short)
		}
		t.unheld(c)
		begun = time.Now()
		rec := t.claim(otherwise(c))
		if rec.TakenOver || rec.Age > time.Since(begun)+slack {
			t.Errorf("claimed anew as %+v", rec)
		}
	}},
	{"a run that is never heard of again is unknown, and then forgotten", func(t *trial) {
		c, begun := newClaim(), time.Now()
		c.Lease, c.Keep = short, 3*short
		t.claim(c)
		t.becomes(c.ID, idempotency.Running, idempotency.Unknown, idempotency.Absent)
		if took := time.Since(begun); took < 3*short-slack {
			t.Errorf("forgotten after %s, want %s", took, 3*short)
		}
		t.unheld(c)
		t.claim(again(c))
	}},
	{"an abandoned key is forgotten in the end", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.must(t.store.Abandon(t.Context(), c.Holder(), short))
		t.becomes(c.ID, idempotency.Unknown, idempotency.Absent)
	}},
	{"to claim, to renew, to abandon and to complete is each to keep the key from then on", func(t *trial) {
		later := map[string]func(idempotency.Claim) error{
			"Claim": func(c idempotency.Claim) error {
				_, claimed, err := t.store.Claim(t.Context(), c)
				if err == nil && !claimed {
					err = idempotency.ErrLost
				}
				return err
			},
			"Renew": func(c idempotency.Claim) error {
				return t.store.Renew(t.Context(), c.Holder(), c.Lease, c.Keep)
			},
			"Abandon": func(c idempotency.Claim) error {
				return t.store.Abandon(t.Context(), c.Holder(), c.Keep)
			},
			"Complete": func(c idempotency.Claim) error {
				return t.store.Complete(t.Context(), c.Holder(), nil, forgetLate)
			},
		}
		for name, extend := range later {
			c := newClaim()
			t.inTime(func(d time.Duration) error {
				first := c
				first.Lease, first.Keep = d, d
				t.claim(first)
				return extend(c)
			}, func(d time.Duration) {
				t.pause(2 * d)
				if rec, err := t.store.Lookup(t.Context(), c.ID); err != nil || rec.State == idempotency.Absent {
					t.Errorf("%s did not lengthen the time for which the key is kept: %s, error %v", name, rec.State, err)
				}
			})
		}
	}},
	{"to take over is to keep the key from then on", func(t *trial) {
		c := newClaim()
		t.inTime(func(d time.Duration) error {
			c = newClaim()
			t.claim(c)
			if err := t.store.Abandon(t.Context(), c.Holder(), d); err != nil {
				return err
			}
			rec, claimed, err := t.store.Claim(t.Context(), takingOver(again(c)))
			if err == nil && (!claimed || !rec.TakenOver) {
				return idempotency.ErrLost
			}
			return err
		}, func(d time.Duration) {
			t.pause(2 * d)
			t.stands(c.ID, idempotency.Running)
		})
	}},
}

// inTime does what must be done within d, and then checks it. On a machine too
// busy to do it in time the key is lost, and d is longer next time.
func (t *trial) inTime(do func(d time.Duration) error, check func(d time.Duration)) {
	t.Helper()
	for d := short; ; d *= 3 {
		begun := time.Now()
		err := do(d)
		if errors.Is(err, idempotency.ErrLost) && time.Since(begun) > d/2 && d < patience {
			continue
		}
		t.must(err)
		check(d)
		return
	}
}
