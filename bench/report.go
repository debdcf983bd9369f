package main

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/go-resilient/resilient/internal/storm"
)

// Report is what a run has found. Its tables are in the order of Peers.
type Report struct {
	Machine   string
	Sizes     Sizes
	Peers     []Peer
	Payers    []Peer // Peers, and ours carried on
	Get, Post []Overhead
	HTTP1     []Whole
	HTTP2     []Whole
	Chargings [][]Tally         // by chargings
	Storms    [][]storm.Figures // by storms
	Seconds   []storm.Panel     // of the first storm
	Wishes    [][]Heed          // by wishes
	Endings   [][]Left          // by endings
}

// Sizes say how much of everything there is.
type Sizes struct {
	CostRounds, CostOperations   int
	WholeRounds, WholeOperations int
	ChargeSeeds, Charges         int
	StormSeeds                   int
	WishRuns, Leavers            int
	Storms                       []storm.Situation
}

var full = Sizes{
	CostRounds: 31, CostOperations: 2000, WholeRounds: 15, WholeOperations: 400,
	ChargeSeeds: 10, Charges: 1000, StormSeeds: 3, WishRuns: 20, Leavers: 200, Storms: storms(),
}

// bubble runs f in a bubble of testing/synctest.
type bubble func(f func() error) error

// compare makes all the measurements. said is told how it goes.
func compare(peers []Peer, n Sizes, in bubble, said func(string)) (*Report, error) {
	r := &Report{
		Machine: fmt.Sprintf("%s, %s/%s, GOMAXPROCS %d", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0)),
		Sizes:   n, Peers: peers, Payers: slices.Concat(peers, []Peer{oursCarried}),
	}
	for _, part := range []struct {
		name string
		make func(bubble) error
	}{
		{"leaks", r.leaks},
		{"overhead", r.overheads}, {"end to end", r.wholes},
		{"safety", r.chargings}, {"storms", r.storms}, {"Retry-After", r.wishes},
	} {
		said(part.name)
		if err := part.make(in); err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return r, nil
}

func (r *Report) overheads(bubble) (err error) {
	if r.Get, err = overheads(r.Peers, get, r.Sizes.CostRounds, r.Sizes.CostOperations); err != nil {
		return err
	}
	r.Post, err = overheads(r.Peers, post, r.Sizes.CostRounds, r.Sizes.CostOperations)
	return err
}

func (r *Report) wholes(bubble) (err error) {
	if r.HTTP1, err = wholes(r.Peers, false, r.Sizes.WholeRounds, r.Sizes.WholeOperations); err != nil {
		return err
	}
	r.HTTP2, err = wholes(r.Peers, true, r.Sizes.WholeRounds, r.Sizes.WholeOperations)
	return err
}

// perPeer asks for a figure of each peer, each in a bubble of its own.
func perPeer[T any](peers []Peer, in bubble, ask func(Peer) (T, error)) ([]T, error) {
	all := make([]T, len(peers))
	for i, p := range peers {
		err := in(func() (err error) {
			all[i], err = ask(p)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return all, nil
}

func (r *Report) chargings(in bubble) error {
	for _, s := range chargings {
		sum := make([]Tally, len(r.Payers))
		for seed := range r.Sizes.ChargeSeeds {
			tallies, err := perPeer(r.Payers, in, func(p Peer) (Tally, error) { return s.run(p, uint64(seed), r.Sizes.Charges) })
			if err != nil {
				return err
			}
			for i := range sum {
				sum[i].add(tallies[i])
			}
		}
		r.Chargings = append(r.Chargings, sum)
	}
	return nil
}

func (r *Report) storms(in bubble) error {
	for n, s := range r.Sizes.Storms {
		runs := make([][]storm.Figures, len(r.Peers))
		for seed := range r.Sizes.StormSeeds {
			all, err := perPeer(r.Peers, in, func(p Peer) (*storm.Run, error) { return s.Run(p.policy(), uint64(seed)) })
			if err != nil {
				return err
			}
			for i, run := range all {
				runs[i] = append(runs[i], run.Figures())
				if n == 0 && seed == 0 {
					r.Seconds = append(r.Seconds, storm.Panel{Title: r.Peers[i].Name, Seconds: run.Seconds()})
				}
			}
		}
		medians := make([]storm.Figures, len(runs))
		for i := range runs {
			medians[i] = storm.Median(runs[i])
		}
		r.Storms = append(r.Storms, medians)
	}
	return nil
}

func (r *Report) wishes(in bubble) error {
	for _, w := range wishes {
		heeds, err := perPeer(r.Peers, in, func(p Peer) (Heed, error) { return w.heed(p, r.Sizes.WishRuns) })
		if err != nil {
			return err
		}
		r.Wishes = append(r.Wishes, heeds)
	}
	return nil
}

func (r *Report) leaks(in bubble) error {
	for _, e := range endings {
		left, err := perPeer(r.Peers, in, func(p Peer) (Left, error) { return e.run(p, r.Sizes.Leavers) })
		if err != nil {
			return err
		}
		r.Endings = append(r.Endings, left)
	}
	return nil
}
