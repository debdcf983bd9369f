package faultinject

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Simulate runs body once for each seed: for bodies of many operations at once,
// begun by [Run.Go], whose schedules are too many to explore. A seed picks which
// of the faults are in the mix, how often they strike, and the attempts; each
// decision depends on the seed and on who is struck alone: on the operation and
// the arrival, not on its key, so that a client may draw keys at random. The same
// rules hold as in [Explore], and examples/faults has a test of it too.
//
// FAULTINJECT_SEED=0x2a repeats one seed. FAULTINJECT_CHECK=1 runs each seed twice
// and fails where the two histories differ: something in the client then
// depends on a real clock, on a map's order, or on chance that has no seed. On
// [OnHTTP2] it is of no use: operations that share a connection there share its
// instants too, and come in any order.
func Simulate(t *testing.T, e Exploration, body func(*Run)) Result {
	t.Helper()
	s, err := newSearch(t, t, e, body)
	if err != nil {
		t.Error(err)
		return Result{}
	}
	return s.simulate()
}

func (s *search) simulate() Result {
	s.out.Helper()
	first, number := s.FirstSeed, uint64(s.Seeds)
	switch {
	case s.replay.seeded:
		return s.repeat()
	case s.replay.attempts > 0:
		s.out.Logf("faultinject: not simulated: %s names no seed", scheduleVariable)
		return s.result
	case s.seed != "":
		seed, err := strconv.ParseUint(s.seed, 0, 64)
		if err != nil {
			s.out.Errorf("faultinject: %s=%q is not a number", seedVariable, s.seed)
			return s.result
		}
		first, number = seed, 1
	}
	s.guard(func() { s.seeds(first, number) })
	if s.failed == nil && !s.given.Load() && s.result.Told[OK] == 0 {
		s.out.Errorf("faultinject: vacuous: nobody was told ok under %d seeds", number)
	}
	return s.conclude()
}

// seeds runs some of the seeds in each worker.
func (s *search) seeds(first, number uint64) {
	var next atomic.Uint64
	var workers sync.WaitGroup
	for w := range s.workers() {
		workers.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= number || !s.sow(w, first+n) {
					next.Store(number)
					return
				}
			}
		})
	}
	workers.Wait()
}

// sow runs one seed and reports whether the search goes on.
func (s *search) sow(worker int, seed uint64) bool {
	r := s.run(worker, s.trialOf(seed))
	if s.twice {
		again := s.run(worker, s.trialOf(seed))
		if diff := difference(r.story(), again.story()); diff != "" {
			r.find("repeatable", "", "the second run of this seed went another way\n%s", diff)
		}
	}
	return s.enter(r)
}

func (s *search) trialOf(seed uint64) trial {
	m, attempts := newMedley(seed, s.options.all[1:], s.Attempts)
	t := trial{attempts: attempts, decider: m, seeded: true, seed: seed, traced: s.twice}
	if s.Plan != nil {
		t.decider = planned{s.Plan(seed), s.Level}
	}
	return t
}

// story is the timeline with the names of keys, which may be random, in their place.
func (r *Run) story() []string {
	r.mu.Lock()
	var names []string
	for _, key := range slices.Backward(slices.Sorted(maps.Keys(r.names))) { // k10 before k1
		names = append(names, key, r.names[key])
	}
	r.mu.Unlock()
	lines, replacer := r.timeline(""), strings.NewReplacer(names...)
	for i, line := range lines {
		lines[i] = replacer.Replace(line)
	}
	return lines
}

// difference returns the first line that two histories do not share.
func difference(a, b []string) string {
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return fmt.Sprintf("first:  %s\nsecond: %s", x, y)
		}
	}
	return ""
}
