package faultinject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"testing"
	"time"
)

// A payer is a small correct client, and each of its fields a way to break it.
type payer struct {
	noKey           bool // bears no key
	keyPerAttempt   bool // bears another one each time
	sameReader      bool // sends what an attempt before has left of the body
	leaksAnswers    bool // does not close what it does not use
	sureOfFailure   bool // says that nothing was done whenever there was an error
	believesLast    bool // judges by the last error, which may be that of a hidden second sending
	neverSure       bool // says that it does not know whenever there was an error
	repeats4xx      bool
	hasty           bool // repeats at once, whatever Retry-After says
	deafToDeadline  bool
	leavesGoroutine bool
	hedgesKeyless   bool
	takesHalves     bool // takes a body cut short for whole
	refusesTruth    bool // says ok to every answer
}

const (
	payerBody    = "amount=1&to=shop"
	payerTimeout = 950 * time.Millisecond // of an attempt; no tie with the second that faults take
)

// A payment is one operation of a payer.
type payment struct {
	payer
	base     http.RoundTripper
	url      string
	attempts int
	body     *bytes.Reader
	may      bool // it may have been sent
	pause    time.Duration
}

func (p payer) pay(ctx context.Context, base http.RoundTripper, url string, attempts int) (Told, []byte) {
	m := &payment{payer: p, base: base, url: url, attempts: attempts, body: bytes.NewReader([]byte(payerBody))}
	if p.leavesGoroutine {
		go func() { <-ctx.Done(); <-time.After(time.Hour) }()
	}
	wait := 100 * time.Millisecond
	for n := 1; ; n++ {
		m.pause = wait
		told, body, final := m.attempt(ctx, n)
		if final || n == attempts {
			return told, body
		}
		if !m.rest(ctx) {
			return m.told(), nil
		}
		wait *= 2
	}
}

func (m *payment) rest(ctx context.Context) bool {
	if m.deafToDeadline {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case <-time.After(m.pause):
		return true
	case <-ctx.Done():
		return false
	}
}

// told is what is known when there was no answer to rely on.
func (m *payment) told() Told {
	if m.sureOfFailure || !m.may && !m.neverSure {
		return NotApplied
	}
	return Unknown
}

func (m *payment) request(ctx context.Context, n int) *http.Request {
	body := m.body
	if !m.sameReader {
		body = bytes.NewReader([]byte(payerBody))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url, body)
	if err != nil {
		panic(err)
	}
	switch {
	case m.noKey, m.hedgesKeyless && n < 0:
	case m.keyPerAttempt:
		req.Header.Set("Idempotency-Key", "k"+strconv.Itoa(n))
	default:
		req.Header.Set("Idempotency-Key", "k1")
	}
	return req
}

func (m *payment) attempt(ctx context.Context, n int) (told Told, body []byte, final bool) {
	if m.deafToDeadline || m.leaksAnswers { // the end of a context closes the answer
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, payerTimeout)
	defer func() {
		if !m.leaksAnswers {
			cancel()
		}
	}()
	conns := make(chan struct{}, 9)
	req := m.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { conns <- struct{}{} },
	}), n)
	resp, err := m.send(req)
	sent := len(conns) > 0
	if op, ok := errors.AsType[*net.OpError](err); m.believesLast && (ok && op.Op == "dial" || err == nil && resp.StatusCode == http.StatusServiceUnavailable) {
		sent = false
	}
	m.may = m.may || sent
	if err != nil {
		return m.told(), nil, false
	}
	return m.judge(resp, n, len(conns))
}

// send is one RoundTrip, or two if it takes long.
func (m *payment) send(req *http.Request) (*http.Response, error) {
	if !m.hedgesKeyless {
		return m.base.RoundTrip(req)
	}
	type answer struct {
		resp *http.Response
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		resp, err := m.base.RoundTrip(req)
		answers <- answer{resp, err}
	}()
	select {
	case a := <-answers:
		return a.resp, a.err
	case <-time.After(300 * time.Millisecond):
	}
	second, err := m.base.RoundTrip(m.request(req.Context(), -1))
	if a := <-answers; a.err == nil {
		if err == nil {
			second.Body.Close()
		}
		return a.resp, nil
	}
	return second, err
}

func (m *payment) judge(resp *http.Response, n, conns int) (told Told, body []byte, final bool) {
	if seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")); seconds > 0 && !m.hasty {
		m.pause = time.Duration(seconds) * time.Second
	}
	if m.leaksAnswers && resp.StatusCode != http.StatusOK {
		return m.told(), nil, resp.StatusCode == http.StatusBadRequest
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode == http.StatusOK && (err == nil || m.takesHalves), m.refusesTruth:
		return OK, body, true
	case resp.StatusCode == http.StatusBadRequest && !m.repeats4xx:
		if n == 1 && conns == 1 {
			m.may = false // it is the answer to all that was sent
		}
		return m.told(), nil, true
	}
	return m.told(), nil, false
}

