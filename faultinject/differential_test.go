package faultinject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
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
	header string
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
	if f.err == "" && strings.Contains(f.trace, "103") {
		return fmt.Sprint("103, then ", f.status)
	}
	if f.err == "" {
		return fmt.Sprint(f.status)
	}
	what := map[string]string{
		"op=dial net=tcp source=false addr=true, refused, syscall=connect":                          "dial: connection refused",
		"dns shop.test true false false, op=dial net=tcp source=false addr=false":                   "dial: no such host",
		"deadline, dns shop.test false true true, op=dial net=tcp source=false addr=false, timeout": "dial: i/o timeout",
		"deadline, timeout":            "its own deadline",
		"EOF":                          "EOF",
		"unexpected EOF":               "unexpected EOF",
		"invalid byte in chunk length": "invalid byte in chunk length",
		`net/http: HTTP/1.x transport connection broken: malformed HTTP response "garbage"`:                                  "malformed HTTP response",
		"net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 10485760 bytes; aborted": "server response headers exceeded",
		"op=read net=tcp source=true addr=true, reset, syscall=read":                                                         "read: connection reset by peer",
	}[f.err]
	if f.where == "body" {
		what = fmt.Sprint(f.status, ", then ", what)
	}
	return what
}

// table reads what the comment of Catalogue promises.
func table(t *testing.T) map[string]string {
	t.Helper()
	source, err := os.ReadFile("catalogue.go")
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
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			e.add(fmt.Sprint(code, h))
			return nil
		},
	}
}

// A way is how a client comes to a server, or to what stands for one.
type way struct {
	rt         http.RoundTripper
	url        string
	deliveries func() []Delivery
	settle     func()
}

func direct(rt *Transport) way {
	return way{rt, "http://shop.test", rt.Deliveries, rt.Settle}
}

// exchange makes one POST through rt and looks at all that comes of it.
func exchange(ctx context.Context, rt http.RoundTripper, url string, settle func() []Delivery) face {
	return way{rt, url, settle, func() {}}.exchange(ctx, Pass(), false)
}

// exchange makes one POST and looks at all that comes of it. A caller that
// gives up does so as soon as f has struck, else it has five seconds.
func (w way) exchange(ctx context.Context, f Fault, givesUp bool) face {
	start := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	if givesUp {
		go w.giveUp(ctx, cancel, f)
	} else {
		ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
	}
	defer cancel()
	var e events
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, e.hooks()), "POST", w.url+"/charge", strings.NewReader("12345678"))
	req.Header["idempotency-key"] = []string{"k1"} // so spelt that net/http does not replay
	var got face
	resp, err := w.rt.RoundTrip(req)
	if err != nil {
		got.where, got.err = "head", profile(err)
	} else {
		got.read(resp, func(n int) {
			if givesUp && f.kind == stallBody && n == min(f.at, 8) {
				cancel()
			}
		})
	}
	got.trace, got.took = e.String(), time.Since(start)
	cancel()
	w.settle()
	for _, d := range w.deliveries() {
		if d.Op == "k1" {
			got.runs, got.length, got.sum = got.runs+d.Runs, d.Length, d.Sum[0]
		}
		if d.Fault != Pass() {
			got.fault = d.Fault
		}
	}
	got.truth = got.fault.Truth()
	return got
}

// read takes the answer in; each tells how much of the body there is by now.
func (f *face) read(resp *http.Response, each func(int)) {
	var body strings.Builder
	var err error
	for p := make([]byte, 512); err == nil; {
		var n int
		n, err = resp.Body.Read(p)
		body.Write(p[:n])
		each(body.Len())
	}
	resp.Body.Close()
	resp.Header.Del("Date")
	f.status, f.header, f.body = resp.StatusCode, fmt.Sprint(resp.Header, resp.TransferEncoding), body.String()
	if f.body == "" || err != io.EOF {
		f.body += fmt.Sprint(" of ", resp.ContentLength)
	}
	if err != io.EOF {
		f.where, f.err = "body", profile(err)
	}
}

// giveUp cancels once the request has arrived, and the handler has run if it
// will.
func (w way) giveUp(ctx context.Context, cancel func(), f Fault) {
	for ctx.Err() == nil && f.kind != stallBody {
		for _, d := range w.deliveries() {
			if d.Op == "k1" && d.Length == 8 && (d.Runs > 0 || f.kind == late) {
				cancel()
			}
		}
		runtime.Gosched()
	}
}

