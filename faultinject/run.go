package faultinject

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Told is what a caller was told of its operation.
type Told uint8

const (
	OK         Told = iota // done, and this is the answer
	NotApplied             // not done, and it never will be
	Unknown                // nobody can say
)

// String returns "ok", "not-applied" or "unknown".
func (t Told) String() string {
	names := [...]string{"ok", "not-applied", "unknown"}
	return names[min(t, Unknown)]
}

// A Run is one schedule: a server of its own, in a bubble of testing/synctest of
// its own, where faults strike as the schedule has it. The body of [Explore] or
// [Simulate] makes its client of it, makes its operations, and reports what it
// was told. It is not a *testing.T: a failure belongs to the schedule, and is
// found again with fewer faults before the test hears of it. Safe for concurrent
// use, and of no use once the body has returned; set nothing.
type Run struct {
	// Client is a plain client over Base.
	Client *http.Client
	// Base is the way to the server, for a client that takes a RoundTripper. It
	// has CloseIdleConnections.
	Base http.RoundTripper
	// URL is the server's, without a path.
	URL string
	// Attempts is how often the body's client may try at most. It varies between
	// schedules: let the client heed it.
	Attempts int
	// Seed is that of [Simulate], for a body that varies more than it is given;
	// 0 in [Explore].
	Seed uint64
	// Ledger is what the server knows.
	Ledger *Ledger

	search   *search
	decider  decider
	handler  http.Handler
	stage    *stage
	traced   bool
	seeded   bool
	only     []int // numbers of Go to begin; nil: all
	over     atomic.Bool
	start    time.Time
	took     time.Duration
	busy     sync.WaitGroup
	findings []finding // in the end

	mu        sync.Mutex
	quiet     bool // before the body and after it nothing strikes
	site      string
	decisions []decision
	idles     map[string]int
	names     map[string]string // of keys, as the search has them
	keys      map[string]int    // how many an operation has had
	began     []int             // numbers of Go
	reports   []report
	answers   []handled
	sendings  []*sending
	history   history
}

// A decision is one choice that was met.
type decision struct {
	Exchange
	fault   Fault
	options []Fault
	site    string
}

type report struct {
	nth     int // in the run
	op      string
	told    Told
	body    []byte
	entries int // of the ledger by then, of all operations
	effects int // of this operation among them
}

// handled is an answer of the handler.
type handled struct {
	Exchange
	body []byte
}

// Context returns a context without a deadline. It does not end with the
// operation either: what waits for that is a leak.
func (r *Run) Context() context.Context { return context.Background() }

// Report says what the caller of an operation was told, and the answer's body,
// which must then be one that the server gave; nil is not compared. With a
// single operation the name is free. Where there are several, it is what
// [Exploration.Operation] makes of their requests, by default the path.
//
// An operation may be reported again, as when an unknown outcome is resolved by
// asking once more: the last word counts, and NotApplied must have been true
// when it was said.
func (r *Run) Report(op string, told Told, body []byte) {
	entries := r.Ledger.number()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports = append(r.reports, report{nth: len(r.reports), op: op, told: told, body: slices.Clone(body), entries: entries})
}

// Errorf reports that an invariant of the test's own does not hold.
func (r *Run) Errorf(format string, args ...any) { r.find("invariant", "", format, args...) }

func (r *Run) find(rule, op, format string, args ...any) {
	f := finding{rule, op, fmt.Sprintf(format, args...)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.findings, f) {
		r.findings = append(r.findings, f)
	}
}

// Go starts f, the operation with the number i, i µs from now: no two
// operations begin at the same instant, or a run could not be repeated. The run
// waits for all of them.
func (r *Run) Go(i int, f func()) {
	if r.only != nil && !slices.Contains(r.only, i) {
		return // a failure is shrunk to fewer operations
	}
	r.mu.Lock()
	r.began = append(r.began, i)
	r.mu.Unlock()
	r.busy.Go(func() {
		<-time.After(time.Duration(max(i, 0)) * time.Microsecond)
		r.guard(f)
	})
}

// Site names the place in a workflow of several calls from which the next
// requests come. [Explore] then strikes at each site alone, and after that at
// each two of them, in place of the product of all.
func (r *Run) Site(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.site = name
}

