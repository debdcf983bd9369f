package resilient_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// wireStorm is a server with real connections, over which net/http does much by
// itself. While it is in trouble it ends those that it would rather not serve.
type wireStorm struct {
	method    string
	clients   int
	rate      float64
	mostConns int             // of a client; zero: no limit
	trouble   func(*peek) int // what is answered in it; zero: a reset

	mu              sync.Mutex
	rng             *rand.Rand
	start           time.Time
	inside, arrived int // at once; in the trouble
	offered, done   int // in it
	failed          int // after it
}

// peek is what a server in trouble goes by.
type peek struct {
	used   bool // the connection has served before
	inside int  // requests on the server
	chance float64
}

// The trouble begins after a second and lasts for five; two come after it.
const (
	stormBegins = time.Second
	stormEnds   = 6 * time.Second
	stormOver   = 8 * time.Second
)

func (s *wireStorm) troubled() bool {
	now := time.Since(s.start)
	return stormBegins <= now && now < stormEnds
}

// status is what a request is told; zero: nothing.
func (s *wireStorm) status(used bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inside++
	if !s.troubled() {
		return http.StatusOK
	}
	s.arrived++
	return s.trouble(&peek{used: used, inside: s.inside, chance: s.rng.Float64()})
}

func (s *wireStorm) serve(conn *faultinject.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for served := 0; ; served++ {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		status := s.status(served > 0)
		if status == http.StatusOK {
			time.Sleep(20 * time.Millisecond)
		}
		s.mu.Lock()
		s.inside--
		s.mu.Unlock()
		if status == 0 {
			_ = conn.Reset()
			return
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nok", status)
	}
}

// run calls the server by clients that client makes.
func (s *wireStorm) run(t *testing.T, client func(*http.Transport) *http.Client) {
	n := faultinject.NewNetwork()
	n.Up, n.Down = 250*time.Microsecond, 250*time.Microsecond
	l, err := n.Listen("api.test:80")
	require.NoError(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			go s.serve(conn.(*faultinject.Conn))
		}
	}()
	s.rng, s.start = rand.New(rand.NewPCG(1, 0)), time.Now()
	clients := make([]*http.Client, s.clients)
	for i := range clients {
		base := n.Transport()
		base.MaxConnsPerHost = s.mostConns
		clients[i] = client(base)
	}
	var all sync.WaitGroup
	rng := rand.New(rand.NewPCG(2, 0))
	for i := 0; time.Since(s.start) < stormOver; i++ {
		all.Go(func() { s.send(t, clients[i%s.clients], i) })
		time.Sleep(time.Duration(1 + rng.ExpFloat64()/s.rate*float64(time.Second)))
	}
	all.Wait()
	require.NoError(t, n.Close())
}

// send makes one operation, under its caller's key if it is a POST or a DELETE.
func (s *wireStorm) send(t *testing.T, client *http.Client, i int) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	troubled, over := s.troubled(), time.Since(s.start) >= stormEnds
	var body io.Reader
	if s.method == http.MethodPost || s.method == http.MethodPut {
		body = strings.NewReader("amount=1")
	}
	req, err := http.NewRequestWithContext(ctx, s.method, "http://api.test/", body)
	if err != nil {
		t.Error(err)
		return
	}
	if s.method == http.MethodPost || s.method == http.MethodDelete {
		req.Header.Set("Idempotency-Key", fmt.Sprint(i))
	}
	resp, err := client.Do(req)
	ok := err == nil && resp.StatusCode == http.StatusOK
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case troubled:
		s.offered++
		if ok {
			s.done++
		}
	case over && !ok:
		s.failed++
	}
}

// The server of this test ends connections instead of answering. To net/http what
// ends a used connection is no failure, and it takes many a new one for used: alone
// it sends each GET, and whatever has its caller's key, again at once and without end.
func TestAServerThatEndsConnectionsInItsTroubleIsNotStormed(t *testing.T) {
	everything := func(*peek) int { return 0 }
	tooMany := func(p *peek) int {
		if p.inside > 3 {
			return 0
		}
		return http.StatusOK
	}
	nineInTen := func(p *peek) int {
		if p.chance < 0.9 {
			return 0
		}
		return http.StatusOK
	}
	usedBut := func(status int) func(*peek) int {
		return func(p *peek) int {
			if p.used {
				return 0
			}
			return status
		}
	}
	for _, tt := range []struct {
		name    string
		trouble func(*peek) int
		method  string
		clients int
		wire    float64 // at most, for each operation offered
	}{
		{"all", everything, "GET", 1, 0.2},
		{"all", everything, "POST", 1, 0.2},
		{"all", everything, "PUT", 20, 0.6},
		{"beyond its capacity", tooMany, "GET", 1, 1.1},
		{"beyond its capacity", tooMany, "POST", 1, 1.1},
		{"beyond its capacity", tooMany, "DELETE", 1, 1.1},
		{"beyond its capacity", tooMany, "GET", 20, 1.3},
		{"nine in ten", nineInTen, "GET", 1, 0.5},
		{"nine in ten", nineInTen, "POST", 20, 0.8},
		{"used ones, and says 503 on new ones", usedBut(503), "POST", 1, 0.2},
		{"used ones, and says 429 on new ones", usedBut(429), "POST", 20, 0.6},
	} {
		inStorm(t, fmt.Sprintf("%s, %d of %s", tt.name, tt.clients, tt.method), func(t *testing.T) {
			s := &wireStorm{method: tt.method, clients: tt.clients, rate: 400, trouble: tt.trouble}
			s.run(t, func(base *http.Transport) *http.Client { return overWire(t, base) })
			wire := float64(s.arrived) / float64(s.offered)
			t.Logf("%.3f on the wire, %d of %d done, %d failed after", wire, s.done, s.offered, s.failed)
			require.LessOrEqual(t, wire, tt.wire)
			require.LessOrEqual(t, s.failed, 60, "of 800")
		})
	}
}

