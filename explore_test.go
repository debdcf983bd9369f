package resilient_test

// One operation, every placement of the essential faults over its attempts, on
// the real client and server of net/http over a network in memory.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

const (
	exploreTimeout = time.Second      // of one attempt
	exploreLatency = time.Millisecond // one way
)

// explored is one sort of operation.
type explored struct {
	name     string
	method   string
	body     string
	stream   bool // a body without GetBody
	warm     bool // begins on a connection that was used before
	key      string
	honoured bool // by the server, and declared so
	most     int  // attempts
}

// single reports whether the server's effects must not exceed one. A PUT has
// the same effect however often it runs.
func (x explored) single() bool { return x.method == http.MethodPost || x.honoured && x.key != "" }

var exploredOperations = []explored{
	{name: "POST where keys are honoured", method: "POST", body: "amount=1", honoured: true, most: 3},
	{name: "POST of a stream where keys are honoured", method: "POST", body: "amount=1", stream: true, honoured: true, most: 3},
	{name: "POST without a body where keys are honoured", method: "POST", honoured: true, most: 3},
	{name: "POST where keys are honoured, on a used connection", method: "POST", body: "amount=1", warm: true, honoured: true, most: 3},
	{name: "POST without a body where keys are honoured, on a used connection", method: "POST", warm: true, honoured: true, most: 2},
	{name: "PUT under a key where keys are honoured", method: "PUT", body: "amount=1", key: "k1", honoured: true, most: 2},
	{name: "POST where keys are ignored", method: "POST", body: "amount=1", most: 3},
	{name: "POST of a stream where keys are ignored", method: "POST", body: "amount=1", stream: true, most: 3},
	{name: "POST without a body where keys are ignored", method: "POST", most: 3},
	{name: "POST where keys are ignored, on a used connection", method: "POST", body: "amount=1", warm: true, most: 3},
	{name: "POST without a body where keys are ignored, on a used connection", method: "POST", warm: true, most: 3},
	{name: "PUT", method: "PUT", body: "amount=1", most: 3},
	{name: "PUT without a body", method: "PUT", most: 2},
}

func TestWhateverFailsTheCallerIsToldTheTruthAndNothingIsDoneTwice(t *testing.T) {
	for _, x := range exploredOperations {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			for attempts := 1; attempts <= x.most; attempts++ {
				seen := explore(t, x, attempts)
				t.Logf("%d attempts: %v", attempts, seen)
				seen.requireNothingMissed(t, x, attempts)
			}
		})
	}
}

// explore goes through all schedules, depth first.
func explore(t *testing.T, x explored, attempts int) *sights {
	all := &sights{faults: make(map[string]int), outcomes: make(map[string]int)}
	tree := &choices{}
	for more := true; more; more = tree.next() {
		tree.begin()
		wrong := explore1(t, x, attempts, tree, all)
		all.schedules++
		require.Empty(t, wrong, "%d attempts, schedule %q", attempts, strings.Join(tree.names, " "))
		for _, name := range tree.names {
			all.faults[name]++
		}
	}
	return all
}

// explore1 runs one schedule in a bubble of its own and returns what was wrong.
func explore1(t *testing.T, x explored, attempts int, tree *choices, all *sights) (wrong []string) {
	defer func() {
		if p := recover(); p != nil { // the bubble's own complaint
			wrong = append(wrong, fmt.Sprint("goroutine left behind: ", p))
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, x, tree)
		start := time.Now()
		got := w.operate(t, attempts)
		took := time.Since(start)
		wrong = w.judge(got, attempts)
		if limit := exploreLimit(attempts); took > limit {
			wrong = append(wrong, fmt.Sprintf("took %v, more than %v", took, limit))
		}
		synctest.Wait()
		if n := w.opened(); n > 0 { // before time moves, or a time-out would hide it
			wrong = append(wrong, fmt.Sprintf("%d connections left open", n))
		}
		w.server.Settle()
		wrong = append(wrong, w.judge(got, attempts)...)
		all.add(got, w)
		require.NoError(t, w.server.Close())
		require.NoError(t, w.network.Close())
	})
	return wrong
}

