package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

// Left is what stays behind when callers are done and idle connections closed.
type Left struct {
	Requests, Dials         int
	Goroutines, Connections int
	Late                    time.Duration // from a caller's end to the client's return, at most
}

// Ending is how operations come to nothing.
type Ending struct {
	Handler http.HandlerFunc
	Leave   time.Duration // when the caller leaves; zero: not
}

// Three sizes of body, since each client discards up to a limit of its own.
var endings = []Ending{
	{Handler: refusing(2 << 10)},
	{Handler: refusing(64 << 10)},
	{Handler: refusing(512 << 10)},
	{Leave: 50 * time.Millisecond, Handler: func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	}},
	{Leave: 333 * time.Millisecond, Handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "2")
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}},
}

func refusing(size int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write(make([]byte, size))
	}
}

// redials are the dials for each hundred requests.
func (l *Left) redials() float64 { return 100 * float64(l.Dials) / float64(max(1, l.Requests)) }

// run is to be called in a bubble of testing/synctest.
func (e Ending) run(p Peer, operations int) (left Left, err error) {
	network := faultinject.NewNetwork()
	network.Up, network.Down = way, way
	defer func() { err = errors.Join(err, network.Close()) }()
	server, err := network.Serve("http://api.test", e.Handler, nil)
	if err != nil {
		return left, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	base := network.Transport()
	kept := &keeper{RoundTripper: base}
	defer kept.close() // a bubble ends with all of its goroutines
	client, err := p.New(Env{Base: kept, URL: server.URL, Honours: true})
	if err != nil {
		return left, err
	}
	synctest.Wait()
	before := bubbled()
	var running sync.WaitGroup
	late := make([]time.Duration, operations)
	for i := range late {
		running.Go(func() { late[i] = e.send(client) })
		<-time.After(chargeEvery)
	}
	running.Wait()
	left.Requests, left.Dials = len(server.Deliveries()), len(network.Dials())
	base.CloseIdleConnections()
	<-time.After(time.Minute)
	synctest.Wait()
	left.Goroutines = bubbled() - before
	left.Connections = network.Open() / 2
	for _, d := range late {
		left.Late = max(left.Late, d)
	}
	return left, nil
}

// send returns how long after its leaving the caller was let go.
func (e Ending) send(client Client) time.Duration {
	if e.Leave == 0 { // nor does its context end: with that, net/http would clean up
		_, _ = client.Send(context.Background(), get)
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.Leave)
	defer cancel()
	start := time.Now()
	_, _ = client.Send(ctx, get)
	return max(0, time.Since(start)-e.Leave)
}

// bubbled counts the goroutines of the caller's bubble: the runtime has others,
// which come and go. The head of a goroutine's stack names its bubble, as in
// "goroutine 7 [select (durable), synctest bubble 4]:".
func bubbled() int {
	stacks := make([]byte, 1<<20)
	n := runtime.Stack(stacks, true)
	for ; n == len(stacks); n = runtime.Stack(stacks, true) {
		stacks = make([]byte, 2*len(stacks))
	}
	head, _, _ := strings.Cut(string(stacks[:n]), "]:") // the caller's own is first
	_, bubble, found := strings.Cut(head, "synctest bubble ")
	if !found {
		return 0
	}
	return strings.Count(string(stacks[:n]), "synctest bubble "+bubble+"]:")
}

// keeper remembers all bodies, to close in the end what clients have left open.
type keeper struct {
	http.RoundTripper

	mu     sync.Mutex
	bodies []io.Closer
}

// RoundTrip changes nothing.
func (k *keeper) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := k.RoundTripper.RoundTrip(req)
	if resp != nil {
		k.mu.Lock()
		k.bodies = append(k.bodies, resp.Body)
		k.mu.Unlock()
	}
	return resp, err
}

func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, body := range k.bodies {
		_ = body.Close()
	}
}
