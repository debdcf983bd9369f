package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-resilient/resilient/idempotency/idempotencytest"
)

// till charges once for each key, or, deaf, for each request.
type till struct {
	deaf bool

	mu      sync.Mutex
	charges int
	seen    map[string]string // body by key
	auth    string
}

func (s *till) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.Header.Get("Idempotency-Key")
	switch before, known := s.seen[key]; {
	case r.URL.Path == "/count":
		fmt.Fprintln(w, s.charges)
	case known && !s.deaf && before != string(body):
		w.WriteHeader(http.StatusUnprocessableEntity)
	case known && !s.deaf:
		w.Header().Set("Idempotent-Replayed", "true")
		fmt.Fprint(w, "charged")
	default:
		s.charges++
		s.auth = r.Header.Get("Authorization") + r.Header.Get("Content-Type")
		if key != "" {
			s.seen[key] = string(body)
		}
		fmt.Fprint(w, "charged")
	}
}

func start(t *testing.T, deaf bool) (*till, string) {
	t.Helper()
	s := &till{deaf: deaf, seen: make(map[string]string)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

// command runs keycheck and returns its status and what it wrote.
func command(t *testing.T, args ...string) (code int, out, complaint string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestTheStatusTellsWhetherKeysAreHonoured(t *testing.T) {
	right, url := start(t, false)
	code, out, said := command(t, "-url", url+"/charge", "-body", `{"amount":1}`, "-header", "Authorization: Bearer x", "-effects", url+"/count")
	if code != 0 || !strings.Contains(out, "kept       lost answer: one effect") || !strings.Contains(said, "real effects") {
		t.Error(code, out, said)
	}
	if right.auth != "Bearer xapplication/json" {
		t.Error(right.auth)
	}
	_, url = start(t, true)
	if code, out, _ := command(t, "-url", url, "-body", "1", "-effects", url+"/count"); code != 1 || !strings.Contains(out, "It had 2 effects") {
		t.Error(code, out)
	}
	if code, out, _ := command(t, "-url", url, "-body", "amount"); code != 3 || !strings.Contains(out, "unclear    duplicate: same answer") {
		t.Error(code, out)
	}
}

func TestTheReportIsJSONIfAskedFor(t *testing.T) {
	_, url := start(t, false)
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte("amount=1"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := command(t, "-json", "-url", url, "-body", "@"+file, "-other", "amount=2", "-failing", "amount=x", "-effects", url+"/count")
	var report struct {
		Verdict  string
		Findings []struct{ Case, Verdict, Seen string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 {
		t.Fatal(code, out, err)
	}
	if len(report.Findings) != 8 || report.Verdict != "kept" || report.Findings[4].Case != idempotencytest.OtherPayload || report.Findings[4].Seen != "refused" {
		t.Error(report)
	}
}

func TestWrongUseIsToldAndNothingIsSent(t *testing.T) {
	s, url := start(t, false)
	for says, args := range map[string][]string{
		"-url is needed":                {},
		"-url is not a URL":             {"-url", "127.0.0.1"},
		"is not an http or https URL":   {"-url", "ftp://127.0.0.1"},
		"say -yes if it may":            {"-url", "https://api.example.com/charge"},
		`"yes" is no flag`:              {"-url", url, "yes"},
		"-frobnicate":                   {"-url", url, "-frobnicate"},
		"-timeout: -1s is not positive": {"-url", url, "-timeout", "-1s"},
		"-header: it has no colon":      {"-url", url, "-header", "secret"},
		"no such file":                  {"-url", url, "-body", "@" + t.TempDir() + "/none"},
		"-effects is not a URL":         {"-url", url, "-effects", "count"},
		"is not a header name":          {"-url", url, "-key-header", "a b"},
		`"A B" is not a method`:         {"-url", url, "-method", "A B"},
	} {
		if code, out, said := command(t, args...); code != 2 || !strings.Contains(said, says) || strings.Contains(said, "secret") || out != "" {
			t.Errorf("%s: %d %s %s", says, code, said, out)
		}
	}
	if s.charges != 0 {
		t.Error(s.charges)
	}
	if code, _, said := command(t, "-help"); code != 0 || !strings.Contains(said, "-failing") {
		t.Error(code, said)
	}
}

func TestAServiceThatIsNotThereIsTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	code, out, said := command(t, "-url", "http://"+l.Addr().String())
	if code != 2 || out != "" || !strings.Contains(said, "the service cannot be reached") {
		t.Error(code, out, said)
	}
}

func TestOnlyThisMachineNeedsNoYes(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST": true, "127.0.0.1": true, "127.8.8.8": true, "::1": true,
		"example.com": false, "10.0.0.1": false, "localhost.example.com": false, "127.0.0.1.example.com": false, "": false, "0.0.0.0": false,
	} {
		if loopback(host) != want {
			t.Error(host)
		}
	}
}
