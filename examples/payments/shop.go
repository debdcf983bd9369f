package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

// shop is a payment server on loopback that honours Idempotency-Key, behind a
// network that loses things.
type shop struct {
	url    string
	server *http.Server
	desk   http.Handler // charges, once for each key
	faults faults

	mu       sync.Mutex
	charges  map[string]int // the ledger: how often each order was charged
	arrivals map[string]int

	requests, refused, struck atomic.Int64
}

func openShop(ctx context.Context, seed uint64, rate float64) (*shop, error) {
	keys, err := idempotency.New(idempotency.Config{Scope: idempotency.OneScope})
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &shop{
		url:     "http://" + l.Addr().String(),
		faults:  faults{seed: seed, rate: rate, dials: rand.New(rand.NewPCG(seed, 0))},
		charges: make(map[string]int), arrivals: make(map[string]int),
	}
	s.desk = keys(http.HandlerFunc(s.charge))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{order}/charge", s.faulty)
	s.server = &http.Server{Handler: mux}
	go s.server.Serve(l)
	return s, nil
}

func (s *shop) close() { s.server.Close() }

// charge enters an order into the ledger, each time it is called. It knows
// nothing of keys.
func (s *shop) charge(w http.ResponseWriter, r *http.Request) {
	order := r.PathValue("order")
	rest(r.Context(), 2*time.Millisecond) // a bank takes its time
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charges[order]++
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"order":%q,"status":"paid","receipt":"%s-%d"}`, order, order, s.charges[order])
}

// faulty lets a fault strike the request, or the shop do its work.
func (s *shop) faulty(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	order := r.PathValue("order")
	s.mu.Lock()
	s.arrivals[order]++
	fault := s.faults.onArrival(order, s.arrivals[order])
	s.mu.Unlock()
	if fault != passes {
		s.struck.Add(1)
	}
	switch fault {
	case passes:
		s.desk.ServeHTTP(w, r)
	case dropsRequest: // the shop never sees it
		reset(w)
	case losesAnswer: // charged, and nobody hears of it
		s.desk.ServeHTTP(httptest.NewRecorder(), r)
		reset(w)
	case cutsAnswer: // charged, and half an answer
		answer := httptest.NewRecorder()
		s.desk.ServeHTTP(answer, r)
		w.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // so a handler ends its connection
	case limits:
		w.Header().Set("Retry-After-Ms", "20")
		http.Error(w, "slow down", http.StatusTooManyRequests)
	case isBusy:
		w.Header().Set("Retry-After", "0")
		http.Error(w, "back in a moment", http.StatusServiceUnavailable)
	}
}

// reset ends the connection under the request.
func reset(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// transport is how to get there. Every attempt dials, so that each of them can
// be refused.
func (s *shop) transport() *http.Transport {
	var dialer net.Dialer
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if s.faults.onDial() {
				s.refused.Add(1)
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return dialer.DialContext(ctx, network, addr)
		},
	}
}

type fault int

const (
	passes fault = iota
	dropsRequest
	losesAnswer
	cutsAnswer
	limits
	isBusy
)

// faults decides what happens to an attempt: a quarter of what it strikes is
// refused at the dial, and the rest is shared out among the others.
type faults struct {
	seed uint64
	rate float64

	mu    sync.Mutex
	dials *rand.Rand
}

func (f *faults) onDial() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials.Float64() < f.rate/4
}

// onArrival depends on seed, order and arrival alone, not on who came first.
func (f *faults) onArrival(order string, nth int) fault {
	h := fnv.New64a()
	fmt.Fprint(h, order, "/", nth)
	r := rand.New(rand.NewPCG(f.seed, h.Sum64()))
	if r.Float64() >= f.rate*3/4/(1-f.rate/4) {
		return passes
	}
	return dropsRequest + fault(r.IntN(int(isBusy)))
}
