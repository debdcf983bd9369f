package idempotencytest

import (
	"context"
	"sync"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

// A broken store is a right one behind something wrong. What is nil is right.
type broken struct {
	idempotency.Store
	claim    func(*broken, idempotency.Claim) (idempotency.Record, bool, error)
	renew    func(b *broken, h idempotency.Holder, lease, keep time.Duration) error
	complete func(*broken, idempotency.Holder, []byte, idempotency.Keep) error
	release  func(*broken, idempotency.Holder) error
	abandon  func(*broken, idempotency.Holder, time.Duration) error
	see      func(*broken, idempotency.ID, idempotency.Record) idempotency.Record // what it tells of a record
	reopen   func(*broken) idempotency.Store
	heeds    bool // a context that has ended, and says that all went well

	mu        sync.Mutex
	claims    map[idempotency.ID][]idempotency.Claim // that succeeded
	begun     map[idempotency.ID]time.Time           // the first of them
	abandoned map[idempotency.Holder]bool
	results   map[idempotency.ID][]byte
}

func (b *broken) open() Instance {
	b.Store = newMemory()
	b.claims = make(map[idempotency.ID][]idempotency.Claim)
	b.begun = make(map[idempotency.ID]time.Time)
	b.abandoned = make(map[idempotency.Holder]bool)
	b.results = make(map[idempotency.ID][]byte)
	return Instance{Store: b, Reopen: func() idempotency.Store {
		if b.reopen != nil {
			return b.reopen(b)
		}
		return b
	}}
}

func newMemory() idempotency.Store {
	m, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	if err != nil {
		panic(err)
	}
	return m
}

func (b *broken) Claim(ctx context.Context, c idempotency.Claim) (idempotency.Record, bool, error) {
	if b.heeds && ctx.Err() != nil {
		return idempotency.Record{}, true, nil
	}
	claim := b.claim
	if claim == nil {
		claim = (*broken).rightClaim
	}
	rec, claimed, err := claim(b, c)
	b.mu.Lock()
	defer b.mu.Unlock()
	if claimed {
		if len(b.claims[c.ID]) == 0 {
			b.begun[c.ID] = time.Now()
		}
		b.claims[c.ID] = append(b.claims[c.ID], c)
	}
	return b.seen(c.ID, rec), claimed, err
}

func (b *broken) Lookup(_ context.Context, id idempotency.ID) (idempotency.Record, error) {
	rec := b.stands(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen(id, rec), nil
}

func (b *broken) seen(id idempotency.ID, rec idempotency.Record) idempotency.Record {
	if b.see != nil {
		return b.see(b, id, rec)
	}
	return rec
}

func (b *broken) Renew(ctx context.Context, h idempotency.Holder, lease, keep time.Duration) error {
	if b.renew != nil {
		return b.renew(b, h, lease, keep)
	}
	return b.Store.Renew(ctx, h, lease, keep)
}

func (b *broken) Complete(ctx context.Context, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	switch {
	case b.heeds && ctx.Err() != nil:
		return nil
	case b.complete != nil:
		return b.complete(b, h, result, keep)
	}
	return b.rightComplete(h, result, keep)
}

func (b *broken) Release(ctx context.Context, h idempotency.Holder) error {
	if b.release != nil {
		return b.release(b, h)
	}
	return b.Store.Release(ctx, h)
}

func (b *broken) Abandon(ctx context.Context, h idempotency.Holder, keep time.Duration) error {
	b.mu.Lock()
	b.abandoned[h] = true
	b.mu.Unlock()
	if b.abandon != nil {
		return b.abandon(b, h, keep)
	}
	return b.Store.Abandon(ctx, h, keep)
}

func (b *broken) rightClaim(c idempotency.Claim) (idempotency.Record, bool, error) {
	return b.Store.Claim(context.Background(), c)
}

func (b *broken) rightComplete(h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	return b.Store.Complete(context.Background(), h, result, keep)
}

// stands is the record as it is.
func (b *broken) stands(id idempotency.ID) idempotency.Record {
	rec, _ := b.Store.Lookup(context.Background(), id)
	return rec
}

// forgets releases the key for whoever holds it.
func (b *broken) forgets(id idempotency.ID) error {
	return b.Store.Release(context.Background(), b.last(idempotency.Holder{ID: id}))
}

// last is who claimed the key last, whoever asks.
func (b *broken) last(h idempotency.Holder) idempotency.Holder {
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := b.claims[h.ID]; len(all) > 0 {
		return all[len(all)-1].Holder()
	}
	return h
}

// held reports whether h made the last claim.
func (b *broken) held(h idempotency.Holder) bool { return b.last(h) == h }

func (b *broken) gaveUp(h idempotency.Holder) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.abandoned[h]
}
