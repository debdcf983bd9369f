package idempotencytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

// service is a little service that charges, with the faults that services have.
type service struct {
	// What it does wrong, or otherwise.
	deaf      bool // knows no keys
	mixes     bool // does not compare payloads
	executes  bool // takes the payload for a part of the key
	quotes    bool // "k" and k are two keys
	strict    bool // refuses a key in quotes
	retries   bool // executes failures again
	effectful bool // failures have an effect
	racy      bool // looks, works, and only then writes down
	refuses   bool // answers a duplicate 409 for ever
	lingers   time.Duration
	plain     bool // marks no stored answer
	constant  bool // answers every charge alike
	warms     bool // only the first request of a key takes its time
	fickle    bool // drops the record when the answer was not taken
	forgetful bool // drops the record when the caller is gone
	takes     time.Duration
	keyed     bool // requires a key
	mismatch  int  // status for another payload; zero: 422

	mu      sync.Mutex
	effects int
	seen    map[string]*charge
	asked   map[string]bool
}

type charge struct {
	body   string
	done   chan struct{}
	since  time.Time
	status int
	answer string
}

func (s *service) count(context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.effects, nil
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	body, key := string(text), r.Header.Get("Idempotency-Key")
	switch {
	case key == "" && s.keyed, strings.HasPrefix(key, `"`) && s.strict:
		http.Error(w, "key", http.StatusBadRequest)
		return
	case key == "" || s.deaf:
		status, answer := s.charge(body, s.takes)
		reply(w, status, answer)
		return
	}
	if !s.quotes {
		key = strings.Trim(key, `"`)
	}
	if s.executes {
		key += body
	}
	s.keyedCharge(w, r, key, body)
}

func (s *service) keyedCharge(w http.ResponseWriter, r *http.Request, key, body string) {
	s.mu.Lock()
	if s.seen == nil {
		s.seen, s.asked = make(map[string]*charge), make(map[string]bool)
	}
	takes := s.takes
	if s.warms && s.asked[key] {
		takes = 0
	}
	s.asked[key] = true
	c, known := s.seen[key]
	if known {
		s.mu.Unlock()
		s.replay(w, c, body)
		return
	}
	c = &charge{body: body, done: make(chan struct{}), since: time.Now()}
	if !s.racy {
		s.seen[key] = c
	}
	s.mu.Unlock()
	c.status, c.answer = s.charge(body, takes)
	s.mu.Lock()
	s.seen[key] = c
	if s.retries && c.status >= 400 || s.forgetful && r.Context().Err() != nil {
		delete(s.seen, key)
	}
	s.mu.Unlock()
	close(c.done)
	reply(w, c.status, c.answer)
	if s.fickle {
		_ = http.NewResponseController(w).Flush()
		if time.Sleep(20 * time.Millisecond); r.Context().Err() != nil {
			s.mu.Lock()
			delete(s.seen, key)
			s.mu.Unlock()
		}
	}
}

func (s *service) replay(w http.ResponseWriter, c *charge, body string) {
	if body != c.body && !s.mixes {
		mismatch := s.mismatch
		if mismatch == 0 {
			mismatch = http.StatusUnprocessableEntity
		}
		http.Error(w, "another payload", mismatch)
		return
	}
	if s.refuses || time.Since(c.since) < s.lingers {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "in progress", http.StatusConflict)
		return
	}
	<-c.done
	if !s.plain {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	reply(w, c.status, c.answer)
}

