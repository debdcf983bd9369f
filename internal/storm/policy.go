package storm

import (
	"math/rand/v2"
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
}

// AsItShips is the zero Config.
var AsItShips = Policy{"as it ships", func(chance *rand.Rand) resilient.Config {
	return resilient.Config{Backoff: fullJitter(chance)}
}}

// Policies are what to compare, each with one thing more than the one before it.
func Policies() []Policy {
	return []Policy{
		{"no retry", func(*rand.Rand) resilient.Config {
			return resilient.Config{MaxAttempts: 1, NoBreaker: true}
		}},
		{"backoff only", func(*rand.Rand) resilient.Config {
			return resilient.Config{NoBudget: true, NoBreaker: true, Backoff: noJitter}
		}},
		{"backoff and full jitter", func(chance *rand.Rand) resilient.Config {
			return resilient.Config{NoBudget: true, NoBreaker: true, Backoff: fullJitter(chance)}
		}},
		{"and a budget", func(chance *rand.Rand) resilient.Config {
			return resilient.Config{NoBreaker: true, Backoff: fullJitter(chance)}
		}},
		{"and a breaker that fails fast", func(chance *rand.Rand) resilient.Config {
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
