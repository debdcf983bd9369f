package resilient_test

// Every placement of faults over the attempts of one operation, on the real
// client and server of net/http over a network in memory. The rules that hold
// for any client are faultinject's; what only we promise is added here.

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// No time-out and no fault's duration may end at the same instant, or chance
// would choose between them: hence 970 ms and not a second.
const (
	exploreTimeout = 970 * time.Millisecond // of one attempt
	exploreIdle    = 430 * time.Millisecond // of an answer's body
	explorePause   = 110 * time.Millisecond // after the first attempt; then twice as long each time
)

// doubling doubles without jitter, so that a schedule can be repeated.
type doubling struct{ next time.Duration }

func (s *doubling) NextBackOff() time.Duration {
	defer func() { s.next *= 2 }()
	return s.next
}

// explored is one sort of operation.
type explored struct {
	name     string
	method   string
	body     string
	stream   bool        // a body without GetBody
	header   http.Header // of the caller's
	honoured bool        // by the server, and declared so
	noKeys   bool
	stateful bool // the server is a resource and not a ledger
}

var exploredOperations = []explored{
	{name: "POST where keys are honoured", method: "POST", body: "amount=1", honoured: true},
	{name: "POST of a stream where keys are honoured", method: "POST", body: "amount=1", stream: true, honoured: true},
	{name: "POST without a body where keys are honoured", method: "POST", honoured: true},
	{name: "POST where keys are ignored", method: "POST", body: "amount=1"},
	{name: "POST of a stream where keys are ignored", method: "POST", body: "amount=1", stream: true},
	{name: "POST without a body where keys are ignored", method: "POST"},
	{name: "POST without a key", method: "POST", body: "amount=1", noKeys: true},
	{name: "PUT under a key where keys are honoured", method: "PUT", body: "amount=1", header: http.Header{"Idempotency-Key": {"k1"}}, honoured: true},
	{name: "PUT if the state is as it was", method: "PUT", body: "amount=1", header: http.Header{"If-Match": {`"old"`}}, stateful: true},
	{name: "DELETE", method: "DELETE", stateful: true},
	{name: "GET", method: "GET", stateful: true},
}

// repeatable reports whether the client may send it again whatever has become
// of it.
func (x explored) repeatable() bool { return x.honoured || x.stateful }

// explorations are the searches made of each operation. What may be repeated
// has schedules by the ten thousand where three attempts meet the whole
// catalogue, so between two changes one such operation goes deeper than the others.
func (x explored) explorations() map[string]faultinject.Exploration {
	all, most, essential := faultinject.Catalogue(), 3, 4
	if x.repeatable() && x.name != exploredOperations[0].name {
		most, essential = 2, 3
	}
	few := func(more ...[]faultinject.Fault) []faultinject.Fault {
		return append(slices.Concat(more...), faultinject.Essential()...)
	}
	warm, secure := 2, 1
	switch {
	case nightly():
		most, essential, warm, secure = most+1, 4, 3, 2
		few = func(more ...[]faultinject.Fault) []faultinject.Fault { return append(slices.Concat(more...), all...) }
	case raced():
		most, essential = min(most, 2), 2
	}
	return map[string]faultinject.Exploration{
		"the whole catalogue":  {Faults: all, Attempts: most},
		"the essential faults": {Attempts: essential},
		"on a used connection": {Level: faultinject.OnWarmNetwork, Faults: few(), Attempts: warm},
		"over TLS":             {Level: faultinject.OnTLS, Faults: few(faultinject.TLSFaults()), Attempts: secure},
		"over HTTP 2":          {Level: faultinject.OnHTTP2, Faults: few(faultinject.HTTP2Faults()), Attempts: secure},
		"over HTTP 2 with TLS": {Level: faultinject.OnTLSHTTP2, Faults: few(faultinject.TLSFaults(), faultinject.HTTP2Faults()), Attempts: secure},
		"without a network":    {Level: faultinject.OnTransport, Faults: all, Attempts: 2},
	}
}

func TestWhateverFailsTheCallerIsToldTheTruthAndNothingIsDoneTwice(t *testing.T) {
	for _, x := range exploredOperations {
		t.Run(x.name, func(t *testing.T) {
			for name, e := range x.explorations() {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					x.explore(t, e)
				})
			}
		})
	}
}

