package resilient_test

// A crowd of operations at one server, and what is to be said of each of them
// in the end. The soak sends many crowds.

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
)

const (
	crowdKept  = 8 << 10  // of a body that can be read once
	crowdLarge = 20 << 10 // too much for that
)

// crowd is many callers of one server, through one client.
type crowd struct {
	seed     uint64
	honoured bool // the server honours keys
	url      string
	client   *http.Client
	later    *http.Client // of another process, when nothing strikes any more
	report   func(op string, told faultinject.Told, body []byte)

	mu     sync.Mutex
	ended  []*errand
	counts soakCounts
	wrong  []string
}

// errand is one operation of a crowd.
type errand struct {
	method, path string
	content      string
	stream       bool // can be read once

	record   resilient.Operation // of the first go
	attempts int                 // reported, over all goes
	first    string              // outcome
	unsent   bool                // was told that nothing was done
	done     bool                // has its answer
	answer   string
}

func (e *errand) name() string { return e.method + " " + e.path }

// operate makes operation i; a document that was put is read as well.
func (c *crowd) operate(ctx context.Context, i int) []*errand {
	rng := rand.New(rand.NewPCG(c.seed, uint64(i)))
	kind, size := rng.IntN(10), rng.IntN(40)
	e := &errand{method: http.MethodPost, path: fmt.Sprintf("/pay/%d", i), stream: rng.IntN(3) == 0}
	switch e.content = fmt.Sprintf("amount=%d", i); {
	case size == 0:
		e.content += strings.Repeat("0", crowdLarge)
	case size < 10:
		e.content, e.stream = "", false
	}
	switch kind {
	case 7, 8:
		e.method, e.path = http.MethodPut, fmt.Sprintf("/doc/%d", i)
	case 9:
		e.method, e.path, e.content, e.stream = http.MethodDelete, fmt.Sprintf("/old/%d", i), "", false
	}
	if rng.IntN(20) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(1+rng.IntN(2000))*time.Millisecond)
		defer cancel()
	}
	c.go1(ctx, e)
	if c.honoured && e.first == "unknown" && e.record.Key != "" && rng.IntN(2) == 0 {
		c.hurry(ctx, e)
	}
	if e.method != http.MethodPut || !e.done {
		return []*errand{e}
	}
	read := &errand{method: http.MethodGet, path: e.path}
	c.go1(ctx, read)
	return []*errand{e, read}
}

// go1 makes the first go of an operation.
func (c *crowd) go1(ctx context.Context, e *errand) {
	e.record = c.send(ctx, c.client, e)
	told := faultinject.Unknown
	switch {
	case e.done:
		e.first, told = "ok", faultinject.OK
	case e.record.Outcome == resilient.Answered:
		e.first = "refused"
	case e.record.Outcome == resilient.NotSent:
		e.first, told, e.unsent = "not sent", faultinject.NotApplied, true
	default:
		e.first = "unknown"
	}
	c.report(e.name(), told, e.said())
}

// hurry goes on with an operation at once, while faults strike as before. It was
// sent, so it can never be told as not sent any more.
func (c *crowd) hurry(ctx context.Context, e *errand) {
	op := c.send(resilient.WithKey(ctx, resilient.Key{Value: e.record.Key, FirstSent: e.record.FirstSent}), c.client, e)
	switch {
	case e.done:
		c.report(e.name(), faultinject.OK, e.said())
	case op.Outcome == resilient.NotSent:
		e.unsent = true
		c.report(e.name(), faultinject.NotApplied, nil)
	}
}

func (e *errand) said() []byte {
	if !e.done {
		return nil
	}
	return []byte(e.answer)
}

