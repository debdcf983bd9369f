package storm

import (
	"slices"
	"time"
)

// Run is what became of each operation of a situation.
type Run struct {
	situation Situation
	calls     []*call // in the order of their begin
	arrived   []int   // at the server, in each slot
}

// Second is what went on in one second of a run.
type Second struct{ Arrived, Done int } // requests at the server; operations that ended well

// Seconds are all of the run.
func (r *Run) Seconds() []Second {
	all := make([]Second, r.situation.length()/time.Second)
	for i, n := range r.arrived[:len(all)*int(time.Second/slot)] {
		all[i/int(time.Second/slot)].Arrived += n
	}
	for _, c := range r.calls {
		if at := int((c.begun + c.took) / time.Second); c.ok && at < len(all) {
			all[at].Done++
		}
	}
	return all
}

// Figures are what a run came to. Shares are of operations, by when they began.
type Figures struct {
	Wire     float64       // requests during the trouble, for each operation offered
	Peak     float64       // the busiest half second, for each operation of the mean
	Late     float64       // requests in the last sixth of the run, for each operation
	Before   float64       // per cent done before the trouble
	During   float64       // per cent done in it
	Refused  float64       // per cent that the breaker ended, in it
	Failed   float64       // per cent not done after it
	Recovery time.Duration // after it, until 95 % are done again for good
	P99      time.Duration // of those after it
}

// Figures counts.
func (r *Run) Figures() Figures {
	s := &r.situation
	from, until, end := s.Before, s.Before+s.During, s.length()
	before, during, after := r.within(0, from), r.within(from, until), r.within(until, end)
	last := r.within(end-end/6, end)
	took := make([]time.Duration, len(after))
	for i, c := range after {
		took[i] = c.took
	}
	slices.Sort(took)
	refused := func(c *call) bool { return c.refused }
	return Figures{
		Wire:     float64(r.arrivals(from, until)) / float64(len(during)),
		Late:     float64(r.arrivals(end-end/6, end)) / float64(len(last)),
		Peak:     r.peak(),
		Before:   percent(before, done),
		During:   percent(during, done),
		Refused:  percent(during, refused),
		Failed:   100 - percent(after, done),
		Recovery: r.recovery(after),
		P99:      took[len(took)*99/100],
	}
}

func done(c *call) bool { return c.ok }

func percent(calls []*call, is func(*call) bool) float64 {
	n := 0
	for _, c := range calls {
		if is(c) {
			n++
		}
	}
	return 100 * float64(n) / float64(max(1, len(calls)))
}

// within is the operations begun in [from, until).
func (r *Run) within(from, until time.Duration) []*call {
	at := func(d time.Duration) int {
		i, _ := slices.BinarySearchFunc(r.calls, d, func(c *call, d time.Duration) int { return int(c.begun - d) })
		return i
	}
	return r.calls[at(from):at(until)]
}

func (r *Run) arrivals(from, until time.Duration) (n int) {
	for _, in := range r.arrived[from/slot : until/slot] {
		n += in
	}
	return n
}

func (r *Run) peak() float64 {
	const half = 500 * time.Millisecond
	most := 0
	for from := time.Duration(0); from+half <= r.situation.length(); from += half {
		most = max(most, r.arrivals(from, from+half))
	}
	return float64(most) / (r.situation.Rate * half.Seconds())
}

// recovery is when the last stretch ended in which more than 5 % of the
// operations begun came to nothing. A stretch has twenty operations or more.
func (r *Run) recovery(after []*call) (last time.Duration) {
	until := r.situation.Before + r.situation.During
	stretch := slot
	for r.situation.Rate*stretch.Seconds() < 20 {
		stretch *= 2
	}
	for len(after) > 0 {
		n := (after[0].begun - until) / stretch
		i := slices.IndexFunc(after, func(c *call) bool { return (c.begun-until)/stretch > n })
		if i < 0 {
			i = len(after)
		}
		if percent(after[:i], done) < 95 {
			last = (n + 1) * stretch
		}
		after = after[i:]
	}
	return last
}

// Median takes each figure's own, the upper one of an even number.
func Median(all []Figures) (m Figures) {
	for _, take := range []func(*Figures) *float64{
		func(f *Figures) *float64 { return &f.Wire }, func(f *Figures) *float64 { return &f.Peak },
		func(f *Figures) *float64 { return &f.Late }, func(f *Figures) *float64 { return &f.Before },
		func(f *Figures) *float64 { return &f.During }, func(f *Figures) *float64 { return &f.Refused },
		func(f *Figures) *float64 { return &f.Failed },
	} {
		*take(&m) = middle(all, func(f *Figures) float64 { return *take(f) })
	}
	m.Recovery = middle(all, func(f *Figures) time.Duration { return f.Recovery })
	m.P99 = middle(all, func(f *Figures) time.Duration { return f.P99 })
	return m
}

func middle[T float64 | time.Duration](all []Figures, of func(*Figures) T) T {
	v := make([]T, len(all))
	for i := range all {
		v[i] = of(&all[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}
