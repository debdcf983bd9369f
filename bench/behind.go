package main

import (
	"fmt"
	"slices"
	"strings"
)

// figure is one that clients can be ranked by.
type figure struct {
	name  string
	peers []Peer
	of    func(i int) Spread
	more  bool    // is better
	slack float64 // what is no difference, beside the spread
	print string
	why   string // what those ahead of ours do without
}

// Behind is where another client has the better figure, and why. Left out are
// net/http alone, the floor of most of them, and the variants of ours.
func (r *Report) Behind() string {
	var b strings.Builder
	b.WriteString("| figure | resilient | ahead of it | why |\n|---|---|---|---|\n")
	for _, f := range r.figures() {
		mine := slices.IndexFunc(f.peers, func(p Peer) bool { return p.Name == ours })
		var ahead []int
		for i, p := range f.peers {
			lead := f.of(mine).Low - f.of(i).High
			if f.more {
				lead = f.of(i).Low - f.of(mine).High
			}
			if lead > f.slack && p.Name != bare && !strings.HasPrefix(p.Name, ours) {
				ahead = append(ahead, i)
			}
		}
		if len(ahead) == 0 {
			continue
		}
		var names []string
		for _, i := range ahead {
			names = append(names, fmt.Sprintf("%s ("+f.print+")", f.peers[i].Name, f.of(i).Median))
		}
		fmt.Fprintf(&b, "| %s | "+f.print+" | %s | %s |\n", f.name, f.of(mine).Median, strings.Join(names, ", "), f.why)
	}
	return b.String()
}

const (
	noState   = "they keep no account of the host, so they have no budget and no breaker to ask"
	noKey     = "they make no key, watch no evidence of sending, and tell nothing of what the server did"
	doubling  = "they send again what may have been done, and some of it then was done twice; stripe-go makes keys as we do, and its retries have no limit over all operations"
	riskless  = "the caller's key makes any repeat harmless, and nothing limits theirs"
	patience  = "our budget and breaker do not tell a host that strikes nearly half of its requests from one in an outage; a caller who carries on gets there all the same"
	knocking  = "each client finds out for itself, and asks a few times a second whether the server is back; who asks less is back later"
	breathing = "the breaker has to find the end of the outage; those ahead went on sending all the time"
	waiting   = "they ask the server over and over, most of them for seconds; our callers wait 300 ms at most for it to come back, and are then told"
	draining  = "few requests are sent at all, so that the first ones weigh more"
)

func (r *Report) figures() []figure {
	all := r.costFigures()
	for n, s := range chargings {
		why := riskless
		if !s.Keyed {
			why = doubling
		}
		if s.Struck == grave {
			why += "; " + patience
		}
		all = append(all, figure{"done once, and told so, %: " + s.Name, r.Payers,
			func(i int) Spread { t := r.Chargings[n][i]; return exactly(t.percent(t.Fates[once])) }, true, 0.5, "%.1f", why})
	}
	for n, s := range r.Sizes.Storms {
		storm := r.Storms[n]
		all = append(all,
			figure{"on the wire: " + s.Name, r.Peers, func(i int) Spread { return exactly(storm[i].Wire) }, false, 0.01, "%.2f", knocking},
			figure{"done in it, %: " + s.Name, r.Peers, func(i int) Spread { return exactly(storm[i].During) }, true, 0.5, "%.1f", waiting},
			figure{"failed after, %: " + s.Name, r.Peers, func(i int) Spread { return exactly(storm[i].Failed) }, false, 0.05, "%.2f", breathing},
			figure{"back after, s: " + s.Name, r.Peers, func(i int) Spread { return exactly(storm[i].Recovery.Seconds()) }, false, 0.05, "%.1f", breathing},
		)
	}
	return append(all, figure{"dials per 100 requests, bodies discarded", r.Peers, func(i int) Spread {
		left := r.Endings[0][i]
		return exactly(100 * float64(left.Dials) / float64(max(1, left.Requests)))
	}, false, 1, "%.0f", draining})
}

func (r *Report) costFigures() []figure {
	all := []figure{
		{"GET over a stub, µs above net/http", r.Peers, func(i int) Spread { return r.Get[i].Time.over(1000) }, false, 0, "%.2f", noState},
		{"POST of 1 KiB over a stub, µs above net/http", r.Peers, func(i int) Spread { return r.Post[i].Time.over(1000) }, false, 0, "%.2f", noKey},
		{"POST of 1 KiB over a stub, allocations above net/http", r.Peers, func(i int) Spread { return exactly(r.Post[i].Allocs) }, false, 0.5, "%.0f", noKey},
	}
	for _, w := range []struct {
		name string
		of   []Whole
	}{{"HTTP/1.1", r.HTTP1}, {"HTTP/2", r.HTTP2}} {
		all = append(all,
			figure{"GET on loopback, median in net/http's: " + w.name, r.Peers, func(i int) Spread { return w.of[i].Get }, false, 0, "%.2f", noState},
			figure{"POST of 1 KiB on loopback, median in net/http's: " + w.name, r.Peers, func(i int) Spread { return w.of[i].Post }, false, 0, "%.2f",
				noKey + "; the key is a header more for both sides"},
		)
	}
	return all
}
