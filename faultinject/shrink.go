package faultinject

import (
	"maps"
	"slices"
)

// maxShrinking bounds the runs that a failure is shrunk in.
const maxShrinking = 500

// A shrinker looks for a shorter schedule that breaks the same rule.
type shrinker struct {
	search *search
	rule   string
	best   schedule
	began  []int // numbers of [Run.Go] in the run of best
	runs   int
}

// shrink returns the least schedule that it finds, and in how many runs.
func (s *search) shrink(found *Run, rule string) (schedule, int) {
	k := &shrinker{search: s, rule: rule, best: found.schedule(), began: found.began}
	for k.round() {
	}
	return k.best, k.runs
}

// try runs a candidate, and keeps it if it fails in the same way.
func (k *shrinker) try(candidate schedule) bool {
	if k.runs >= maxShrinking || k.search.given.Load() {
		return false
	}
	k.runs++
	t := candidate.trial()
	r := k.search.run(0, t)
	same := slices.ContainsFunc(r.findings, func(f finding) bool { return f.rule == k.rule })
	if !same || t.decider.misfit() != "" {
		return false
	}
	k.best, k.began = r.schedule(), r.began
	return true
}

// round reports whether anything became less.
func (k *shrinker) round() bool {
	for attempts := 1; attempts < k.best.attempts; attempts++ {
		candidate := k.best
		candidate.attempts = attempts
		if k.try(candidate) {
			return true
		}
	}
	switch {
	case k.begin():
		return true
	case k.best.seeded:
		return k.drop()
	}
	return k.delete() || k.lower()
}

// begin leaves operations of [Run.Go] out: many at once, then fewer.
func (k *shrinker) begin() (less bool) {
	for size := (len(k.began) + 1) / 2; size > 0; size /= 2 {
		for numbers := range slices.Chunk(slices.Clone(k.began), size) {
			candidate := k.best
			candidate.begun = slices.DeleteFunc(slices.Clone(k.began), func(n int) bool { return slices.Contains(numbers, n) })
			less = k.try(candidate) || less
		}
	}
	return less
}

// drop lets exchanges pass that were struck: many at once, then fewer.
func (k *shrinker) drop() (less bool) {
	for size := (len(k.best.struck) + 1) / 2; size > 0; size /= 2 {
		for ids := range slices.Chunk(slices.Sorted(maps.Keys(k.best.struck)), size) {
			candidate := k.best
			candidate.struck = maps.Clone(k.best.struck)
			maps.DeleteFunc(candidate.struck, func(id string, _ Fault) bool { return slices.Contains(ids, id) })
			less = k.try(candidate) || less
		}
	}
	return less
}

// delete leaves out one choice, so that what follows strikes earlier.
func (k *shrinker) delete() bool {
	for i := range k.best.faults {
		candidate := k.best
		candidate.faults = slices.Delete(slices.Clone(k.best.faults), i, i+1)
		if k.try(candidate) {
			return true
		}
	}
	return false
}

// lower puts in place of a fault one that comes before it in the list.
func (k *shrinker) lower() bool {
	order := k.search.options.all
	for i, f := range k.best.faults {
		for _, less := range order[:max(slices.Index(order, f), 0)] {
			candidate := k.best
			candidate.faults = slices.Clone(k.best.faults)
			candidate.faults[i] = less
			if k.try(candidate) {
				return true
			}
		}
	}
	return false
}