// exploreLimit is the longest an operation may take: its attempts, the longest
// pauses between them, and for each answer repeated two looks at its rest.
func exploreLimit(attempts int) time.Duration {
	limit := time.Duration(attempts) * (exploreTimeout + 4*exploreLatency)
	for pause := 100 * time.Millisecond; attempts > 1; attempts-- {
		limit += pause + 2*50*time.Millisecond
		pause *= 2
	}
	return limit
}

// choices walks a tree whose shape shows only while it is walked: one node for
// each dial, arrival and idle connection that is really met, what net/http sends
// again by itself included.
type choices struct {
	mu    sync.Mutex
	path  []int
	width []int
	at    int
	names []string
	wrong string
}

func (c *choices) begin() { c.at, c.names = 0, nil }

// choose takes the branch of this schedule among n.
func (c *choices) choose(n int, name func(int) string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == len(c.path) {
		c.path, c.width = append(c.path, 0), append(c.width, n)
	}
	if c.width[c.at] != n {
		c.wrong = fmt.Sprintf("choice %d has %d branches, before %d", c.at, n, c.width[c.at])
	}
	i := c.path[c.at]
	c.at++
	c.names = append(c.names, name(i))
	return i
}

// next turns to the next schedule; false after the last.
func (c *choices) next() bool {
	c.path, c.width = c.path[:c.at], c.width[:c.at]
	for len(c.path) > 0 {
		last := len(c.path) - 1
		if c.path[last]++; c.path[last] < c.width[last] {
			return true
		}
		c.path, c.width = c.path[:last], c.width[:last]
	}
	return false
}

func (c *choices) fault(of []faultinject.Fault) faultinject.Fault {
	return of[c.choose(len(of), func(i int) string { return of[i].String() })]
}

// world is a shop on a network in memory, and a client of it.
type world struct {
	x       explored
	tree    *choices
	network *faultinject.Network
	server  *faultinject.Server
	base    *http.Transport
	body    *onceBody
	warming atomic.Bool

	mu       sync.Mutex
	dialled  int // client's ends now open
	accepted []net.Conn
	stale    bool // an idle connection was found dead
	receipts map[string]string
	effects  int
	told     []string
}

func newWorld(t *testing.T, x explored, tree *choices) *world {
	w := &world{x: x, tree: tree, network: faultinject.NewNetwork(), receipts: make(map[string]string)}
	w.network.Up, w.network.Down = exploreLatency, exploreLatency
	dial, arrival := []faultinject.Fault{faultinject.Pass()}, []faultinject.Fault{faultinject.Pass()}
	for _, f := range faultinject.Essential() {
		if f == faultinject.RefuseDial() || f == faultinject.Blackhole() {
			dial = append(dial, f)
		} else {
			arrival = append(arrival, f)
		}
	}
	plan := func(of []faultinject.Fault) faultinject.Plan {
		return faultinject.PlanFunc(func(faultinject.Exchange) faultinject.Fault {
			if w.warming.Load() {
				return faultinject.Pass()
			}
			return tree.fault(of)
		})
	}
	w.network.Plan = plan(dial)
	l, err := w.network.Listen("shop.test:80")
	require.NoError(t, err)
	w.server = faultinject.NewServer(&worldListener{l, w}, w, plan(arrival))
	w.base = w.network.Transport()
	w.base.DialContext = w.dial
	if x.warm {
		w.warm(t)
	}
	return w
}

