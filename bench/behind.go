package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-resilient/resilient/internal/storm"
)

// figure is one that clients can be ranked by.
type figure struct {
	name  string
	peers []Peer
	of    func(i int) Spread
	more  bool    // is better
	slack float64 // what is no difference, beside the spread
	print string
	floor bool                 // net/http is what it is measured by
	why   func(i int) []string // what that peer does without, if it is ahead
}

// Behind is where another client has the better figure, and why. Left out are
// the variants of ours, and net/http where it is the measure.
func (r *Report) Behind() string {
	var b strings.Builder
	b.WriteString("| figure | resilient | ahead of it | why |\n|---|---|---|---|\n")
	for _, f := range r.figures() {
		var names, reasons []string
		for _, i := range f.ahead() {
			names = append(names, fmt.Sprintf("%s ("+f.print+")", f.peers[i].Name, f.of(i).Median))
			for _, why := range f.why(i) {
				if !slices.Contains(reasons, why) {
					reasons = append(reasons, why)
				}
			}
		}
		if len(names) > 0 {
			fmt.Fprintf(&b, "| %s | "+f.print+" | %s | %s |\n", f.name, f.of(f.mine()).Median, strings.Join(names, ", "), strings.Join(reasons, "; "))
		}
	}
	return b.String()
}

func (f *figure) mine() int {
	return slices.IndexFunc(f.peers, func(p Peer) bool { return p.Name == ours })
}

func (f *figure) ahead() (peers []int) {
	mine := f.of(f.mine())
	for i, p := range f.peers {
		lead := mine.Low - f.of(i).High
		if f.more {
			lead = f.of(i).Low - mine.High
		}
		if lead > f.slack && !strings.HasPrefix(p.Name, ours) && !(f.floor && p.Name == bare) {
			peers = append(peers, i)
		}
	}
	return peers
}

const (
	noState   = "they keep no account of the host, so they have no budget and no breaker to ask"
	noKey     = "they make no key, watch no evidence of sending, and tell nothing of what the server did"
	keyHeader = noKey + "; the key is a header more for both sides"
	doubling  = "those that double send again what may have been done, and some of it then was done twice"
	riskless  = "a key makes their repeats harmless, and no budget as narrow as ours limits them"
	patience  = "our budget and breaker do not tell a host that strikes nearly half of its requests from one in an outage; a caller who carries on gets there all the same"
	knocking  = "each client finds out for itself, and asks a few times a second whether the server is back; who asks less is back later"
	opening   = "each of our clients may repeat ten operations before its budget is spent; those ahead repeat none, or fewer"
	breathing = "the breaker has to find the end of the outage; those ahead went on sending all the time"
	holding   = "callers are held while the breaker asks whether the server is back; those ahead went on sending, or fail such calls at once"
	waiting   = "they ask the server over and over, most of them for seconds; our callers wait 300 ms at most for it to come back, and are then told"
	draining  = "few requests are sent at all, so that the first ones weigh more"
	endless   = "what is longer than 256 KiB is not read to its end for the sake of a connection: a server could make that last"
)

func always(why ...string) func(int) []string { return func(int) []string { return why } }

func (r *Report) figures() []figure {
	all := slices.Concat(r.costFigures(), r.safetyFigures())
	for n, s := range r.Sizes.Storms {
		all = append(all, stormFigures(r.Peers, s.Name, r.Storms[n])...)
	}
	for n, w := range []struct{ size, why string }{{"2 KiB", draining}, {"64 KiB", draining}, {"512 KiB", endless}} {
		all = append(all, figure{"dials per 100 requests, bodies of " + w.size + " discarded", r.Peers,
			func(i int) Spread { return exactly(r.Endings[n][i].redials()) }, false, 1, "%.0f", false, always(w.why)})
	}
	return all
}

func (r *Report) costFigures() []figure {
	cost := func(name string, of func(i int) Spread, slack float64, print, why string) figure {
		return figure{name, r.Peers, of, false, slack, print, true, always(why)}
	}
	var all []figure
	for _, w := range []struct {
		name, why string
		of        []Overhead
	}{{"GET", noState, r.Get}, {"POST of 1 KiB", noKey, r.Post}} {
		all = append(all,
			cost(w.name+" over a stub, µs above net/http", func(i int) Spread { return w.of[i].Time.over(1000) }, 0, "%.2f", w.why),
			cost(w.name+" over a stub, allocations above net/http", func(i int) Spread { return exactly(w.of[i].Allocs) }, 0.5, "%.0f", w.why),
			cost(w.name+" over a stub, KiB above net/http", func(i int) Spread { return exactly(w.of[i].Bytes / 1024) }, 0.05, "%.1f", w.why),
		)
	}
	for _, w := range []struct {
		name string
		of   []Whole
	}{{"HTTP/1.1", r.HTTP1}, {"HTTP/2", r.HTTP2}} {
		rate := cost("GETs a second on loopback, in net/http's: "+w.name, func(i int) Spread { return w.of[i].Rate }, 0, "%.2f", noState)
		rate.more = true
		all = append(all,
			cost("GET on loopback, median in net/http's: "+w.name, func(i int) Spread { return w.of[i].Get }, 0, "%.2f", noState),
			cost("POST of 1 KiB on loopback, median in net/http's: "+w.name, func(i int) Spread { return w.of[i].Post }, 0, "%.2f", keyHeader),
			cost("GET on loopback, 99 % within, in net/http's: "+w.name, func(i int) Spread { return w.of[i].Slowest }, 0, "%.2f", noState),
			rate,
		)
	}
	return all
}

func (r *Report) safetyFigures() (all []figure) {
	for n, s := range chargings {
		of := func(i int) *Tally { return &r.Chargings[n][i] }
		why := func(i int) (why []string) {
			switch {
			case of(i).Fates[doubled] > 0:
				why = append(why, doubling)
			case s.Honours:
				why = append(why, riskless)
			}
			if s.Struck == grave {
				why = append(why, patience)
			}
			return why
		}
		all = append(all,
			figure{"done once, and told so, %: " + s.Name, r.Payers,
				func(i int) Spread { return exactly(of(i).percent(of(i).Fates[once])) }, true, 0.5, "%.1f", false, why},
			figure{"told an error or given an error status, yet done, %: " + s.Name, r.Payers,
				func(i int) Spread { return exactly(of(i).percent(of(i).FailedDone + of(i).RefusedYet)) }, false, 0.5, "%.1f", false, why},
		)
	}
	return all
}

func stormFigures(peers []Peer, name string, of []storm.Figures) []figure {
	one := func(what string, f func(*storm.Figures) float64, slack float64, print, why string) figure {
		return figure{what + ": " + name, peers, func(i int) Spread { return exactly(f(&of[i])) }, false, slack, print, false, always(why)}
	}
	during := one("done in it, %", func(f *storm.Figures) float64 { return f.During }, 0.5, "%.1f", waiting)
	during.more = true
	return []figure{
		one("on the wire", func(f *storm.Figures) float64 { return f.Wire }, 0.01, "%.2f", knocking),
		one("peak", func(f *storm.Figures) float64 { return f.Peak }, 0.1, "%.1f", opening),
		during,
		one("failed after, %", func(f *storm.Figures) float64 { return f.Failed }, 0.05, "%.2f", breathing),
		one("back after, s", func(f *storm.Figures) float64 { return f.Recovery.Seconds() }, 0.05, "%.1f", breathing),
		one("99 % within, after, s", func(f *storm.Figures) float64 { return f.P99.Seconds() }, 0.01, "%.2f", holding),
	}
}
