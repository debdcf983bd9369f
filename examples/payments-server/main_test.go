//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
)

// TestMain lets the tests start the program itself, in a process that can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("PAYMENTS_SERVER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// stores is a -store for each kind of them.
var stores = map[string]func(t *testing.T) string{
	"files": func(*testing.T) string { return "" },
	"postgres": func(t *testing.T) string {
		dsn := strings.Fields(privateserver.Postgres(t).DSN()) // host=directory, and so on
		return "postgres:///postgres?user=postgres&" + dsn[0]
	},
	"redis": func(t *testing.T) string { return "redis://" + privateserver.Redis(t).Addr() },
}

func TestWithEachStore(t *testing.T) {
	for kind, open := range stores {
		t.Run(kind, func(t *testing.T) {
			store := open(t)
			t.Run("a charge is taken once for each key", func(t *testing.T) { takenOnce(t, store) })
			t.Run("a key that only the ledger remembers charges nothing", func(t *testing.T) { remembered(t, store) })
			if kind != "redis" { // which takes until a lease has lapsed
				t.Run("a charge is taken once though the process is killed before its answer", func(t *testing.T) { killed(t, store) })
			}
		})
	}
}

func takenOnce(t *testing.T, store string) {
	var counts idempotency.Counts
	drive(t, serving(t, newStorage(t, store), counts.Observer()))
	for kind, n := range map[idempotency.Kind]int64{
		idempotency.RunCompleted: 3, idempotency.Replayed: 1, idempotency.Mismatched: 1,
		idempotency.NothingDone: 1, idempotency.Refused: 1, idempotency.StoreFailed: 0,
	} {
		if got := counts.Of(kind); got != n {
			t.Errorf("%v: counted %d, want %d", kind, got, n)
		}
	}
}

