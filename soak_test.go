package resilient_test

// Many operations under many mixes of faults: none is done twice, none is lost,
// nobody is told an untruth. docs/soak.md has the figures of long runs.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

const (
	soakCrowd = 500              // operations of one seed, not counting the reading of documents
	soakOver  = 10 * time.Minute // when nothing strikes any more, in virtual time

	soakImprecise = 0.1 // measured: 0; a client that always says unknown has 1
)

// soak is what many crowds have in common.
type soak struct {
	honoured bool
	faults   []faultinject.Fault
	spoil    func(*resilient.Config)                   // of a mutant
	between  func(http.RoundTripper) http.RoundTripper // of a mutant

	mu     sync.Mutex
	counts soakCounts
	dials  atomic.Int64
}

func TestOfManyOperationsNoneIsDoubledOrLostAndNobodyIsToldAnUntruth(t *testing.T) {
	for _, s := range []*soak{
		{honoured: true, faults: faultinject.Catalogue()},
		// A network that doubles requests doubles what they do there; nobody can help it.
		{honoured: false, faults: without(faultinject.Catalogue(), faultinject.Duplicate())},
	} {
		name, seeds := "where keys are ignored", 10
		if s.honoured {
			name, seeds = "where keys are honoured", 30
		}
		if nightly() {
			seeds *= 50
		}
		if raced() {
			seeds /= 4
		}
		t.Run(name, func(t *testing.T) {
			result := faultinject.Simulate(t, faultinject.Exploration{
				HonourKeys: s.honoured, Faults: s.faults, Attempts: 4, Seeds: seeds,
				Handler:   func(r *faultinject.Run) http.Handler { return digested{r.Ledger} },
				Operation: func(x faultinject.Exchange) string { return x.Method + " " + x.Path },
				Plan: func(seed uint64) faultinject.Plan {
					return faultinject.Window(0, soakOver, s.plan(seed))
				},
			}, s.simulate)
			s.counts.took = result.Virtual
			s.print(t)
			if result.Schedules == seeds { // or one has failed, or is repeated
				s.require(t, seeds)
				require.Less(t, s.counts.imprecise(), soakImprecise)
			}
		})
	}
}

// simulate is one seed in virtual time.
func (s *soak) simulate(r *faultinject.Run) {
	start := time.Now()
	c, err := s.newCrowd(r.Seed, r.Base, r.URL, crowdLimits{
		attempts: r.Attempts, attempt: 500 * time.Millisecond, pause: 5 * time.Second, retryAfter: time.Minute,
	})
	if err != nil {
		r.Errorf("%v", err)
		return
	}
	c.report = r.Report
	until := func(d time.Duration) { time.Sleep(time.Until(start.Add(d))) }
	gap := time.Duration(r.Seed%3) * 5 * time.Millisecond
	known := func() records { return records{r.Ledger.Entries(), r.Deliveries()} }
	earlier := sync.OnceValue(known)
	for i := range soakCrowd {
		r.Go(i, func() {
			time.Sleep(time.Duration(i) * gap)
			ops := c.operate(r.Context(), i)
			until(soakOver + time.Duration(i)*(time.Millisecond+time.Microsecond))
			earlier()
			for _, e := range ops {
				c.resolve(r.Context(), e)
			}
		})
	}
	until(2 * soakOver)
	now := known()
	c.judge(learn(now, earlier()))
	for _, wrong := range c.wrong {
		r.Errorf("%s", wrong)
	}
	s.add(c, now, r.Faults())
}

// plan is a swarm for each place where faults strike: one for all would
// mostly name, at a dial, what strikes a request.
func (s *soak) plan(seed uint64) faultinject.Plan {
	var dials, accepts, idles, requests []faultinject.Fault
	for _, f := range s.faults {
		switch {
		case f.Strikes() == faultinject.AtDial:
			dials = append(dials, f)
		case f.Strikes() == faultinject.AtAccept:
			accepts = append(accepts, f)
		case f == faultinject.OversizedHeader() && seed%8 != 0: // ten megabytes each time
		default:
			requests = append(requests, f)
			if diesUnused(f) {
				idles = append(idles, f)
			}
		}
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	swarm := func(oneIn int, faults []faultinject.Fault) faultinject.Plan {
		if swarmSeed := rng.Uint64(); rng.IntN(oneIn) == 0 && len(faults) > 0 {
			return faultinject.Swarm(swarmSeed, faults...)
		}
		return faultinject.Script()
	}
	dial, accept, idle, request := swarm(3, dials), swarm(6, accepts), swarm(3, idles), swarm(1, requests)
	return faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		switch x.Method {
		case faultinject.MethodDial:
			s.dials.Add(1)
			return dial.Decide(x)
		case faultinject.MethodAccept:
			return accept.Decide(x)
		case "IDLE": // a simulation's own: a request begins on an idle connection
			return idle.Decide(x)
		}
		return request.Decide(x)
	})
}

