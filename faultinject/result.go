package faultinject

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Result is what a search came by.
type Result struct {
	// Schedules is how many runs there were, each of them another schedule or
	// seed; shrinking does not count.
	Schedules int
	// Operations, Deliveries and Effects are those of all runs. Resent is how
	// many connections net/http took for a request after its first: what it sent
	// again by itself.
	Operations, Deliveries, Effects, Resent int
	// Told counts what callers were told, the last word of each operation.
	Told map[Told]int
	// Unapplied counts the operations told Unknown that had no effect: less is
	// more precise, and none is out of reach.
	Unapplied int
	// Fired counts what struck, and Unmet lists, in a search that did not fail,
	// the faults that never had the occasion.
	Fired map[Fault]int
	Unmet []Fault
	// Virtual is the time that passed in all runs.
	Virtual time.Duration
}

// String returns the result as a line for a log.
func (r Result) String() string {
	var told []string
	for _, t := range []Told{OK, NotApplied, Unknown} {
		told = append(told, fmt.Sprintf("%v %d", t, r.Told[t]))
	}
	struck := 0
	for n := range maps.Values(r.Fired) {
		struck += n
	}
	text := fmt.Sprintf("%d schedules, %d operations told %s (%d of them without effect), %d deliveries, %d sent again by net/http, %d effects, %d strikes of %d faults, %v of virtual time",
		r.Schedules, r.Operations, strings.Join(told, ", "), r.Unapplied, r.Deliveries, r.Resent, r.Effects, struck, len(r.Fired), r.Virtual.Round(time.Second))
	if len(r.Unmet) > 0 {
		text += fmt.Sprintf(", never met: %v", r.Unmet)
	}
	return text
}

func (r *Result) add(run *Run) {
	r.Schedules++
	r.Virtual += run.took
	for _, d := range run.decisions {
		if d.fault != Pass() {
			r.Fired[d.fault]++
		}
	}
	for _, s := range run.sendings {
		r.Resent += max(s.conns-1, 0)
	}
	for _, o := range run.operations() {
		r.Deliveries += len(o.deliveries)
		r.Effects += len(o.effects)
		if len(o.reports) == 0 {
			continue
		}
		r.Operations++
		told := o.reports[len(o.reports)-1].told
		r.Told[told]++
		if told == Unknown && len(o.effects) == 0 {
			r.Unapplied++
		}
	}
}

// requireSubstance fails a search that has shown nothing.
func (s *search) requireSubstance() {
	s.out.Helper()
	r := &s.result
	if r.Told[OK] == 0 {
		s.out.Errorf("faultinject: vacuous: nobody was told ok in %d schedules", r.Schedules)
	}
	for _, f := range s.Faults {
		if f == Pass() || r.Fired[f] > 0 || slices.Contains(r.Unmet, f) {
			continue
		}
		r.Unmet = append(r.Unmet, f)
		// A client may have no idle connection to use, or need no new one; TLS has
		// faults of its own. All else has its occasion wherever a request arrives.
		if s.Level == OnTransport || f.Strikes() == AtRequest && f.kind != closeIdle {
			s.out.Errorf("faultinject: vacuous: %v never struck in %d schedules", f, r.Schedules)
		}
	}
}
