package idempotencytest

import (
	"bytes"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

// crashes are for what outlives the process: t.crash takes the store's place.
var crashes = []rule{
	{"a running key survives a crash and is still its holder's", func(t *trial) {
		c := newClaim()
		rec := t.claim(c)
		t.crash()
		if seen := t.refused(takingOver(again(c)), idempotency.Running); seen.Fence != rec.Fence || seen.Fingerprint != c.Fingerprint {
			t.Errorf("claimed as %+v and after the crash %+v", rec, seen)
		}
		t.powerless(again(c).Holder())
		t.complete(c, []byte("done"), forgetLate)
		t.result(c.ID, []byte("done"))
	}},
	{"the lease of who crashed lapses, and not before its time", func(t *trial) {
		c, begun := newClaim(), time.Now()
		rec := t.claim(leased(c, 2*short))
		t.crash()
		t.becomes(c.ID, idempotency.Running, idempotency.Unknown)
		if took := time.Since(begun); took < 2*short-slack {
			t.Errorf("it lapsed after %s, want %s", took, 2*short)
		}
		t.refused(again(c), idempotency.Unknown)
		if taken := t.claim(takingOver(again(c))); !taken.TakenOver || taken.Fence <= rec.Fence {
			t.Errorf("taken over from %+v as %+v", rec, taken)
		}
		t.powerless(c.Holder())
	}},
	{"a lease begun anew survives a crash", func(t *trial) {
		c := newClaim()
		t.claim(leased(c, short))
		t.becomes(c.ID, idempotency.Running, idempotency.Unknown)
		t.must(t.store.Renew(t.Context(), c.Holder(), long, time.Hour))
		t.crash()
		t.stands(c.ID, idempotency.Running)
	}},
	{"a completed key and its result survive a crash", func(t *trial) {
		c := newClaim()
		rec := t.claim(c)
		result := bytes.Repeat(c.ID[:], 1<<20/len(c.ID))
		t.complete(c, result, forgetLate)
		for range 2 {
			t.crash()
			t.result(c.ID, result)
			if seen := t.refused(takingOver(again(c)), idempotency.Completed); seen.Fence != rec.Fence || seen.Fingerprint != c.Fingerprint {
				t.Errorf("claimed as %+v and after the crash %+v", rec, seen)
			}
			t.complete(c, []byte("repeated"), forgetLate)
		}
	}},
	{"an expired key survives a crash", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.complete(c, []byte("done"), idempotency.Keep{Result: short, Key: time.Hour})
		t.crash()
		t.becomes(c.ID, idempotency.Completed, idempotency.Expired)
		t.crash()
		t.refused(again(c), idempotency.Expired)
	}},
	{"an unknown key survives a crash", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.unknown(c)
		t.crash()
		t.refused(again(c), idempotency.Unknown)
		t.complete(c, []byte("late"), forgetLate)
	}},
	{"a takeover survives a crash", func(t *trial) {
		old := newClaim()
		t.claim(old)
		t.unknown(old)
		c := takingOver(again(old))
		rec := t.claim(c)
		t.crash()
		t.powerless(old.Holder())
		if repeated := t.claim(c); !repeated.TakenOver || repeated.Fence != rec.Fence {
			t.Errorf("taken over as %+v and after the crash as %+v", rec, repeated)
		}
	}},
	{"a released key stays forgotten after a crash, and its fence grows", func(t *trial) {
		c := newClaim()
		rec := t.claim(c)
		t.must(t.store.Release(t.Context(), c.Holder()))
		t.crash()
		t.stands(c.ID, idempotency.Absent)
		if next := t.claim(c); next.Fence <= rec.Fence {
			t.Errorf("fence %d, and %d before the crash", next.Fence, rec.Fence)
		}
	}},
	{"the age goes on through a crash", func(t *trial) {
		c, begun := newClaim(), time.Now()
		t.claim(c)
		t.pause(3 * slack)
		t.crash()
		rec := t.stands(c.ID, idempotency.Running)
		if gone := time.Since(begun); rec.Age < 2*slack || rec.Age > gone+slack || rec.Left > c.Lease-slack {
			t.Errorf("age %s and %s left, after %s", rec.Age, rec.Left, gone)
		}
	}},
}

// crash leaves the store as it is and goes on with another handle on its data.
func (t *trial) crash() {
	t.Helper()
	t.store = t.reopen()
	if t.store == nil {
		t.Fatal("Reopen returned nil")
	}
}
