package faultinject

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeTB is a TB that fails when it is told to.
type fakeTB struct {
	failed   bool
	fatal    string
	logs     []string
	cleanups []func()
}

func (*fakeTB) Helper()                     {}
func (*fakeTB) Name() string                { return "fakeTB" }
func (b *fakeTB) Failed() bool              { return b.failed }
func (b *fakeTB) Log(a ...any)              { b.logs = append(b.logs, fmt.Sprint(a...)) }
func (b *fakeTB) Logf(f string, a ...any)   { b.Log(fmt.Sprintf(f, a...)) }
func (b *fakeTB) Errorf(f string, a ...any) { b.failed = true }
func (b *fakeTB) Fatalf(f string, a ...any) { b.failed, b.fatal = true, fmt.Sprintf(f, a...) }
func (b *fakeTB) Cleanup(f func())          { b.cleanups = append(b.cleanups, f) }

func (b *fakeTB) end() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
}

func TestAFailedTestTellsWhatHappened(t *testing.T) {
	for _, failed := range []bool{true, false} {
		bubble(t, fmt.Sprint(failed), func(t *testing.T) {
			n, book := NewNetwork(), &fakeTB{failed: failed}
			n.Up = time.Second
			n.TieBreak = 0
			s := n.NewServer(book, "https://pay.test", echo, PlanFunc(func(x Exchange) Fault {
				switch {
				case x.Method == MethodAccept && x.Nth == 1:
					return CutHandshake(RST)
				case x.Op == "k1" && x.Nth == 1:
					return LoseResponse(RST)
				}
				return Pass()
			}))
			client := s.Client()
			for range 3 {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/charge", strings.NewReader("1"))
				req.Header.Set("Idempotency-Key", "k1")
				req.GetBody = nil
				if resp, err := client.Do(req); err == nil {
					resp.Body.Close()
				}
			}
			book.end()
			n.Close()
			want := []string{
				"+1s  accept pay.test:443#1  cut-handshake(rst)",
				"+5s  k1#1  POST /charge  lose-response(rst)  handler ran 1 times",
				"+8s  k1#2  POST /charge  pass  handler ran 1 times",
			}
			if !failed {
				want = nil
			}
			if !slices.Equal(book.logs, want) {
				t.Error(strings.Join(book.logs, "\n"))
			}
			if n.Open() != 0 {
				t.Error("open:", n.Open())
			}
		})
	}
}

func TestABadURLFailsTheTestAtOnce(t *testing.T) {
	book := &fakeTB{}
	n := NewNetwork()
	defer n.Close()
	if s := n.NewServer(book, "pay.test", echo, nil); s != nil || !strings.Contains(book.fatal, `"pay.test"`) {
		t.Error(book.fatal)
	}
}

func TestServersForTestsNeedNoClosing(t *testing.T) {
	for name, serve := range map[string]func(TB, http.Handler, Plan) *Server{
		"http": NewServer, "https": NewTLSServer,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, echo, nil)
			if !strings.HasPrefix(s.URL, name+"://127.0.0.1:") {
				t.Error(s.URL)
			}
			resp, err := get(t, s.Client(), s.URL)
			if err != nil || resp.StatusCode != 200 {
				t.Error(err)
			}
		})
	}
}

func TestABubbleEndsThoughItsServersAreLeftToCleanUp(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		n.Plan = PlanFunc(func(x Exchange) Fault {
			if x.Nth == 2 {
				return Blackhole()
			}
			return Pass()
		})
		s := n.NewServer(t, "https://pay.test", echo, nil)
		client := s.Client()
		for range 2 {
			ctx := t.Context()
			req, _ := http.NewRequestWithContext(ctx, "GET", s.URL, http.NoBody)
			client.Timeout = time.Second
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
			}
			speakOnly(client.Transport.(*http.Transport), "h1") // dials once more
		}
	})
}
