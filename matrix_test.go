package resilient_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// requestKind is what a caller asks for and what was said of its server.
type requestKind struct {
	name       string
	method     string
	honours    bool // the server does
	change     func(*resilient.Config)
	repeatable bool
}

func requestKinds() []requestKind {
	return []requestKind{
		{"GET", http.MethodGet, false, nil, true},
		{"PUT", http.MethodPut, false, nil, true},
		{"DELETE", http.MethodDelete, false, nil, true},
		{"POST without keys", http.MethodPost, false, noKeys, false},
		{"POST to a server declared to honour keys", http.MethodPost, true, honoured, true},
		{"POST to a server that ignores keys", http.MethodPost, false, nil, false},
	}
}

// matrixCase is one cell: a fault, a request, a body, how often the fault
// strikes and who gives up on what hangs.
type matrixCase struct {
	fault   faultinject.Fault
	kind    requestKind
	body    bodyKind
	always  bool // not on attempt 1 alone
	patient bool // no AttemptTimeout: the caller's deadline ends what hangs
	counts  bool // Config.CountReplays
	wire    bool // over net/http, on a network in memory
	warm    bool // on a connection that was used before
}

func (c matrixCase) String() string {
	return fmt.Sprintf("%v, %s, %s, always %v, patient %v, counts %v, warm %v", c.fault, c.kind.name, c.body.name, c.always, c.patient, c.counts, c.warm)
}

// matrix calls run with every cell of one fault, each in a bubble of its own.
func matrix(t *testing.T, run func(*testing.T, matrixCase)) {
	t.Helper()
	for _, fault := range faultinject.Catalogue() {
		t.Run(fault.String(), func(t *testing.T) {
			for i := range len(requestKinds()) * len(bodyKinds()) * 8 {
				c := matrixCase{fault: fault, always: i&1 > 0, patient: i&2 > 0, counts: i&4 > 0}
				c.kind = requestKinds()[i/8/len(bodyKinds())]
				c.body = bodyKinds()[i/8%len(bodyKinds())]
				if c.counts && c.kind.method != http.MethodGet {
					continue // all others are watched in any case
				}
				synctest.Test(t, func(t *testing.T) { run(t, c) })
			}
		})
	}
}

const (
	matrixAttempts = 4
	matrixPatience = 10 * time.Second
)

func (c matrixCase) plan() faultinject.Plan {
	if c.always {
		return always(c.fault)
	}
	return faultinject.Script(c.fault)
}

func (c matrixCase) config(cfg *resilient.Config) {
	cfg.MaxAttempts, cfg.MaxReplayBytes = matrixAttempts, replayLimit
	cfg.BodyIdleTimeout, cfg.CountReplays = 3*time.Second, c.counts
	if !c.patient {
		cfg.AttemptTimeout = 2 * time.Second
	}
	if c.kind.change != nil {
		c.kind.change(cfg)
	}
}

// do makes the request and reads the answer to its end, however that goes.
func (c matrixCase) do(t *testing.T, client *http.Client) told {
	t.Helper()
	limit := 10 * matrixPatience
	if c.patient {
		limit = matrixPatience
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, c.kind.method, "http://api.test/charges", c.body.make(t, content(c.body.size)))
	require.NoError(t, err)
	resp, err := client.Do(req)
	if err != nil {
		e, ok := errors.AsType[*resilient.Error](err)
		require.True(t, ok, "%v: %v", c, err)
		return told{outcome: e.Outcome, stop: e.Stop, attempts: len(e.Attempts), err: err, record: e.Operation}
	}
	_, err = io.Copy(io.Discard, resp.Body)
	broken := c.name() == "cut-body" || c.name() == "stall-body" || c.name() == "malformed-chunk"
	require.Equal(t, broken, err != nil, "%v: %v", c, err)
	require.NoError(t, resp.Body.Close())
	op, ok := resilient.OperationOf(resp)
	if !ok {
		op = resilient.Operation{Outcome: resilient.Answered, Attempts: []resilient.Attempt{{N: 1, Outcome: resilient.Answered, Status: resp.StatusCode}}}
	}
	return told{status: resp.StatusCode, outcome: op.Outcome, stop: op.Stop, attempts: len(op.Attempts), record: op}
}

func (c matrixCase) name() string { return c.fault.Name() }

// what the fault does to one attempt, as a caller must be told.
type fate uint8

const (
	answeredWell fate = iota // whatever happens to the body later
	answeredBadly
	failedUnsent
	failedUnknown
	failedForGood // and would again
	givenUp       // the caller's own deadline: nothing follows
)

// fate says what becomes of an attempt that is struck.
func (c matrixCase) fate() fate {
	switch c.name() {
	case "refuse-dial", "nxdomain", "dns-timeout":
		return failedUnsent
	case "blackhole", "late", "stall":
		switch {
		case c.patient:
			return givenUp
		case c.name() == "blackhole":
			return failedUnsent
		}
		return failedUnknown
	case "hang-up", "close-idle", "cut-request", "drop-before", "lose-response", "malformed-status":
		return failedUnknown // a connection that ends tells nothing of what was read from it
	case "oversized-header":
		return failedForGood
	case "respond", "mask-response":
		return answeredBadly
	}
	return answeredWell
}