// paid is the body of an exploration of p.
func paid(p payer) func(*Run) {
	return func(r *Run) {
		ctx, cancel := context.WithTimeout(r.Context(), 2500*time.Millisecond)
		defer cancel()
		told, body := p.pay(ctx, r.Base, r.URL+"/pay", r.Attempts)
		r.Report("pay", told, body)
		refused := false
		for _, d := range r.Deliveries() {
			if refused {
				r.Errorf("repeated after 400")
			}
			refused = d.Fault == Respond(400)
		}
	}
}

func payerFaults() []Fault {
	return append(Essential(), Respond(400), Respond(429, "Retry-After: 1"))
}

// A notebook is a reporter that keeps what it is told.
type notebook struct {
	name string
	said []string
	logs []string
}

func (*notebook) Helper()        {}
func (n *notebook) Name() string { return n.name }
func (n *notebook) Errorf(format string, args ...any) {
	n.said = append(n.said, fmt.Sprintf(format, args...))
}

func (n *notebook) Logf(format string, args ...any) {
	n.logs = append(n.logs, fmt.Sprintf(format, args...))
}

// exploreInto explores and keeps the failure for itself.
func exploreInto(t *testing.T, n *notebook, e Exploration, body func(*Run)) *search {
	t.Helper()
	s, err := newSearch(t, n, e, body)
	if err != nil {
		t.Fatal(err)
	}
	s.explore()
	return s
}

func TestACorrectClientPassesAtEveryLevel(t *testing.T) {
	for _, level := range []Level{OnNetwork, OnWarmNetwork, OnHTTP2, OnTransport, OnTLS, OnTLSHTTP2} {
		t.Run(level.String(), func(t *testing.T) {
			t.Parallel()
			e := Exploration{Level: level, Faults: payerFaults(), HonourKeys: true, Attempts: 3, Within: 2510 * time.Millisecond}
			if level != OnNetwork && level != OnTransport {
				e.Attempts = 2
			}
			if level.secure() {
				e.Faults = append(e.Faults, TLSFaults()...)
			}
			start := time.Now()
			result := Explore(t, e, paid(payer{}))
			t.Log(result, time.Since(start))
		})
	}
}

var mutants = []struct {
	name  string
	payer payer
	level Level
	rule  string
}{
	{"no key", payer{noKey: true}, OnTransport, "effects"},
	{"a key for each attempt", payer{keyPerAttempt: true}, OnTransport, "sameness"},
	{"the body is not rewound", payer{sameReader: true}, OnTransport, "sameness"},
	{"the answer's body is not closed", payer{leaksAnswers: true}, OnNetwork, "left open"},
	{"says failed when it cannot know", payer{sureOfFailure: true}, OnTransport, "truth"},
	{"judges by the error of a hidden second sending", payer{believesLast: true}, OnNetwork, "truth"},
	{"says unknown when it could know", payer{neverSure: true}, OnTransport, "precision"},
	{"repeats after 400", payer{repeats4xx: true}, OnTransport, "invariant"},
	{"does not heed Retry-After", payer{hasty: true}, OnTransport, "retry-after"},
	{"does not heed the deadline", payer{deafToDeadline: true}, OnTransport, "time"},
	{"leaves a goroutine behind", payer{leavesGoroutine: true}, OnTransport, "goroutines"},
	{"asks a second time without the key", payer{hedgesKeyless: true}, OnTransport, "sameness"},
	{"takes half a body for the whole", payer{takesHalves: true}, OnTransport, "answer"},
	{"takes every answer for a success", payer{refusesTruth: true}, OnTransport, "truth"},
}

func TestNoBrokenClientPasses(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			n := &notebook{name: t.Name()}
			e := Exploration{Level: m.level, Faults: payerFaults(), HonourKeys: true, Attempts: 3, Within: 2510 * time.Millisecond}
			s := exploreInto(t, n, e, paid(m.payer))
			if s.failed == nil || len(n.said) != 1 {
				t.Fatalf("survived %v, %q", s.result, n.said)
			}
			t.Logf("caught on the %v by %q after %d schedules\n%s", m.level, s.failed.findings[0].rule, s.result.Schedules, n.said[0])
			if got := s.failed.findings[0].rule; got != m.rule {
				t.Errorf("caught by %q, not by %q", got, m.rule)
			}
		})
	}
}
