package faultinject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A face is all that a fault shows: what a client sees of it, and what its
// server knows.
type face struct {
	err    string // its profile by errors.Is and errors.As
	where  string // "head", "body", or empty
	status int
	body   string
	trace  string
	runs   int
	length int
	sum    byte
	fault  Fault
	truth  Reach
	took   time.Duration
}

// profile says what errors.Is and errors.As find in err. A text would differ in
// its addresses.
func profile(err error) string {
	if err == nil {
		return ""
	}
	var found []string
	for name, target := range map[string]error{
		"EOF": io.EOF, "unexpected EOF": io.ErrUnexpectedEOF, "reset": syscall.ECONNRESET,
		"pipe": syscall.EPIPE, "refused": syscall.ECONNREFUSED, "deadline": context.DeadlineExceeded,
		"os deadline": os.ErrDeadlineExceeded, "closed": net.ErrClosed, "canceled": context.Canceled,
	} {
		if errors.Is(err, target) {
			found = append(found, name)
		}
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		found = append(found, fmt.Sprintf("op=%s net=%s source=%t addr=%t", e.Op, e.Net, e.Source != nil, e.Addr != nil))
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		found = append(found, "syscall="+e.Syscall)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		found = append(found, fmt.Sprintf("dns %s %t %t %t", e.Name, e.IsNotFound, e.IsTimeout, e.IsTemporary))
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		found = append(found, "timeout")
	}
	if found == nil {
		return err.Error()
	}
	slices.Sort(found)
	return strings.Join(found, ", ")
}

// seen says in the words of the catalogue's table what the client saw.
func (f face) seen() string {
	if f.err == "" {
		return fmt.Sprint(f.status)
	}
	what := map[string]string{
		"op=dial net=tcp source=false addr=true, refused, syscall=connect":                          "dial: connection refused",
		"dns shop.test true false false, op=dial net=tcp source=false addr=false":                   "dial: no such host",
		"deadline, dns shop.test false true true, op=dial net=tcp source=false addr=false, timeout": "dial: i/o timeout",
		"deadline, timeout": "its own deadline",
		"EOF":               "EOF",
		"unexpected EOF":    "unexpected EOF",
		"op=read net=tcp source=true addr=true, reset, syscall=read": "read: connection reset by peer",
	}[f.err]
	if f.where == "body" {
		what = fmt.Sprint(f.status, ", then ", what)
	}
	return what
}

// table reads what the comment of Catalogue promises.
func table(t *testing.T) map[string]string {
	t.Helper()
	source, err := os.ReadFile("fault.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for line := range strings.Lines(string(source)) {
		if row, ok := strings.CutPrefix(line, "//\t"); ok && len(row) > 46 {
			rows[strings.TrimSpace(row[:32])] = strings.TrimSpace(row[32:46]) + " " + strings.TrimSpace(row[46:])
		}
	}
	return rows
}

// events is a trace as words, in the order of the hooks.
type events struct {
	mu    sync.Mutex
	words []string
}

func (e *events) add(word string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.words = append(e.words, word)
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.words, " ")
}

func (e *events) hooks() *httptrace.ClientTrace {
	ok := func(word string, err error) {
		if err != nil {
			word += "✗"
		}
		e.add(word)
	}
	return &httptrace.ClientTrace{
		GetConn:      func(string) { e.add("get") },
		DNSStart:     func(httptrace.DNSStartInfo) { e.add("dns") },
		DNSDone:      func(i httptrace.DNSDoneInfo) { ok("resolved", i.Err) },
		ConnectStart: func(string, string) { e.add("conn") },
		ConnectDone:  func(_, _ string, err error) { ok("connected", err) },
		GotConn: func(i httptrace.GotConnInfo) {
			e.add(fmt.Sprintf("GOT(%t)", i.Reused))
		},
		WroteHeaders:         func() { e.add("WH") },
		WroteRequest:         func(i httptrace.WroteRequestInfo) { ok("WR", i.Err) },
		GotFirstResponseByte: func() { e.add("FB") },
	}
}

