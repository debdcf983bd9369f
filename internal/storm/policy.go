package storm

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/go-resilient/resilient"
)

// Policy is what a client does about failures.
type Policy struct {
	Name string
	// Config is one client's, with chance of its own; Base and AttemptTimeout
	// are the situation's.
	Config func(*rand.Rand) resilient.Config
	// New makes a client that is none of ours, in place of Config. AttemptTimeout
	// is left to it.
	New func(base http.RoundTripper) (Client, error)
}

// Client makes a GET of a path at http://api.test and reports whether it came off;
// or else whether the client itself refused it.
type Client func(ctx context.Context, path string) (ok, refused bool)

// AsItShips is the zero Config.
var AsItShips = Policy{Name: "as it ships", Config: func(chance *rand.Rand) resilient.Config {
	return resilient.Config{Backoff: fullJitter(chance)}
}}

// Policies are what to compare, each with one thing more than the one before it.
func Policies() []Policy {
	return []Policy{
		{Name: "no retry", Config: func(*rand.Rand) resilient.Config {
			return resilient.Config{MaxAttempts: 1, NoBreaker: true}
		}},
		{Name: "backoff only", Config: func(*rand.Rand) resilient.Config {
			return resilient.Config{NoBudget: true, NoBreaker: true, Backoff: noJitter}
		}},
		{Name: "backoff and full jitter", Config: func(chance *rand.Rand) resilient.Config {
			return resilient.Config{NoBudget: true, NoBreaker: true, Backoff: fullJitter(chance)}
		}},
		{Name: "and a budget", Config: func(chance *rand.Rand) resilient.Config {
			return resilient.Config{NoBreaker: true, Backoff: fullJitter(chance)}
		}},
		{Name: "and a breaker that fails fast", Config: func(chance *rand.Rand) resilient.Config {
			return resilient.Config{FailFast: true, Backoff: fullJitter(chance)}
		}},
		AsItShips,
	}
}

// The first and the last bound of the client's own schedule.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
)

// schedule is the client's own with its chance in our hands; nil: none, every
// pause is its bound.
type schedule struct {
	bound time.Duration
	draw  func(below time.Duration) time.Duration
}

// NextBackOff makes it a resilient.Schedule.
func (s *schedule) NextBackOff() time.Duration {
	bound := s.bound
	s.bound = min(2*bound, longestPause)
	if s.draw == nil {
		return bound
	}
	return s.draw(bound)
}

func noJitter() resilient.Schedule { return &schedule{bound: firstPause} }

func fullJitter(chance *rand.Rand) func() resilient.Schedule {
	var mu sync.Mutex
	draw := func(below time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(chance.Int64N(int64(below) + 1))
	}
	return func() resilient.Schedule { return &schedule{bound: firstPause, draw: draw} }
}