// warm leaves an idle connection behind.
func (w *world) warm(t *testing.T) {
	w.warming.Store(true)
	defer w.warming.Store(false)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop.test/", nil)
	require.NoError(t, err)
	resp, err := w.base.RoundTrip(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	synctest.Wait()
}

// arrivals is what reached the server, warming apart.
func (w *world) arrivals() []faultinject.Delivery {
	all := w.server.Deliveries()
	return slices.DeleteFunc(all, func(d faultinject.Delivery) bool { return d.Method == http.MethodGet })
}

// operate makes the operation and reads the answer.
func (w *world) operate(t *testing.T, attempts int) (got toldOnce) {
	cfg := resilient.Config{
		Base: w.base, MaxAttempts: attempts, AttemptTimeout: exploreTimeout,
		Prepare: func(*http.Request) error { w.maybeStale(); return nil },
	}
	if w.x.honoured {
		cfg.HonorsKeys = resilient.AnyHost
	}
	client, err := resilient.NewClient(cfg)
	require.NoError(t, err)
	resp, err := client.Do(w.request(t))
	if err != nil {
		e, ok := errors.AsType[*resilient.Error](err)
		require.True(t, ok, "%v", err)
		got = toldOnce{err: err, op: e.Operation}
	} else {
		got.status = resp.StatusCode
		got.op, _ = resilient.OperationOf(resp)
		got.body, got.bodyErr = io.ReadAll(resp.Body)
		require.NoError(t, resp.Body.Close())
	}
	client.CloseIdleConnections()
	return got
}

func (w *world) request(t *testing.T) *http.Request {
	var body io.Reader
	switch {
	case w.x.stream:
		w.body = &onceBody{Reader: strings.NewReader(w.x.body)}
		body = w.body
	case w.x.body != "":
		body = strings.NewReader(w.x.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), w.x.method, "http://shop.test/charge", body)
	require.NoError(t, err)
	if w.x.key != "" {
		req.Header.Set("Idempotency-Key", w.x.key)
	}
	return req
}

// onceBody is read once and counts its closings.
type onceBody struct {
	io.Reader
	mu     sync.Mutex
	closed int
}

func (b *onceBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func (b *onceBody) closings() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// ServeHTTP does what it is asked, under a key only once if keys are honoured.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	key := r.Header.Get("Idempotency-Key")
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Method == http.MethodGet {
		return
	}
	receipt, known := w.receipts[key]
	if !w.x.honoured || key == "" || !known {
		w.effects++
		receipt = fmt.Sprintf("receipt %d for %q", w.effects, body)
		w.receipts[key] = receipt
		w.told = append(w.told, receipt)
	}
	_, _ = io.WriteString(rw, receipt)
}

func (w *world) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := w.network.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.count(1)
	return &worldConn{conn, sync.OnceFunc(func() { w.count(-1) })}, nil
}

func (w *world) count(n int) {
	w.mu.Lock()
	w.dialled += n
	w.mu.Unlock()
}

func (w *world) opened() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dialled
}

type worldConn struct {
	net.Conn
	gone func()
}

func (c *worldConn) Close() error {
	c.gone()
	return c.Conn.Close()
}

type worldListener struct {
	net.Listener
	w *world
}

func (l *worldListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.w.mu.Lock()
		l.w.accepted = append(l.w.accepted, conn)
		l.w.mu.Unlock()
	}
	return conn, err
}

// maybeStale runs before each attempt: if a connection is idle then, the server
// may have closed it just now, and its word is still on the way.
func (w *world) maybeStale() {
	if w.opened() == 0 {
		return
	}
	if w.tree.choose(2, func(i int) string { return [...]string{"idle", "stale"}[i] }) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stale = true
	for _, conn := range w.accepted {
		_ = conn.Close()
	}
}

// toldOnce is what the caller learns.
type toldOnce struct {
	status  int
	body    []byte
	bodyErr error
	err     error
	op      resilient.Operation
}

func (got toldOnce) replays() (n int) {
	for _, a := range got.op.Attempts {
		if a.Replay {
			n++
		}
	}
	return n
}

// judge holds what the caller was told against what happened.
func (w *world) judge(got toldOnce, attempts int) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	arrived := w.arrivals()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tree.wrong != "" {
		say("not repeatable: %s", w.tree.wrong)
	}
	if w.x.single() && w.effects > 1 {
		say("done %d times", w.effects)
	}
	switch {
	case got.err == nil:
		w.judgeAnswer(got, arrived, say)
	case got.op.Outcome == resilient.NotSent:
		if w.effects > 0 || len(arrived) > 0 {
			say("told not sent: %d arrivals, %d effects", len(arrived), w.effects)
		}
	case got.op.Outcome == resilient.Unknown:
		// The one exception: on an idle connection that died nobody can tell
		// whether the request was read.
		if len(arrived) == 0 && !w.stale {
			say("told unknown, and nothing arrived: %v", got.err)
		}
	default:
		say("an error that says %v", got.op.Outcome)
	}
	// What net/http sends again by itself is reported, and beyond our bound.
	n, again := len(got.op.Attempts), got.replays()
	if n < len(arrived) || n-again < 1 || n-again > attempts {
		say("%d attempts and %d replays reported, %d arrivals", n-again, again, len(arrived))
	}
	if w.body != nil && w.body.closings() != 1 {
		say("body closed %d times", w.body.closings())
	}
	w.judgeArrivals(got, arrived, say)
	return wrong
}

