//go:build unix

package endtoend

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

// No two times may be the same, or chance would choose between them.
const (
	exploreLease   = 310 * time.Millisecond
	exploreTimeout = 970 * time.Millisecond // of one attempt
	exploreIdle    = 430 * time.Millisecond // of an answer's body
	explorePause   = 110 * time.Millisecond // after the first attempt; then twice as long each time
)

// doubling doubles without jitter, so that a schedule can be repeated.
type doubling struct{ next time.Duration }

func (s *doubling) NextBackOff() time.Duration {
	defer func() { s.next *= 2 }()
	return s.next
}

// wait is of virtual time.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// explored is a handler's behaviour under every schedule of faults between our
// client and the middleware.
type explored struct {
	do     behaviour
	policy func(*faultinject.Run) idempotency.Policy
}

func TestWhateverHappensOnTheWayAKeyHasOneEffectAndItsCallerIsToldTheTruth(t *testing.T) {
	t.Parallel()
	block := func(*faultinject.Run) idempotency.Policy { return idempotency.Block() }
	for name, x := range map[string]explored{
		"a plain handler":               {plain, block},
		"a slow one":                    {slow, block},
		"it fails after the effect":     {failAfter, block},
		"it refuses at first":           {refuse, block},
		"it panics":                     {fall, block},
		"it hangs":                      {hang, block},
		"it panics, and is recovered":   {fall, recoverByLedger},
		"it hangs, and is recovered":    {hang, recoverByLedger},
		"it flushes before it is ready": {stream, block},
	} {
		t.Run(name, func(t *testing.T) {
			deep := 2
			if nightly() {
				deep = 3
			}
			for name, e := range map[string]faultinject.Exploration{
				"the whole catalogue":  {Faults: faultinject.Catalogue(), Attempts: deep},
				"the essential faults": {Attempts: deep + 1},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					x.explore(t, e)
				})
			}
		})
	}
}

func (x explored) explore(t *testing.T, e faultinject.Exploration) {
	e.HonourKeys = true // by the middleware; the ledger sees each run of the handler
	e.Handler = func(r *faultinject.Run) http.Handler { return x.server(r) }
	told := make(map[meaning]int)
	var mu sync.Mutex
	result := faultinject.Explore(t, e, func(r *faultinject.Run) {
		got := x.operate(r)
		m := x.report(r, got)
		mu.Lock()
		defer mu.Unlock()
		told[m]++
	})
	t.Logf("%v, told done %d, nothing %d, not sure %d", result, told[done], told[nothing], told[unsure])
	for _, m := range []meaning{done, nothing, unsure} {
		require.NotZero(t, told[m], "nobody was told %d", m)
	}
}

func (x explored) server(r *faultinject.Run) http.Handler {
	var runs atomic.Int32
	wrap, err := idempotency.New(idempotency.Config{
		Scope: idempotency.OneScope, KeyRequired: true, Lease: exploreLease, RunLimit: 4 * exploreLease, OnUnknown: x.policy(r),
	})
	if err != nil {
		r.Errorf("%v", err)
	}
	return wrap(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { x.now(r, &runs).handle(w, req, r.Ledger) }))
}

// now is the behaviour of the next run. One that nobody can be told of as done has
// exceptions: a second run does not refuse, and for a client with a single attempt
// the handler neither falls nor hangs.
func (x explored) now(r *faultinject.Run, runs *atomic.Int32) explored {
	again := runs.Add(1) > 1
	if x.do == refuse && again || r.Attempts == 1 && (x.do == fall || x.do == hang) {
		x.do = plain
	}
	return x
}

func (x explored) handle(w http.ResponseWriter, req *http.Request, ledger *faultinject.Ledger) {
	ctx := req.Context()
	_, _ = io.Copy(io.Discard, req.Body)
	if x.do == refuse {
		idempotency.NotApplied(ctx)
		http.Error(w, "nothing done", http.StatusInternalServerError)
		return
	}
	if x.do == slow {
		wait(ctx, 2*exploreLease)
	}
	receipt := ledger.Effect(req)
	switch x.do {
	case failAfter:
		w.WriteHeader(http.StatusInternalServerError)
	case fall:
		panic(http.ErrAbortHandler)
	case hang:
		<-ctx.Done()
		wait(context.WithoutCancel(ctx), 2*exploreLease)
	case stream:
		w.WriteHeader(http.StatusCreated)
		_ = http.NewResponseController(w).Flush()
	}
	if x.do != failAfter && x.do != stream {
		w.WriteHeader(http.StatusCreated)
	}
	_, _ = io.WriteString(w, "receipt "+receipt.String())
}

// recoverByLedger looks at the server's own record.
func recoverByLedger(r *faultinject.Run) idempotency.Policy {
	return idempotency.Recover(func(_ context.Context, u idempotency.Unresolved) (idempotency.Answer, error) {
		for _, e := range r.Ledger.Entries() {
			if e.Key == u.Key {
				return idempotency.Answer{Status: http.StatusCreated, Body: []byte("receipt " + e.String())}, nil
			}
		}
		return idempotency.Answer{}, idempotency.ErrNotApplied
	})
}

// operate makes one operation by our client.
func (x explored) operate(r *faultinject.Run) (got telling) {
	client, err := resilient.NewClient(resilient.Config{
		Base: r.Base, BaseIsWire: true, MaxAttempts: r.Attempts, HonorsKeys: resilient.AnyHost,
		AttemptTimeout: exploreTimeout, BodyIdleTimeout: exploreIdle, CountReplays: true,
		Backoff: func() resilient.Schedule { return &doubling{explorePause} },
	})
	if err != nil {
		r.Errorf("%v", err)
		return got
	}
	defer client.CloseIdleConnections()
	return send(r.Context(), client, r.URL+"/orders", order{Do: x.do}, nil)
}

// report says in faultinject's words what the caller was told.
func (x explored) report(r *faultinject.Run, got telling) meaning {
	m := got.meaning()
	if m == nothing && got.op.EarlierUnknown() {
		m = unsure // one of before may still be under way
	}
	switch m {
	case done:
		struck := r.Faults()
		if got.problem != "" || len(struck) > 0 && struck[len(struck)-1] == faultinject.CorruptBody(0) {
			r.Report("order", faultinject.OK, nil) // it says no more than that
			break
		}
		r.Report("order", faultinject.OK, []byte(got.body))
	case nothing:
		r.Report("order", faultinject.NotApplied, nil)
	case unsure:
		r.Report("order", faultinject.Unknown, nil)
	}
	return m
}
