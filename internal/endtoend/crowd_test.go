//go:build unix

package endtoend

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// crowd is callers who place orders at a service, each until it knows what became
// of it or gives up.
type crowd struct {
	url    string
	do     []behaviour
	client *http.Client
	// insists has every caller go on until its order is done.
	insists bool

	mu     sync.Mutex
	placed []*placed
	ids    atomic.Int64
}

// placed is one order with all that its caller was told.
type placed struct {
	order order
	key   resilient.Key
	told  []telling
}

const callers = 24

func newCrowd(t testing.TB, addr string, do []behaviour, base http.RoundTripper) *crowd {
	client, err := resilient.NewClient(resilient.Config{
		Base: base, HonorsKeys: resilient.AnyHost, MaxAttempts: 4, NoBreaker: true, NoBudget: true,
		AttemptTimeout: 2 * lease / 3, Timeout: 2 * lease, MaxRetryAfter: time.Millisecond,
		Backoff: func() resilient.Schedule { return new(short) },
	})
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return &crowd{url: "http://" + addr + "/orders", do: do, client: client}
}

// run places orders until ctx ends. No caller stops in the middle of a sending.
func (c *crowd) run(ctx context.Context) (wait func()) {
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				c.place(ctx)
			}
		})
	}
	return all.Wait
}

// place carries one order on until its caller knows enough.
func (c *crowd) place(ctx context.Context) {
	p := &placed{order: order{ID: int(c.ids.Add(1)), Do: anyOf(c.do)}}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.placed = append(c.placed, p)
	}()
	var resume *resilient.Key
	for n := 0; n == 0 || ctx.Err() == nil; n++ {
		got := send(context.WithoutCancel(ctx), c.client, c.url, p.order, resume)
		p.told = append(p.told, got)
		p.key = resilient.Key{Value: got.op.Key, FirstSent: got.op.FirstSent}
		if got.is(done) || !c.insists && c.enough(got) {
			return
		}
		resume = &p.key
		if p.key.FirstSent.IsZero() { // never sent
			resume = nil
		}
		pause(ctx, 30*time.Millisecond)
	}
}

// enough reports whether the caller leaves it at that: an outcome that stays
// unknown cannot be helped, and some give up.
func (c *crowd) enough(t telling) bool {
	switch {
	case t.problem == "outcome-unknown" && !t.patient:
		return true
	case t.is(nothing):
		return rand.N(2) == 0
	}
	return rand.N(10) == 0
}

// last is what the caller knows at the end.
func (p *placed) last() telling { return p.told[len(p.told)-1] }

// once reports whether one request at most has reached a service, so that what the
// last one was told is all there is to know.
func (p *placed) once() bool {
	reached := 0
	for _, t := range p.told {
		for _, a := range t.op.Attempts {
			if a.Outcome != resilient.NotSent {
				reached++
			}
		}
	}
	return reached <= 1
}

// figures are the sums of a test.
type figures struct {
	kills, orders, sendings       int
	doubled, untrue, stuck        int
	done, nothing, unknown        int // as the callers knew it before the finale
	unknownLeft, effectsOfUnknown int // after it
	held                          int // of those told nothing, that it was for certain
	settled                       int // with 201, after it
	longest                       time.Duration
	faults                        []string
}

func (f *figures) wrong(n *int, p *placed, format string, args ...any) {
	*n++
	if len(f.faults) < 10 {
		var told []string
		for _, t := range p.told {
			told = append(told, t.String())
		}
		text := fmt.Sprintf(format, args...)
		f.faults = append(f.faults, fmt.Sprintf("%v: %s; told %s", p.order, text, strings.Join(told, "; ")))
	}
}

func (f *figures) String() string {
	return fmt.Sprintf("kills %d, orders %d, sendings %d | effects >1: %d, untrue: %d, stuck: %d | told done %d, nothing %d (%d for certain), not sure %d"+
		" | at the end 201: %d, unknown: %d (%d of them done) | longest wait %v",
		f.kills, f.orders, f.sendings, f.doubled, f.untrue, f.stuck, f.done, f.nothing, f.held, f.unknown,
		f.settled, f.unknownLeft, f.effectsOfUnknown, f.longest.Round(time.Millisecond))
}

