// Package linear checks that a store of idempotency keys is atomic: whatever
// many callers do at once must be explained by some order in which the calls
// took place one after the other, each between its beginning and its end.
package linear

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/go-resilient/resilient/idempotency"
)

const (
	keys     = 2  // of each round
	callers  = 8  // at once, of both keys
	calls    = 12 // by each of them
	patience = 30 * time.Second

	long  = time.Hour        // a lease that no round outlasts
	brief = time.Millisecond // and one that lapses, who knows when
)

// Check fails the test if the store is not atomic, and says which calls cannot
// be explained. Each round is of two new keys and 96 calls, and takes some
// milliseconds besides what the calls take.
func Check(t *testing.T, store idempotency.Store, rounds int) {
	t.Helper()
	if err := check(t.Context(), store, rounds); err != nil {
		t.Fatal(err)
	}
}

func check(ctx context.Context, store idempotency.Store, rounds int) error {
	for range rounds {
		r := round{store: store}
		for i := range r.keys {
			rand.Read(r.keys[i].id[:])
		}
		if err := r.play(ctx); err != nil {
			return err
		}
		for i := range r.keys {
			if err := explain(r.keys[i].history); err != nil {
				return err
			}
		}
	}
	return nil
}

// A round is many callers at once.
type round struct {
	store idempotency.Store
	keys  [keys]history
	clock atomic.Int64 // counts beginnings and ends: all that matters is which came first

	mu   sync.Mutex
	errs []error
}

// A history is what was done under one key.
type history struct {
	id idempotency.ID

	mu      sync.Mutex
	tokens  []idempotency.Token // of all claims
	history []porcupine.Operation
}

func (r *round) play(ctx context.Context) error {
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for n := range callers {
		wg.Go(func() {
			<-begin
			for range calls {
				if mrand.IntN(6) == 0 {
					pause(ctx, mrand.N(2*brief))
				}
				r.call(ctx, n, &r.keys[mrand.IntN(keys)])
			}
		})
	}
	close(begin)
	wg.Wait()
	return errors.Join(r.errs...)
}

// call makes one call, whichever, and writes down what came of it.
func (r *round) call(ctx context.Context, caller int, h *history) {
	c := h.choose()
	op := porcupine.Operation{ClientId: caller, Input: c, Call: r.clock.Add(1)}
	a, err := c.make(ctx, r.store, h.id)
	op.Output, op.Return = a, r.clock.Add(1)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.errs = append(r.errs, fmt.Errorf("%s: %w", c, err))
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history = append(h.history, op)
}

// choose is a call by somebody new, or by one of the last that claimed the key:
// it repeats what it did, or comes late.
func (h *history) choose() call {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := call{method: claim, takeOver: mrand.IntN(2) == 0, lease: long}
	if mrand.IntN(3) == 0 {
		c.lease = brief
	}
	if len(h.tokens) > 0 {
		c.token = h.tokens[len(h.tokens)-1-mrand.IntN(min(3, len(h.tokens)))]
		// To complete is the end of all that is interesting, and so it is rare.
		c.method = [...]method{claim, claim, claim, renew, release, abandon, abandon, lookup, complete}[mrand.IntN(9)]
	}
	if c.method == claim && (len(h.tokens) == 0 || mrand.IntN(3) > 0) {
		rand.Read(c.token[:])
		h.tokens = append(h.tokens, c.token)
	}
	if c.token[0]%8 == 0 { // of its token, so that it is the same when repeated
		c.fingerprint[0] = 1
	}
	return c
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// explain looks for the order, and for the calls that have no place in any.
func explain(h []porcupine.Operation) error {
	result, info := porcupine.CheckOperationsVerbose(model.ToModel(), h, patience)
	if result == porcupine.Ok {
		return nil
	}
	if result == porcupine.Unknown {
		return fmt.Errorf("linear: no order of %d calls found in %s, and none ruled out", len(h), patience)
	}
	var longest []int // of the calls that some order explains
	for _, order := range info.PartialLinearizations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	var b strings.Builder
	b.WriteString("linear: no order explains the calls that are marked, given the others:")
	for i, op := range h {
		mark := ' '
		if !slices.Contains(longest, i) {
			mark = '*'
		}
		fmt.Fprintf(&b, "\n%c %3d to %3d, caller %d: %s: %s", mark, op.Call, op.Return, op.ClientId, op.Input, op.Output)
	}
	return errors.New(b.String())
}
