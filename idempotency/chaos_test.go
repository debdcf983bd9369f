package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

// whimsical is a store that is slow, fails, and loses answers as it pleases.
type whimsical struct {
	*idempotency.Memory
	mu  sync.Mutex
	rnd *rand.Rand
	bad float64 // how much of it
}

func (s *whimsical) dice(n int) (bool, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rnd.Float64() < s.bad, time.Duration(s.rnd.IntN(n)) * time.Millisecond
}

func (s *whimsical) whim(ctx context.Context, do func() error) error {
	if slow, d := s.dice(700); slow {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			if late, d := s.dice(1000); late { // it takes place all the same, later
				time.AfterFunc(d, func() { _ = do() })
			}
			return ctx.Err()
		}
	}
	if fails, _ := s.dice(1); fails {
		return errDown
	}
	err := do()
	if lost, _ := s.dice(1); lost {
		return errDown
	}
	return err
}

func (s *whimsical) Claim(ctx context.Context, c idempotency.Claim) (idempotency.Record, bool, error) {
	type claim struct {
		rec     idempotency.Record
		claimed bool
	}
	got := make(chan claim, 1)
	err := s.whim(ctx, func() error {
		rec, claimed, err := s.Memory.Claim(ctx, c)
		got <- claim{rec, claimed}
		return err
	})
	if err != nil {
		return idempotency.Record{}, false, err
	}
	g := <-got
	return g.rec, g.claimed, nil
}

func (s *whimsical) Renew(ctx context.Context, h idempotency.Holder, lease, keep time.Duration) error {
	return s.whim(ctx, func() error { return s.Memory.Renew(ctx, h, lease, keep) })
}

func (s *whimsical) Complete(ctx context.Context, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	return s.whim(ctx, func() error { return s.Memory.Complete(ctx, h, result, keep) })
}

func (s *whimsical) Release(ctx context.Context, h idempotency.Holder) error {
	return s.whim(ctx, func() error { return s.Memory.Release(ctx, h) })
}

func (s *whimsical) Abandon(ctx context.Context, h idempotency.Holder, keep time.Duration) error {
	return s.whim(ctx, func() error { return s.Memory.Abandon(ctx, h, keep) })
}

func (s *whimsical) Lookup(ctx context.Context, id idempotency.ID) (idempotency.Record, error) {
	got := make(chan idempotency.Record, 1)
	err := s.whim(ctx, func() error {
		rec, err := s.Memory.Lookup(ctx, id)
		got <- rec
		return err
	})
	if err != nil {
		return idempotency.Record{}, err
	}
	return <-got, nil
}

// fenced is what handlers write to: it knows what was done, and refuses whoever
// has a lower fence than it has seen.
type fenced struct {
	mu    sync.Mutex
	fence uint64
	done  int
}

var errFenced = errors.New("fenced off")

func (f *fenced) enter(fence uint64) error {
	if fence < f.fence {
		return errFenced
	}
	f.fence = fence
	return nil
}

func (f *fenced) charge(fence uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(fence); err != nil {
		return err
	}
	f.done++
	return nil
}

func (f *fenced) look() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

func (f *fenced) find(fence uint64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done, f.enter(fence)
}

// Clients come and go, handlers hang, panic and refuse, and the store is slow,
// fails and loses answers: what a key stands for is done once at most, and
// whoever is told that it was done is told the same.
func TestWhateverGoesWrongAKeyIsWorkedOnOnce(t *testing.T) {
	for _, policy := range []string{"Block", "Recover"} {
		for seed := range uint64(100) {
			bubble(t, fmt.Sprint(policy, " ", seed), func(t *testing.T) {
				memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
				require.NoError(t, err)
				store := &whimsical{Memory: memory, rnd: rand.New(rand.NewPCG(seed, 2)), bad: []float64{0.05, 0.2, 0.4}[seed%3]}
				c := &chaos{rnd: rand.New(rand.NewPCG(seed, 1))}
				onUnknown := idempotency.Block()
				if policy == "Recover" {
					onUnknown = idempotency.Recover(c.find)
				}
				c.run(t, onUnknown, store)
			})
		}
	}
}

// chaos is what the dice decide, and the bank that everybody writes to.
type chaos struct {
	bank fenced
	mu   sync.Mutex
	rnd  *rand.Rand
}

func (c *chaos) roll(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd.IntN(n)
}

func (c *chaos) pause(ms int) { time.Sleep(time.Duration(c.roll(ms)) * time.Millisecond) }

func (c *chaos) handle(w http.ResponseWriter, r *http.Request, _ int) {
	c.pause(800)
	switch c.roll(8) {
	case 0, 1:
		idempotency.NotApplied(r.Context())
		w.WriteHeader(422)
		return
	case 2:
		panic("before")
	}
	err := c.bank.charge(idempotency.Fence(r.Context()))
	c.pause(800)
	end := c.roll(6)
	switch {
	case err != nil || end == 0:
		idempotency.OutcomeUnknown(r.Context())
		w.WriteHeader(502)
	case end == 1:
		panic("after")
	default:
		w.WriteHeader(201)
		_, _ = w.Write([]byte("charged"))
	}
}

func (c *chaos) find(_ context.Context, u idempotency.Unresolved) (idempotency.Answer, error) {
	c.pause(300)
	done, err := c.bank.find(u.Fence)
	switch {
	case err != nil:
		return idempotency.Answer{}, err
	case done == 0:
		return idempotency.Answer{}, idempotency.ErrNotApplied
	}
	return idempotency.Answer{Status: 201, Body: []byte("charged")}, nil
}

// client asks, and does not wait for long.
func (c *chaos) client(t *testing.T, h http.Handler) {
	for range 5 {
		c.pause(1500)
		ctx, leave := context.WithTimeout(t.Context(), time.Duration(c.roll(1000))*time.Millisecond)
		a := ask(h, post("k", "1").WithContext(ctx))
		leave()
		if a.status == 201 && (a.body != "charged" || c.bank.look() != 1) {
			t.Errorf("told 201 and %q, and %d are done", a.body, c.bank.look())
		}
	}
}

func (c *chaos) run(t *testing.T, policy idempotency.Policy, store *whimsical) {
	h := guard(t, &till{then: c.handle}, with(store), func(cfg *idempotency.Config) {
		cfg.StoreTimeout = time.Duration(50+c.roll(400)) * time.Millisecond
		cfg.RunLimit = time.Duration(300+c.roll(2000)) * time.Millisecond
		cfg.Wait = time.Duration(c.roll(2)*300) * time.Millisecond
		cfg.OnUnknown = policy
	})
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() { c.client(t, h) })
	}
	all.Wait()
	time.Sleep(time.Hour) // whatever still goes on in the background
	require.LessOrEqual(t, c.bank.look(), 1)
}
