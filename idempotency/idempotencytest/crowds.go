package idempotencytest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

var crowds = []rule{
	{"of many that claim a key at once one has it", func(t *trial) {
		t.contend(newClaim())
	}},
	{"of many that take a key over at once one has it", func(t *trial) {
		c := newClaim()
		t.claim(c)
		t.unknown(c)
		t.contend(takingOver(c))
	}},
	{"of many that run, take over and complete one settles the key", func(t *trial) {
		for range 10 {
			t.settleOnce(newClaim())
		}
	}},
	{"many keys at once do not get mixed up", func(t *trial) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 8 {
					t.roundTrip(newClaim())
				}
			})
		}
		wg.Wait()
	}},
	{"a context that has ended leaves nothing half done", func(t *trial) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		t.repeated(func() context.Context { return ctx })
	}},
	{"a context that ends meanwhile leaves nothing half done", func(t *trial) {
		var stop context.CancelFunc = func() {}
		for i := range 12 {
			t.repeated(func() context.Context {
				stop()
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1<<i)*time.Microsecond)
				stop = cancel
				return ctx
			})
		}
		stop()
	}},
}

// contend lets many claim the key, each for itself.
func (t *trial) contend(c idempotency.Claim) {
	var mu sync.Mutex
	var has, refused []idempotency.Record
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			<-begin
			rec, claimed, err := t.store.Claim(t.Context(), again(c))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Errorf("error: %v", err)
			case claimed:
				has = append(has, rec)
			default:
				refused = append(refused, rec)
			}
		})
	}
	close(begin)
	wg.Wait()
	if len(has) != 1 {
		t.Fatalf("%d have the key", len(has))
	}
	for _, rec := range refused {
		if rec.State != idempotency.Running || rec.Fence != has[0].Fence {
			t.Errorf("refused with %+v, while the key was held as %+v", rec, has[0])
		}
	}
}

// settleOnce lets many take the key, give it up, take it from each other and
// complete it with a result of their own, until it is settled.
func (t *trial) settleOnce(c idempotency.Claim) {
	b := brawl{trial: t, runs: make(map[uint64]bool)}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 10 {
				if b.run(takingOver(again(c))) {
					return
				}
			}
		})
	}
	wg.Wait()
	rec, err := t.store.Lookup(t.Context(), c.ID)
	t.must(err)
	switch {
	case len(b.settled) > 1:
		t.Errorf("%d settled the key", len(b.settled))
	case len(b.settled) == 1 && (rec.State != idempotency.Completed || !bytes.Equal(rec.Result, b.settled[0])):
		t.Errorf("the result is not of who settled the key: %+v", rec)
	case len(b.settled) == 0 && rec.State != idempotency.Unknown:
		t.Errorf("nobody settled the key, and the record is %s", rec.State)
	}
}

// A brawl is many runs under one key.
type brawl struct {
	*trial

	mu      sync.Mutex
	runs    map[uint64]bool // by fence
	settled [][]byte        // the results of those who were told that they did
}

// run takes the key once and mostly gives it up, and reports whether all is over.
func (b *brawl) run(c idempotency.Claim) (over bool) {
	rec, claimed, err := b.store.Claim(b.Context(), c)
	if err != nil {
		b.Errorf("error: %v", err)
		return true
	}
	if !claimed {
		return rec.State == idempotency.Completed
	}
	b.began(rec.Fence)
	abandoned := rand.IntN(4) > 0
	if abandoned {
		err = b.store.Abandon(b.Context(), c.Holder(), time.Hour)
	}
	if err == nil && (!abandoned || rand.IntN(2) == 0) { // late, after all
		err = b.store.Complete(b.Context(), c.Holder(), c.Token[:], forgetLate)
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.settled = append(b.settled, c.Token[:])
			return true
		}
	}
	if err != nil && !errors.Is(err, idempotency.ErrLost) {
		b.Errorf("error: %v", err)
	}
	return false
}

func (b *brawl) began(fence uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.runs[fence] {
		b.Errorf("two runs had fence %d", fence)
	}
	b.runs[fence] = true
}

// roundTrip claims a key, completes it and looks at it, on any goroutine.
func (t *trial) roundTrip(c idempotency.Claim) {
	claimed, has, err := t.store.Claim(t.Context(), c)
	if err != nil || !has {
		t.Errorf("not claimed: %+v, error %v", claimed, err)
		return
	}
	if err := t.store.Complete(t.Context(), c.Holder(), c.ID[:], forgetLate); err != nil {
		t.Errorf("error: %v", err)
		return
	}
	rec, err := t.store.Lookup(t.Context(), c.ID)
	if err != nil || rec.State != idempotency.Completed || !bytes.Equal(rec.Result, c.ID[:]) ||
		rec.Fingerprint != c.Fingerprint || rec.Fence != claimed.Fence {
		t.Errorf("claimed as %+v and looked up as %+v, error %v", claimed, rec, err)
	}
}

// repeated calls every method with a context that may have ended and, after an
// error, once more with one that has not.
func (t *trial) repeated(ctx func() context.Context) {
	t.Helper()
	do := func(f func(context.Context) error) {
		t.Helper()
		if f(ctx()) != nil {
			t.must(f(t.Context()))
		}
	}
	claim := func(c idempotency.Claim) {
		t.Helper()
		do(func(ctx context.Context) error {
			_, claimed, err := t.store.Claim(ctx, c)
			if err == nil && !claimed {
				err = errors.New("not claimed")
			}
			return err
		})
	}
	c := newClaim()
	claim(c)
	do(func(ctx context.Context) error { return t.store.Release(ctx, c.Holder()) })
	t.stands(c.ID, idempotency.Absent)
	claim(c)
	t.stands(c.ID, idempotency.Running)
	do(func(ctx context.Context) error { return t.store.Abandon(ctx, c.Holder(), time.Hour) })
	t.stands(c.ID, idempotency.Unknown)
	c = takingOver(again(c))
	claim(c)
	do(func(ctx context.Context) error { return t.store.Renew(ctx, c.Holder(), 3*long, time.Hour) })
	if left := t.stands(c.ID, idempotency.Running).Left; left < 2*long {
		t.Errorf("%s left of %s", left, 3*long)
	}
	do(func(ctx context.Context) error { return t.store.Complete(ctx, c.Holder(), c.ID[:], forgetLate) })
	do(func(ctx context.Context) error { _, err := t.store.Lookup(ctx, c.ID); return err })
	t.result(c.ID, c.ID[:])
}