// charge has the effect.
func (s *service) charge(body string, takes time.Duration) (int, string) {
	time.Sleep(takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(body, "fail") && !s.effectful {
		return http.StatusPaymentRequired, "declined"
	}
	s.effects++
	switch {
	case strings.Contains(body, "fail"):
		return http.StatusInternalServerError, fmt.Sprintf("failure %d", s.effects)
	case s.constant:
		return http.StatusCreated, "charged"
	}
	return http.StatusCreated, fmt.Sprintf("charge %d", s.effects)
}

func reply(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// target is h on a network in memory, for a test in a bubble.
func target(t *testing.T, h http.Handler) Target {
	t.Helper()
	net := faultinject.NewNetwork()
	t.Cleanup(func() { _ = net.Close() })
	server := net.NewServer(t, "http://pay.test", h, nil)
	return Target{
		URL: server.URL + "/charge?token=secret", Body: []byte(`{"amount":1}`), FailingBody: []byte(`{"card":"fail"}`),
		DialContext: net.DialContext,
	}
}

// words is a report by case, as a test compares it.
func words(r Report) string {
	lines := []string{r.Verdict.String()}
	for _, f := range r.Findings {
		lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%s: %s, %s", f.Case, f.Verdict, f.Seen), ", "))
	}
	return strings.Join(lines, "\n")
}

const right = `kept
duplicate: kept, replayed
concurrent duplicates: kept, one effect
lost answer: kept, one effect
caller gone: kept, one effect
other payload: kept, refused
failure: kept, replayed
quoted key: kept, one key
missing key: kept, not required`

// but is the right report with some lines otherwise.
func but(verdict Verdict, lines ...string) string {
	all := strings.Split(right, "\n")
	all[0] = verdict.String()
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		for i := range all {
			if strings.HasPrefix(all[i], name+":") {
				all[i] = line
			}
		}
	}
	return strings.Join(all, "\n")
}

func TestAServiceIsSeenForWhatItIs(t *testing.T) {
	for name, tt := range map[string]struct {
		service *service
		want    string
	}{
		"a right one":                    {&service{}, right},
		"a right one that takes time":    {&service{takes: time.Second}, right},
		"one that marks nothing":         {&service{plain: true}, but(Kept, "failure: kept, nothing done twice")},
		"one that requires a key":        {&service{keyed: true}, but(Kept, "missing key: kept, required")},
		"one that refuses quotes":        {&service{strict: true}, but(Kept, "quoted key: kept, quoted refused")},
		"one to which quotes matter":     {&service{quotes: true}, but(Kept, "quoted key: kept, two keys")},
		"one that says 409 for a while":  {&service{lingers: 3 * time.Second, takes: time.Second}, but(Kept, "failure: kept, nothing done twice")},
		"one that says 400 to others":    {&service{mismatch: 400}, right},
		"one that ignores keys":          {&service{deaf: true}, deafReport},
		"one that mixes payloads":        {&service{mixes: true}, but(Broken, "other payload: broken, replayed")},
		"one that executes payloads":     {&service{executes: true}, but(Broken, "other payload: broken, executed")},
		"one that tries failures again":  {&service{retries: true}, but(Kept, "failure: kept, nothing done twice")},
		"the same, with effects":         {&service{retries: true, effectful: true}, but(Broken, "failure: broken, executed again")},
		"one that looks and then writes": {&service{racy: true, takes: time.Second}, but(Broken, "concurrent duplicates: broken, executed again", "caller gone: broken, executed again")},
		"one that refuses duplicates": {&service{refuses: true}, but(Broken, "duplicate: broken, refused", "lost answer: broken, refused",
			"caller gone: unclear, no answer", "failure: kept, nothing done twice", "quoted key: unclear, no answer")},
		"one that forgets who has left":       {&service{forgetful: true, takes: time.Second}, but(Broken, "caller gone: broken, executed again")},
		"one that forgets who took no answer": {&service{fickle: true}, but(Broken, "lost answer: broken, executed again", "caller gone: broken, executed again")},
		"one that works on unseen": {&service{racy: true, warms: true, takes: time.Second},
			but(Broken, "concurrent duplicates: broken, executed again", "caller gone: broken, executed again")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := target(t, tt.service)
				target.Effects = tt.service.count
				r, err := Check(t.Context(), target)
				if err != nil {
					t.Fatal(err)
				}
				if got := words(r); got != tt.want {
					t.Errorf("%s\nwant\n%s\n%s", got, tt.want, r)
				}
			})
		})
	}
}

const deafReport = `broken
duplicate: broken, executed again
concurrent duplicates: broken, executed again
lost answer: broken, executed again
caller gone: broken, executed again
other payload: broken, executed
failure: kept, nothing done twice
quoted key: kept, two keys
missing key: kept, not required`