func newStorage(t *testing.T, store string) *storage {
	s, err := openStorage(t.Context(), settings{store: store, data: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// serving is a caller of a service with that storage.
func serving(t *testing.T, s *storage, observer idempotency.Observer) caller {
	handler, err := newHandler(s, 0, observer)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return caller{t, server.URL, newClient(t, server.URL)}
}

const (
	euros42 = `{"amount":4200,"currency":"EUR"}`
	euros99 = `{"amount":9900,"currency":"EUR"}`
)

// drive goes through what a caller meets.
func drive(t *testing.T, c caller) {
	first := c.charge("alice", "k1", euros42).is(http.StatusCreated)
	repeated := c.charge("alice", "k1", euros42).is(http.StatusCreated)
	if repeated.body != first.body || repeated.Header.Get("Location") != first.Header.Get("Location") {
		t.Errorf("the repetition was told %q, and the first %q", repeated.body, first.body)
	}
	if first.Header.Get("Idempotent-Replayed") != "" || repeated.Header.Get("Idempotent-Replayed") != "true" {
		t.Error("only the repetition is replayed")
	}
	if reused := c.charge("alice", "k1", euros99).is(http.StatusUnprocessableEntity); !strings.Contains(reused.body, idempotency.ProblemKeyReused) {
		t.Errorf("a key for another charge: %s", reused.body)
	}
	if bobs := c.charge("bob", "k1", euros42).is(http.StatusCreated); bobs.body == first.body {
		t.Error("another account's key is another key")
	}
	c.charge("alice", "k2", `{"amount":-1}`).is(http.StatusBadRequest)
	c.charge("alice", "k2", euros42).is(http.StatusCreated) // corrected, and charged
	c.charge("alice", "", euros42).is(http.StatusBadRequest)
	c.charge("mallory", "k3", euros42).is(http.StatusUnauthorized)

	location := first.Header.Get("Location")
	if shown := c.get("alice", location).is(http.StatusOK); shown.body != first.body {
		t.Errorf("shown is %q, charged was %q", shown.body, first.body)
	}
	c.get("bob", location).is(http.StatusNotFound)
	c.get("alice", "/charges/..%2Fkeys").is(http.StatusNotFound)
}

func remembered(t *testing.T, store string) {
	storage := newStorage(t, store)
	c := serving(t, storage, idempotency.Observer{})
	first := c.charge("alice", "old", euros42).is(http.StatusCreated)
	var err error
	if db, ok := storage.charges.(*database); ok {
		_, err = db.pool.Exec(t.Context(), "TRUNCATE idempotency_keys")
	} else {
		storage.keys, err = idempotency.NewMemory(idempotency.MemoryConfig{})
	}
	if err != nil {
		t.Fatal(err)
	}
	c = serving(t, storage, idempotency.Observer{})
	c.charge("alice", "old", euros99).is(http.StatusConflict)
	if again := c.charge("alice", "old", euros42).is(http.StatusCreated); again.body != first.body {
		t.Errorf("told %q, charged was %q", again.body, first.body)
	}
	c.charge("alice", "new", euros42).is(http.StatusCreated)
}

func killed(t *testing.T, store string) {
	flags := []string{"-store", store, "-data", t.TempDir()}
	url, kill := start(t, append(flags, "-slow", "1h")...)
	before := caller{t, url, newClient(t, url)}
	lost := make(chan error, 1)
	go func() {
		_, err := before.do(http.MethodPost, "/charges", "alice", "lost", euros42)
		lost <- err
	}()
	location := "/charges/" + chargeID("alice", "lost")
	for before.get("alice", location).StatusCode != http.StatusOK { // until it is charged
		select {
		case err := <-lost:
			t.Fatal("the first has ended, and nothing was charged: ", err)
		default:
		}
	}
	kill()
	if err := <-lost; err == nil {
		t.Error("the first was told an answer")
	}
	url, _ = start(t, flags...)
	after := caller{t, url, newClient(t, url)}
	repeated := after.charge("alice", "lost", euros42).is(http.StatusCreated)
	if repeated.Header.Get("Idempotent-Replayed") != "true" || repeated.Header.Get("Location") != location {
		t.Errorf("the repetition has %v", repeated.Header)
	}
}

func TestWhatHasBegunIsAnsweredBeforeTheServerEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	began, finish := make(chan struct{}), make(chan struct{})
	l, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() {
		served <- serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(began)
			<-finish
			io.WriteString(w, "done")
		}))
	}()
	url := "http://" + l.Addr().String()
	answered := make(chan answer)
	go func() { answered <- caller{t, url, newClient(t, url)}.charge("alice", "k1", "") }()
	<-began
	stop()
	for { // until nobody is let in any more
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			break
		}
		conn.Close()
	}
	close(finish)
	if a := <-answered; a.body != "done" {
		t.Errorf("answered: %q", a.body)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestAStoreThatIsNoneIsRefused(t *testing.T) {
	if _, err := openStorage(t.Context(), settings{store: "mysql://here"}); err == nil || !strings.Contains(err.Error(), "-store") {
		t.Error(err)
	}
}

// start runs the program, and returns where it serves and how to kill it.
func start(t *testing.T, flags ...string) (url string, kill func()) {
	flags = append([]string{"-addr", "127.0.0.1:0", "-debug", "0"}, flags...)
	cmd := exec.CommandContext(t.Context(), os.Args[0], flags...)
	cmd.Env = append(os.Environ(), "PAYMENTS_SERVER=1")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "charges=http://"); ok {
			addr, _, _ := strings.Cut(rest, "/")
			go io.Copy(io.Discard, log)
			return "http://" + addr, kill
		}
	}
	t.Fatal("the program ended before it served")
	return "", nil
}

// newClient is one of ours, that makes one attempt: what is repeated here, a
// test repeats.
func newClient(t *testing.T, url string) *http.Client {
	client, err := resilient.NewClient(resilient.Config{
		HonorsKeys: resilient.Hosts(url), MaxAttempts: 1, NoKeys: true, NoBreaker: true, NoBudget: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

type caller struct {
	t      *testing.T
	url    string
	client *http.Client
}

type answer struct {
	*http.Response
	t    *testing.T
	body string
}

func (a answer) is(status int) answer {
	a.t.Helper()
	if a.StatusCode != status {
		a.t.Fatalf("answered %d, want %d: %s", a.StatusCode, status, a.body)
	}
	return a
}

func (c caller) charge(who, key, order string) answer {
	c.t.Helper()
	return c.must(c.do(http.MethodPost, "/charges", who, key, order))
}

func (c caller) get(who, path string) answer {
	c.t.Helper()
	return c.must(c.do(http.MethodGet, path, who, "", ""))
}

func (c caller) must(a answer, err error) answer {
	c.t.Helper()
	if err != nil {
		c.t.Error(err)
		return answer{Response: new(http.Response), t: c.t}
	}
	return a
}

func (c caller) do(method, path, who, key, body string) (answer, error) {
	ctx := c.t.Context()
	if key != "" {
		ctx = resilient.WithKey(ctx, resilient.Key{Value: key})
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", fmt.Sprintf("Bearer %s-token", who))
	resp, err := c.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, c.t, string(text)}, err
}