// only strikes the operation under test and the making of its connection.
func only(f Fault) Plan {
	return PlanFunc(func(x Exchange) Fault {
		if x.Nth == 1 && (x.Op == "k1" || !x.isRequest()) {
			return f
		}
		return Pass()
	})
}

func inMemory(t *testing.T, f Fault, givesUp bool) face {
	n := NewNetwork()
	n.Plan = only(f)
	l, err := n.Listen("shop.test:80")
	if err != nil {
		t.Fatal(err)
	}
	got := overNet(t, n.Transport(), l, "http://shop.test", f, givesUp, n.Dials)
	synctest.Wait()
	if open := n.Open(); open != 0 {
		t.Error("ends of connections left open:", open)
	}
	n.Close()
	return got
}

func overNet(t *testing.T, tr *http.Transport, l net.Listener, url string, f Fault, givesUp bool, dials func() []Delivery) face {
	s := Serve(l, echo, only(f))
	if f.kind == closeIdle {
		warm(t, tr, url)
	}
	got := way{tr, url,
		func() []Delivery { return slices.Concat(s.Deliveries(), dials(), s.Accepts()) },
		func() {
			tr.CloseIdleConnections() // and hanging dials
			s.Settle()
		},
	}.exchange(t.Context(), f, givesUp)
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

// What is odd about a request of its own shows as it does to net/http: whether it is
// refused, and how the handler sees it.
func TestAnOddRequestIsTakenAsNetHTTPTakesIt(t *testing.T) {
	body := func(length int64, text string) func(*http.Request) {
		return func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader(text)), length
		}
	}
	seen := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintln(w, r.Method, r.RequestURI, r.ContentLength, r.TransferEncoding, r.Header, string(b), err)
	})
	for name, change := range map[string]func(*http.Request){
		"method":                       func(r *http.Request) { r.Method = "A B" },
		"scheme":                       func(r *http.Request) { r.URL.Scheme = "ftp" },
		"no scheme":                    func(r *http.Request) { r.URL.Scheme = "" },
		"name of a header":             func(r *http.Request) { r.Header["a b"] = nil },
		"value of a header":            func(r *http.Request) { r.Header.Set("A", "x\r\nB: y") },
		"tab in a header":              func(r *http.Request) { r.Header.Set("A", "x\ty") },
		"trailer":                      func(r *http.Request) { r.Trailer = http.Header{"a b": nil} },
		"close":                        func(r *http.Request) { r.Close = true },
		"length without body":          func(r *http.Request) { r.ContentLength = 7 },
		"body of unknown length":       body(-1, "abc"),
		"body of no known length":      body(0, "abc"),
		"body of unknown length, none": body(0, ""),
		"no body to be had":            func(r *http.Request) { r.Method, r.Body = "POST", http.NoBody },
	} {
		bubble(t, name, func(t *testing.T) {
			_, _, client := shop(t, seen, nil)
			var said [2]string
			for i, rt := range []http.RoundTripper{Handler(seen, nil), client.Transport} {
				req := httptest.NewRequest("GET", "http://shop.test/", nil)
				req.Body, req.RequestURI = nil, ""
				req.Header.Set("User-Agent", "odd")
				req.Header.Set("Accept-Encoding", "identity")
				change(req)
				resp, err := rt.RoundTrip(req)
				if said[i] = fmt.Sprint(err); err == nil {
					b, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					said[i] = string(b)
				}
			}
			if said[0] != said[1] {
				t.Errorf("here  %s\nthere %s", said[0], said[1])
			}
		})
	}
}