// Where callers wait for connections they are handed used ones that never rested.
func TestAServerThatEndsConnectionsHandedOnCostsLittleMoreThanWithNetHTTPAlone(t *testing.T) {
	done := func(client func(*http.Transport) *http.Client) (share float64) {
		synctest.Test(t, func(t *testing.T) {
			s := &wireStorm{method: "POST", clients: 1, rate: 180, mostConns: 4, trouble: func(p *peek) int {
				if p.used {
					return 0
				}
				return http.StatusOK
			}}
			s.run(t, client)
			share = float64(s.done) / float64(s.offered)
		})
		return share
	}
	alone := done(func(base *http.Transport) *http.Client { return &http.Client{Transport: base} })
	ours := done(func(base *http.Transport) *http.Client { return overWire(t, base) })
	t.Logf("%.3f alone, %.3f ours", alone, ours)
	require.Greater(t, ours, alone-0.1, "four attempts each")
}

// replaying is a Base that sends each request again by itself up to a hundred
// times, as net/http does where one connection after the other ends.
type replaying struct {
	idle   bool // each of them had rested
	same   bool // they are one, of HTTP/2
	status int  // of the last; zero: it is lost too
	copies int  // of the last request
}

func (r *replaying) RoundTrip(req *http.Request) (*http.Response, error) {
	trace, conn := httptrace.ContextClientTrace(req.Context()), new(net.TCPConn)
	for r.copies = 1; r.copies < 100 && req.Context().Err() == nil; r.copies++ {
		if !r.same {
			conn = new(net.TCPConn)
		}
		if trace != nil {
			trace.GetConn("api.test:80")
			trace.GotConn(httptrace.GotConnInfo{Conn: conn, Reused: true, WasIdle: r.idle})
			trace.WroteHeaders()
		}
	}
	if r.status == 0 || req.Context().Err() != nil {
		return nil, io.EOF
	}
	return &http.Response{StatusCode: r.status}, nil
}

// A new connection that is handed on passes for used, so there is no end to them;
// of those that had rested there are only so many.
func TestCopiesOnConnectionsHandedOnAreBoundedAndOthersAreNot(t *testing.T) {
	for idle, most := range map[bool]int{false: 6, true: 100} {
		base := &replaying{idle: idle}
		client := newClient(t, base, func(c *resilient.Config) { c.BaseIsWire, c.MaxAttempts = true, 1 })
		do(t, client, newRequest(t, http.MethodDelete, ""))
		require.Equal(t, most, base.copies)
	}
}

func TestThereIsNoBoundToMaxAttempts(t *testing.T) {
	base := &replaying{same: true, idle: true, status: 200}
	client := newClient(t, base, func(c *resilient.Config) { c.BaseIsWire, c.MaxAttempts = true, math.MaxInt })
	require.Equal(t, 200, do(t, client, newRequest(t, http.MethodDelete, "")).status)
}

func TestTheCopiesOfAGETAreBoundedForTenSecondsAfterItsHostLostARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &replaying{status: 500}
		client := newClient(t, base, func(c *resilient.Config) { c.BaseIsWire, c.MaxAttempts, c.NoBreaker = true, 1, true })
		copies := func() int {
			do(t, client, newRequest(t, http.MethodGet, ""))
			return base.copies
		}
		require.Equal(t, 100, copies())
		require.Equal(t, 100, copies(), "a 500 loses nothing")
		base.status = 0
		require.Equal(t, 100, copies(), "nobody could know")
		require.Equal(t, 6, copies())
		time.Sleep(10*time.Second + 1)
		require.Equal(t, 100, copies())
	})
}

// On a connection that is not known to speak HTTP/1.1 there may be others.
func TestTheEndOfAUsedConnectionIsFreeOnlyForWhoHadItToHimself(t *testing.T) {
	for idle, balance := range map[bool]float64{true: 10, false: 9} {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			base := roundTrip(func(req *http.Request) (*http.Response, error) {
				if attempts++; attempts == 2 {
					return &http.Response{StatusCode: 200}, nil
				}
				trace := httptrace.ContextClientTrace(req.Context())
				trace.GotConn(httptrace.GotConnInfo{Conn: new(net.TCPConn), Reused: true, WasIdle: idle})
				trace.WroteHeaders()
				return nil, io.EOF
			})
			client := newClient(t, base, hasty, func(c *resilient.Config) { c.BaseIsWire = true })
			require.Equal(t, 200, do(t, client, newRequest(t, http.MethodPut, "x")).status)
			require.InDelta(t, balance, stateOf(t, client).Balance, 0.01)
		})
	}
}
