package faultinject

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// A decider takes one of the options, of which the first is [Pass]. Its caller
// holds a lock: it is asked one thing after the other.
type decider interface {
	decide(x Exchange, options []Fault, site string) Fault
	// misfit tells what could not be decided as asked for, or is empty.
	misfit() string
}

// options are the faults that can strike, by place. [Pass] is the first of each.
type options struct{ all, dial, accept, idle, request []Fault }

func newOptions(e Exploration) options {
	o := options{[]Fault{{}}, []Fault{{}}, []Fault{{}}, []Fault{{}}, []Fault{{}}}
	for _, f := range e.Faults {
		if f == Pass() || slices.Contains(TLSFaults(), f) && !e.Level.secure() {
			continue
		}
		place := &o.request
		switch {
		case f.Strikes() == AtDial:
			place = &o.dial
		case f.Strikes() == AtAccept:
			place = &o.accept
		case f.kind == closeIdle:
			place = &o.idle
		}
		if !slices.Contains(*place, f) {
			*place, o.all = append(*place, f), append(o.all, f)
		}
	}
	return o
}

// at returns what can strike x. On a network a connection that dies idle is
// met by the client, before anything arrives.
func (o *options) at(l Level, x Exchange) []Fault {
	switch {
	case l == OnTransport:
		return o.all
	case x.Method == MethodDial:
		return o.dial
	case x.Method == MethodAccept:
		return o.accept
	case x.Method == methodIdle:
		return o.idle
	}
	return o.request
}

// A branch is a choice that was taken, among how many.
type branch struct {
	index, width int
	method       string // of the exchange
}

// A walk takes one way through the tree of all schedules, whose shape shows only
// while it is walked: a node for each dial, arrival and idle connection that is
// really met. It follows its path and then what is healthy.
type walk struct {
	path      []branch
	begun     int // as much of path was given
	at        int
	faults    int
	maxFaults int             // 0: no bound
	sites     map[string]bool // where faults may strike
	wrong     string
}

const unrepeatable = "a real clock, a map's order, chance, or a tie of two timers decides something"

func (w *walk) decide(x Exchange, options []Fault, site string) Fault {
	b := branch{width: len(options), method: x.Method}
	if !w.sites[site] || w.maxFaults > 0 && w.faults == w.maxFaults {
		b.width = 1
	}
	if safe(b.method) {
		b.method = "GET"
	}
	if w.at == len(w.path) {
		w.path = append(w.path, b)
	}
	p := w.path[w.at]
	w.at++
	if (p.width != b.width || p.method != b.method) && w.wrong == "" {
		w.wrong = fmt.Sprintf("choice %d was a %s with %d ways, and is a %s with %d: %s", w.at, p.method, p.width, b.method, b.width, unrepeatable)
	}
	if p.index >= len(options) {
		return Pass()
	}
	if p.index > 0 {
		w.faults++
	}
	return options[p.index]
}

func (w *walk) misfit() string {
	if w.wrong == "" && w.at < w.begun {
		w.wrong = fmt.Sprintf("%d choices were met, before %d: %s", w.at, w.begun, unrepeatable)
	}
	return w.wrong
}

// A fork is where a walk that was taken can be left: at a choice of its path, by
// the branch of that index.
type fork struct {
	path  []branch // shared, and not changed
	at    int
	index int
}

// start returns the path that the fork begins with.
func (f fork) start() []branch {
	if f.path == nil {
		return nil
	}
	path := slices.Clone(f.path[:f.at+1])
	path[f.at].index = f.index
	return path
}

// forks returns where the walk leads to others: at its own fork to the next
// branch, and at each choice that it met after that to the first. Taken from the
// end of the list, they lead through the tree depth first.
func (w *walk) forks() (all []fork) {
	path := w.path[:w.at]
	for at := max(w.begun-1, 0); at < len(path); at++ {
		if next := path[at].index + 1; next < path[at].width {
			all = append(all, fork{path, at, next})
		}
	}
	return all
}

// An ordered decider repeats a schedule: the n-th fault strikes the n-th choice.
type ordered struct {
	faults []Fault
	at     int
	wrong  string
}

func (o *ordered) decide(x Exchange, options []Fault, _ string) Fault {
	o.at++
	if o.at > len(o.faults) {
		return Pass()
	}
	f := o.faults[o.at-1]
	if !slices.Contains(options, f) {
		if o.wrong == "" {
			o.wrong = fmt.Sprintf("choice %d is a %s, which %v is not among the faults for", o.at, x.Method, f)
		}
		return Pass()
	}
	return f
}

func (o *ordered) misfit() string {
	if o.wrong == "" && o.at < len(o.faults) {
		o.wrong = fmt.Sprintf("only %d of %d choices were met", o.at, len(o.faults))
	}
	return o.wrong
}

// label names a choice in a run of many operations, whatever their order.
func label(x Exchange) string { return fmt.Sprintf("%q#%d", x.Op, x.Nth) }

// chosen strikes the exchanges that it names, and no others.
type chosen map[string]Fault

func (c chosen) decide(x Exchange, _ []Fault, _ string) Fault {
	return c[label(x)]
}

func (chosen) misfit() string { return "" }

// A medley picks from its seed the mix of faults and how often they strike:
// many mixes find what one mix of everything hides.
type medley struct {
	seed uint64
	rate float64
	mix  []Fault
}

// newMedley returns the medley of a seed, and how many attempts it allows.
func newMedley(seed uint64, faults []Fault, attempts int) (medley, int) {
	r := keyed(seed, Exchange{Op: "medley"})
	rates := [...]float64{0.02, 0.05, 0.1, 0.2, 0.4, 0.7}
	m := medley{seed: seed, rate: rates[r.IntN(len(rates))]}
	attempts = 1 + r.IntN(attempts)
	share := 0.2 + 0.8*r.Float64()
	for _, f := range faults {
		if r.Float64() < share {
			m.mix = append(m.mix, f)
		}
	}
	return m, attempts
}

func (m medley) decide(x Exchange, options []Fault, _ string) Fault {
	r := keyed(m.seed, x)
	if r.Float64() >= m.rate {
		return Pass()
	}
	var fit []Fault
	for _, f := range options[1:] {
		if slices.Contains(m.mix, f) {
			fit = append(fit, f)
		}
	}
	return pick(r, fit)
}

func pick(r *rand.Rand, faults []Fault) Fault {
	if len(faults) == 0 {
		return Pass()
	}
	return faults[r.IntN(len(faults))]
}

func (medley) misfit() string { return "" }

// planned asks a plan of the test's own.
type planned struct {
	plan  Plan
	level Level
}

func (p planned) decide(x Exchange, _ []Fault, _ string) Fault {
	f := p.plan.Decide(x)
	meant := newOptions(Exploration{Level: p.level, Faults: []Fault{f}})
	if !slices.Contains(meant.at(p.level, x), f) {
		return Pass() // it strikes elsewhere
	}
	return f
}

func (planned) misfit() string { return "" }