func TestWithoutACounterTheAnswersAreJudgedAndItIsSaid(t *testing.T) {
	for name, tt := range map[string]struct {
		service *service
		want    string
	}{
		"a right one": {&service{}, but(Kept, "concurrent duplicates: kept, one effect", "lost answer: kept, replayed", "caller gone: kept, replayed")},
		"a right one that marks nothing": {&service{plain: true}, but(Unclear, "lost answer: unclear, answered", "caller gone: unclear, answered",
			"failure: unclear, same answer")},
		"one that ignores keys": {&service{deaf: true}, `broken
duplicate: broken, executed again
concurrent duplicates: broken, executed again
lost answer: unclear, answered
caller gone: broken, executed again
other payload: broken, executed
failure: unclear, same answer
quoted key: kept, two keys
missing key: kept, not required`},
		"one that ignores keys and always says the same": {&service{deaf: true, constant: true}, `broken
duplicate: unclear, same answer
concurrent duplicates: unclear, same answer
lost answer: unclear, answered
caller gone: unclear, answered
other payload: broken, replayed
failure: unclear, same answer
quoted key: unclear, same answer
missing key: kept, not required`},
		"one that looks and then writes": {&service{racy: true, takes: time.Second}, but(Broken, "concurrent duplicates: broken, executed again",
			"lost answer: kept, replayed", "caller gone: unclear, answered")},
		"one that tries failures again": {&service{retries: true, effectful: true}, but(Kept, "lost answer: kept, replayed", "caller gone: kept, replayed",
			"failure: unclear, executed again")},
		"one that forgets who took no answer": {&service{fickle: true}, but(Broken, "lost answer: broken, executed again", "caller gone: unclear, answered")},
		"one that forgets who has left":       {&service{forgetful: true, takes: time.Second}, but(Broken, "lost answer: kept, replayed", "caller gone: broken, executed again")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, err := Check(t.Context(), target(t, tt.service))
				if err != nil {
					t.Fatal(err)
				}
				if got := words(r); got != tt.want {
					t.Errorf("%s\nwant\n%s\n%s", got, tt.want, r)
				}
				if text := r.Of(Duplicate).Text; !strings.HasSuffix(text, "Judged by the answers alone.") {
					t.Error(text)
				}
			})
		})
	}
}

func TestACounterThatCountsNothingIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := target(t, &service{deaf: true})
		target.Effects = func(context.Context) (int, error) { return 7, nil }
		r, err := Check(t.Context(), target)
		if err != nil || r.Of(Duplicate).Verdict != Broken || r.Of(Failure).Verdict != Unclear {
			t.Error(r, err)
		}
		target.Effects = func(context.Context) (int, error) { return 0, errors.New("no database") }
		if r, err = Check(t.Context(), target); err != nil || r.Of(Concurrent).Verdict != Broken {
			t.Error(r, err)
		}
	})
}

// raw is a service that does with a connection what it likes.
func raw(t *testing.T, serve func(net.Conn)) Target {
	t.Helper()
	n := faultinject.NewNetwork()
	l, err := n.Listen("pay.test:80")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = n.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	return Target{URL: "http://pay.test/charge", Body: []byte(`{"amount":1}`), DialContext: n.DialContext}
}

func TestWhateverAServiceDoesTheCheckEnds(t *testing.T) {
	endless := func(conn net.Conn, head, more string) {
		_, err := io.WriteString(conn, head)
		for err == nil {
			_, err = io.WriteString(conn, more)
		}
	}
	says := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1<<16))
			_, _ = io.WriteString(conn, text)
		}
	}
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		seen  string
		says  string
	}{
		"hangs":                      {func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, "no answer", "none within 10s"},
		"hangs up":                   {func(net.Conn) {}, "no answer", "no answer ("},
		"answers garbage":            {says("\x00\x1b[2Jgarbage\r\n\r\n"), "no answer", "malformed"},
		"answers HTML":               {says("HTTP/1.1 503 Down\r\nContent-Type: text/html\r\n\r\n<html>\x1b[31m down"), "refused", `503 "<html>\x1b[31m down"`},
		"redirects":                  {says("HTTP/1.1 307 Go\r\nLocation: http://evil.test/\r\nContent-Length: 0\r\n\r\n"), "same answer", "307"},
		"sends a header without end": {func(c net.Conn) { endless(c, "HTTP/1.1 200 OK\r\n", "X: y\r\n") }, "no answer", "longer than"},
		"sends a body without end":   {func(c net.Conn) { endless(c, "HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 1<<12)) }, "same answer", "xxx"},
		"sends interim answers without end": {func(c net.Conn) { endless(c, "", "HTTP/1.1 102 Wait\r\n\r\n") }, "no answer",
			"without end"},
		"trickles": {func(c net.Conn) {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for err == nil {
				time.Sleep(time.Second)
				_, err = io.WriteString(c, "x")
			}
		}, "no answer", "broke off"},
		"lies about its length": {says("HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\nx"), "no answer", "unexpected EOF"},
		"asks to wait for ever": {says("HTTP/1.1 503 Down\r\nRetry-After: 99999999999999999999\r\n\r\n"), "refused", "503"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				r, err := Check(t.Context(), raw(t, tt.serve))
				if err != nil {
					t.Fatal(err)
				}
				f := r.Of(Duplicate)
				if f.Verdict != Unclear || f.Seen != tt.seen || !strings.Contains(f.Text, tt.says) {
					t.Errorf("%+v", f)
				}
				if r.Verdict == Kept || len(r.Findings) != len(serverCases) {
					t.Error(r)
				}
				if took := time.Since(start); took > time.Minute {
					t.Error("it took", took)
				}
				if text := r.String(); strings.ContainsAny(text, "\x00\x1b") {
					t.Errorf("%q is not for a terminal", text)
				}
			})
		})
	}
}

