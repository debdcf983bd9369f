package resilient_test

// A machine that plays any history of operations, answers, errors, cancels and
// time-outs, and says what went wrong. Its input is bytes, so that a fuzzer can
// look for histories that nobody thought of.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
)

// tape is the input, read as choices; it ends in zeros.
type tape []byte

func (t *tape) next(n int) int {
	if len(*t) == 0 {
		return 0
	}
	b := int((*t)[0])
	*t = (*t)[1:]
	return b % n
}

func pick[T any](t *tape, of ...T) T { return of[t.next(len(of))] }

// history is what the machine is to play: at most six operations of one client.
type history struct {
	cfg      resilient.Config
	honoured bool
	ops      []*played
}

// played is one operation, as the caller makes it and as Base treats it.
type played struct {
	method   string
	body     string // none, memory, stream, opened
	key      string // the caller's
	starts   time.Duration
	deadline time.Duration
	cancel   time.Duration // 0: never
	legacy   bool          // by Request.Cancel
	reads    bool          // the answer
	steps    []step        // of Base, one for each attempt; then all is well

	mu     sync.Mutex
	bodies []*watchedBody // the caller's
	calls  []seen
	wrong  []string
}

// step is what Base does with one attempt.
type step struct {
	stage  int // how far it gets: 1 a connection is asked for, 2 got, 3 the head is written, 4 written twice
	kind   string
	status int
	header string
	body   string // whole, none, cut, stuck
	proto  int
	delay  time.Duration
}

// seen is what Base saw of one attempt.
type seen struct {
	key     string
	content string
	whole   bool
	acted   bool // a server behind Base may have
	answers []*watchedBody
}

func decode(data []byte) *history {
	in := (*tape)(&data)
	h := &history{honoured: in.next(2) == 1}
	h.cfg = resilient.Config{
		BaseIsWire:      in.next(4) > 0,
		MaxAttempts:     1 + in.next(4),
		Timeout:         pick(in, 0, 0, 20*time.Second),
		AttemptTimeout:  pick(in, 0, time.Second, 15*time.Second),
		BufferResponse:  pick[int64](in, 0, 0, 1<<10),
		BodyIdleTimeout: pick(in, 0, time.Second),
		NoBudget:        in.next(4) == 1,
		NoBreaker:       in.next(4) == 1,
		CountReplays:    in.next(2) == 1,
		CoolFirst:       in.next(4) == 1,
		FailFast:        in.next(4) == 1,
	}
	if h.honoured {
		h.cfg.HonorsKeys = resilient.AnyHost
	}
	for range 1 + in.next(6) {
		h.ops = append(h.ops, decodeOperation(in))
	}
	return h
}

func decodeOperation(in *tape) *played {
	op := &played{
		method:   pick(in, "POST", "GET", "PUT", "DELETE", "PATCH"),
		body:     pick(in, "memory", "none", "stream", "opened"),
		key:      pick(in, "", "", "", "k"),
		starts:   pick(in, 0, 0, time.Millisecond, 10*time.Second),
		deadline: pick(in, time.Minute, 3*time.Second, 2*time.Minute),
		cancel:   pick(in, 0, 0, 50*time.Millisecond, 2*time.Second),
		legacy:   in.next(2) == 1,
		reads:    in.next(2) == 0,
	}
	for range in.next(6) {
		op.steps = append(op.steps, decodeStep(in))
	}
	return op
}

func decodeStep(in *tape) step {
	s := step{stage: 3, kind: pick(in, "answer", "answer", "error", "hang", "nothing", "both")}
	switch s.kind {
	case "answer", "both":
		s.status = pick(in, 200, 500, 503, 429, 504, 502, 408, 409, 421, 425, 404, 422, 501, 201, 204)
		s.header = pick(in, "", "Retry-After: 1", "Retry-After: 30", "Retry-After: 100000", "Retry-After: -",
			"Stripe-Should-Retry: true", "X-Should-Retry: false", "Idempotent-Replayed: true")
		s.body = pick(in, "whole", "none", "cut", "stuck")
		s.proto = 1 + in.next(2)
		s.stage = 3 + in.next(2)
	case "error", "hang":
		s.stage = 1 + in.next(4)
	}
	s.delay = pick(in, 0, 0, 30*time.Millisecond, 5*time.Second)
	return s
}