// read reports whether a struck attempt reads the body. One that does not leaves
// a stream to be sent after all.
func (c matrixCase) read() bool {
	switch c.name() {
	case "refuse-dial", "nxdomain", "dns-timeout", "blackhole":
		return false
	case "cut-request":
		return c.wire || !strings.HasPrefix(c.body.name, "stream") // half of an unknown length is nothing; a kernel takes all
	}
	return true
}

// attempts is how many a caller must be told of, and the reason to stop.
func (c matrixCase) attempts() (int, error) {
	fate := c.fate()
	switch {
	case fate == answeredWell:
		return 1, nil
	case fate == givenUp:
		return 1, context.DeadlineExceeded
	case fate == failedForGood:
		return 1, nil
	case fate != failedUnsent && !c.kind.repeatable:
		return 1, resilient.ErrUnsafe
	case c.body.size > replayLimit && c.read():
		return 1, resilient.ErrBody
	case !c.always:
		return 2, nil
	case c.name() == "nxdomain":
		return 2, resilient.ErrAttempts // a resolver may flap once
	}
	return matrixAttempts, resilient.ErrAttempts
}

// check holds what the caller was told against what the injector knows.
func (c matrixCase) check(t *testing.T, got told, s *shop, seen []faultinject.Delivery) {
	t.Helper()
	attempts, stop := c.attempts()
	require.Equal(t, attempts, got.attempts, "%v: %v", c, got.err)
	require.Len(t, seen, attempts, "%v: what is reported is what went out", c)
	for i, a := range got.record.Attempts {
		if a.Outcome == resilient.NotSent {
			require.Equal(t, faultinject.NeverSent, seen[i].Fault.Truth(), "%v", c)
		}
	}
	c.checkTold(t, got, stop, attempts > 1 && !c.always, seen)
	c.checkEffects(t, s, seen)
}

// checkTold looks at what the caller has in the end: an answer is returned as
// that answer, and an error only where there is none.
func (c matrixCase) checkTold(t *testing.T, got told, stop error, mended bool, seen []faultinject.Delivery) {
	t.Helper()
	if stop == nil {
		require.NoError(t, got.stop, "%v", c)
	}
	require.ErrorIs(t, got.stop, stop, "%v", c)
	switch fate := c.fate(); {
	case mended, fate == answeredWell:
		require.Equal(t, http.StatusOK, got.status, "%v", c)
	case fate == answeredBadly:
		require.Contains(t, c.fault.String(), fmt.Sprint(got.status), "%v", c)
	default:
		require.Error(t, got.err, "%v", c)
		c.checkOutcome(t, got.outcome, seen)
		return
	}
	require.NoError(t, got.err, "%v", c)
	require.Equal(t, resilient.Answered, got.outcome, "%v", c)
}

// checkOutcome demands NotSent where nothing was sent and it can be known, and
// nowhere else.
func (c matrixCase) checkOutcome(t *testing.T, got resilient.Outcome, seen []faultinject.Delivery) {
	t.Helper()
	acted, sent := 0, false
	for _, d := range seen {
		acted += d.Runs
		sent = sent || d.Fault.Truth() != faultinject.NeverSent
	}
	want := resilient.Unknown
	if !sent && c.knowable() {
		want = resilient.NotSent
		require.Zero(t, acted, "%v: NotSent, and it took effect", c)
	}
	require.Equal(t, want, got, "%v", c)
}

// knowable reports whether that a request was never sent can be known. What is
// missing here net/http makes unknowable.
func (c matrixCase) knowable() bool {
	switch c.name() {
	case "hang-up", "close-idle":
		return false // the head went to a connection that looked alive: from here, a server that has read it looks the same
	case "refuse-dial", "nxdomain", "dns-timeout", "blackhole":
		return c.kind.method != http.MethodGet || c.counts // a GET is not watched unless asked for: it is repeated in any case
	}
	return true
}

func (c matrixCase) checkEffects(t *testing.T, s *shop, seen []faultinject.Delivery) {
	t.Helper()
	body := content(c.body.size)
	for _, d := range seen {
		require.Equal(t, seen[0].Key, d.Key, "%v: one key for all attempts", c)
		if d.Fault.Truth() >= faultinject.Delivered {
			require.Equal(t, sha256.Sum256(body), d.Sum, "%v: the same bytes on every attempt", c)
		}
	}
	allowed := 1
	if c.name() == "duplicate" && !s.honours {
		allowed = 2 // a network that doubles a request is nobody's retry
	}
	require.LessOrEqual(t, s.charges, allowed, "%v: charged twice", c)
	for i := range s.bodies {
		require.Equal(t, string(body), s.bodies[i], "%v", c)
	}
	if c.kind.method == http.MethodPut && len(s.bodies) > 0 {
		require.Equal(t, string(body), s.item, "%v", c)
	}
}

func TestWhateverFaultStrikesTheCallerIsToldTheTruthAndNothingIsDoneTwice(t *testing.T) {
	matrix(t, func(t *testing.T, c matrixCase) {
		s := &shop{honours: c.kind.honours, item: "old"}
		base := faultinject.Handler(s, c.plan())
		got := c.do(t, newClient(t, base, c.config))
		base.Settle()
		c.check(t, got, s, base.Deliveries())
	})
}