// Deliveries returns the record of all requests that have come so far.
func (r *Run) Deliveries() []Delivery {
	if r.stage == nil {
		return nil // it could not be set up
	}
	return slices.DeleteFunc(r.stage.deliveries(), func(d Delivery) bool { return d.Time.Before(r.start) })
}

// Faults returns what has struck so far, dials included, in its order.
func (r *Run) Faults() []Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	var struck []Fault
	for _, d := range r.decisions {
		if d.fault != Pass() {
			struck = append(struck, d.fault)
		}
	}
	return struck
}

// guard runs what the test wrote. A panic or the end of its goroutine is a
// finding of this schedule.
func (r *Run) guard(f func()) {
	returned := false
	defer func() {
		if p := recover(); p != nil {
			r.find("panic", "", "panic: %v\n%s", p, debug.Stack())
		} else if !returned {
			r.find("panic", "", "the body ended its goroutine, as FailNow of a test does")
		}
	}()
	f()
	returned = true
}

// play runs the schedule in a bubble.
func (r *Run) play(t *testing.T) {
	defer func() {
		if p := recover(); p != nil { // the bubble's own complaint
			r.stuck(p)
		}
	}()
	synctest.Test(t, func(*testing.T) { r.live() })
}

func (r *Run) live() {
	defer func() {
		r.over.Store(true)
		if r.stage != nil {
			r.stage.close()
		}
	}()
	if err := r.open(); err != nil {
		r.find("set-up", "", "%v", err)
		return
	}
	r.busy.Go(func() { r.guard(func() { r.search.body(r) }) })
	r.busy.Wait()
	r.took = time.Since(r.start)
	if within := r.search.Within; within > 0 && r.took > within {
		r.find("time", "", "took %v, more than %v", r.took, within)
	}
	r.judge()
	if r.tidy() {
		r.stage.settle()
		synctest.Wait()
		r.judge()
	}
	r.silence(true)
}

// stuck reads the complaint of a bubble.
func (r *Run) stuck(p any) {
	rule, text := "hang", fmt.Sprint(p)
	if strings.Contains(text, "main bubble goroutine has exited") {
		rule, text = "goroutines", "a goroutine is left behind"
	}
	if r.traced {
		text += "\n" + bubbleStacks()
	}
	r.find(rule, "", "%s", text)
}

// bubbleStacks returns the stacks of the goroutines that wait in the latest
// bubble: those of older ones were complained of before.
func bubbleStacks() string {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	latest, of := 0, make(map[int][]string)
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		_, number, found := strings.Cut(head, "synctest bubble ")
		n, err := strconv.Atoi(strings.Trim(number, "]:"))
		if found && err == nil && !strings.Contains(head, "synctest.Run") {
			latest = max(latest, n)
			of[n] = append(of[n], stack)
		}
	}
	return strings.Join(of[latest], "\n\n")
}

func (r *Run) open() (err error) {
	r.Ledger = &Ledger{HonourKeys: r.search.HonourKeys}
	r.handler = r.Ledger
	if h := r.search.Handler; h != nil {
		if r.handler = h(r); r.handler == nil {
			return errors.New("Exploration.Handler returned nil")
		}
	}
	r.silence(true)
	if r.stage, err = r.search.Level.stage(casting{r}, r.search.authority); err != nil {
		return err
	}
	if r.search.Level == OnWarmNetwork {
		<-time.After(time.Nanosecond) // what warmed up is older than the run
	}
	r.silence(false)
	r.start = time.Now()
	r.Base, r.URL = r.stage.base, r.search.Level.url()
	r.Client = &http.Client{Transport: r.Base}
	return nil
}

// tidy reports whether the client has closed everything. It looks before time
// moves, or a time-out would hide what was forgotten.
func (r *Run) tidy() bool {
	synctest.Wait()
	r.Client.CloseIdleConnections()
	synctest.Wait()
	left := r.stage.left()
	if left > 0 {
		r.find("left open", "", "%d connections or bodies left open", left)
	}
	return left == 0
}

// silence keeps what warms up, or closes, out of the schedule.
func (r *Run) silence(quiet bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.quiet = quiet
}

// casting is a run in its parts towards the stage, of which the test is to see
// nothing.
type casting struct{ *Run }