// send makes the request and takes the answer, if it is one to be content with.
func (c *crowd) send(ctx context.Context, client *http.Client, e *errand) resilient.Operation {
	var body io.Reader
	if e.content != "" {
		body = strings.NewReader(e.content)
	}
	if e.stream {
		body = io.MultiReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, e.method, c.url+e.path, body)
	if err != nil {
		c.find("untrue", e, err.Error())
		return resilient.Operation{}
	}
	resp, err := client.Do(req)
	if err != nil {
		told, ok := errors.AsType[*resilient.Error](err)
		if !ok {
			c.find("untrue", e, "an error without a record: "+err.Error())
			return resilient.Operation{}
		}
		e.attempts += len(told.Attempts)
		return told.Operation
	}
	defer resp.Body.Close()
	op, ok := resilient.OperationOf(resp)
	if !ok {
		op = resilient.Operation{Outcome: resilient.Answered, Attempts: make([]resilient.Attempt, 1)}
	}
	e.attempts += len(op.Attempts)
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK && resp.Header.Get("Repr-Digest") == digestOf(text) {
		e.done, e.answer = true, string(text)
	}
	return op
}

// resolve goes on with an operation that its caller knows nothing of, in
// another process as it were, until it has its answer.
func (c *crowd) resolve(ctx context.Context, e *errand) {
	for tries := 0; !e.done && !e.unsent && tries < 20; tries++ {
		if e.method == http.MethodPost && !c.honoured && c.look(ctx, e) {
			break
		}
		again := ctx
		if e.record.Key != "" {
			again = resilient.WithKey(again, resilient.Key{Value: e.record.Key, FirstSent: e.record.FirstSent})
		}
		if !c.honoured {
			again = resilient.WithMaxAttempts(again, 1)
		}
		c.send(again, c.later, e)
	}
	if e.first != "ok" && e.done {
		c.report(e.name(), faultinject.OK, e.said())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, e)
}

// look asks the server whether it has done what it was asked for.
func (c *crowd) look(ctx context.Context, e *errand) bool {
	found := &errand{method: http.MethodGet, path: e.path}
	c.send(ctx, c.later, found)
	e.done, e.answer = found.done, found.answer
	return e.done
}

func (c *crowd) find(rule string, e *errand, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.violations[rule]++
	c.wrong = append(c.wrong, fmt.Sprintf("%s: %s: %s (first told %s)", rule, e.name(), text, e.first))
}

// facts are what the server knows.
type facts struct {
	receipts map[string][]string // of what was done, by operation
	arrived  map[string]int      // requests

	// When the first goes were over:
	applied map[string]bool
	came    map[string]bool // at least in part
}

// judge holds what the callers were told against the facts.
func (c *crowd) judge(f facts) {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	for _, e := range ended {
		done := f.receipts[e.name()]
		read := e.method == http.MethodGet
		switch {
		case e.method == http.MethodPost && len(done) > 1:
			c.find("doubled", e, fmt.Sprintf("done %d times", len(done)))
		case e.unsent && len(done) > 0:
			c.find("untrue", e, "told not sent, and it is done")
		case !e.unsent && !e.done:
			c.find("lost", e, "it never had its answer")
		case e.done && !read && len(done) == 0:
			c.find("lost", e, "told done, and it is not")
		case e.done && !read && !slices.Contains(done, e.answer):
			c.find("untrue", e, fmt.Sprintf("told %q, which the server did not say", e.answer))
		case read && e.done && !slices.Contains(f.receipts["content "+e.path], digestOf([]byte(e.answer))):
			c.find("untrue", e, fmt.Sprintf("read %q, which nobody wrote", e.answer))
		case !read && f.arrived[e.name()] > e.attempts:
			c.find("untrue", e, fmt.Sprintf("told of %d attempts, %d arrived", e.attempts, f.arrived[e.name()]))
		}
		c.counts.add(e, f)
	}
}

// records are the server's.
type records struct {
	entries    []faultinject.Entry
	deliveries []faultinject.Delivery
}

// learn makes facts of the records at the end, and when the first goes were over.
func learn(r, earlier records) facts {
	f := facts{
		receipts: make(map[string][]string), arrived: make(map[string]int),
		applied: make(map[string]bool), came: make(map[string]bool),
	}
	for i, e := range r.entries {
		name := e.Method + " " + e.Path
		f.applied[name] = f.applied[name] || i < len(earlier.entries)
		f.receipts[name] = append(f.receipts[name], e.String())
		if e.Method == http.MethodPut {
			f.receipts["content "+e.Path] = append(f.receipts["content "+e.Path], digestText(e.Sum))
		}
	}
	for i, d := range r.deliveries {
		name := d.Method + " " + d.Path
		f.arrived[name]++
		f.came[name] = f.came[name] || i < len(earlier.deliveries) && d.Reach() > faultinject.NeverSent
	}
	return f
}