func TestDuplicatesArriveTogetherHoweverLongTheirConnectionsTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{racy: true, takes: time.Millisecond}
		target := target(t, s)
		var dials atomic.Int64
		dial := target.DialContext
		target.Effects, target.DialContext = s.count, func(ctx context.Context, network, addr string) (net.Conn, error) {
			time.Sleep(time.Duration(dials.Add(1)) * 10 * time.Millisecond)
			return dial(ctx, network, addr)
		}
		r, err := Check(t.Context(), target)
		if f := r.Of(Concurrent); err != nil || !strings.Contains(f.Text, "It had 20 effects") {
			t.Error(f, err)
		}
	})
}

func TestALostAnswerIsLostByAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var resets atomic.Int64
		_, err := Check(t.Context(), raw(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1<<16))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, syscall.ECONNRESET) {
				resets.Add(1)
			}
		}))
		if n := resets.Load(); err != nil || n != 1 {
			t.Error(n, err)
		}
	})
}

func TestACheckEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		target := raw(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		target.Patience = time.Hour
		start := time.Now()
		if _, err := Check(ctx, target); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(start); took != time.Second {
			t.Error(took)
		}
	})
}

func TestAServiceThatIsNotThereIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := faultinject.NewNetwork()
		defer n.Close()
		l, err := n.Listen("pay.test:80")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		_, err = Check(t.Context(), Target{URL: "http://pay.test/", DialContext: n.DialContext})
		if _, ok := errors.AsType[*UnreachableError](err); !ok || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
	})
}

func TestATargetThatCannotBeMeantIsAnError(t *testing.T) {
	for says, target := range map[string]Target{
		"Target.URL: it is not a URL":         {URL: "http://[::1"},
		`Target.URL: "" is not`:               {},
		`Target.URL: "ftp://a" is not`:        {URL: "ftp://a"},
		"Target.URL: \"http://u:xxxxx@\"":     {URL: "http://u:p@"},
		"Target.Patience: -1s is negative":    {URL: "http://a", Patience: -time.Second},
		`Target.Method: "A B"`:                {URL: "http://a", Method: "A B"},
		`"Idempotency Key" is not a header`:   {URL: "http://a", KeyHeader: "Idempotency Key"},
		`"X:" is not a header`:                {URL: "http://a", Header: http.Header{"X:": {"a"}}},
		`Target.NewKey: it made "k" and then`: {URL: "http://a", NewKey: func() string { return "k" }},
		`Target.NewKey: it made "" and then`:  {URL: "http://a", NewKey: func() string { return "" }},
	} {
		if _, err := Check(t.Context(), target); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %s", err, says)
		}
	}
}

func TestTheServiceIsSentWhatTheTargetSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []string
		var mu sync.Mutex
		made := 0
		target := target(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			body, _ := io.ReadAll(r.Body)
			user, password, _ := r.BasicAuth()
			got := fmt.Sprint(r.Method, r.Host, r.URL, r.Header["Accept"], user, password, string(body))
			if got != "PATCHshop.test/charge?token=secret [a b]useropen1" {
				t.Error(got)
			}
			keys = append(keys, strings.Join(r.Header["X-Token"], ","))
		}))
		target.URL = strings.Replace(target.URL, "http://", "http://user:open@", 1)
		target.Method, target.KeyHeader, target.Body = "PATCH", "x-token", []byte("1")
		target.Header = http.Header{"accept": {"a", "b"}, "Host": {"shop.test"}, "X-Token": {"no"}}
		target.OtherBody, target.FailingBody = []byte("1"), nil
		target.NewKey = func() string { made++; return fmt.Sprintf(`"key-%d"`, made) }
		r, err := Check(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if keys[0] != `"key-3"` || keys[len(keys)-2] != fmt.Sprintf("key-%d", made) || keys[len(keys)-1] != "" {
			t.Error(keys)
		}
		if f := r.Of(Failure); f.Verdict != NotTried || r.URL != "http://pay.test/charge" {
			t.Error(r)
		}
	})
}

