package idempotencytest

import (
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

var claims = []rule{
	{"a key that nobody claimed is absent", func(t *trial) {
		t.stands(newClaim().ID, idempotency.Absent)
	}},
	{"an absent key is claimed and then running", func(t *trial) {
		c := newClaim()
		rec := t.claim(c)
		t.in(rec, idempotency.Running)
		if rec.TakenOver {
			t.Error("TakenOver, and nobody had it before")
		}
		if seen := t.stands(c.ID, idempotency.Running); seen.Fence != rec.Fence || seen.Fingerprint != c.Fingerprint {
			t.Errorf("claimed as %+v and looked up as %+v", rec, seen)
		}
	}},
	{"to claim an absent key with TakeOver is to claim it", func(t *trial) {
		if t.claim(takingOver(newClaim())).TakenOver {
			t.Error("TakenOver, and nobody had it before")
		}
	}},
	{"a running key is nobody else's, not with TakeOver either", func(t *trial) {
		c := newClaim()
		mine := t.claim(c)
		for _, other := range []idempotency.Claim{again(c), takingOver(again(c))} {
			if rec := t.refused(other, idempotency.Running); rec.Fence != mine.Fence || rec.Left <= 0 {
				t.Errorf("the record is %+v, want fence %d and what is left of the lease", rec, mine.Fence)
			}
			t.powerless(other.Holder())
		}
		t.complete(c, []byte("mine"), forgetLate)
	}},
	{"a claim repeated by its token has the key still, with the same fence and the lease anew", func(t *trial) {
		c := newClaim()
		first := t.claim(c)
		repeated := t.claim(leased(c, 3*long))
		if repeated.Fence != first.Fence || repeated.TakenOver {
			t.Errorf("claimed as %+v and again as %+v", first, repeated)
		}
		for _, rec := range []idempotency.Record{repeated, t.stands(c.ID, idempotency.Running)} {
			if rec.Left <= long+slack {
				t.Errorf("%s left of a lease that began anew with %s", rec.Left, 3*long)
			}
		}
		t.complete(c, []byte("mine"), forgetLate)
	}},
	{"a claim repeated by its token has the key still after the lease has lapsed", func(t *trial) {
		c := newClaim()
		first := t.claim(leased(c, short))
		t.becomes(c.ID, idempotency.Running, idempotency.Unknown)
		if again := t.claim(c); again.Fence != first.Fence || again.TakenOver {
			t.Errorf("claimed as %+v and again as %+v", first, again)
		}
		t.stands(c.ID, idempotency.Running)
	}},
	{"a claim repeated by its token gets the record if it was completed meanwhile", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.complete(c, []byte("done"), forgetLate)
		if rec := t.refused(c, idempotency.Completed); string(rec.Result) != "done" {
			t.Errorf("result %q", rec.Result)
		}
	}},
	{"an unknown key is not claimed without TakeOver", func(t *trial) {
		c := newClaim()
		rec := t.claim(c)
		t.unknown(c)
		if seen := t.refused(again(c), idempotency.Unknown); seen.Fence != rec.Fence {
			t.Errorf("fence %d, and was claimed with %d", seen.Fence, rec.Fence)
		}
		t.stands(c.ID, idempotency.Unknown)
	}},
	{"an unknown key is taken over with TakeOver, and again by the same token", func(t *trial) {
		old := newClaim()
		was := t.claim(old)
		t.unknown(old)
		c := takingOver(again(old))
		rec := t.claim(c)
		t.in(rec, idempotency.Running)
		if !rec.TakenOver || rec.Fence <= was.Fence {
			t.Errorf("taken over from %+v as %+v", was, rec)
		}
		repeated := t.claim(c)
		if !repeated.TakenOver || repeated.Fence != rec.Fence {
			t.Errorf("taken over as %+v and again as %+v", rec, repeated)
		}
		t.refused(takingOver(old), idempotency.Running)
	}},
	{"a claim for something else gets the record and never the key", func(t *trial) {
		c := newClaim()
		t.claim(c)
		mismatched := func(want idempotency.State) {
			t.Helper()
			for _, other := range []idempotency.Claim{otherwise(c), takingOver(otherwise(c))} {
				if rec := t.refused(other, want); rec.Fingerprint != c.Fingerprint {
					t.Error("the record has not the fingerprint that the key was claimed for")
				}
				if rec := t.stands(c.ID, want); rec.Fingerprint != c.Fingerprint {
					t.Error("the claim left its fingerprint behind")
				}
			}
		}
		mismatched(idempotency.Running)
		t.unknown(c)
		mismatched(idempotency.Unknown)
		t.complete(c, []byte("done"), idempotency.Keep{Result: short, Key: time.Hour})
		t.becomes(c.ID, idempotency.Completed, idempotency.Expired)
		mismatched(idempotency.Expired)

		c = newClaim()
		t.claim(c)
		t.complete(c, []byte("done"), forgetLate)
		mismatched(idempotency.Completed)
	}},
	{"a completed key is not claimed again, and tells its result", func(t *trial) {
		c := newClaim()
		mine := t.claim(c)
		t.complete(c, []byte("done"), forgetLate)
		for _, other := range []idempotency.Claim{again(c), takingOver(again(c))} {
			if rec := t.refused(other, idempotency.Completed); string(rec.Result) != "done" || rec.Fence != mine.Fence {
				t.Errorf("the record is %+v", rec)
			}
			t.powerless(other.Holder())
		}
	}},
	{"the fence grows with every run", func(t *trial) {
		c, fence := newClaim(), uint64(0)
		next := func(how string, c idempotency.Claim) {
			t.Helper()
			rec := t.claim(c)
			if how != "" && rec.Fence <= fence {
				t.Errorf("fence %d %s, and %d before", rec.Fence, how, fence)
			}
			fence = rec.Fence
		}
		next("", c)
		t.must(t.store.Release(t.Context(), c.Holder()))
		next("after a release", c)
		t.unknown(c)
		c = takingOver(again(c))
		next("of who takes over", c)
		t.must(t.store.Release(t.Context(), c.Holder()))
		c = again(c)
		next("after a takeover and a release", c)
		t.complete(c, nil, idempotency.Keep{Result: short, Key: short})
		t.becomes(c.ID, idempotency.Completed, idempotency.Expired, idempotency.Absent)
		next("after the key was forgotten", again(c))
	}},
	{"keys that differ by one bit are two keys", func(t *trial) {
		c := newClaim()
		t.claim(c)
		for _, bit := range []int{0, 7, 128, 255} {
			other := again(c)
			other.ID[bit/8] ^= 1 << (bit % 8)
			t.claim(other)
			t.powerless(idempotency.Holder{ID: other.ID, Token: c.Token})
			t.complete(other, []byte("other"), forgetLate)
			t.stands(c.ID, idempotency.Running)
		}
	}},
	{"keys and tokens are bytes, whichever", func(t *trial) {
		var bare [2]idempotency.Claim
		for n, fill := range []byte{0x00, 0xff} {
			c := newClaim()
			for i := range 15 { // the rest tells them from those of other tests
				c.ID[i], c.Token[i], c.Fingerprint[i] = fill, fill, fill
			}
			bare[n] = c
			t.claim(c)
			t.refused(again(c), idempotency.Running)
			t.powerless(again(c).Holder())
			t.complete(c, []byte{fill}, forgetLate)
		}
		t.result(bare[0].ID, []byte{0x00})
		t.result(bare[1].ID, []byte{0xff})
	}},
}