// play runs the history in a bubble and returns all that was wrong.
func play(t *testing.T, h *history) (wrong []string) {
	defer func() {
		if p := recover(); p != nil {
			wrong = append(wrong, fmt.Sprint("panic: ", p))
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		cfg := h.cfg
		cfg.Base = roundTrip(h.answer)
		rt, err := resilient.NewTransport(cfg)
		if err != nil {
			wrong = append(wrong, err.Error())
			return
		}
		var wg sync.WaitGroup
		for i, op := range h.ops {
			wg.Go(func() { op.play(t, h, rt, i) })
		}
		wg.Wait()
		synctest.Wait()
		for i, op := range h.ops {
			op.judgeBodies()
			for _, w := range op.wrong {
				wrong = append(wrong, fmt.Sprintf("operation %d: %s", i, w))
			}
		}
		wrong = append(wrong, h.heals(t, rt)...)
	})
	return wrong
}

// heals looks whether what the operations took of budget and breaker is back.
func (h *history) heals(t *testing.T, rt *resilient.Transport) (wrong []string) {
	time.Sleep(5 * time.Minute)
	for i := range 15 {
		op := &played{method: "GET", deadline: time.Minute, body: "none"}
		// The first is the probe of a breaker that the history opened, and the
		// next make sure that ten failures more do not.
		if i >= 5 && h.cfg.MaxAttempts > 1 {
			op.steps = []step{{stage: 3, kind: "answer", status: 500, proto: 1}}
		}
		h.ops = append(h.ops, op)
		resp, err := rt.RoundTrip(op.request(t.Context(), len(h.ops)-1))
		if err != nil {
			return append(wrong, fmt.Sprintf("call %d of a healthy host: %v", i, err))
		}
		if resp.StatusCode != http.StatusOK {
			rec, _ := resilient.OperationOf(resp)
			wrong = append(wrong, fmt.Sprintf("call %d of a healthy host was not repeated: %v", i, rec.Stop))
		}
		_ = resp.Body.Close()
	}
	return wrong
}

func (op *played) say(format string, args ...any) {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.wrong = append(op.wrong, fmt.Sprintf(format, args...))
}

const playedContent = "twelve bytes"

// watchedBody counts its closings. Its Read may block.
type watchedBody struct {
	io.Reader
	end  error
	gone []<-chan struct{} // how a stuck one's caller leaves; nil for the others

	mu     sync.Mutex
	closed int
	shut   chan struct{}
}

func newWatchedBody(content string, end error) *watchedBody {
	return &watchedBody{Reader: strings.NewReader(content), end: end, shut: make(chan struct{})}
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != io.EOF {
		return n, err
	}
	if b.gone != nil {
		select {
		case <-b.gone[0]:
		case <-b.gone[1]:
		case <-b.shut:
		}
	}
	return n, b.end
}

func (b *watchedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed++; b.closed == 1 {
		close(b.shut)
	}
	return nil
}

func (b *watchedBody) closings() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (op *played) request(ctx context.Context, i int) *http.Request {
	req, _ := http.NewRequestWithContext(ctx, op.method, "http://api.test/x", nil)
	open := func() (io.ReadCloser, error) {
		b := newWatchedBody(playedContent, io.EOF)
		op.mu.Lock()
		op.bodies = append(op.bodies, b)
		op.mu.Unlock()
		return b, nil
	}
	switch op.body {
	case "memory":
		req.Body = io.NopCloser(strings.NewReader(playedContent))
		req.ContentLength = int64(len(playedContent))
	case "stream":
		req.Body, _ = open()
	case "opened":
		req.Body, _ = open()
		req.GetBody = open
		req.ContentLength = int64(len(playedContent))
	}
	req.Header.Set("X-Op", strconv.Itoa(i))
	if op.key != "" {
		req.Header.Set("Idempotency-Key", op.key)
	}
	return req
}

