package faultinject

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An Exploration says what [Explore] and [Simulate] vary, and what must hold. The
// zero value explores three attempts against the ten essential faults on a
// network in memory.
type Exploration struct {
	// Level is where the faults strike. Zero is [OnNetwork].
	Level Level
	// Faults are those that may strike, [Pass] apart. Nil means [Essential].
	Faults []Fault
	// Attempts is the most that a client may try: [Run.Attempts] goes from 1 to
	// it, because some lies are told only when attempts run out. Zero means 3.
	Attempts int

	// Handler is the server of each run, which enters its effects in the run's
	// Ledger. Nil means the Ledger itself.
	Handler func(*Run) http.Handler
	// HonourKeys is that of the Ledger: the server acts once for each
	// Idempotency-Key. Without it a client that relies on its key is found to
	// double.
	HonourKeys bool
	// Operation names the operation that a request belongs to, if a run has
	// several; Report uses the same names. Nil means the path, such as "/pay/7". Of
	// an effect it is given Op, Method and Path alone. The name must be the same in
	// each run, so a key drawn at random is none.
	Operation func(Exchange) string

	// Effects is how many an operation may have, PUT and DELETE without an
	// honoured key apart. Zero means 1.
	Effects int
	// Within bounds the time that one run of the body takes. Zero means no bound.
	Within time.Duration
	// Vague allows a caller to be told [Unknown] where no connection was ever had
	// to send its request on, so that it was certainly not sent. Set it for a
	// client whose errors do not tell the two apart.
	Vague bool

	// MaxFaults bounds the faults of one schedule of Explore. Zero means no
	// bound. Mind that a bound below Attempts hides what happens when attempts run
	// out.
	MaxFaults int
	// Part and Parts split the schedules of Explore, for more than one machine:
	// of Parts equal parts, which begin with 0, this is number Part. Zero Parts
	// means that there is one.
	Part, Parts int

	// Seeds is how many seeds Simulate tries, from FirstSeed on. Zero means 100.
	Seeds     int
	FirstSeed uint64
	// Plan is what strikes in Simulate under a seed. It is asked with the operation
	// in place of a key in [Exchange.Op]. Nil means a mix and a rate of Faults that
	// the seed picks.
	Plan func(seed uint64) Plan

	// Patience is how long one schedule may take on a real clock, before the
	// search is given up with the name of the schedule: a mutex or a real socket
	// can hold a bubble for ever. Zero means a minute.
	Patience time.Duration
}

// complete checks e and sets what is left zero.
func (e Exploration) complete() (Exploration, error) {
	for _, n := range []struct {
		field string
		value int
	}{
		{"Attempts", e.Attempts}, {"Effects", e.Effects}, {"MaxFaults", e.MaxFaults}, {"Seeds", e.Seeds},
		{"Parts", e.Parts}, {"Within", int(e.Within)}, {"Patience", int(e.Patience)},
	} {
		if n.value < 0 {
			return e, fmt.Errorf("faultinject: Exploration.%s is negative", n.field)
		}
	}
	or := func(n *int, otherwise int) {
		if *n == 0 {
			*n = otherwise
		}
	}
	or(&e.Attempts, 3)
	or(&e.Effects, 1)
	or(&e.Parts, 1)
	or(&e.Seeds, 100)
	if e.Patience == 0 {
		e.Patience = time.Minute
	}
	if e.Faults == nil {
		e.Faults = Essential()
	}
	if e.Part < 0 || e.Part >= e.Parts {
		return e, fmt.Errorf("faultinject: Exploration.Part is %d, of %d", e.Part, e.Parts)
	}
	if int(e.Level) >= len(levelNames) {
		return e, fmt.Errorf("faultinject: Exploration.Level is unknown: %d", e.Level)
	}
	return e, nil
}

// operationOf names the operation of x as e has it.
func (e *Exploration) operationOf(x Exchange) string {
	if e.Operation == nil {
		return x.Path
	}
	return e.Operation(x)
}

// reporter is what a search says its findings to.
type reporter interface {
	Helper()
	Name() string
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// A search runs schedules until one of them fails.
type search struct {
	Exploration
	options   options
	authority *Authority // of the servers of all runs
	body      func(*Run)
	t         *testing.T // for its bubbles
	out       reporter

	replay schedule // to be repeated, if it has attempts
	seed   string   // to be repeated, if not empty
	twice  bool

	running [2]atomic.Pointer[Run] // by worker
	given   atomic.Bool            // the search is given up

	mu     sync.Mutex
	result Result
	failed *Run
}

func newSearch(t *testing.T, out reporter, e Exploration, body func(*Run)) (*search, error) {
	e, err := e.complete()
	if err != nil {
		return nil, err
	}
	if body == nil {
		return nil, errors.New("faultinject: there is no body to explore")
	}
	s := &search{Exploration: e, options: newOptions(e), authority: NewAuthority(), body: body, t: t, out: out}
	s.seed = os.Getenv(seedVariable)
	if text := os.Getenv(checkVariable); text != "" {
		if s.twice, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("faultinject: %s=%q is neither 1 nor 0", checkVariable, text)
		}
	}
	s.result.Told, s.result.Fired = make(map[Told]int), make(map[Fault]int)
	if text := os.Getenv(scheduleVariable); text != "" {
		s.replay, err = parseSchedule(text)
	}
	return s, err
}

