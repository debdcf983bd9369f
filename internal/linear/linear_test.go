package linear

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

func newMemory(t *testing.T) idempotency.Store {
	m, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTheStoreInMemoryIsAtomic(t *testing.T) {
	Check(t, newMemory(t), 100)
}

// What breaks only where two meet, which no test of one caller can see.
func TestAStoreThatIsNotAtomicIsFound(t *testing.T) {
	for name, broken := range map[string]func(idempotency.Store) idempotency.Store{
		"a claim is a look and then a write":    func(s idempotency.Store) idempotency.Store { return &lookThenClaim{Store: s} },
		"a takeover does not tell the old one":  func(s idempotency.Store) idempotency.Store { return &deafHolder{Store: s} },
		"a lookup answers from before":          func(s idempotency.Store) idempotency.Store { return &staleLookup{Store: s} },
		"a release comes after it was answered": func(s idempotency.Store) idempotency.Store { return &lateRelease{Store: s} },
		"two runs get one fence":                func(s idempotency.Store) idempotency.Store { return &sameFence{Store: s} },
	} {
		t.Run(name, func(t *testing.T) {
			err := check(t.Context(), broken(newMemory(t)), 200)
			if err == nil {
				t.Fatal("not found")
			}
			t.Log(err)
		})
	}
}

type lookThenClaim struct{ idempotency.Store }

func (s *lookThenClaim) Claim(ctx context.Context, c idempotency.Claim) (idempotency.Record, bool, error) {
	before, _ := s.Lookup(ctx, c.ID)
	runtime.Gosched()
	rec, claimed, err := s.Store.Claim(ctx, c)
	return rec, claimed || before.State == idempotency.Absent, err
}

type deafHolder struct{ idempotency.Store }

func (s *deafHolder) Complete(ctx context.Context, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	_ = s.Store.Complete(ctx, h, result, keep)
	return nil
}

type staleLookup struct {
	idempotency.Store
	mu   sync.Mutex
	seen map[idempotency.ID]idempotency.Record
}

func (s *staleLookup) Lookup(ctx context.Context, id idempotency.ID) (idempotency.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.seen[id]
	rec, err := s.Store.Lookup(ctx, id)
	if s.seen == nil {
		s.seen = make(map[idempotency.ID]idempotency.Record)
	}
	s.seen[id] = rec
	if known {
		return before, err
	}
	return rec, err
}

type lateRelease struct{ idempotency.Store }

func (s *lateRelease) Release(ctx context.Context, h idempotency.Holder) error {
	rec, err := s.Lookup(ctx, h.ID)
	if err != nil || rec.State != idempotency.Running {
		return s.Store.Release(ctx, h)
	}
	// A holder is told at once, and the key goes a little later.
	if err := s.Renew(ctx, h, time.Hour, time.Hour); err != nil {
		return err
	}
	go func() {
		time.Sleep(time.Millisecond)
		_ = s.Store.Release(ctx, h)
	}()
	return nil
}

type sameFence struct{ idempotency.Store }

func (s *sameFence) Claim(ctx context.Context, c idempotency.Claim) (idempotency.Record, bool, error) {
	rec, claimed, err := s.Store.Claim(ctx, c)
	rec.Fence = (rec.Fence + 1) / 2
	return rec, claimed, err
}

func (s *sameFence) Lookup(ctx context.Context, id idempotency.ID) (idempotency.Record, error) {
	rec, err := s.Store.Lookup(ctx, id)
	rec.Fence = (rec.Fence + 1) / 2
	return rec, err
}