func without(faults []faultinject.Fault, not faultinject.Fault) []faultinject.Fault {
	return slices.DeleteFunc(faults, func(f faultinject.Fault) bool { return f == not })
}

func TestTheSameHoldsOverTCP(t *testing.T) {
	s := &soak{honoured: true, faults: quickFaults()}
	rounds := 4
	if nightly() {
		rounds *= 50
	}
	start := time.Now()
	defer func() {
		s.counts.took = time.Since(start)
		s.print(t)
	}()
	for seed := range rounds {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		dialer := &faultinject.Dialer{}
		f := newField(s, uint64(seed), func(h http.Handler, plan faultinject.Plan) *faultinject.Server {
			dialer.Plan = plan
			return faultinject.Serve(l, h, plan)
		})
		f.base.DialContext, f.dials = dialer.DialContext, dialer.Dials
		wrong, err := s.round(f, uint64(seed), crowdLimits{
			attempts: 1 + seed%4, attempt: 50 * time.Millisecond, pause: 5 * time.Millisecond, retryAfter: 50 * time.Millisecond,
		})
		require.NoError(t, errors.Join(err, f.server.Close()))
		require.Empty(t, wrong, "seed %d", seed)
	}
	s.require(t, rounds)
}

// quickFaults are the catalogue's, with waits that real time can afford.
func quickFaults() []faultinject.Fault {
	quick := map[faultinject.Fault]faultinject.Fault{
		faultinject.SlowDial(time.Second):                faultinject.SlowDial(5 * time.Millisecond),
		faultinject.Late(time.Second):                    faultinject.Late(20 * time.Millisecond),
		faultinject.Delay(time.Second):                   faultinject.Delay(5 * time.Millisecond),
		faultinject.TrickleBody(1, 100*time.Millisecond): faultinject.TrickleBody(1, time.Millisecond),
		faultinject.Bandwidth(100):                       faultinject.Bandwidth(10_000),
	}
	all := faultinject.Catalogue()
	for i, f := range all {
		if q, slow := quick[f]; slow {
			all[i] = q
		}
	}
	return all
}

// field is a server with a ledger behind it, for one crowd, and the way there.
type field struct {
	ledger *faultinject.Ledger
	server *faultinject.Server
	base   *http.Transport
	dials  func() []faultinject.Delivery
	over   atomic.Bool // nothing strikes any more
}

func newField(s *soak, seed uint64, serve func(http.Handler, faultinject.Plan) *faultinject.Server) *field {
	f := &field{ledger: &faultinject.Ledger{HonourKeys: s.honoured}}
	plan := s.plan(seed)
	f.server = serve(digested{f.ledger}, faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		if f.over.Load() {
			return faultinject.Pass()
		}
		return plan.Decide(x)
	}))
	f.base = f.server.Transport()
	f.base.MaxResponseHeaderBytes = 64 << 10 // an oversized header is soon one
	return f
}

// round is the operations of one seed, a hundred at a time.
func (s *soak) round(f *field, seed uint64, limits crowdLimits) (wrong []string, err error) {
	c, err := s.newCrowd(seed, f.base, f.server.URL, limits)
	if err != nil {
		return nil, err
	}
	ops := make([][]*errand, soakCrowd)
	each := func(do func(i int)) {
		var workers sync.WaitGroup
		for w := range 100 {
			workers.Go(func() {
				for i := w; i < soakCrowd; i += 100 {
					do(i)
				}
			})
		}
		workers.Wait()
	}
	ctx := context.Background()
	each(func(i int) { ops[i] = c.operate(ctx, i) })
	f.server.Settle()
	f.over.Store(true)
	earlier := f.records()
	each(func(i int) {
		for _, e := range ops[i] {
			c.resolve(ctx, e)
		}
	})
	c.client.CloseIdleConnections()
	f.server.Settle()
	now := f.records()
	c.judge(learn(now, earlier))
	s.add(c, now, strikes(f.dials(), f.server.Accepts(), now.deliveries))
	return c.wrong, nil
}

func (f *field) records() records { return records{f.ledger.Entries(), f.server.Deliveries()} }

func strikes(records ...[]faultinject.Delivery) (all []faultinject.Fault) {
	for _, d := range slices.Concat(records...) {
		if d.Fault != faultinject.Pass() {
			all = append(all, d.Fault)
		}
	}
	return all
}

// soakCounts is what came of a soak.
type soakCounts struct {
	operations, resolved   int
	first                  map[string]int // what callers were told at first
	unsure                 int            // told unknown, of what has effects
	noEffect, nothingCame  int            // of them, by what the server knows
	missed, unsent         int            // unknown and nothing had come, not sent: where the client can tell
	attempts, deliveries   int
	resent                 int // by net/http itself
	runs, effects, repeats int // of the handler; of them under a key that had its effect
	faults                 map[faultinject.Fault]int
	violations             map[string]int
	dials                  int
	took                   time.Duration
}

func newSoakCounts() soakCounts {
	return soakCounts{
		first: make(map[string]int), faults: make(map[faultinject.Fault]int),
		violations: noViolations(),
	}
}

