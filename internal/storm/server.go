package storm

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Server is what there is to serve with: a queue in order of arrival, and
// workers. Work whose caller has gone is done all the same.
type Server struct {
	Workers int
	Service time.Duration // what one request takes one worker
	Queue   int           // requests that may wait; whoever comes then is told 503. Negative: without end
}

// Trouble is what is the matter while it lasts. The zero Trouble is none.
type Trouble struct {
	Refused bool    // connections are refused
	Hangs   bool    // requests are taken and never answered
	Slower  float64 // a worker takes so many times as long; zero: no longer

	// Status is said at once instead of serving; zero: none. After comes with it
	// as Retry-After, in seconds; zero: none.
	Status, After int

	Lag time.Duration // an answer is so much later, though no worker is busy for it

	// What is struck of all that comes, where not everything is.
	Share float64       // of the requests, at random; zero: all
	Paths int           // the first of so many endpoints; zero: all of them
	Blip  time.Duration // the beginning of each two seconds; zero: all of them

	// Leave is when nine callers of ten give up; zero: they do not.
	Leave time.Duration
}

const (
	blipEvery = 2 * time.Second
	leaving   = 0.9

	// hop is the way to the server. Each operation's differs by nanoseconds, so
	// that no two requests come at one instant: what happens then would depend on
	// the scheduler, and no run could be repeated.
	hop      = 500 * time.Microsecond
	hopsTies = 1 << 16
)

// station is a Server at work: the Base of all the clients.
type station struct {
	Server
	Trouble
	from, until time.Duration // of the trouble
	start       time.Time
	seed        uint64

	mu      sync.Mutex
	free    instants // when each worker will be
	inside  instants // when each request will be answered
	arrived []int    // in each slot
}

// slot is the grain of what is counted over time.
const slot = 100 * time.Millisecond

func newStation(s *Situation, seed uint64) *station {
	return &station{
		Server: s.Server, Trouble: s.Trouble, from: s.Before, until: s.Before + s.During,
		start: time.Now(), seed: seed,
		free: make(instants, s.Server.Workers), arrived: make([]int, s.length()/slot),
	}
}

// RoundTrip has one timer and no goroutine.
func (s *station) RoundTrip(req *http.Request) (*http.Response, error) {
	op := req.Context().Value(callKey{}).(*call)
	timer := time.NewTimer(hop + op.tie())
	defer timer.Stop()
	gone := func() error { // the attempt's limit may have ended many at one instant
		<-time.After(op.tie())
		return req.Context().Err()
	}
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return nil, gone()
	}
	f := s.serve(op)
	switch {
	case f.refused:
		return nil, fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED)
	case f.hangs:
		<-req.Context().Done()
		return nil, gone()
	}
	timer.Reset(f.wait)
	select {
	case <-timer.C:
		return f.response(req), nil
	case <-req.Context().Done():
		return nil, gone()
	}
}

// fate is what becomes of one request.
type fate struct {
	refused, hangs bool
	status, after  int
	wait           time.Duration
}

func (f *fate) response(req *http.Request) *http.Response {
	resp := &http.Response{StatusCode: f.status, Header: make(http.Header), Body: http.NoBody, Request: req}
	if f.after > 0 {
		resp.Header.Set("Retry-After", strconv.Itoa(f.after))
	}
	return resp
}

// serve books the work and tells how and when it ends.
func (s *station) serve(op *call) fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(s.start)
	if n := int(now / slot); n < len(s.arrived) {
		s.arrived[n]++
	}
	op.attempts++
	var lag time.Duration
	if s.strikes(op, now) {
		switch {
		case s.Refused || s.Hangs:
			return fate{refused: s.Refused, hangs: s.Hangs}
		case s.Status > 0:
			return fate{status: s.Status, after: s.After}
		}
		lag = s.Lag
	}
	for len(s.inside) > 0 && s.inside[0] <= now {
		heap.Pop(&s.inside)
	}
	if s.Queue >= 0 && len(s.inside) >= s.Workers+s.Queue {
		return fate{status: http.StatusServiceUnavailable}
	}
	begin := max(now, s.free[0])
	takes := (0.5 + chance(s.seed, op.index, 100+op.attempts)) * float64(s.Service)
	if s.Slower > 0 && s.from <= begin && begin < s.until {
		takes *= s.Slower
	}
	done := begin + time.Duration(takes)
	s.free[0] = done
	heap.Fix(&s.free, 0)
	heap.Push(&s.inside, done)
	return fate{status: http.StatusOK, wait: done - now + lag}
}

// strikes reports whether the trouble is this attempt's.
func (s *station) strikes(op *call, now time.Duration) bool {
	switch {
	case now < s.from || now >= s.until:
		return false
	case s.Blip > 0 && (now-s.from)%blipEvery >= s.Blip:
		return false
	case s.Paths > 0 && op.index%s.Paths != 0:
		return false
	}
	return s.Share == 0 || chance(s.seed, op.index, op.attempts) < s.Share
}

// chance is in [0, 1), and always the same for the same.
func chance(seed uint64, operation, n int) float64 {
	return rand.New(rand.NewPCG(seed, uint64(operation)<<8|uint64(n))).Float64()
}

// instants is a heap: the earliest is first.
type instants []time.Duration

func (h instants) Len() int           { return len(h) }
func (h instants) Less(i, j int) bool { return h[i] < h[j] }
func (h instants) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *instants) Push(x any)        { *h = append(*h, x.(time.Duration)) }
func (h *instants) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