// A trial is what makes a run.
type trial struct {
	attempts int
	decider  decider
	seeded   bool
	seed     uint64
	only     []int // numbers of [Run.Go]; nil: all
	traced   bool
}

func (s *search) run(worker int, t trial) *Run {
	r := &Run{search: s, decider: t.decider, Attempts: t.attempts, seeded: t.seeded, Seed: t.seed, only: t.only, traced: t.traced}
	s.running[worker].Store(r)
	defer s.running[worker].Store(nil)
	r.play(s.t)
	return r
}

// workers is how many bubbles run at once.
func (s *search) workers() int { return min(runtime.GOMAXPROCS(0), len(s.running)) }

// enter adds a run to the result and reports whether the search goes on.
func (s *search) enter(r *Run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.add(r)
	// Seeds are begun in their order: of those under way the lowest is to be told.
	if len(r.findings) > 0 && (s.failed == nil || r.Seed < s.failed.Seed) {
		s.failed = r
	}
	return s.failed == nil && !s.given.Load()
}

// guard does work and reports whether it ended: it is given up, and left where it
// hangs, when one schedule takes too long.
func (s *search) guard(work func()) (ended bool) {
	s.out.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	tick := time.NewTicker(max(s.Patience/8, time.Millisecond))
	defer tick.Stop()
	var since [len(s.running)]time.Time
	var last [len(s.running)]*Run
	for {
		select {
		case <-done:
			return true
		case now := <-tick.C:
			for i := range s.running {
				r := s.running[i].Load()
				if r != last[i] {
					last[i], since[i] = r, now
				}
				if r != nil && now.Sub(since[i]) > s.Patience {
					s.given.Store(true)
					s.out.Errorf("faultinject: this schedule has not ended within %v of real time; a mutex, a real socket or a loop holds it\n%s",
						s.Patience, s.commands(r.schedule()))
					return false
				}
			}
		}
	}
}

// conclude reports the first failure, shrunk, or else the result.
func (s *search) conclude() Result {
	s.out.Helper()
	if s.given.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.result
	}
	var text string
	if s.failed != nil && s.guard(func() { text = s.explain(s.failed) }) {
		s.out.Errorf("%s", text) // here, where Helper leads to the line of the test
	}
	return s.result
}

// explain shrinks a failure and tells everything about it.
func (s *search) explain(failed *Run) string {
	found, rule := failed.schedule(), failed.findings[0].rule
	least, runs := found, 0
	if rule != "repeatable" {
		least, runs = s.shrink(failed, rule)
	}
	r := s.repeated(least)
	if !slices.ContainsFunc(r.findings, func(f finding) bool { return f.rule == rule }) {
		r.findings = append(failed.findings, finding{"repeatable", "", "the schedule did not fail in the same way again"})
	}
	var text strings.Builder
	for i, f := range r.findings {
		if i > 0 {
			text.WriteByte('\n')
		}
		fmt.Fprintf(&text, "faultinject: %v", f)
	}
	fmt.Fprintf(&text, "\n%s\n", s.commands(least))
	fmt.Fprintf(&text, "faultinject: schedule %d was the first to fail, by %s", s.result.Schedules, faultCount(found.number()))
	if least.number() < found.number() {
		fmt.Fprintf(&text, "; %s is enough (%d runs to find that)", faultCount(least.number()), runs)
	}
	for _, line := range limited(r.timeline(r.findings[0].op)) {
		text.WriteString("\n" + line)
	}
	return text.String()
}

func faultCount(n int) string {
	switch n {
	case 0:
		return "no fault at all"
	case 1:
		return "1 fault"
	}
	return fmt.Sprintf("%d faults", n)
}

// repeated runs a schedule again and takes down what happens.
func (s *search) repeated(which schedule) *Run {
	t := which.trial()
	t.traced = true
	r := s.run(0, t)
	if wrong := t.decider.misfit(); wrong != "" {
		r.find("schedule", "", "%s", wrong)
	}
	return r
}

// commands are the lines that repeat a schedule.
func (s *search) commands(least schedule) string {
	text := "faultinject: " + command(scheduleVariable, least.String(), s.out.Name())
	if least.seeded {
		text = fmt.Sprintf("faultinject: seed %#x: %s\n%s", least.seed,
			command(seedVariable, fmt.Sprintf("%#x", least.seed), s.out.Name()), text)
	}
	return text
}

const maxLines = 80

// limited cuts a timeline in its middle.
func limited(lines []string) []string {
	if len(lines) <= maxLines {
		return lines
	}
	cut := fmt.Sprintf("   … %d lines", len(lines)-maxLines)
	return slices.Concat(lines[:maxLines/2], []string{cut}, lines[len(lines)-maxLines/2:])
}

// repeat runs the one schedule that the environment names.
func (s *search) repeat() Result {
	s.out.Helper()
	if s.replay.level != s.Level {
		s.out.Logf("faultinject: not searched: %s names another level, %v", scheduleVariable, s.replay.level)
		return s.result
	}
	var r *Run
	var text string
	ended := s.guard(func() {
		r = s.repeated(s.replay)
		s.enter(r)
		text = strings.Join(limited(r.timeline("")), "\n")
	})
	if !ended {
		return s.result
	}
	for _, f := range r.findings {
		s.out.Errorf("faultinject: %v", f)
	}
	s.out.Logf("faultinject: schedule %v\n%s", s.replay, text)
	return s.result
}
