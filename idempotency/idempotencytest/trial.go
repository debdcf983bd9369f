package idempotencytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

// A trial is one rule, tried on one store.
type trial struct {
	*testing.T
	store  idempotency.Store
	reopen func() idempotency.Store
}

const (
	long  = time.Minute           // no test takes as long
	short = 30 * time.Millisecond // and this is waited for

	// slack is what a store's clock and ours may differ by, rounded ticks included.
	slack = 10 * time.Millisecond
	// patience is when a state that does not come is given up.
	patience = 20 * time.Second
)

var forgetLate = idempotency.Keep{Result: time.Hour, Key: time.Hour}

// newClaim is a claim of a new key, with a lease that no test outlasts.
func newClaim() (c idempotency.Claim) {
	rand.Read(c.ID[:])
	rand.Read(c.Fingerprint[:])
	c.Lease, c.Keep = long, time.Hour
	return again(c)
}

// again is the same claim by somebody else.
func again(c idempotency.Claim) idempotency.Claim {
	rand.Read(c.Token[:])
	return c
}

// otherwise is the same claim by somebody else, for something else.
func otherwise(c idempotency.Claim) idempotency.Claim {
	rand.Read(c.Fingerprint[:])
	return again(c)
}

func leased(c idempotency.Claim, lease time.Duration) idempotency.Claim {
	c.Lease = lease
	return c
}

func takingOver(c idempotency.Claim) idempotency.Claim {
	c.TakeOver = true
	return c
}

// claim takes the key.
func (t *trial) claim(c idempotency.Claim) idempotency.Record {
	t.Helper()
	rec, claimed, err := t.store.Claim(t.Context(), c)
	t.must(err)
	if !claimed {
		t.Fatalf("not claimed: the record is %s", rec.State)
	}
	if rec.Fingerprint != c.Fingerprint {
		t.Fatalf("claimed, and the record has another fingerprint")
	}
	if len(rec.Result) > 0 {
		t.Fatalf("claimed, and the record has a result: %q", rec.Result)
	}
	return rec
}

// refused is the record, in the state wanted, that a claim gets instead of the key.
func (t *trial) refused(c idempotency.Claim, want idempotency.State) idempotency.Record {
	t.Helper()
	rec, claimed, err := t.store.Claim(t.Context(), c)
	t.must(err)
	if claimed {
		t.Fatalf("claimed what should be refused as %s", want)
	}
	t.in(rec, want)
	return rec
}

// stands looks a record up that must be in the state wanted.
func (t *trial) stands(id idempotency.ID, want idempotency.State) idempotency.Record {
	t.Helper()
	rec, err := t.store.Lookup(t.Context(), id)
	t.must(err)
	t.in(rec, want)
	return rec
}

// becomes waits until the record is in the last state of the path. It may have
// passed by the others unseen, but goes neither back nor aside.
func (t *trial) becomes(id idempotency.ID, path ...idempotency.State) idempotency.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		rec, err := t.store.Lookup(ctx, id)
		t.must(err)
		at := slices.Index(path, rec.State)
		if at < 0 {
			t.Fatalf("the record is %s on its way through %s", rec.State, path)
		}
		if path = path[at:]; len(path) == 1 {
			t.in(rec, path[0])
			return rec
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %s the record is still %s", patience, rec.State)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// in says what is wrong with a record that should be in the state wanted.
func (t *trial) in(rec idempotency.Record, want idempotency.State) {
	t.Helper()
	if rec.State != want {
		t.Fatalf("the record is %s, want %s", rec.State, want)
	}
	if rec.Left < 0 || rec.Left > 0 && want != idempotency.Running {
		t.Fatalf("the record is %s and %s is left of its lease", want, rec.Left)
	}
	if len(rec.Result) > 0 && want != idempotency.Completed {
		t.Fatalf("the record is %s and has a result: %q", want, rec.Result)
	}
	if want == idempotency.Absent && (rec.Fence != 0 || rec.Age != 0 || rec.Fingerprint != idempotency.Fingerprint{}) {
		t.Fatalf("the record is absent and not empty: %+v", rec)
	}
}

func (t *trial) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("error: %v", err)
	}
}

func (t *trial) lost(what string, err error) {
	t.Helper()
	if !errors.Is(err, idempotency.ErrLost) {
		t.Fatalf("%s: error %v, want ErrLost", what, err)
	}
}

// powerless checks that h has no say over a record that is there: every method
// refuses it, and the record stays as it is.
func (t *trial) powerless(h idempotency.Holder) {
	t.Helper()
	before, err := t.store.Lookup(t.Context(), h.ID)
	t.must(err)
	t.lost("Renew", t.store.Renew(t.Context(), h, 2*long, time.Hour))
	t.lost("Complete", t.store.Complete(t.Context(), h, []byte("of somebody else"), forgetLate))
	t.lost("Release", t.store.Release(t.Context(), h))
	t.lost("Abandon", t.store.Abandon(t.Context(), h, time.Hour))
	t.unchanged(h.ID, before)
}

// unchanged looks a record up that must be as it was.
func (t *trial) unchanged(id idempotency.ID, was idempotency.Record) {
	t.Helper()
	is := t.stands(id, was.State)
	if is.Fence != was.Fence || is.Fingerprint != was.Fingerprint || is.TakenOver != was.TakenOver || !bytes.Equal(is.Result, was.Result) {
		t.Fatalf("the record was %+v and is %+v", was, is)
	}
	if is.Left > was.Left+slack || is.Age < was.Age-slack {
		t.Fatalf("the record has %s left at an age of %s, and had %s at %s", is.Left, is.Age, was.Left, was.Age)
	}
}

// complete settles the key with a result.
func (t *trial) complete(c idempotency.Claim, result []byte, keep idempotency.Keep) {
	t.Helper()
	t.must(t.store.Complete(t.Context(), c.Holder(), result, keep))
}

// result is what a completed record must have.
func (t *trial) result(id idempotency.ID, want []byte) {
	t.Helper()
	if got := t.stands(id, idempotency.Completed).Result; !bytes.Equal(got, want) {
		t.Fatalf("a result of %d bytes came back as one of %d bytes, or with others", len(want), len(got))
	}
}

// unknown leaves the key behind as a holder that crashed.
func (t *trial) unknown(c idempotency.Claim) {
	t.Helper()
	t.must(t.store.Abandon(t.Context(), c.Holder(), time.Hour))
	t.stands(c.ID, idempotency.Unknown)
}

// pause lets time go by.
func (t *trial) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