// play makes the operation and judges what its caller is told.
func (op *played) play(t *testing.T, h *history, rt *resilient.Transport, i int) {
	time.Sleep(op.starts)
	ctx, cancel := context.WithTimeout(t.Context(), op.deadline)
	defer cancel()
	req := op.request(ctx, i)
	if op.cancel > 0 && op.legacy {
		gone := make(chan struct{})
		req.Cancel = gone
		timer := time.AfterFunc(op.cancel, func() { close(gone) })
		defer timer.Stop()
	} else if op.cancel > 0 {
		timer := time.AfterFunc(op.cancel, cancel)
		defer timer.Stop()
	}
	before := maps.Clone(req.Header)
	start := time.Now()
	resp, err := rt.RoundTrip(req)
	took := time.Since(start)
	if !maps.EqualFunc(before, req.Header, slices.Equal) {
		op.say("the caller's header was changed")
	}
	limit := op.deadline
	if op.cancel > 0 {
		limit = min(limit, op.cancel)
	}
	// Timeout is for the head of the answer. What holds for the body, where it is
	// read inside the attempt, is BodyIdleTimeout.
	if h.cfg.Timeout > 0 && h.cfg.BufferResponse == 0 {
		limit = min(limit, h.cfg.Timeout)
	}
	if took > limit+200*time.Millisecond {
		op.say("took %v, the limit was %v", took, limit)
	}
	op.judge(h, resp, err)
	if resp != nil {
		if op.reads {
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		_ = resp.Body.Close()
	}
}

// repeatable says whether the caller has vouched for a repeat.
func (op *played) repeatable(h *history) bool {
	switch op.method {
	case "GET", "PUT", "DELETE":
		return true
	}
	return h.honoured || op.key != ""
}

func (op *played) judge(h *history, resp *http.Response, err error) {
	if (resp == nil) == (err == nil) {
		op.say("answer %v and error %v", resp, err)
		return
	}
	var rec resilient.Operation
	known := true
	if err != nil {
		e, ok := err.(*resilient.Error)
		if !ok {
			op.say("error of type %T", err)
			return
		}
		rec = e.Operation
	} else {
		rec, known = resilient.OperationOf(resp)
	}
	op.mu.Lock()
	calls := slices.Clone(op.calls)
	op.mu.Unlock()
	if len(calls) > h.cfg.MaxAttempts {
		op.say("%d attempts, allowed were %d", len(calls), h.cfg.MaxAttempts)
	}
	if known && len(rec.Attempts) < len(calls) {
		op.say("%d attempts told, %d made", len(rec.Attempts), len(calls))
	}
	op.judgeCalls(h, calls, rec, known)
	op.judgeOutcome(h, calls, rec, err, known)
}

func (op *played) judgeCalls(h *history, calls []seen, rec resilient.Operation, known bool) {
	for i, c := range calls {
		if known && c.key != rec.Key {
			op.say("attempt %d under key %q, told %q", i+1, c.key, rec.Key)
		}
		if op.body != "none" && (c.whole && c.content != playedContent || !strings.HasPrefix(playedContent, c.content)) {
			op.say("attempt %d sent %q", i+1, c.content)
		}
		if i+1 < len(calls) && c.acted && !op.repeatable(h) {
			op.say("attempt %d may have acted, and was repeated", i+1)
		}
	}
}

func (op *played) judgeOutcome(h *history, calls []seen, rec resilient.Operation, err error, known bool) {
	acted := slices.ContainsFunc(calls, func(c seen) bool { return c.acted })
	evident := len(calls) == 0 || h.cfg.BaseIsWire && (op.method != "GET" || h.cfg.CountReplays)
	switch {
	case err == nil && known && rec.Outcome != resilient.Answered:
		op.say("an answer that says %v", rec.Outcome)
	case err == nil:
	case rec.Outcome == resilient.Answered:
		op.say("an error that says answered")
	case rec.Outcome == resilient.NotSent && acted:
		op.say("told not sent, and a server may have acted: %v", err)
	case rec.Outcome == resilient.Unknown && !acted && evident:
		op.say("told unknown, and no server can have acted: %v", err)
	}
}

func (op *played) judgeBodies() {
	for i, b := range op.bodies {
		if n := b.closings(); n != 1 {
			op.say("request body %d closed %d times", i, n)
		}
	}
	for i, c := range op.calls {
		for _, b := range c.answers {
			if b.closings() == 0 {
				op.say("answer %d was not closed", i+1)
			}
		}
	}
}

// answer is Base: it does with each attempt what the step says, as net/http
// would.
func (h *history) answer(req *http.Request) (*http.Response, error) {
	i, _ := strconv.Atoi(req.Header.Get("X-Op"))
	op := h.ops[i]
	op.mu.Lock()
	n := len(op.calls)
	op.calls = append(op.calls, seen{key: keyOnTheWire(req)})
	op.mu.Unlock()
	s := step{stage: 3, kind: "answer", status: 200, proto: 1}
	if n < len(op.steps) {
		s = op.steps[n]
	}
	if !s.trace(req) {
		s.stage = min(s.stage, 3) // nobody looks for net/http's own replays
	}
	content, whole := s.send(req)
	err := s.wait(req)
	resp, err := s.result(req, err)
	c := seen{key: keyOnTheWire(req), content: content, whole: whole, acted: h.acted(req, s, resp)}
	if resp != nil {
		if b, ok := resp.Body.(*watchedBody); ok {
			c.answers = append(c.answers, b)
		}
	}
	op.mu.Lock()
	op.calls[n] = c
	op.mu.Unlock()
	return resp, err
}

func keyOnTheWire(req *http.Request) string {
	for name, values := range req.Header {
		if strings.EqualFold(name, "Idempotency-Key") && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

// acted is the truth, or what can be known of it.
func (h *history) acted(req *http.Request, s step, resp *http.Response) bool {
	refused := resp != nil && (s.status == http.StatusMisdirectedRequest || s.status == http.StatusTooEarly)
	switch {
	case refused && s.stage < 4 && s.kind == "answer":
		return s.header == "X-Should-Retry: false" || s.header == "Idempotent-Replayed: true" // it says so
	case !h.cfg.BaseIsWire:
		return true
	case s.stage == 2: // with the attempt ended, an HTTP/2 request may be on its way
		return req.Context().Err() != nil || isGone(req)
	}
	return s.stage > 2
}

func isGone(req *http.Request) bool {
	select {
	case <-req.Cancel:
		return true
	default:
		return false
	}
}

// trace plays what net/http tells, and reports whether anybody listens.
func (s step) trace(req *http.Request) bool {
	trace := httptrace.ContextClientTrace(req.Context())
	if trace == nil || trace.GetConn == nil {
		return false
	}
	trace.GetConn("api.test:80")
	for stage := 2; stage <= s.stage; stage++ {
		conn, _ := net.Pipe()
		if stage != 3 {
			trace.GotConn(httptrace.GotConnInfo{Conn: conn, Reused: s.stage == 4})
		}
		if stage >= 3 {
			trace.WroteHeaders()
		}
	}
	return true
}

// send reads the body if the head was written, and closes it in any case.
func (s step) send(req *http.Request) (content string, whole bool) {
	if req.Body == nil {
		return "", true
	}
	defer req.Body.Close()
	if s.stage < 3 {
		return "", false
	}
	var buf bytes.Buffer
	if s.kind == "error" { // half of it
		_, _ = io.CopyN(&buf, req.Body, int64(len(playedContent)/2))
		return buf.String(), false
	}
	_, err := io.Copy(&buf, req.Body)
	return buf.String(), err == nil
}

// wait lets time pass, or returns what ended the attempt.
func (s step) wait(req *http.Request) error {
	var due <-chan time.Time
	if s.kind != "hang" {
		timer := time.NewTimer(s.delay)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-due:
		return nil
	case <-req.Context().Done():
		return req.Context().Err()
	case <-req.Cancel:
		return errors.New("net/http: request canceled")
	}
}

func (s step) result(req *http.Request, err error) (*http.Response, error) {
	switch {
	case err != nil:
		return nil, err
	case s.kind == "nothing":
		return nil, nil
	case s.kind == "error" && s.stage == 1:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	case s.kind == "error":
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	resp := answer(req, s.status, slices.DeleteFunc([]string{s.header}, func(h string) bool { return h == "" })...)
	resp.ProtoMajor = max(s.proto, 1)
	b := newWatchedBody("text", io.EOF)
	resp.Body, resp.ContentLength = b, -1
	switch s.body {
	case "none":
		resp.Body, resp.ContentLength = http.NoBody, 0
	case "cut":
		b.end = io.ErrUnexpectedEOF
	case "stuck":
		b.end, b.gone = context.Canceled, []<-chan struct{}{req.Context().Done(), req.Cancel}
	}
	if s.kind == "both" {
		return resp, errors.New("and an error")
	}
	return resp, nil
}