// explore looks at all schedules of e.
func (x explored) explore(t *testing.T, e faultinject.Exploration) {
	e.HonourKeys = x.honoured
	if x.stateful {
		e.Handler = func(r *faultinject.Run) http.Handler { return &resource{ledger: r.Ledger, state: "amount=0"} }
	}
	s := sights{told: make(map[string]int)}
	result := faultinject.Explore(t, e, func(r *faultinject.Run) {
		got := x.operate(r)
		got.report(r)
		x.judge(r, got)
		s.add(got)
	})
	t.Log(result, s.told)
	if !t.Failed() && os.Getenv("FAULTINJECT_SCHEDULE") == "" {
		s.requireNothingMissed(t, x, e)
	}
}

// resource is a server with one state. What changes nothing is no effect.
type resource struct {
	ledger *faultinject.Ledger
	mu     sync.Mutex
	state  string
}

func (v *resource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.Header.Get("If-Match") != "" && v.state != "amount=0" {
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	switch r.Method {
	case http.MethodPut:
		v.ledger.Effect(r)
		v.state = string(body)
	case http.MethodDelete:
		v.ledger.Effect(r)
		v.state = ""
	}
	_, _ = io.WriteString(w, "state: "+v.state)
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

// toldOnce is what the caller learns.
type toldOnce struct {
	status  int
	body    []byte
	bodyErr error
	err     error
	op      resilient.Operation
	took    time.Duration
	sent    *onceBody // nil if the body could be had again
}

// operate makes the operation and reads the answer.
func (x explored) operate(r *faultinject.Run) (got toldOnce) {
	cfg := resilient.Config{
		Base: r.Base, BaseIsWire: true, MaxAttempts: r.Attempts, NoKeys: x.noKeys,
		AttemptTimeout: exploreTimeout, BodyIdleTimeout: exploreIdle, CountReplays: true,
		Backoff: func() resilient.Schedule { return &doubling{explorePause} },
	}
	if x.honoured {
		cfg.HonorsKeys = resilient.AnyHost
	}
	client, err := resilient.NewClient(cfg)
	if err != nil {
		r.Errorf("%v", err)
		return got
	}
	defer client.CloseIdleConnections()
	var body io.Reader
	switch {
	case x.stream:
		got.sent = &onceBody{Reader: strings.NewReader(x.body)}
		body = got.sent
	case x.body != "":
		body = strings.NewReader(x.body)
	}
	req, err := http.NewRequestWithContext(r.Context(), x.method, r.URL+"/charge", body)
	if err != nil {
		r.Errorf("%v", err)
		return got
	}
	maps.Copy(req.Header, x.header)
	start := time.Now()
	got.do(client, req)
	got.took = time.Since(start)
	return got
}

func (got *toldOnce) do(client *http.Client, req *http.Request) {
	resp, err := client.Do(req)
	if err != nil {
		got.err = err
		if e, ok := errors.AsType[*resilient.Error](err); ok {
			got.op = e.Operation
		}
		return
	}
	defer func() { _ = resp.Body.Close() }()
	got.status = resp.StatusCode
	got.op, _ = resilient.OperationOf(resp)
	got.body, got.bodyErr = io.ReadAll(resp.Body)
}

// report says in faultinject's words what the caller was told.
func (got toldOnce) report(r *faultinject.Run) {
	switch {
	case got.err != nil && got.op.Outcome == resilient.NotSent:
		r.Report("charge", faultinject.NotApplied, nil)
	case got.err == nil && got.bodyErr == nil && got.status == http.StatusOK:
		struck := r.Faults()
		if len(struck) > 0 && struck[len(struck)-1] == faultinject.CorruptBody(0) {
			got.body = nil // no client can see that
		}
		r.Report("charge", faultinject.OK, got.body)
	default:
		r.Report("charge", faultinject.Unknown, nil)
	}
}

// judge holds what only we promise against what happened.
func (x explored) judge(r *faultinject.Run, got toldOnce) {
	arrived := slices.DeleteFunc(r.Deliveries(), func(d faultinject.Delivery) bool { return d.Reach() == faultinject.NeverSent })
	read := slices.DeleteFunc(slices.Clone(arrived), func(d faultinject.Delivery) bool { return refused(d.Fault) })
	switch {
	case got.err == nil:
		x.judgeAnswer(r, got, arrived)
	case got.op.Outcome == resilient.NotSent:
		if len(read) > 0 {
			r.Errorf("told not sent: %v", read)
		}
	case got.op.Outcome == resilient.Unknown:
		if len(arrived) == 0 && !nobodyKnows(r.Faults()) {
			r.Errorf("told unknown, and nothing arrived: %v", got.err)
		}
	default:
		r.Errorf("an error that says %v: %v", got.op.Outcome, got.err)
	}
	x.judgeAttempts(r, got, arrived)
	if got.sent != nil {
		synctest.Wait() // over HTTP/2 net/http closes it in a goroutine of its own
		if n := got.sent.closings(); n != 1 {
			r.Errorf("body closed %d times", n)
		}
	}
	if limit := exploreLimit(r.Attempts); got.took > limit {
		r.Errorf("took %v, more than %v", got.took, limit)
	}
}

// refused reports whether a protocol says of what f strikes that it was not looked
// at (RFC 9113, sections 6.8 and 8.7).
func refused(f faultinject.Fault) bool {
	return f.Name() == "goaway" || f == faultinject.ResetStream(faultinject.RefusedStream)
}

// nobodyKnows reports whether a connection died on which nobody can tell whether
// the request was read.
func nobodyKnows(struck []faultinject.Fault) bool {
	return slices.ContainsFunc(struck, func(f faultinject.Fault) bool {
		return f.Name() == "hang-up" || f.Name() == "close-idle"
	})
}

func (x explored) judgeAnswer(r *faultinject.Run, got toldOnce, arrived []faultinject.Delivery) {
	if got.op.Outcome != resilient.Answered && x.method != http.MethodGet {
		r.Errorf("an answer that says %v", got.op.Outcome)
	}
	if len(arrived) == 0 {
		r.Errorf("an answer from nobody")
		return
	}
	last := arrived[len(arrived)-1].Fault
	switch {
	case got.status == http.StatusOK:
		cut := last.Name() == "cut-body" || last.Name() == "stall-body" || last.Name() == "malformed-chunk"
		if cut != (got.bodyErr != nil) {
			r.Errorf("after %v the body is %q, %v", last, got.body, got.bodyErr)
		}
	case got.status == http.StatusPreconditionFailed && (len(arrived) > 1 || last == faultinject.Duplicate()): // an earlier copy has changed it
	case last.Name() != "respond" && last.Name() != "mask-response":
		r.Errorf("status %d from %v", got.status, last)
	case !strings.Contains(string(got.body), http.StatusText(got.status)):
		r.Errorf("status %d with body %q", got.status, got.body)
	}
}

// judgeAttempts: what net/http sends again by itself is reported, and beyond our
// bound. A safe request that is answered at once keeps no record.
func (x explored) judgeAttempts(r *faultinject.Run, got toldOnce, arrived []faultinject.Delivery) {
	if x.method == http.MethodGet {
		return
	}
	again := 0
	for _, a := range got.op.Attempts {
		if a.Replay {
			again++
		}
	}
	if n := len(got.op.Attempts); n < len(arrived) || n-again < 1 || n-again > r.Attempts {
		r.Errorf("%d attempts and %d replays reported, %d arrivals", n-again, again, len(arrived))
	}
	for _, d := range arrived {
		if d.Key != got.op.Key {
			r.Errorf("arrived under key %q, told %q", d.Key, got.op.Key)
		}
	}
}

// exploreLimit is the longest an operation may take: its attempts, the longest
// pauses between them, a Retry-After of a second with its jitter, two looks at
// the rest of each answer thrown away, and a body that trickles.
func exploreLimit(attempts int) time.Duration {
	limit := 3 * time.Second
	for pause := explorePause; attempts > 0; attempts-- {
		limit += exploreTimeout + 4*time.Millisecond + max(pause, 1100*time.Millisecond) + 2*50*time.Millisecond
		pause *= 2
	}
	return limit
}

// sights counts what callers were told.
type sights struct {
	mu   sync.Mutex
	told map[string]int
}

func (s *sights) add(got toldOnce) {
	name := got.op.Outcome.String()
	if got.err == nil {
		name = fmt.Sprint(got.status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[name]++
}

// requireNothingMissed fails an exploration in which nobody was told what can be
// told.
func (s *sights) requireNothingMissed(t *testing.T, x explored, e faultinject.Exploration) {
	told := []string{"200", "503", "504", "outcome unknown"}
	if e.Level != faultinject.OnWarmNetwork { // there the first copy is always sent
		told = append(told, "not sent")
	}
	for _, name := range told {
		require.NotZero(t, s.told[name], "nobody was told %q", name)
	}
	require.Equal(t, x.header.Get("If-Match") != "" && e.Attempts > 1, s.told["412"] > 0)
}