// exchange makes one POST through rt and looks at all that comes of it.
func exchange(ctx context.Context, rt http.RoundTripper, url string, settle func() []Delivery) face {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var e events
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, e.hooks()), "POST", url+"/charge", strings.NewReader("12345678"))
	req.Header["idempotency-key"] = []string{"k1"} // so spelt that net/http does not replay
	var got face
	resp, err := rt.RoundTrip(req)
	if err != nil {
		got.where, got.err = "head", profile(err)
	} else {
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		got.status, got.body = resp.StatusCode, string(b)
		if got.body == "" || err != nil {
			got.body += fmt.Sprint(" of ", resp.ContentLength)
		}
		if err != nil {
			got.where, got.err = "body", profile(err)
		}
	}
	got.trace, got.took = e.String(), time.Since(start)
	cancel()
	for _, d := range settle() {
		if d.Op == "k1" || d.Fault.dials() {
			got.fault, got.runs, got.length, got.sum = d.Fault, got.runs+d.Runs, d.Length, d.Sum[0]
			got.truth = d.Fault.Truth()
		}
	}
	return got
}

// only strikes the operation under test and its dials.
func only(f Fault) Plan {
	return PlanFunc(func(x Exchange) Fault {
		if x.Nth == 1 && (x.Op == "k1" || strings.HasPrefix(x.Op, "dial ") && f.dials()) {
			return f
		}
		return Pass()
	})
}

func inMemory(t *testing.T, f Fault) face {
	n := NewNetwork()
	n.Plan = only(f)
	l, err := n.Listen("shop.test:80")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(l, echo, only(f))
	got := overNet(t, n.Transport(), s, "http://shop.test", f, n.Dials)
	synctest.Wait()
	if open := n.Open(); open != 0 {
		t.Error("ends of connections left open:", open)
	}
	n.Close()
	return got
}

func overNet(t *testing.T, tr *http.Transport, s *Server, url string, f Fault, dials func() []Delivery) face {
	if f.Name() == "close-idle" {
		warm(t, tr, url)
	}
	got := exchange(t.Context(), tr, url, func() []Delivery {
		tr.CloseIdleConnections() // and hanging dials
		s.Settle()
		return append(s.Deliveries(), dials()...)
	})
	tr.CloseIdleConnections()
	s.Close()
	return got
}

// onlyLinux skips where TCP throws away what arrived before a reset.
func onlyLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("resets differ between systems; the package follows Linux")
	}
}

// warm leaves an idle connection behind.
func warm(t *testing.T, tr *http.Transport, url string) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/warm", nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

func TestAFaultShowsTheSameFaceWithAndWithoutANetwork(t *testing.T) {
	promised := table(t)
	for _, f := range append(Catalogue(), Pass(), CutBody(8, FIN), CutBody(99, RST), StallBody(99), CorruptBody(7), CorruptBody(8)) {
		t.Run(f.String(), func(t *testing.T) {
			var faces [3]face
			level := func(i int, run func(t *testing.T) face) {
				synctest.Test(t, func(t *testing.T) { faces[i] = run(t) })
			}
			level(0, func(t *testing.T) face {
				rt := Handler(echo, only(f))
				return exchange(t.Context(), rt, "http://shop.test", func() []Delivery { rt.Settle(); return rt.Deliveries() })
			})
			level(1, func(t *testing.T) face {
				rt := Wrap(Handler(echo, nil), only(f))
				return exchange(t.Context(), rt, "http://shop.test", func() []Delivery { rt.Settle(); return rt.Deliveries() })
			})
			level(2, func(t *testing.T) face { return inMemory(t, f) })
			saw := faces[0].truth.String() + " " + faces[0].seen()
			if want, listed := promised[f.String()]; saw != want && (listed || slices.Contains(Catalogue(), f)) {
				t.Errorf("the table says %q, the client saw %q", want, saw)
			}
			for i, level := range []string{"handler", "wrapped", "network"} {
				if faces[i] != faces[0] || faces[i].fault != f {
					t.Errorf("%s\n%+v\nwant\n%+v", level, faces[i], faces[0])
				}
			}
		})
	}
}

func TestAFaultShowsTheSameFaceOverTCP(t *testing.T) {
	onlyLinux(t)
	for _, f := range append(Catalogue(), Pass(), CutBody(99, RST)) {
		switch f.Name() {
		case "refuse-dial", "nxdomain", "dns-timeout", "blackhole", "late", "delay", "stall", "stall-body":
			continue // nothing to dial, or time to spend
		}
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Skip(err)
			}
			s := NewServer(l, echo, only(f))
			tcp := overNet(t, &http.Transport{}, s, s.URL, f, func() []Delivery { return nil })
			var memory face
			synctest.Test(t, func(t *testing.T) { memory = inMemory(t, f) })
			if tcp.took = 0; tcp != memory {
				t.Errorf("TCP\n%+v\nwant\n%+v", tcp, memory)
			}
		})
	}
}
