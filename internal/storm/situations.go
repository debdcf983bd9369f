package storm

import (
	"fmt"
	"slices"
	"time"
)

// Row is a situation with what the client as it ships is held to in it.
type Row struct {
	Situation
	Limits
	Seeds uint64 // runs whose medians are held to the limits
}

// Limits are figures not to be worse than. A limit of zero is none, but for
// Refused: nobody.
type Limits struct {
	Wire     float64       // at most
	Recovery time.Duration // at most
	Failed   float64       // at most, per cent
	Worst    float64       // at most, per cent failed after the trouble in a single run
	P99      time.Duration // at most
	During   float64       // at least, per cent
	Refused  float64       // at most, per cent
}

// Exceeded names the figures that are worse.
func (l Limits) Exceeded(f Figures) (worse []string) {
	for _, c := range []struct {
		name        string
		most, found float64
	}{
		{"on the wire", l.Wire, f.Wire},
		{"s to recover", l.Recovery.Seconds(), f.Recovery.Seconds()},
		{"% failed after", l.Failed, f.Failed},
		{"s for 99 % after", l.P99.Seconds(), f.P99.Seconds()},
	} {
		if c.most > 0 && c.found > c.most {
			worse = append(worse, fmt.Sprintf("%.3f %s, at most %.3f", c.found, c.name, c.most))
		}
	}
	if f.During < l.During {
		worse = append(worse, fmt.Sprintf("%.2f %% done in it, at least %.2f", f.During, l.During))
	}
	if l.Refused >= 0 && f.Refused > l.Refused {
		worse = append(worse, fmt.Sprintf("%.2f %% refused in it, at most %.2f", f.Refused, l.Refused))
	}
	return worse
}

// ours is the server and the load of all rows: 400 operations a second for one
// that can do 500.
func ours(name string, clients int, during time.Duration, t Trouble) Situation {
	return Situation{
		Name: name, Clients: clients, Rate: 400,
		Before: 5 * time.Second, During: during, After: 13 * time.Second, Deadline: 10 * time.Second,
		Server:  Server{Workers: 10, Service: 20 * time.Millisecond, Queue: 100},
		Trouble: t,
	}
}

const (
	tenth  = 100 * time.Millisecond
	outage = 45 * tenth
	fleet  = 20
	minute = time.Minute
)

// Rows are the situations that the client is held to, each with one client or a
// fleet of them. Limits are a little above what is measured.
func Rows() []Row {
	return slices.Concat(outages(), brownOuts(), steady(), callers())
}

// anybody is Limits.Refused where the breaker is meant to refuse.
const anybody = 100

