package faultinject

import (
	"slices"
	"sync"
	"testing"
)

// Explore runs body under every schedule of faults, depth first: at each dial,
// each connection accepted, each arrival of a request and each idle connection
// that is used again, each fault that can strike there. What net/http sends
// again by itself, hedges and redirects are such places too; nobody declares
// them. Each run has a server, a client and a bubble of its own, in virtual time.
//
//	func TestAPaymentIsMadeOnce(t *testing.T) {
//		e := faultinject.Exploration{HonourKeys: true, Attempts: 3}
//		faultinject.Explore(t, e, func(r *faultinject.Run) {
//			receipt, told := pay(r.Client, r.URL+"/pay", r.Attempts)
//			r.Report("pay", told, receipt)
//		})
//	}
//
// After every run these must hold, both at once and when all that was late has
// come:
//
//   - effects: no operation has more than one;
//   - truth: told OK there is one, told NotApplied there is none and never will be;
//   - answer, state: told OK, what was returned is what the server said, and what
//     was put is there;
//   - precision: nobody is told Unknown where no connection was had;
//   - sameness: all deliveries of an operation bear the same key, method, path and
//     body;
//   - retry-after: no delivery comes before the time that a Retry-After named;
//   - left open: no connection and no body, before time moves;
//   - goroutines, hang: none is left behind, and something happens at all;
//   - time: the body took no longer than Within;
//   - repeatable: the same choices lead to the same place;
//   - invariant: what the body itself reports by [Run.Errorf].
//
// And in the end every fault must have struck and somebody been told OK, or the
// test has shown nothing. The first schedule that breaks a rule is shrunk, and
// printed with a command that repeats it, and with what each side saw. It sets
// FAULTINJECT_SCHEDULE, which names the faults in the order of the choices that
// were met: "level=network attempts=2 pass lose-response(rst)" lets the first dial
// pass and loses the answer of the first request.
//
// The folder examples/faults of this repository has such a test, and what it
// found.
func Explore(t *testing.T, e Exploration, body func(*Run)) Result {
	t.Helper()
	s, err := newSearch(t, t, e, body)
	if err != nil {
		t.Error(err)
		return Result{}
	}
	return s.explore()
}

func (s *search) explore() Result {
	s.out.Helper()
	switch {
	case s.replay.seeded:
		s.out.Logf("faultinject: not explored: %s names a seed", scheduleVariable)
		return s.result
	case s.replay.attempts > 0:
		return s.repeat()
	}
	s.guard(s.exploreSites)
	if s.failed == nil && !s.given.Load() {
		s.requireSubstance()
	}
	return s.conclude()
}

// exploreSites goes through each call site of a workflow alone, and then through
// each two: most of what three failing calls can do shows in two of them.
func (s *search) exploreSites() {
	met, more := s.exploreAttempts("") // where a body that names none is
	sites := met
	for i := 0; more && i < len(sites); i++ {
		if sites[i] == "" {
			continue
		}
		met, more = s.exploreAttempts(sites[i])
		for _, site := range met {
			if !slices.Contains(sites, site) {
				sites = append(sites, site)
			}
		}
	}
	for i, a := range sites {
		for _, b := range sites[:i] {
			if more {
				_, more = s.exploreAttempts(a, b)
			}
		}
	}
}

// exploreAttempts goes through one tree for each limit of attempts.
func (s *search) exploreAttempts(sites ...string) (met []string, more bool) {
	for attempts := 1; attempts <= s.Attempts; attempts++ {
		f := newFrontier(s, attempts, sites)
		var workers sync.WaitGroup
		for w := range s.workers() {
			workers.Go(func() { f.work(w) })
		}
		workers.Wait()
		for _, site := range f.met {
			if !slices.Contains(met, site) {
				met = append(met, site)
			}
		}
		if f.stopped {
			return met, false
		}
	}
	return met, true
}

// A frontier is where the tree has not been walked yet.
type frontier struct {
	search   *search
	attempts int
	sites    map[string]bool

	mu      sync.Mutex
	changed sync.Cond
	forks   []fork
	busy    int
	stopped bool
	met     []string // sites
}

func newFrontier(s *search, attempts int, sites []string) *frontier {
	f := &frontier{search: s, attempts: attempts, sites: make(map[string]bool), forks: []fork{{}}}
	f.changed.L = &f.mu
	for _, site := range sites {
		f.sites[site] = true
	}
	return f
}

func (f *frontier) work(worker int) {
	for {
		from, more := f.take()
		if !more {
			return
		}
		f.step(worker, from)
	}
}

// take waits for a fork; there is none when nobody walks any more.
func (f *frontier) take() (fork, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.forks) == 0 && f.busy > 0 && !f.stopped {
		f.changed.Wait()
	}
	last := len(f.forks) - 1
	if last < 0 || f.stopped {
		return fork{}, false
	}
	from := f.forks[last]
	f.forks = f.forks[:last]
	f.busy++
	return from, true
}

// step walks from a fork to the end of a schedule.
func (f *frontier) step(worker int, from fork) {
	more := false // unless it returns: the test may end this goroutine
	w := &walk{path: from.start(), maxFaults: f.search.MaxFaults, sites: f.sites}
	w.begun = len(w.path)
	var r *Run
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.busy--
		f.stopped = f.stopped || !more
		if more {
			f.addLocked(w, r)
		}
		f.changed.Broadcast()
	}()
	r = f.search.run(worker, trial{attempts: f.attempts, decider: w})
	if wrong := w.misfit(); wrong != "" {
		r.findings = append([]finding{{"repeatable", "", wrong}}, r.findings...)
	}
	more = f.search.enter(r)
}

func (f *frontier) addLocked(w *walk, r *Run) {
	for _, next := range w.forks() {
		if f.own(next) {
			f.forks = append(f.forks, next)
		}
	}
	for _, d := range r.decisions {
		if !slices.Contains(f.met, d.site) {
			f.met = append(f.met, d.site)
		}
	}
}

// splitAt is after how many choices the parts of a tree divide. What comes
// before is walked in every part.
const splitAt = 3

func (f *frontier) own(next fork) bool {
	if next.at < splitAt {
		return true
	}
	n := 0
	for _, b := range next.path[:splitAt] {
		n = n*31 + b.index
	}
	return n%f.search.Parts == f.search.Part
}
