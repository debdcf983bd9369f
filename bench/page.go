package main

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
	"time"

	"github.com/go-resilient/resilient/internal/storm"
)

//go:embed comparison.md.tmpl
var pageText string

// Page is docs/comparison.md.
func (r *Report) Page() (string, error) {
	page, err := template.New("comparison.md").Funcs(template.FuncMap{"seconds": seconds}).Parse(pageText)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = page.Execute(&b, r)
	return b.String(), err
}

// table is one of Markdown; the first column is the peers' names.
func table(peers []Peer, head string, row func(i int) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| client | %s |\n|---|%s\n", head, strings.Repeat("---|", strings.Count(head, "|")+1))
	for i, p := range peers {
		name := p.Name
		if name == ours {
			name = "**" + name + "**"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, row(i))
	}
	return b.String()
}

// Setups lists the clients, their versions and configurations.
func (r *Report) Setups() string {
	return table(r.Payers, "version | configuration | from", func(i int) string {
		p := r.Payers[i]
		return fmt.Sprintf("%s | `%s` | %s", p.Versions(), p.Setup, p.Why)
	})
}

// Overheads are the costs above net/http.
func (r *Report) Overheads() string {
	one := func(o Overhead) string {
		return fmt.Sprintf("%s (%s to %s) | %.1f | %.0f | %.1f", micro(o.Time.Median), micro(o.Time.Low), micro(o.Time.High), o.Ratio, o.Allocs, o.Bytes/1024)
	}
	return table(r.Peers, "GET, µs | in net/http's | allocations | KiB | POST of 1 KiB, µs | in net/http's | allocations | KiB", func(i int) string {
		return one(r.Get[i]) + " | " + one(r.Post[i])
	})
}

func micro(ns float64) string {
	return strings.Replace(fmt.Sprintf("%.2f", ns/1000), "-0.00", "0.00", 1)
}

// Wholes are the exchanges on loopback, over one protocol.
func (r *Report) Wholes(http2 bool) string {
	from := r.HTTP1
	if http2 {
		from = r.HTTP2
	}
	ratio := func(s Spread) string { return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Low, s.High) }
	return table(r.Peers, "GET, median | POST of 1 KiB, median | GET, 99 % within | GETs a second, 16 callers", func(i int) string {
		w := from[i]
		return strings.Join([]string{ratio(w.Get), ratio(w.Post), ratio(w.Slowest), ratio(w.Rate)}, " | ")
	})
}

// Charged is the table of one of the crowds of payments.
func (r *Report) Charged(n int) string {
	return table(r.Payers, "done once, and told so % | done twice or more % | told an error, yet done % | given an error status, yet done % | "+
		"told \"unknown\" % | told \"not sent\" % | told an untruth | requests per operation", func(i int) string {
		t := r.Chargings[n][i]
		return fmt.Sprintf("%.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %d | %.2f", t.percent(t.Fates[once]), t.percent(t.Fates[doubled]),
			t.percent(t.FailedDone), t.percent(t.RefusedYet), t.percent(t.Told[Unknown]), t.percent(t.Told[NotSent]), t.Untrue,
			float64(t.Requests)/float64(t.Operations))
	})
}

// Stormed is the table of one of the storms.
func (r *Report) Stormed(n int) string {
	s := r.Sizes.Storms[n]
	return table(r.Peers, "on the wire | peak | done in it % | failed after % | back after | 99 % within, after", func(i int) string {
		f := r.Storms[n][i]
		return fmt.Sprintf("%.2f | %.1f | %.1f | %.2f | %s | %s", f.Wire, f.Peak, f.During, f.Failed, back(s, f), seconds(f.P99))
	})
}

func back(s storm.Situation, f storm.Figures) string {
	if f.Recovery > s.After*9/10 {
		return "not in " + seconds(s.After)
	}
	return fmt.Sprintf("%.1f s", f.Recovery.Seconds())
}

// Heeded is the table of Retry-After.
func (r *Report) Heeded() string {
	var head []string
	for _, w := range wishes {
		head = append(head, w.Name)
	}
	return table(r.Peers, strings.Join(head, " | "), func(i int) string {
		var cells []string
		for n, w := range wishes {
			cells = append(cells, w.Tell(r.Wishes[n][i]))
		}
		return strings.Join(cells, " | ")
	})
}

// LeftOver is the table of leaks.
func (r *Report) LeftOver() string {
	return table(r.Peers, "503: goroutines | connections | dials per 100 requests, 2 KiB | 64 KiB | 512 KiB | silent: goroutines | connections | "+
		"back after | between attempts: goroutines | connections | back after", func(i int) string {
		var most Left
		var dials []string
		for _, of := range r.Endings[:3] {
			most.Goroutines, most.Connections = max(most.Goroutines, of[i].Goroutines), max(most.Connections, of[i].Connections)
			dials = append(dials, fmt.Sprintf("%.0f", of[i].redials()))
		}
		silent, between := r.Endings[3][i], r.Endings[4][i]
		return fmt.Sprintf("%d | %d | %s | %d | %d | %s | %d | %d | %s", most.Goroutines, most.Connections, strings.Join(dials, " | "),
			silent.Goroutines, silent.Connections, lateness(silent.Late), between.Goroutines, between.Connections, lateness(between.Late))
	})
}

func lateness(d time.Duration) string {
	if d < 10*time.Millisecond {
		return "0 s"
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// Unbounded is the name of ours without budget and breaker.
func (r *Report) Unbounded() string { return unbounded }

// Crowds are the crowds of payments.
func (r *Report) Crowds() []Charging { return chargings }

// Shares are what strikes payments, in per cent, and how much of it every day.
func (r *Report) Shares() map[string]float64 {
	return map[string]float64{
		"before": 100 * struckBefore, "after": 100 * struckAfter, "dials": 100 * dialsRefused,
		"everyday": 100 * (struckBefore + struckAfter) * everyday,
	}
}

// Capacity is what its server can do a second.
func (r *Report) Capacity() float64 {
	s := r.Storm().Server
	return float64(s.Workers) / s.Service.Seconds()
}

// Storm is the first of the storms; the others differ from it in the trouble.
func (r *Report) Storm() storm.Situation { return r.Sizes.Storms[0] }
