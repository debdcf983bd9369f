// Package storm lets real clients live through outages in virtual time: a server
// that is a queue, its troubles, the clients who call it, and what came of it.
// docs/storms.md shows its figures, and the tests hold the client to them.
package storm

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-resilient/resilient"
)

// Situation is a server, its trouble, and those who call it: at the same rate
// however the earlier operations fare.
type Situation struct {
	Name    string
	Clients int
	Rate    float64 // operations a second, of all clients together
	Regular bool    // each client calls in step; otherwise at random moments
	// Before, During and After the trouble; whole tenths of a second.
	Before, During, After time.Duration

	Deadline       time.Duration // of an operation
	AttemptTimeout time.Duration // zero: none

	Server  Server
	Trouble Trouble
}

func (s *Situation) length() time.Duration { return s.Before + s.During + s.After }

// call is one operation.
type call struct {
	index       int
	begun, took time.Duration
	ok, refused bool // refused: the breaker ended it
	attempts    int  // that reached the server
}

// callKey finds the call in the context of its attempts.
type callKey struct{}

// tie sets the operation apart from any other at the same instant.
func (c *call) tie() time.Duration { return time.Duration(1 + c.index%hopsTies) }

// Run lives through the situation once with clients of that policy. It must be
// called in a bubble of testing/synctest, and by one goroutine of the process
// at a time, since it seeds the clients' jitter through crypto/rand.Reader. The
// same seed gives the same Run.
func (s Situation) Run(p Policy, seed uint64) (*Run, error) {
	base := newStation(&s, seed)
	clients, err := s.fleet(p, base, seed)
	if err != nil {
		return nil, err
	}
	var (
		rng     = rand.New(rand.NewPCG(seed, 0))
		all     = make([]*call, 0, int(s.Rate*s.length().Seconds())+1)
		running sync.WaitGroup
		next    = time.NewTimer(0)
	)
	for <-next.C; time.Since(base.start) < s.length(); <-next.C {
		client, op := clients[s.turn(rng, len(all))], &call{index: len(all), begun: time.Since(base.start)}
		all = append(all, op)
		running.Go(func() { s.send(client, op, base) })
		next.Reset(s.pause(rng))
	}
	running.Wait()
	return &Run{situation: s, calls: all, arrived: base.arrived}, nil
}

// turn is the client whose operation n is.
func (s *Situation) turn(rng *rand.Rand, n int) int {
	if s.Regular {
		return n % s.Clients
	}
	return rng.IntN(s.Clients)
}

// pause is the time to the next operation.
func (s *Situation) pause(rng *rand.Rand) time.Duration {
	mean := float64(time.Second) / s.Rate
	if s.Regular {
		return time.Duration(mean) + time.Duration(1000*rng.Float64())
	}
	return 1 + time.Duration(rng.ExpFloat64()*mean)
}

// fleet makes the clients, each with jitter of its own.
func (s *Situation) fleet(p Policy, base http.RoundTripper, seed uint64) ([]Client, error) {
	real := crand.Reader
	defer func() { crand.Reader = real }()
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	source := rand.NewChaCha8(key)
	crand.Reader = source
	clients := make([]Client, s.Clients)
	for i := range clients {
		var err error
		if p.New != nil {
			clients[i], err = p.New(base)
		} else {
			cfg := p.Config(rand.New(rand.NewPCG(source.Uint64(), 1)))
			cfg.Base, cfg.AttemptTimeout = base, s.AttemptTimeout
			clients[i], err = newClient(cfg)
		}
		if err != nil {
			return nil, err
		}
	}
	return clients, nil
}

// newClient is one of ours.
func newClient(cfg resilient.Config) (Client, error) {
	client, err := resilient.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, path string) (ok, refused bool) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+path, nil)
		if err != nil {
			return false, false // no such URL is made
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, errors.Is(err, resilient.ErrOpen)
		}
		_ = resp.Body.Close()
		if record, ok := resilient.OperationOf(resp); ok {
			refused = errors.Is(record.Stop, resilient.ErrOpen)
		}
		return resp.StatusCode == http.StatusOK, refused
	}, nil
}

const host = "http://api.test"

// send makes one GET.
func (s *Situation) send(client Client, op *call, base *station) {
	patience := s.Deadline
	if leave := s.Trouble.Leave; leave > 0 && op.begun >= base.from && op.begun < base.until && chance(base.seed, op.index, 0) < leaving {
		patience = leave
	}
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), callKey{}, op), patience)
	defer cancel()
	path := 0
	if s.Trouble.Paths > 0 {
		path = op.index % s.Trouble.Paths
	}
	op.ok, op.refused = client(ctx, "/"+strconv.Itoa(path))
	op.took = time.Since(base.start) - op.begun
	// Told at the instant at which the caller leaves anyway, either reason may come first.
	op.refused = op.refused && (op.ok || op.took < patience)
}