// add counts one operation.
func (n *soakCounts) add(e *errand, f facts) {
	n.operations++
	n.first[e.first]++
	n.attempts += e.attempts
	if e.first != "ok" && e.done {
		n.resolved++
	}
	n.unsent += count(e.unsent && len(e.record.Attempts) > 0) // else a breaker refused it
	if e.first == "unknown" && e.method != http.MethodGet {
		n.unsure++
		n.noEffect += count(!f.applied[e.name()])
		n.nothingCame += count(!f.came[e.name()])
	}
	for _, a := range e.record.Attempts {
		if a.Replay {
			n.resent++
		}
	}
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// add takes over what came of a crowd.
func (s *soak) add(c *crowd, r records, faults []faultinject.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, of := &s.counts, &c.counts
	if n.first == nil {
		*n = newSoakCounts()
	}
	n.operations, n.resolved = n.operations+of.operations, n.resolved+of.resolved
	n.unsure, n.noEffect, n.nothingCame = n.unsure+of.unsure, n.noEffect+of.noEffect, n.nothingCame+of.nothingCame
	if !slices.ContainsFunc(faults, diesUnused) {
		n.missed, n.unsent = n.missed+of.nothingCame, n.unsent+of.unsent
	}
	n.attempts, n.resent = n.attempts+of.attempts, n.resent+of.resent
	n.effects += len(r.entries)
	for _, d := range r.deliveries {
		n.deliveries++
		n.runs += d.Runs
		n.repeats += d.Runs * count(d.Method != http.MethodGet)
	}
	n.repeats -= len(r.entries)
	for _, f := range faults {
		n.faults[f]++
	}
	for word, times := range of.first {
		n.first[word] += times
	}
	for rule, times := range of.violations {
		n.violations[rule] += times
	}
}

// String is a page of figures.
func (n *soakCounts) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("operations %d in %v: told ok %d, refused %d, not sent %d, unknown %d", n.operations, n.took.Round(time.Second),
		n.first["ok"], n.first["refused"], n.first["not sent"], n.first["unknown"])
	line("unknown, of what has effects, %d: no effect by then %d, nothing had come %d; refused or unknown, and resolved later %d",
		n.unsure, n.noEffect, n.nothingCame, n.resolved)
	line("where no connection died unused: not sent %d, unknown although nothing had come %d", n.unsent, n.missed)
	line("attempts reported %d, of them sent again by net/http itself %d; deliveries %d, dials %d", n.attempts, n.resent, n.deliveries, n.dials)
	line("handler runs %d, effects %d, runs suppressed by the key %d", n.runs, n.effects, n.repeats)
	line("faults by truth %v", n.truths())
	for _, f := range slices.SortedFunc(maps.Keys(n.faults), func(a, b faultinject.Fault) int { return strings.Compare(a.String(), b.String()) }) {
		line("  %-32v %d", f, n.faults[f])
	}
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	line("at the end %d goroutines, %d MiB of heap", runtime.NumGoroutine(), memory.HeapAlloc>>20)
	line("violations: doubled %d, lost %d, untrue %d", n.violations["doubled"], n.violations["lost"], n.violations["untrue"])
	return b.String()
}

func (n *soakCounts) truths() map[faultinject.Reach]int {
	all := make(map[faultinject.Reach]int)
	for f, times := range n.faults {
		all[f.Truth()] += times
	}
	return all
}

// imprecise is the share told unknown among those whose requests certainly never
// came and who had no answer: a client that says unknown to everything makes no
// mistake and is of no use. Counted are crowds in which no connection died unused
// or idle, since then nobody can tell.
func (n *soakCounts) imprecise() float64 {
	return float64(n.missed) / float64(max(n.missed+n.unsent, 1))
}

// diesUnused reports whether a request that meets f may have been written and
// not have come.
func diesUnused(f faultinject.Fault) bool {
	idle := f == faultinject.CloseIdle(faultinject.FIN) || f == faultinject.CloseIdle(faultinject.RST)
	return idle || f.Strikes() == faultinject.AtAccept
}

// print logs the figures.
func (s *soak) print(t *testing.T) {
	t.Helper()
	s.counts.dials = int(s.dials.Load())
	t.Log("\n" + s.counts.String())
}

// require holds the figures against what was promised.
func (s *soak) require(t *testing.T, crowds int) {
	t.Helper()
	n := &s.counts
	require.GreaterOrEqual(t, n.operations, crowds*soakCrowd)
	require.Equal(t, noViolations(), n.violations)
	require.NotZero(t, n.first["ok"])
	require.Greater(t, len(n.faults), len(s.faults)/2)
	for _, f := range s.faults {
		require.True(t, n.faults[f] > 0 || !nightly(), "%v never struck", f) // a few crowds do not meet all
	}
}

func noViolations() map[string]int { return map[string]int{"doubled": 0, "lost": 0, "untrue": 0} }