// digested adds a digest (RFC 9530, section 3) to each answer: without one nobody
// can tell that a byte was changed on its way.
type digested struct{ http.Handler }

func (h digested) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	h.Handler.ServeHTTP(rec, r)
	maps.Copy(w.Header(), rec.Header())
	w.Header().Set("Repr-Digest", digestOf(rec.Body.Bytes()))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

func digestOf(text []byte) string { return digestText(sha256.Sum256(text)) }

func digestText(sum [sha256.Size]byte) string { return fmt.Sprintf("sha-256=:%x:", sum) }

// newCrowd makes the clients. The seed picks what a user may set; limits is how
// the crowd's server bounds it.
func (s *soak) newCrowd(seed uint64, base http.RoundTripper, url string, limits crowdLimits) (*crowd, error) {
	rng := rand.New(rand.NewPCG(seed, 0))
	cfg := resilient.Config{
		Base: base, BaseIsWire: true, CountReplays: true,
		MaxAttempts: limits.attempts, MaxReplayBytes: crowdKept, MaxRetryAfter: limits.retryAfter,
		AttemptTimeout:  limits.attempt * time.Duration(1+rng.IntN(4)),
		BodyIdleTimeout: limits.attempt,
		Backoff:         seededPauses(seed, limits.pause),
		CoolFirst:       rng.IntN(8) == 0,
		FailFast:        rng.IntN(2) == 0,
	}
	if s.honoured {
		cfg.HonorsKeys = resilient.AnyHost
	}
	if rng.IntN(3) == 0 {
		cfg.BufferResponse = 1 << 10
	}
	if rng.IntN(4) == 0 {
		cfg.Timeout = 2 * cfg.AttemptTimeout
	}
	if rng.IntN(4) > 0 { // so that faults strike deep
		cfg.NoBudget, cfg.NoBreaker = true, true
	}
	if rng.IntN(4) == 0 { // which is true of every 429 here
		cfg.TrustRefusal = func(resp *http.Response) bool { return resp.StatusCode == http.StatusTooManyRequests }
	}
	var minted atomic.Int64
	cfg.Keys.New = func() string { return fmt.Sprintf("%d-%d", seed, minted.Add(1)) }
	later := resilient.Config{Base: base, BaseIsWire: true, HonorsKeys: cfg.HonorsKeys, NoBudget: true, NoBreaker: true, CountReplays: true}
	later.Keys.TTL = 24 * time.Hour
	if s.spoil != nil {
		s.spoil(&cfg)
	}
	c := &crowd{seed: seed, honoured: s.honoured, url: url, counts: newSoakCounts(), report: func(string, faultinject.Told, []byte) {}}
	var err error
	if c.client, err = resilient.NewClient(cfg); err != nil {
		return nil, err
	}
	if s.between != nil {
		c.client.Transport = s.between(c.client.Transport)
	}
	c.later, err = resilient.NewClient(later)
	return c, err
}

// crowdLimits are what suits the clock of a crowd.
type crowdLimits struct {
	attempts                   int
	attempt, pause, retryAfter time.Duration
}

// seededPauses draws the pauses between attempts from the seed, so that a run
// can be repeated.
func seededPauses(seed uint64, longest time.Duration) func() resilient.Schedule {
	var made atomic.Uint64
	return func() resilient.Schedule {
		return &drawnPauses{rand.New(rand.NewPCG(seed, 1<<32+made.Add(1))), longest}
	}
}

type drawnPauses struct {
	rng     *rand.Rand
	longest time.Duration
}

func (p *drawnPauses) NextBackOff() time.Duration {
	return time.Duration(p.rng.Int64N(int64(p.longest)))
}
