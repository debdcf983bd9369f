package resilient

import (
	"cmp"
	"slices"
	"time"
)

// A BreakerState says how many of its callers a host's breaker lets in. The zero
// BreakerState is BreakerClosed.
type BreakerState uint8

const (
	// BreakerClosed lets everybody in, as does a host without a breaker.
	BreakerClosed BreakerState = iota
	// BreakerOpen lets in one probe at a time. Callers wait for its answer a
	// moment, or are refused with [ErrOpen].
	BreakerOpen
	// BreakerHalfOpen follows a good probe: callers are let in as fast as good
	// answers come back.
	BreakerHalfOpen
)

// String returns the state's name in lower case.
func (s BreakerState) String() string {
	switch s {
	case BreakerClosed:
		return "closed"
	case BreakerOpen:
		return "open"
	case BreakerHalfOpen:
		return "half-open"
	}
	return "invalid breaker state"
}

// MarshalText returns what String does, so that JSON and logs show words.
func (s BreakerState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote of a valid state.
func (s *BreakerState) UnmarshalText(text []byte) error { return fromText(s, BreakerHalfOpen, text) }

// OtherHosts is the Host of the state that newcomers share once Config.MaxHosts
// are in use or in trouble. No URL's host looks like it.
const OtherHosts = "(other hosts)"

// A HostState is what a Transport remembers of one host at one moment.
type HostState struct {
	// Host is scheme://host[:port], in lower case and without the scheme's own
	// port; whatever Config.HostKey returned where that is set; or [OtherHosts].
	Host string
	// InFlight is the operations inside RoundTrip, those that wait included. A
	// body that is still being read is not.
	InFlight int
	// Balance is how many retries the budget would pay for now, with fractions
	// of one: from 0, spent, to 10, full.
	Balance float64
	// Doubted says that operations begun now get no retry, whatever the balance,
	// because the host has only failed for a second or more.
	Doubted bool
	// CoolUntil is until when the host asked to be left alone. Zero: it did not,
	// or the time is over.
	CoolUntil time.Time

	// Breaker is closed where there is none: under Config.NoBreaker, and for
	// [OtherHosts]. All fields below are then zero.
	Breaker BreakerState
	// Since is when Breaker became what it is, but for closed: then it is when
	// the good probe came that ended the last outage, or when the host was first
	// called.
	Since time.Time
	// NextProbe is when the next probe is due: the first caller after it is the
	// one. Zero: the breaker is not open.
	NextProbe time.Time
	// Waiting is the callers held until they can be let in.
	Waiting int
	// Trips is how often the breaker has opened. It only grows, until the host
	// is forgotten: idle, in good health, and its place needed.
	Trips uint64
	// Successes and Failures are the attempts that the breaker weighs: those that
	// began in the last ten seconds, or in twice Config.AttemptTimeout if that is
	// longer, and since it last closed. Attempts that say nothing about the host
	// (a 429, a caller who left) are in neither. Both are 0 while it is open.
	Successes, Failures int
}

// Hosts returns the state of every host that the Transport remembers, sorted by
// name: at most Config.MaxHosts and one for [OtherHosts], which is there while that has
// operations in flight or has spent retries. It changes nothing, and makes no
// caller wait longer than reading one host takes. Each host is read at a moment
// of its own, so a place that changes hands may be seen with both. The slice is
// the caller's.
func (t *Transport) Hosts() []HostState {
	all := make([]HostState, 0, t.hosts.kept.Load()+1)
	for i := range t.hosts.shards {
		known := t.hosts.shards[i].bySum.Load()
		if known == nil {
			continue
		}
		for _, h := range *known {
			if h.users.Load() >= 0 { // else it is just being forgotten
				all = append(all, t.stateOf(h))
			}
		}
	}
	if other := t.stateOf(t.hosts.overflow); other.InFlight > 0 || other.Balance < float64(budgetCap/budgetRetry) {
		other.Host = OtherHosts
		all = append(all, other)
	}
	slices.SortFunc(all, func(a, b HostState) int { return cmp.Compare(a.Host, b.Host) })
	return all
}

// stateOf reads one host.
func (t *Transport) stateOf(h *host) HostState {
	s := HostState{Host: h.key.host}
	if h.key.scheme != "" {
		s.Host = h.key.scheme + "://" + h.key.host
	}
	if h.gate != nil {
		h.gate.tell(&s)
	}
	clock := time.Now()
	now := clock.Sub(t.epoch)
	s.InFlight = int(max(0, h.users.Load()))
	s.Balance = max(0, h.budget.balance(now))
	since := h.doubt.beginning(now)
	s.Doubted = since != 0 && now-since >= doubtAfter && !t.cfg.NoBudget
	if rest := h.cooling(now); rest > 0 {
		s.CoolUntil = clock.Add(rest) // not from epoch: the clock may have been set since
	}
	return s
}

// tell fills in what is the gate's to know. A trip is told once the call that
// tripped the breaker has dated it.
func (g *gate) tell(s *HostState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Waiting, s.Trips = len(g.waiting), uint64(g.trip)
	if g.phase == shut {
		s.Breaker, s.Since, s.NextProbe = BreakerOpen, g.since, g.next
		return
	}
	if g.phase == ramp {
		s.Breaker = BreakerHalfOpen
	}
	s.Since = g.breaker.closed
	s.Successes, s.Failures = g.breaker.window()
}

// window is what the breaker weighs, while it is closed. It is counted from the
// tallies: the library drops what is too old only when it is next asked, and
// asking it can change what it decides.
func (b *breaker) window() (successes, failures int) {
	now := time.Now()
	for i := range b.tallies {
		if t := b.tallies[i].Load(); t != nil && now.Before(t.from.Add(breakerBuckets*b.period)) {
			successes += int(t.good.Load() + t.told.Load())
			failures += int(t.bad.Load())
		}
	}
	return successes, failures
}