func outages() []Row {
	refused, hangs := Trouble{Refused: true}, Trouble{Hangs: true}
	return []Row{
		{ours("outage, one client", 1, outage, refused), Limits{Wire: 0.05, Recovery: 2 * tenth, Failed: 0.1, Worst: 0.2, P99: 3 * tenth, Refused: anybody}, 7},
		{ours("outage, fleet of 20", fleet, outage, refused), Limits{Wire: 0.25, Recovery: 2 * tenth, Failed: 0.2, Worst: 0.4, P99: 3 * tenth, Refused: anybody}, 7},
		{ours("outage, fleet of 200", 200, outage, refused), Limits{Wire: 1.6, Recovery: tenth, Failed: 0.1, Worst: 0.2, Refused: anybody}, 3},
		{ours("503 with Retry-After 1, fleet of 20", fleet, outage, Trouble{Status: 503, After: 1}), Limits{Wire: 0.24, Recovery: 2 * tenth, Failed: 0.16, Worst: 0.4, Refused: anybody}, 3},
		{timeout(ours("host hangs, time-out 1 s, fleet of 20", fleet, outage, hangs), time.Second), Limits{Wire: 0.52, Recovery: 2 * tenth, Failed: 0.2, Worst: 0.4, Refused: anybody}, 3},
		{timeout(ours("host hangs, time-out 3 s, fleet of 20", fleet, 15*time.Second, hangs), 3*time.Second), Limits{Wire: 0.37, Recovery: 4 * tenth, Failed: 0.7, Worst: 1.1, Refused: anybody}, 3},
		{timeout(ours("host hangs, time-out 9 s, fleet of 20", fleet, 45*time.Second, hangs), 9*time.Second), Limits{Wire: 0.5, Refused: anybody, Worst: anybody}, 1},
		{ours("host hangs, no time-out, one client", 1, outage, hangs), Limits{Wire: 1.05, Recovery: tenth, Failed: 0.1, Worst: 0.1}, 1},
		{ours("five minutes, one client", 1, 5*minute, refused), Limits{Wire: 0.015, Recovery: tenth, Failed: 0.1, Worst: 0.2, Refused: anybody}, 1},
		{ours("five minutes, fleet of 20", fleet, 5*minute, refused), Limits{Wire: 0.035, Recovery: 20 * tenth, Failed: 6.2, Worst: 9, Refused: anybody}, 1},
		{ours("five minutes, fleet of 200", 200, 5*minute, refused), Limits{Wire: 0.31, Recovery: 18 * tenth, Failed: 5.8, Worst: 9, Refused: anybody}, 1},
		{big(ours("outage, one client of 4,000 a second", 1, outage, refused)), Limits{Wire: 0.06, Recovery: 25 * tenth, Failed: 26, Worst: 30, Refused: anybody}, 1},
		{regular(rate(ours("one call in 5 s, outage of 30 s", 200, 30*time.Second, refused), 40)), Limits{Wire: 1.6, Recovery: tenth, Failed: 0.1, Worst: 0.1}, 1},
		{regular(rate(ours("four calls in 5 s, outage of 30 s", 200, 30*time.Second, refused), 160)), Limits{Wire: 1.13, Recovery: tenth, Failed: 0.1, Worst: 0.1}, 1},
	}
}

func brownOuts() []Row {
	slower, lag := Trouble{Slower: 10. / 3}, Trouble{Lag: 400 * time.Millisecond}
	return []Row{
		{ours("brown-out by 503, one client", 1, minute, slower), Limits{Wire: 0.70, Recovery: 6 * tenth, Failed: 1.1, Worst: 1.5, During: 37.7, Refused: anybody}, 3},
		{ours("brown-out by 503, fleet of 20", fleet, minute, slower), Limits{Wire: 0.71, Recovery: 4 * tenth, Failed: 0.4, Worst: 0.5, During: 37.9, Refused: anybody}, 3},
		{slow(ours("brown-out by time-outs, one client", 1, minute, slower)), Limits{Wire: 0.38, Recovery: tenth, Failed: 0.1, Worst: 0.1, During: 27.5, Refused: anybody}, 1},
		{slow(ours("brown-out by time-outs, fleet of 20", fleet, minute, slower)), Limits{Wire: 0.39, Recovery: 4 * tenth, Failed: 2.1, Worst: 5, During: 11, Refused: anybody}, 1},
		{timeout(ours("latency × 20, below the time-out", 1, 20*time.Second, lag), time.Second), Limits{Wire: 1.01, Recovery: tenth, Failed: 0.1, Worst: 0.1, During: 99.9}, 1},
		{timeout(ours("latency × 20, above the time-out, one client", 1, 20*time.Second, lag), 300*time.Millisecond), Limits{Wire: 0.04, Recovery: tenth, Failed: 0.1, Worst: 0.2, Refused: anybody}, 1},
		{timeout(ours("latency × 20, above the time-out, fleet of 20", fleet, 20*time.Second, lag), 300*time.Millisecond), Limits{Wire: 0.15, Recovery: 8 * tenth, Failed: 2.0, Worst: 2.6, Refused: anybody}, 1},
	}
}