func (w *world) judgeAnswer(got toldOnce, arrived []faultinject.Delivery, say func(string, ...any)) {
	if got.op.Outcome != resilient.Answered {
		say("an answer that says %v", got.op.Outcome)
	}
	if len(arrived) == 0 {
		say("an answer from nobody")
		return
	}
	last := arrived[len(arrived)-1].Fault
	switch cut := last == faultinject.CutBody(1, faultinject.FIN); {
	case got.status == http.StatusOK && cut:
		if got.bodyErr == nil {
			say("a body cut short passed for whole: %q", got.body)
		}
	case got.status == http.StatusOK:
		if w.effects < 1 || got.bodyErr != nil || !slices.Contains(w.told, string(got.body)) {
			say("answer %q (%v) after %d effects", got.body, got.bodyErr, w.effects)
		}
	case last != faultinject.Respond(got.status) && last != faultinject.MaskResponse(got.status):
		say("status %d from %v", got.status, last)
	case !bytes.Contains(got.body, []byte(http.StatusText(got.status))):
		say("status %d with body %q", got.status, got.body)
	}
}

func (w *world) judgeArrivals(got toldOnce, arrived []faultinject.Delivery, say func(string, ...any)) {
	for _, d := range arrived {
		if d.Key != got.op.Key || d.Method != w.x.method {
			say("%s arrived under key %q, told %q", d.Method, d.Key, got.op.Key)
		}
		whole := d.Fault != faultinject.CutRequest() && d.Fault != faultinject.CloseIdle(faultinject.FIN)
		if whole && d.Sum != exploreSum(w.x.body) {
			say("another body arrived, of %d bytes", d.Length)
		}
	}
}

// exploreSum is the digest of the body, as the server records it.
func exploreSum(body string) [sha256.Size]byte { return sha256.Sum256([]byte(body)) }

// sights is what an exploration came by.
type sights struct {
	schedules int
	faults    map[string]int
	outcomes  map[string]int
	arrivals  int
	effects   int
	replays   int
}

func (s *sights) add(got toldOnce, w *world) {
	name := got.op.Outcome.String()
	if got.err == nil {
		name = fmt.Sprint(got.status)
	}
	s.outcomes[name]++
	s.arrivals += len(w.arrivals())
	s.effects += w.effects
	s.replays += got.replays()
}

func (s *sights) String() string {
	return fmt.Sprintf("%d schedules, %d arrivals, %d effects, %d sent again by net/http, told %v",
		s.schedules, s.arrivals, s.effects, s.replays, s.outcomes)
}

// requireNothingMissed fails an exploration that explored nothing.
func (s *sights) requireNothingMissed(t *testing.T, x explored, attempts int) {
	repeats := attempts > 1 && (x.honoured || x.method == http.MethodPut)
	hidden := x.honoured && x.body == "" && (repeats || x.warm) // all that is left to net/http
	dials := !x.warm || repeats || hidden
	for _, f := range append(faultinject.Essential(), faultinject.Pass()) {
		if dials || f != faultinject.RefuseDial() && f != faultinject.Blackhole() {
			require.NotZero(t, s.faults[f.String()], "%v never struck", f)
		}
	}
	told := []string{"200", "503", "504", "outcome unknown"}
	if !x.warm { // or the first copy is always sent
		told = append(told, "not sent")
	}
	for _, name := range told {
		require.NotZero(t, s.outcomes[name], "nobody was told %q", name)
	}
	if repeats || x.warm {
		require.NotZero(t, s.faults["stale"])
	}
	require.Equal(t, hidden, s.replays > 0, "replays: %d", s.replays)
}