// requireTruth fails the test unless every key had one effect at most, and every
// caller was told the truth.
func (f *figures) requireTruth(t testing.TB) {
	t.Helper()
	t.Log(f)
	require.NotZero(t, f.orders)
	require.NotZero(t, f.done)
	require.Empty(t, f.faults)
}

// requireAllDone fails the test unless every order was carried out too.
func (f *figures) requireAllDone(t testing.TB) {
	t.Helper()
	f.requireTruth(t)
	require.Equal(t, f.orders, f.settled)
}

// judge holds what callers were told against the effects, then asks once more for
// every order of which something may be known.
func (c *crowd) judge(ctx context.Context, effects func(*placed) []string) *figures {
	f := &figures{orders: len(c.placed)}
	for _, p := range c.placed {
		f.sendings += len(p.told)
		switch p.last().meaning() {
		case done:
			f.done++
		case nothing:
			f.nothing++
			if !p.once() {
				break
			}
			f.held++
			if n := len(effects(p)); n > 0 {
				f.wrong(&f.untrue, p, "told nothing was done, and it was %d times", n)
			}
		case unsure:
			f.unknown++
		}
	}
	c.finale(ctx, f)
	for _, p := range c.placed {
		f.hold(p, effects(p))
	}
	return f
}

// hold is for what is true for ever.
func (f *figures) hold(p *placed, receipts []string) {
	if len(receipts) > 1 {
		f.wrong(&f.doubled, p, "done %d times", len(receipts))
	}
	if p.order.Do == refuse && len(receipts) > 0 {
		f.wrong(&f.doubled, p, "done, and the handler did nothing")
	}
	for _, t := range p.told {
		if !t.is(done) {
			continue
		}
		if len(receipts) == 0 || strings.HasPrefix(t.body, "receipt ") && t.body != receipts[0] {
			f.wrong(&f.untrue, p, "told %v, and there is %v", t, receipts)
		}
	}
	first := slices.IndexFunc(p.told, func(t telling) bool { return t.is(done) })
	if first >= 0 && !p.last().is(done) {
		f.wrong(&f.untrue, p, "told %v, and then %v", p.told[first], p.last())
	}
	if p.last().is(done) && p.last().status == http.StatusCreated {
		f.settled++
	}
	if p.last().problem == "outcome-unknown" {
		f.unknownLeft++
		f.effectsOfUnknown += len(receipts)
	}
}

// finale asks once more for every order that has reached the service, or may
// have: by now nothing runs that began before, so each must have an answer within
// a lease.
func (c *crowd) finale(ctx context.Context, f *figures) {
	asking := make(chan *placed)
	var all sync.WaitGroup
	var mu sync.Mutex
	began := time.Now()
	for range callers {
		all.Go(func() {
			for p := range asking {
				took, stuck := c.askAgain(ctx, p, began)
				mu.Lock()
				f.longest = max(f.longest, took)
				if stuck {
					f.wrong(&f.stuck, p, "no answer after %v", took)
				}
				mu.Unlock()
			}
		})
	}
	for _, p := range c.placed {
		if c.insists || !p.last().is(nothing) {
			asking <- p
		}
	}
	close(asking)
	all.Wait()
}

// askAgain asks until there is an answer that does not change any more.
func (c *crowd) askAgain(ctx context.Context, p *placed, began time.Time) (took time.Duration, stuck bool) {
	plain := &http.Client{Timeout: time.Minute}
	for {
		got := again(ctx, plain, c.url, p)
		took = time.Since(began)
		switch {
		case got.err == nil && got.problem != "in-progress" && !got.patient && (!c.insists || got.is(done)):
			p.told = append(p.told, got)
			return took, false
		case took > lease+10*time.Second: // far more than a crowded machine needs
			p.told = append(p.told, got)
			return took, true
		}
		pause(ctx, lease/5)
	}
}

// again repeats an order with its key, by a client that repeats nothing.
func again(ctx context.Context, client *http.Client, url string, p *placed) (got telling) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(p.order.String()))
	if err != nil {
		return telling{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", p.key.Value)
	req.Header.Set("Finale", "1")
	got.do(client, req)
	return got
}
