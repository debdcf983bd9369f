package resilient_test

// That the soak would notice: clients that are wrong in one thing each.

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// mutant is a client that is wrong in one thing.
type mutant struct {
	name     string
	honoured bool
	spoil    func(*resilient.Config)
	between  func(http.RoundTripper) http.RoundTripper
	rule     string // that it breaks
}

var mutants = []mutant{
	{name: "is as it should be, where keys are honoured", honoured: true},
	{name: "is as it should be, where keys are ignored"},
	{name: "takes a new key for each attempt", honoured: true, spoil: freshKeys, rule: "doubled"},
	{name: "believes that a server honours keys, which ignores them", spoil: believesInKeys, rule: "doubled"},
	{name: "repeats what must not be repeated", between: repeatsAnything, rule: "doubled"},
	{name: "says not sent for unknown", honoured: true, between: retells(saysNotSent), rule: "untrue"},
	{name: "says not sent when attempts run out, where keys are ignored", between: retells(saysNotSent), rule: "untrue"},
	{name: "leaves attempts out of its record", honoured: true, between: retells(forgetsAttempts), rule: "untrue"},
	{name: "loses what it was to send", honoured: true, between: invents, rule: "lost"},
	{name: "sends another body the second time", honoured: true, spoil: forgetsBody, rule: "lost"},
	{name: "says unknown to everything", honoured: true, between: retells(saysUnknown), rule: "imprecise"},
}

func TestTheSoakNoticesAClientThat(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			s := &soak{honoured: m.honoured, faults: slices.DeleteFunc(without(quickFaults(), faultinject.Duplicate()), diesUnused), spoil: m.spoil, between: m.between}
			for seed := uint64(0); seed < 6 && (m.rule == "" || m.rule == "imprecise" || s.counts.violations[m.rule] == 0); seed++ {
				synctest.Test(t, func(t *testing.T) { s.onNetwork(t, seed) })
			}
			n := &s.counts
			t.Logf("%v after %d operations, imprecise %.2f", n.violations, n.operations, n.imprecise())
			switch m.rule {
			case "":
				require.Equal(t, noViolations(), n.violations)
				require.Less(t, n.imprecise(), soakImprecise)
			case "imprecise":
				require.GreaterOrEqual(t, n.imprecise(), soakImprecise)
			default:
				require.NotZero(t, n.violations[m.rule])
			}
		})
	}
}

// onNetwork is one seed in a bubble, without a simulation around it that would
// fail the test.
func (s *soak) onNetwork(t *testing.T, seed uint64) {
	network := faultinject.NewNetwork()
	network.Up, network.Down = time.Millisecond, time.Millisecond
	f := newField(s, seed, func(h http.Handler, plan faultinject.Plan) *faultinject.Server {
		network.Plan = plan
		return network.NewServer(t, "http://shop.test", h, plan)
	})
	f.dials = network.Dials
	_, err := s.round(f, seed, crowdLimits{attempts: 1 + int(seed)%4, attempt: time.Second, pause: time.Second, retryAfter: time.Minute})
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.server.Close(), network.Close()))
}

func freshKeys(cfg *resilient.Config) {
	var n atomic.Int64
	cfg.Prepare = func(req *http.Request) error {
		for name := range req.Header {
			if strings.EqualFold(name, "Idempotency-Key") {
				req.Header[name] = []string{fmt.Sprint("fresh-", n.Add(1))}
			}
		}
		return nil
	}
}

func believesInKeys(cfg *resilient.Config) { cfg.HonorsKeys = resilient.AnyHost }

func forgetsBody(cfg *resilient.Config) {
	sent := make(chan map[string]bool, 1)
	sent <- make(map[string]bool)
	cfg.Prepare = func(req *http.Request) error {
		seen := <-sent
		if seen[req.URL.Path] {
			req.Body, req.ContentLength = http.NoBody, 0
		}
		seen[req.URL.Path] = true
		sent <- seen
		return nil
	}
}

func repeatsAnything(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		return next.RoundTrip(req.WithContext(resilient.WithRepeatable(req.Context(), true)))
	})
}

// retells makes another error of each that the client gives.
func retells(tell func(*resilient.Operation)) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(req)
			if e, ok := errors.AsType[*resilient.Error](err); ok {
				told := *e
				tell(&told.Operation)
				return nil, &told
			}
			return resp, err
		})
	}
}

func saysNotSent(op *resilient.Operation) { op.Outcome = resilient.NotSent }

func saysUnknown(op *resilient.Operation) { op.Outcome = resilient.Unknown }

func forgetsAttempts(op *resilient.Operation) { op.Attempts = op.Attempts[:min(len(op.Attempts), 1)] }

// invents an answer where there is none.
func invents(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err == nil {
			return resp, nil
		}
		text := "effect 1"
		resp = answer(req, http.StatusOK, "Repr-Digest: "+digestOf([]byte(text)))
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		return resp, nil
	})
}