// Decide asks the schedule.
func (c casting) Decide(x Exchange) Fault { return c.decide(x) }

// ServeHTTP lets the handler answer.
func (c casting) ServeHTTP(w http.ResponseWriter, req *http.Request) { c.handle(w, req) }

func (r *Run) decide(x Exchange) Fault {
	options := r.search.options.at(r.search.Level, x)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.quiet || len(options) < 2 && r.search.Plan == nil {
		return Pass()
	}
	if x.Method == methodIdle {
		if r.idles == nil {
			r.idles = make(map[string]int)
		}
		r.idles[x.Op]++
		x.Nth, x.Since = r.idles[x.Op], time.Since(r.start)
	}
	known := r.knownLocked(x)
	f := r.decider.decide(known, options, r.site)
	r.decisions = append(r.decisions, decision{known, f, options, r.site})
	r.noteLocked(event{kind: struck, exchange: x, fault: f})
	return f
}

// knownLocked is x under a name that is the same in every run, though the client
// may draw its keys at random.
func (r *Run) knownLocked(x Exchange) Exchange {
	for _, before := range []string{"", "dial ", "idle "} {
		key, found := strings.CutPrefix(x.Op, before)
		if name := r.names[key]; found && name != "" {
			x.Op = before + name
			break
		}
	}
	return x
}

// nameLocked names the key of a request by the request's operation.
func (r *Run) nameLocked(x Exchange) {
	if r.names[x.Op] != "" {
		return
	}
	if r.names == nil {
		r.names, r.keys = make(map[string]string), make(map[string]int)
	}
	name := r.search.operationOf(x)
	r.keys[name]++
	if n := r.keys[name]; n > 1 {
		name = fmt.Sprintf("%s, key %d", name, n)
	}
	r.names[x.Op] = name
}

// handle lets the handler answer and keeps what it says.
func (r *Run) handle(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	quiet := r.quiet
	r.mu.Unlock()
	if quiet {
		return
	}
	c := &copied{ResponseWriter: w}
	r.serve(c, req)
	x, _ := identify(req)
	text := ""
	if r.traced {
		text = fmt.Sprintf("handler ran, effects=%d", r.Ledger.Effects()[x.Op])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, handled{x, c.body})
	r.noteLocked(event{kind: handledRequest, exchange: x, text: text})
}

// serve makes a panic of the handler a finding of this schedule.
func (r *Run) serve(w http.ResponseWriter, req *http.Request) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			r.find("panic", "", "the handler panicked: %v\n%s", p, debug.Stack())
			panic(http.ErrAbortHandler)
		}
	}()
	r.handler.ServeHTTP(w, req)
}

// copied keeps a copy of an answer's body.
type copied struct {
	http.ResponseWriter
	body []byte
}

func (c *copied) Write(p []byte) (int, error) {
	c.body = append(c.body, p...)
	return c.ResponseWriter.Write(p)
}

// Flush and Unwrap keep what http.ResponseController finds.
func (c *copied) Flush() { http.NewResponseController(c.ResponseWriter).Flush() }

func (c *copied) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// A sending is one RoundTrip of the client's.
type sending struct {
	Exchange
	key   string
	conns int // got for it, by net/http's own doing more than one
}

func (r *Run) isOver() bool { return r.over.Load() }

func (r *Run) sent(req *http.Request) *sending {
	s := new(sending)
	if req.URL != nil { // else the base will complain
		s.Exchange, s.key = identify(req)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.quiet {
		r.sendings = append(r.sendings, s)
		if s.key != "" {
			r.nameLocked(s.Exchange)
		}
		r.noteLocked(event{kind: sentRequest, exchange: s.Exchange, sending: s})
	}
	return s
}

func (r *Run) got(s *sending, _ httptrace.GotConnInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.conns++
}

func (r *Run) answered(s *sending, resp *http.Response, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.traced && !r.quiet {
		text := fmt.Sprint(err)
		if err == nil {
			text = fmt.Sprint(resp.StatusCode)
		}
		r.noteLocked(event{kind: answeredRequest, sending: s, text: text})
	}
}

func (r *Run) bodyFailed(s *sending, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.traced && !r.quiet {
		r.noteLocked(event{kind: brokenBody, sending: s, text: "then " + err.Error()})
	}
}
