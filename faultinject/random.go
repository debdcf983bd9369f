package faultinject

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Random strikes the share rate of all arrivals, from 0 to 1, with one of the
// faults, of [Essential] if none is named. Each decision depends on the seed, Op
// and Nth alone, so that neither the order of arrivals nor another operation
// moves it; plans that should not agree want seeds of their own. Some of the
// essential faults last until the caller gives up: give it a deadline.
func Random(seed uint64, rate float64, faults ...Fault) Plan {
	if flaw := rateFlaw(rate); flaw != "" {
		return senseless("random: %s", flaw)
	}
	return random{seed, rate, slices.Clone(faults)}
}

func rateFlaw(rate float64) string {
	if rate >= 0 && rate <= 1 { // not so of NaN
		return ""
	}
	return fmt.Sprintf("the rate %v is not between 0 and 1", rate)
}

type random struct {
	seed   uint64
	rate   float64
	faults []Fault
}

func (p random) Decide(x Exchange) Fault { return p.strike(x, p.rate) }

func (p random) strike(x Exchange, rate float64) Fault {
	faults := p.faults
	if len(faults) == 0 {
		faults = Essential()
	}
	r := keyed(p.seed, x)
	// Both are always drawn: another rate keeps the choice of faults.
	strike, choice := r.Float64() < rate, r.IntN(len(faults))
	if !strike {
		return Pass()
	}
	return faults[choice]
}

func keyed(seed uint64, x Exchange) *rand.Rand {
	text := binary.BigEndian.AppendUint64(nil, seed)
	text = binary.BigEndian.AppendUint64(text, uint64(x.Nth))
	return rand.New(rand.NewChaCha8(sha256.Sum256(append(text, x.Op...))))
}

// Ramp is a [Random] whose rate goes in a straight line from rate0 to rate1
// while [Exchange.Since] goes from one time to the other. Before, it is rate0;
// after, rate1. What a lower rate strikes, a higher one strikes in the same way.
func Ramp(seed uint64, from, to time.Duration, rate0, rate1 float64, faults ...Fault) Plan {
	flaw := spanFlaw(from, to)
	for _, rate := range []float64{rate0, rate1} {
		if flaw == "" {
			flaw = rateFlaw(rate)
		}
	}
	if flaw != "" {
		return senseless("ramp: %s", flaw)
	}
	return ramp{random{seed, rate0, slices.Clone(faults)}, from, to, rate1}
}

func spanFlaw(from, to time.Duration) string {
	if from < 0 || to <= from {
		return fmt.Sprintf("nothing is between %v and %v", from, to)
	}
	return ""
}

type ramp struct {
	random
	from, to time.Duration
	rate1    float64
}

func (p ramp) Decide(x Exchange) Fault {
	done := float64(x.Since-p.from) / float64(p.to-p.from)
	done = min(max(done, 0), 1)
	return p.strike(x, p.rate*(1-done)+p.rate1*done)
}

// Swarm is a [Random] in which the seed picks the rate too, and which of the
// faults are in the mix, and how often each of them: of [Essential] if none is
// named. Many seeds of few faults each meet what an even mix of everything never
// does.
func Swarm(seed uint64, faults ...Fault) Plan {
	p := swarm{faults: slices.Clone(faults)}
	if len(faults) == 0 {
		faults = Essential()
	}
	r := keyed(seed, Exchange{}) // no arrival has the number 0
	rates := [...]float64{0.02, 0.05, 0.1, 0.2, 0.5}
	p.random = random{seed: seed, rate: rates[r.IntN(len(rates))]}
	spare := faults[r.IntN(len(faults))] // a mix of nothing would be Essential
	for _, f := range faults {
		in, weight := r.IntN(2) == 0, 1+r.IntN(8)
		if in {
			p.random.faults = append(p.random.faults, slices.Repeat([]Fault{f}, weight)...)
		}
	}
	if len(p.random.faults) == 0 {
		p.random.faults = []Fault{spare}
	}
	return p
}

type swarm struct {
	random
	faults []Fault // as they were named
}

// Jitter lets every arrival wait for a [Delay] of its own, drawn evenly from
// the times between from and to, from included.
func Jitter(seed uint64, from, to time.Duration) Plan {
	if flaw := spanFlaw(from, to); flaw != "" {
		return senseless("jitter: %s", flaw)
	}
	return jitter{seed, from, to}
}

type jitter struct {
	seed     uint64
	from, to time.Duration
}

func (j jitter) Decide(x Exchange) Fault {
	x.Op = "jitter " + x.Op // drawn apart from what a Random of this seed draws
	return Delay(j.from + time.Duration(keyed(j.seed, x).Int64N(int64(j.to-j.from))))
}