func steady() (rows []Row) {
	for _, r := range []struct {
		share float64
		n     int
		Limits
	}{
		{0.1, 1, Limits{Wire: 1.11, During: 98.8}}, {0.1, fleet, Limits{Wire: 1.11, During: 99.4}}, {0.1, 200, Limits{Wire: 1.12, During: 99.9}},
		{0.2, 1, Limits{Wire: 1.11, During: 87.9}}, {0.2, fleet, Limits{Wire: 1.12, During: 88.8}}, {0.2, 200, Limits{Wire: 1.22, During: 96.6}},
		{0.3, 1, Limits{Wire: 1.11, During: 76.8}}, {0.3, fleet, Limits{Wire: 1.12, During: 77.7}}, {0.3, 200, Limits{Wire: 1.23, During: 85.0, Refused: 0.2}},
	} {
		r.Worst = 0.1
		name := fmt.Sprintf("%.0f %% errors, %s", 100*r.share, people(r.n))
		rows = append(rows, Row{ours(name, r.n, minute, Trouble{Status: 500, Share: r.share}), r.Limits, 1})
	}
	return append(rows,
		Row{ours("blips of 50 ms each 2 s, one client", 1, minute, Trouble{Refused: true, Blip: tenth / 2}), Limits{Wire: 1.02, During: 98.4, Worst: 0.1}, 1},
		Row{ours("blips of 100 ms each 2 s, one client", 1, minute, Trouble{Refused: true, Blip: tenth}), Limits{Wire: 0.97, During: 91.8, Refused: 6, Worst: 0.2}, 1},
		Row{ours("one bad endpoint of ten, one client", 1, minute, Trouble{Status: 500, Paths: 10}), Limits{Wire: 1.11, During: 89.9, Worst: 0.1}, 1},
		Row{ours("one bad endpoint of ten, fleet of 20", fleet, minute, Trouble{Status: 500, Paths: 10}), Limits{Wire: 1.12, During: 89.9, Worst: 0.1}, 1},
	)
}

func callers() []Row {
	throttled := Trouble{Status: 429, After: 1, Share: 0.5}
	return []Row{
		{ours("429 to half, one client", 1, 20*time.Second, throttled), Limits{Wire: 1.11, Recovery: tenth, Failed: 0.1, Worst: 0.1, During: 55.8}, 1},
		{ours("429 to half, fleet of 20", fleet, 20*time.Second, throttled), Limits{Wire: 1.13, Recovery: tenth, Failed: 0.1, Worst: 0.1, During: 56.9}, 1},
		{ours("nine of ten leave after 5 ms, one client", 1, 20*time.Second, Trouble{Leave: 5 * time.Millisecond}), Limits{Wire: 1.01, Recovery: tenth, Failed: 0.1, Worst: 0.1}, 1},
		{timeout(ours("nine of ten leave a host that hangs, one client", 1, 10*time.Second, Trouble{Hangs: true, Leave: tenth}), time.Second), Limits{Wire: 0.51, Recovery: tenth, Failed: 0.1, Worst: 0.1, Refused: anybody}, 3},
	}
}

func people(n int) string {
	if n == 1 {
		return "one client"
	}
	return fmt.Sprintf("fleet of %d", n)
}

// big is ten times the load, at a server with a longer way.
func big(s Situation) Situation {
	s.Rate, s.After = 4000, 5*time.Second
	s.Server = Server{Workers: 500, Service: tenth, Queue: 100}
	return s
}

func timeout(s Situation, d time.Duration) Situation {
	s.AttemptTimeout = d
	return s
}

func rate(s Situation, r float64) Situation {
	s.Rate = r
	return s
}

func regular(s Situation) Situation {
	s.Regular = true
	return s
}

// slow has a queue without end, where callers time out.
func slow(s Situation) Situation {
	s.AttemptTimeout, s.Server.Queue = time.Second, -1
	return s
}

// Fleets are n clients who together make a thousand calls a second, three
// quarters of what the server can do, and give up an attempt after a second. For
// twenty seconds it slows down to four tenths, or is gone.
func Fleets(n int) (brownOut, gone Situation) {
	brownOut = Situation{
		Name: "brown-out", Clients: n, Rate: 1000,
		Before: 20 * time.Second, During: 20 * time.Second, After: 200 * time.Second,
		Deadline: 10 * time.Second, AttemptTimeout: time.Second,
		Server:  Server{Workers: 200, Service: 150 * time.Millisecond, Queue: -1},
		Trouble: Trouble{Slower: 2.5},
	}
	gone = brownOut
	gone.Name, gone.Trouble = "outage", Trouble{Refused: true}
	return brownOut, gone
}
