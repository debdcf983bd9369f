package idempotencytest

import (
	"bytes"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

var holders = []rule{
	{"the holder begins the lease anew as often as it likes", func(t *trial) {
		c := newClaim()
		t.claim(c)
		for range 2 {
			t.must(t.store.Renew(t.Context(), c.Holder(), 3*long, time.Hour))
			if left := t.stands(c.ID, idempotency.Running).Left; left <= long+slack || left > 3*long+slack {
				t.Errorf("%s left of %s", left, 3*long)
			}
		}
	}},
	{"a lapsed lease is begun anew while nobody has taken over", func(t *trial) {
		c := newClaim()
		rec := t.claim(leased(c, short))
		t.becomes(c.ID, idempotency.Running, idempotency.Unknown)
		t.must(t.store.Renew(t.Context(), c.Holder(), long, time.Hour))
		if renewed := t.stands(c.ID, idempotency.Running); renewed.Fence != rec.Fence {
			t.Errorf("fence %d, and was claimed with %d", renewed.Fence, rec.Fence)
		}
		t.refused(takingOver(again(c)), idempotency.Running)
	}},
	{"the result comes back to the byte", func(t *trial) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		for _, result := range [][]byte{nil, {}, {0}, all, bytes.Repeat(all, 1<<20/256), []byte("a\r\n\x00b\\x00'\"")} {
			c := newClaim()
			t.claim(c)
			t.complete(c, result, forgetLate)
			t.result(c.ID, result)
			if rec := t.refused(again(c), idempotency.Completed); !bytes.Equal(rec.Result, result) {
				t.Errorf("a claim got another result than was left, of %d bytes", len(result))
			}
		}
	}},
	{"who left a result may use its buffer again", func(t *trial) {
		c := newClaim()
		t.claim(c)
		buffer := []byte("what was answered")
		t.complete(c, buffer, forgetLate)
		copy(buffer, "something else   ")
		t.result(c.ID, []byte("what was answered"))
	}},
	{"a completion repeated by the same holder changes nothing", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.complete(c, []byte("first"), forgetLate)
		t.complete(c, []byte("first"), forgetLate)
		t.complete(c, []byte("second"), forgetLate)
		t.result(c.ID, []byte("first"))
	}},
	{"a completion repeated after its result expired changes nothing", func(t *trial) {
		c, keep := newClaim(), idempotency.Keep{Result: short, Key: time.Hour}
		t.claim(c)
		t.complete(c, []byte("done"), keep)
		t.becomes(c.ID, idempotency.Completed, idempotency.Expired)
		t.complete(c, []byte("done"), keep)
		t.stands(c.ID, idempotency.Expired)
	}},
	{"a lapsed lease is completed late by the holder that let it lapse", func(t *trial) {
		c := newClaim()
		t.claim(leased(c, short))
		t.becomes(c.ID, idempotency.Running, idempotency.Unknown)
		t.complete(c, []byte("late"), forgetLate)
		t.result(c.ID, []byte("late"))
		t.refused(takingOver(again(c)), idempotency.Completed)
	}},
	{"an abandoned key is completed late by the holder that abandoned it", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.unknown(c)
		t.complete(c, []byte("late"), forgetLate)
		t.result(c.ID, []byte("late"))
	}},
	{"what is settled is altered by nobody, its holder included", func(t *trial) {
		for _, keep := range []idempotency.Keep{forgetLate, {Result: short, Key: time.Hour}} {
			c := newClaim()
			t.claim(c)
			t.complete(c, []byte("done"), keep)
			if keep != forgetLate {
				t.becomes(c.ID, idempotency.Completed, idempotency.Expired)
			}
			was, err := t.store.Lookup(t.Context(), c.ID)
			t.must(err)
			t.lost("Renew", t.store.Renew(t.Context(), c.Holder(), long, time.Hour))
			t.lost("Release", t.store.Release(t.Context(), c.Holder()))
			t.lost("Abandon", t.store.Abandon(t.Context(), c.Holder(), time.Hour))
			t.unchanged(c.ID, was)
			t.powerless(again(c).Holder())
		}
	}},
	{"another token has no say over an unknown key", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.unknown(c)
		t.powerless(again(c).Holder())
	}},
	{"a key that nobody claimed has no holder", func(t *trial) {
		c := newClaim()
		t.unheld(c)
	}},
	{"a released key is forgotten at once, as often as it is released", func(t *trial) {
		c := newClaim()
		t.claim(c)
		for range 2 {
			t.must(t.store.Release(t.Context(), c.Holder()))
			t.stands(c.ID, idempotency.Absent)
		}
		t.unheld(c)

		other := otherwise(c)
		if t.claim(other).TakenOver {
			t.Error("TakenOver, and the key was free")
		}
		t.powerless(c.Holder())
		t.complete(other, []byte("other"), forgetLate)
		t.powerless(c.Holder())
	}},
	{"an unknown key is released by its holder", func(t *trial) {
		c := newClaim()
		t.claim(leased(c, short))
		t.becomes(c.ID, idempotency.Running, idempotency.Unknown)
		t.must(t.store.Release(t.Context(), c.Holder()))
		t.stands(c.ID, idempotency.Absent)
	}},
	{"an abandoned key is unknown at once, as often as it is abandoned", func(t *trial) {
		c := newClaim()
		rec := t.claim(c)
		t.unknown(c)
		t.unknown(c)
		if seen := t.stands(c.ID, idempotency.Unknown); seen.Fence != rec.Fence || seen.Fingerprint != c.Fingerprint {
			t.Errorf("claimed as %+v and abandoned as %+v", rec, seen)
		}
	}},
	{"an abandoned lease is a lapsed one: its holder may begin it anew", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.unknown(c)
		t.must(t.store.Renew(t.Context(), c.Holder(), long, time.Hour))
		t.stands(c.ID, idempotency.Running)
	}},
	{"after a takeover the old holder has lost the key for good", func(t *trial) {
		old := newClaim()
		t.claim(old)
		t.unknown(old)
		c := takingOver(again(old))
		t.claim(c)
		t.powerless(old.Holder()) // running
		t.unknown(c)
		t.powerless(old.Holder())
		t.refused(old, idempotency.Unknown)
		t.complete(c, []byte("new"), forgetLate)
		t.powerless(old.Holder())
		t.result(c.ID, []byte("new"))
	}},
	{"after a takeover and a release the old holder has lost the key for good", func(t *trial) {
		old := newClaim()
		t.claim(old)
		t.unknown(old)
		c := takingOver(again(old))
		t.claim(c)
		t.must(t.store.Release(t.Context(), c.Holder()))
		t.unheld(old)
	}},
}

// unheld checks that the key is absent and that c, which does not hold it, cannot make it otherwise.
func (t *trial) unheld(c idempotency.Claim) {
	t.Helper()
	t.lost("Renew", t.store.Renew(t.Context(), c.Holder(), long, time.Hour))
	t.lost("Complete", t.store.Complete(t.Context(), c.Holder(), []byte("of nobody"), forgetLate))
	t.lost("Abandon", t.store.Abandon(t.Context(), c.Holder(), time.Hour))
	t.must(t.store.Release(t.Context(), c.Holder()))
	t.stands(c.ID, idempotency.Absent)
}
