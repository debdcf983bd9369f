package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"
)

// result is what the ledger says of one contestant.
type result struct {
	name               string
	once, twice, never int // charged
	falsePaid          int // told paid, and not charged
	falseFailed        int // told not charged, and charged
	open               int // told unknown: not a lie, but somebody must look
	requests, refused  int64
	struck             int64
	attempts           int64 // as the client reports them
	took               time.Duration
}

// sound reports whether nobody was charged twice or told an untruth, and no
// request on the wire went unreported.
func (r result) sound() bool {
	return r.twice == 0 && r.falsePaid == 0 && r.falseFailed == 0 && r.attempts >= r.requests
}

// audit holds what was told against the ledger. Untruths found before count on.
func (s *shop) audit(before result, told []report) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := result{
		falsePaid: before.falsePaid, falseFailed: before.falseFailed,
		requests: s.requests.Load(), refused: s.refused.Load(), struck: s.struck.Load(),
	}
	for order, t := range told {
		charges := s.charges[strconv.Itoa(order)]
		switch charges {
		case 0:
			r.never++
		case 1:
			r.once++
		default:
			r.twice++
		}
		switch {
		case t.says == unknown:
			r.open++
		case t.says == paid && charges == 0:
			r.falsePaid++
		case t.says == failed && charges > 0:
			r.falseFailed++
		}
	}
	return r
}

// table prints the results side by side.
func table(out io.Writer, results []result) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(title string, cell func(result) any) {
		fmt.Fprintf(w, "%-34s\t", title)
		for _, r := range results {
			fmt.Fprintf(w, "%v\t", cell(r))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(out)
	row("", func(r result) any { return r.name })
	row("charged once", func(r result) any { return r.once })
	row("charged twice or more", func(r result) any { return r.twice })
	row("not charged", func(r result) any { return r.never })
	row("told the truth", func(r result) any { return r.once + r.twice + r.never - r.falseFailed - r.falsePaid })
	row(`told "failed", but charged`, func(r result) any { return r.falseFailed })
	row(`told "paid", but not charged`, func(r result) any { return r.falsePaid })
	row(`told "unknown"`, func(r result) any { return r.open })
	row("requests at the server", func(r result) any { return r.requests })
	row("connections refused", func(r result) any { return r.refused })
	row("attempts that a fault struck", func(r result) any {
		return fmt.Sprintf("%.0f %%", 100*float64(r.refused+r.struck)/float64(r.refused+r.requests))
	})
	row("attempts the client reported", func(r result) any {
		if r.attempts == 0 {
			return "–"
		}
		return r.attempts
	})
	row("time", func(r result) any { return r.took.Round(100 * time.Millisecond) })
	w.Flush()
	fmt.Fprintln(out)
	if last := results[len(results)-1]; !last.sound() {
		fmt.Fprintf(out, "FAILED: by the ledger, %s charged twice, told an untruth or reported too few attempts.\n", last.name)
	}
}

// passLine says how one pass over the open orders ended.
func passLine(name string, pass int, open, still []int, told []report) string {
	notSent := 0
	for _, order := range still {
		if told[order].says == failed {
			notSent++
		}
	}
	line := fmt.Sprintf("%s, pass %d: %d charges, %d paid", name, pass, len(open), len(open)-len(still))
	if len(still) > 0 {
		line += fmt.Sprintf("; left open under their keys: %d not sent, %d unknown", notSent, len(still)-notSent)
	}
	return line
}