func TestAFaultShowsTheSameFaceWithAndWithoutANetwork(t *testing.T) {
	promised := table(t)
	for _, f := range slices.Concat(Catalogue(), variants()) {
		t.Run(f.String(), func(t *testing.T) {
			var faces [3]face
			level := func(i int, run func(t *testing.T) face) {
				synctest.Test(t, func(t *testing.T) { faces[i] = run(t) })
			}
			level(0, func(t *testing.T) face { return direct(Handler(echo, only(f))).exchange(t.Context(), f, false) })
			level(1, func(t *testing.T) face {
				return direct(Wrap(Handler(echo, nil), only(f))).exchange(t.Context(), f, false)
			})
			level(2, func(t *testing.T) face { return inMemory(t, f, false) })
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

// variants are faults with other arguments than those of the catalogue, and
// those that HTTP/1.1 has no face of its own for.
func variants() []Fault {
	return []Fault{
		Pass(), CutBody(8, FIN), CutBody(99, RST), CutBody(0, FIN), StallBody(99), CorruptBody(7), CorruptBody(8),
		TrickleBody(3, 7*time.Millisecond), TrickleBody(8, time.Second), TrickleBody(1<<40, time.Second), TrickleBody(2, 0),
		Bandwidth(2), Bandwidth(3), Bandwidth(8), Bandwidth(1 << 60), Delay(0), Late(0), SlowDial(0),
		Interim(110, "X-A: 1", "X-A: 2", "Content-Length: 3"),
		Respond(503, "Retry-After: {now+2s}", "Content-Type: text/html"), Respond(204), Respond(304),
		MaskResponse(204), Respond(429, "RateLimit-Reset: {unix-1m}"),
		GoAway(NoError), GoAway(EnhanceYourCalm), GoAwayAfter(NoError),
		ResetStream(RefusedStream), ResetStream(Cancel), ResetStream(InternalError),
	}
}

func TestAFaultThatOnlyHTTP2KnowsHasTheFaceOfItsLikeOnHTTP1(t *testing.T) {
	for f, like := range map[Fault]Fault{
		GoAway(NoError):            DropBefore(FIN),
		GoAwayAfter(NoError):       LoseResponse(FIN),
		ResetStream(Cancel):        LoseResponse(RST),
		ResetStream(RefusedStream): DropBefore(RST),
	} {
		bubble(t, f.String(), func(t *testing.T) {
			got := direct(Handler(echo, only(f))).exchange(t.Context(), f, false)
			want := direct(Handler(echo, only(like))).exchange(t.Context(), like, false)
			if want.fault = f; got != want {
				t.Errorf("%+v\nwant\n%+v", got, want)
			}
		})
	}
}

// quick is f with so little time to spend that a test on a real clock can.
func quick(f Fault) Fault {
	switch f.kind {
	case late, delay, trickleBody:
		f.wait = min(f.wait, time.Millisecond)
	case bandwidth:
		f.at = max(f.at, 8000)
	}
	return f
}

func TestAFaultShowsTheSameFaceOverTCP(t *testing.T) {
	onlyLinux(t)
	for _, f := range slices.Concat(Catalogue(), variants()) {
		if f.Strikes() == AtDial {
			continue // TestADialFailsAsOnARealNetwork
		}
		f = quick(f)
		givesUp := f.kind == stall || f.kind == stallBody || f.kind == late
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Skip(err)
			}
			tcp := overNet(t, &http.Transport{}, l, "http://"+l.Addr().String(), f, givesUp, func() []Delivery { return nil })
			var memory face
			synctest.Test(t, func(t *testing.T) { memory = inMemory(t, f, givesUp) })
			memory.took, tcp.took = 0, 0
			if strings.Contains(f.header, "{") { // a time of day
				memory.header, tcp.header = "", ""
			}
			if tcp != memory {
				t.Errorf("TCP\n%+v\nwant\n%+v", tcp, memory)
			}
		})
	}
}

// A black hole and a slow dial cannot be had from a loopback.
func TestADialFailsAsOnARealNetwork(t *testing.T) {
	onlyLinux(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	closed := l.Addr().String()
	l.Close()
	for f, url := range map[Fault]string{
		RefuseDial(): "http://" + closed, NXDomain(): "http://shop.test", DNSTimeout(): "http://shop.test",
	} {
		t.Run(f.String(), func(t *testing.T) {
			dialer := &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				if f == DNSTimeout() {
					return nil, context.DeadlineExceeded // the Dialer's own time-out
				}
				client, server := net.Pipe()
				go nameServer(server)
				return client, nil
			}}}
			nobody := func() []Delivery { return nil }
			real := way{&http.Transport{DialContext: dialer.DialContext}, url, nobody, func() {}}.exchange(t.Context(), f, false)
			played := direct(Handler(echo, only(f))).exchange(t.Context(), f, false)
			if real.err != played.err || real.where != played.where || real.trace != played.trace {
				t.Errorf("%+v\nwant\n%+v", played, real)
			}
		})
	}
}

// nameServer knows no name: one answer over a stream (RFC 1035, section 4.2.2).
func nameServer(conn net.Conn) {
	defer conn.Close()
	query := make([]byte, 512)
	n, _ := conn.Read(query)
	if n < 14 {
		return
	}
	query[4], query[5] = 0x81, 0x83 // a response, recursion available, no such name
	conn.Write(query[:n])
}