func TestAnotherPayloadIsMadeOfJSON(t *testing.T) {
	for body, want := range map[string]string{
		`{"amount":1}`:                       `{"amount":2}`,
		`{"b":[true,"x",{"n":1.5}],"a":"y"}`: `{"a":"y","b":[true,"x",{"n":2.5}]}`,
		`{"b":"x","a":true}`:                 `{"a":true,"b":"xx"}`,
		`[false]`:                            `[true]`,
		`1e400`:                              ``,
		`{"n":null}`:                         ``,
		`{}`:                                 ``,
		`amount=1`:                           ``,
		`1 2`:                                ``,
		``:                                   ``,
	} {
		if got := string(other([]byte(body))); got != want {
			t.Errorf("%s: %s", body, got)
		}
	}
}

func TestARefusalThatMayNotBeTheKeysIsUnclear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		target := target(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			if r.Body = io.NopCloser(strings.NewReader(string(text))); string(text) == `{"amount":2}` {
				http.Error(w, "only 1 is sold", http.StatusUnprocessableEntity)
				return
			}
			s.ServeHTTP(w, r)
		}))
		r, err := Check(t.Context(), target)
		if f := r.Of(OtherPayload); err != nil || f.Verdict != Unclear || !strings.Contains(f.Text, "Give an OtherBody") {
			t.Error(f, err)
		}
		target.Body = []byte("amount=1")
		r, err = Check(t.Context(), target)
		if f := r.Of(OtherPayload); err != nil || f.Verdict != NotTried {
			t.Error(f, err)
		}
	})
}

func TestEveryMarkerInUseIsKnown(t *testing.T) {
	for _, name := range append(markers, "X-GCS-Idempotence-Request-Timestamp") {
		h := http.Header{}
		h.Set(name, "True")
		if marker(h) != name {
			t.Error(name)
		}
		h.Set(name, "false")
		if got := marker(h); got != "" && !strings.HasPrefix(name, "X-GCS") {
			t.Error(name, "says no")
		}
	}
}

func TestAServiceOverTLSIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := &service{}, faultinject.NewNetwork()
		defer n.Close()
		server := n.NewServer(t, "https://pay.test", s, nil)
		target := Target{URL: server.URL, Body: []byte(`{"amount":1}`), DialContext: n.DialContext, Effects: s.count}
		if _, err := Check(t.Context(), target); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Error("not trusted, but", err)
		}
		target.TLS = server.Transport().TLSClientConfig
		r, err := Check(t.Context(), target)
		if got, want := words(r), but(Kept, "failure: not tried"); err != nil || got != want {
			t.Errorf("%s\n%v", r, err)
		}
	})
}

func TestAReportIsJSONToo(t *testing.T) {
	text, err := json.Marshal(Report{Method: "POST", URL: "http://pay.test", Findings: []Finding{{Duplicate, Broken, "executed again", "It had 2 effects."}}})
	want := `{"method":"POST","url":"http://pay.test","verdict":"not tried","findings":[` +
		`{"case":"duplicate","verdict":"broken","seen":"executed again","text":"It had 2 effects."}]}`
	if err != nil || string(text) != want {
		t.Error(string(text), err)
	}
}

func TestServerFailsWhatIsBrokenAndWhatProvesNothing(t *testing.T) {
	services := map[string]*service{
		"right":         {},
		"deaf":          {deaf: true},
		"mixes":         {mixes: true},
		"deaf and dumb": {deaf: true, constant: true},
	}
	if s := services[os.Getenv("IDEMPOTENCYTEST_SERVICE")]; s != nil { // the child of the below
		server := httptest.NewServer(s)
		defer server.Close()
		target := Target{URL: server.URL, Body: []byte(`{"amount":1}`)}
		if !s.constant {
			target.Effects = s.count
		}
		Server(t, target)
		return
	}
	for name, want := range map[string]string{
		"right":         "",
		"deaf":          "duplicate concurrent_duplicates lost_answer caller_gone other_payload",
		"mixes":         "other_payload",
		"deaf and dumb": "duplicate other_payload",
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServerFailsWhatIsBrokenAndWhatProvesNothing$", "-test.v")
			cmd.Env = append(os.Environ(), "IDEMPOTENCYTEST_SERVICE="+name)
			out, err := cmd.CombinedOutput()
			var failed []string
			for _, m := range regexp.MustCompile(`(?m)^    --- FAIL: \w+/(\S+)`).FindAllSubmatch(out, -1) {
				failed = append(failed, string(m[1]))
			}
			if got := strings.Join(failed, " "); got != want || (err == nil) != (want == "") {
				t.Errorf("%s\n%v\n%s", got, err, out)
			}
		})
	}
}
