package resilient

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"
)

func TestWhatTripsTheBreaker(t *testing.T) {
	for _, tt := range []struct {
		name                     string
		successes, failures, run uint32
		want                     bool
	}{
		{"nothing", 0, 0, 0, false},
		{"nine failures in a row", 0, 9, 9, false},
		{"ten failures in a row", 0, 10, 10, true},
		{"half of nineteen", 9, 10, 1, false},
		{"half of twenty", 10, 10, 1, true},
		{"less than half of many", 501, 499, 9, false},
		{"a run of ten within five hundred", 490, 10, 10, true},
		{"a run of ten within more: one connection took its streams down", 491, 10, 10, false},
		{"a run as long as 2 % of many", 4900, 100, 100, true},
		{"counters near their limit", 1 << 31, 1 << 31, 1 << 31, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, trips(tt.successes, tt.failures, tt.run))
		})
	}
}

// server answers one call after the other with so many workers, and says 503
// to whoever finds the queue full.
type server struct {
	service time.Duration // of one call, on average
	workers chan struct{}
	limit   int64
	inside  atomic.Int64
	slow    atomic.Bool                              // 30 % of its speed
	fault   func() (fails bool, after time.Duration) // nil: none
	arrived atomic.Int64
	working sync.WaitGroup
}

// roundTrip is what a refusal takes.
const roundTrip = time.Millisecond

func newServer(workers int, service time.Duration, queue int) *server {
	return &server{service: service, workers: make(chan struct{}, workers), limit: int64(workers + queue)}
}

func (s *server) call(timeout time.Duration) report {
	s.arrived.Add(1)
	if s.fault != nil {
		if fails, after := s.fault(); fails {
			time.Sleep(after)
			return failure
		}
	}
	if s.inside.Add(1) > s.limit {
		s.inside.Add(-1)
		time.Sleep(roundTrip)
		return failure
	}
	served := make(chan struct{})
	s.working.Go(func() { // whether or not the caller is still there
		s.workers <- struct{}{}
		took := s.service/2 + rand.N(s.service)
		if s.slow.Load() {
			took = took * 10 / 3
		}
		time.Sleep(took)
		<-s.workers
		s.inside.Add(-1)
		close(served)
	})
	gone := time.NewTimer(cmp.Or(timeout, time.Hour))
	defer gone.Stop()
	select {
	case <-served:
		return success
	case <-gone.C:
		return failure
	}
}

// storm is an outage as many clients live through it: rate operations a second,
// of four attempts and ten seconds each, spread over the instances.
type storm struct {
	server          *server
	rate, instances int
	hold            time.Duration
	timeout         time.Duration // of an attempt
	noGate          bool
	// before, during and after the trouble
	before, during, after time.Duration
}

// sample is one operation.
type sample struct {
	at, took time.Duration // at: since the storm began
	done     bool
}

type toll struct {
	wire     float64 // requests in the trouble for each operation offered in it
	recovery time.Duration
	failed   float64 // of the operations begun after it
	p99      time.Duration
	doneIn   float64 // of the operations begun in it
	trips    float64 // for each instance
}

// run must be called in a bubble.
func (s *storm) run() toll {
	var mu sync.Mutex
	var samples []sample
	var wg sync.WaitGroup
	gates := make([]*gate, s.instances)
	epoch := time.Now()
	end := s.before + s.during + s.after
	for i := range gates {
		g := newGate(s.hold, s.timeout)
		gates[i] = g
		var b budget
		wg.Go(func() {
			mean := float64(time.Second) * float64(s.instances) / float64(s.rate)
			for {
				time.Sleep(time.Duration(rand.ExpFloat64() * mean))
				at := time.Since(epoch)
				if at > end {
					return
				}
				wg.Go(func() {
					done := s.operation(g, &b, epoch)
					mu.Lock()
					defer mu.Unlock()
					samples = append(samples, sample{at, time.Since(epoch) - at, done})
				})
			}
		})
	}
	time.Sleep(s.before)
	arrived := s.server.arrived.Load()
	time.Sleep(s.during)
	arrived = s.server.arrived.Load() - arrived
	wg.Wait()
	s.server.working.Wait()
	var trips uint32
	for _, g := range gates {
		trips += g.trip
	}
	c := s.count(samples, float64(arrived))
	c.trips = float64(trips) / float64(s.instances)
	return c
}

// operation is the client's loop in small.
func (s *storm) operation(g *gate, b *budget, epoch time.Time) bool {
	start := time.Now()
	v := visit{ctx: context.Background(), started: start, deadline: start.Add(10 * time.Second)}
	if !b.full() {
		b.deposit(time.Since(epoch))
	}
	for n := 1; ; n++ {
		p, no := pass{}, refusal{}
		if !s.noGate {
			p, no = g.enter(v)
		}
		if no.err != nil {
			return false
		}
		r := s.server.call(s.timeout)
		p.done(r)
		if r == success {
			return true
		}
		if n == 4 || !b.withdraw(time.Since(epoch)) {
			return false
		}
		time.Sleep(rand.N(100 * time.Millisecond << (n - 1)))
	}
}

func (s *storm) count(samples []sample, arrived float64) toll {
	slices.SortFunc(samples, func(a, b sample) int { return cmp.Compare(a.at, b.at) })
	over := s.before + s.during
	var c toll
	var in, inDone, after, failed float64
	var took []time.Duration
	type slice struct{ done, all int }
	slots := map[int]*slice{}
	for _, x := range samples {
		switch {
		case x.at < s.before:
		case x.at < over:
			in++
			if x.done {
				inDone++
			}
		default:
			after++
			if !x.done {
				failed++
			}
			took = append(took, x.took)
			k := int((x.at - over) / (100 * time.Millisecond))
			if slots[k] == nil {
				slots[k] = &slice{}
			}
			slots[k].all++
			if x.done {
				slots[k].done++
			}
		}
	}
	for k, x := range slots {
		if float64(x.done) < 0.9*float64(x.all) {
			c.recovery = max(c.recovery, time.Duration(k+1)*100*time.Millisecond)
		}
	}
	slices.Sort(took)
	c.wire, c.doneIn = arrived/in, inDone/in
	c.failed = failed / after
	c.p99 = took[len(took)*99/100]
	return c
}

// mean runs the storm several times, each in its own virtual time.
func mean(t *testing.T, runs int, s func() *storm) toll {
	var sum toll
	for range runs {
		inBubble(t, "run", func(t *testing.T) {
			c := s().run()
			sum.wire += c.wire / float64(runs)
			sum.failed += c.failed / float64(runs)
			sum.doneIn += c.doneIn / float64(runs)
			sum.trips += c.trips / float64(runs)
			sum.recovery += c.recovery / time.Duration(runs)
			sum.p99 += c.p99 / time.Duration(runs)
			t.Logf("%+v", c)
		})
	}
	t.Logf("mean of %d: wire %.3fx, recovery %v, failed after %.2f %%, p99 after %v, done in it %.1f %%, trips %.2f",
		runs, sum.wire, sum.recovery, 100*sum.failed, sum.p99, 100*sum.doneIn, sum.trips)
	return sum
}

func outage(during time.Duration, instances int) *storm {
	s := &storm{
		server: newServer(10, 20*time.Millisecond, 100), rate: 400, instances: instances, hold: testHold,
		before: 5 * time.Second, during: during, after: 13 * time.Second,
	}
	began := time.Now()
	s.server.fault = func() (bool, time.Duration) {
		at := time.Since(began)
		return at >= s.before && at < s.before+s.during, roundTrip
	}
	return s
}

func TestAnOutageIsNeitherStormedNorOutlasted(t *testing.T) {
	t.Run("one client", func(t *testing.T) {
		c := mean(t, 20, func() *storm { return outage(4500*time.Millisecond, 1) })
		require.LessOrEqual(t, c.wire, 0.05)
		require.LessOrEqual(t, c.recovery, 200*time.Millisecond)
		// Over 200 runs 0.11 %, with a long tail: mostly none, now and then 1 %,
		// when an outage ends at the start of an interval longer than the hold.
		// Without the hold it is 1.2 %, without the ramp 10 %.
		require.LessOrEqual(t, c.failed, 0.003)
		require.LessOrEqual(t, c.p99, 300*time.Millisecond)
	})
	t.Run("a fleet of twenty", func(t *testing.T) {
		c := mean(t, 24, func() *storm { return outage(4500*time.Millisecond, 20) })
		require.LessOrEqual(t, c.wire, 0.25)
		require.LessOrEqual(t, c.recovery, 200*time.Millisecond)
		require.LessOrEqual(t, c.failed, 0.002)
		require.LessOrEqual(t, c.p99, 300*time.Millisecond)
	})
}

func TestFiveMinutesDownAreNotFollowedByMore(t *testing.T) {
	c := mean(t, 1, func() *storm {
		s := outage(5*time.Minute, 1)
		s.rate = 100
		return s
	})
	require.LessOrEqual(t, c.wire, 0.02)
	require.LessOrEqual(t, c.recovery, 2700*time.Millisecond, "the longest interval, with its jitter")
	require.Equal(t, 1.0, c.trips)
}

func TestOneCallInFiveFailingForTenMinutesShutsNobodyOut(t *testing.T) {
	c := mean(t, 1, func() *storm {
		s := outage(10*time.Minute, 1)
		s.rate, s.after = 100, time.Second
		down := s.server.fault
		s.server.fault = func() (bool, time.Duration) {
			in, after := down()
			return in && rand.IntN(5) == 0, after
		}
		return s
	})
	require.Zero(t, c.trips)
	require.LessOrEqual(t, c.wire, 1.12, "10 % of retries, not more")
	require.GreaterOrEqual(t, c.doneIn, 0.86)
}

func TestATimeOutLongerThanTheWindowsOldLengthStillTrips(t *testing.T) {
	for _, timeout := range []time.Duration{3 * time.Second, 9 * time.Second} {
		c := mean(t, 1, func() *storm {
			s := outage(5*timeout, 20)
			s.timeout = timeout
			down := s.server.fault
			s.server.fault = func() (bool, time.Duration) {
				in, _ := down()
				return in, timeout
			}
			return s
		})
		require.Equal(t, 1.0, c.trips, timeout)
		require.LessOrEqual(t, c.wire, 0.5, timeout)
	}
}

// The server queues without end and works for callers who have gone. Without a
// breaker it never gets out of that.
func TestASlowBrownOutEndsWhenTheServerIsWell(t *testing.T) {
	brownOut := func(noGate bool) func() *storm {
		return func() *storm {
			s := outage(20*time.Second, 1)
			s.timeout, s.noGate = time.Second, noGate
			s.server.limit = 1 << 40
			slow := s.server.fault
			s.server.fault = func() (bool, time.Duration) {
				in, _ := slow()
				s.server.slow.Store(in)
				return false, 0
			}
			return s
		}
	}
	c := mean(t, 2, brownOut(false))
	require.LessOrEqual(t, c.failed, 0.15)
	require.GreaterOrEqual(t, c.doneIn, 0.1)
	c = mean(t, 1, brownOut(true))
	require.Greater(t, c.failed, 0.9, "the test would see it")
}

func TestABigClientIsBackWithinThreeSeconds(t *testing.T) {
	c := mean(t, 1, func() *storm {
		s := outage(4500*time.Millisecond, 1)
		s.server.workers, s.server.limit, s.server.service = make(chan struct{}, 500), 600, 100*time.Millisecond
		s.rate, s.before, s.after = 4000, 2*time.Second, 5*time.Second
		return s
	})
	require.LessOrEqual(t, c.recovery, 3*time.Second)
}

// Counting most successes beside the library must not change what it decides.
// Each attempt is told, as it is told to ours, to a breaker that hears of every
// one by itself.
func TestTheBreakerDecidesAsTheLibraryWould(t *testing.T) {
	var trips, calm int
	for seed := range uint64(300) {
		inBubble(t, "over any history", func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			timeout := time.Duration(r.IntN(2)*12) * time.Second
			var opened bool
			ours := newBreaker(timeout, func() { opened = true })
			plain := plainBreaker(timeout)
			type attempt struct {
				tally *tally
				plain func(error)
			}
			var inside []attempt
			failing, pause := r.IntN(70), 1+r.IntN(1500)
			for range 600 {
				switch n := r.IntN(20); {
				case n < 9:
					done, err := plain.Allow()
					require.NoError(t, err)
					tally := ours.count(time.Now())
					require.NotNil(t, tally)
					inside = append(inside, attempt{tally, done})
				case n < 18 && len(inside) > 0:
					i := r.IntN(len(inside))
					a := inside[i]
					inside = slices.Delete(inside, i, i+1)
					told := report(1)
					if x := r.IntN(100); x < failing {
						told = failure
					} else if x > 95 {
						told = neutral
					}
					if told == success && a.tally.calm == ours.failures.Load() {
						calm++
					}
					a.tally.done(told)
					a.plain(told.err())
				default:
					time.Sleep(time.Duration(r.IntN(pause)) * time.Millisecond)
					if r.IntN(50) == 0 {
						failing = r.IntN(70)
					}
				}
				require.Equal(t, plain.State() == gobreaker.StateOpen, opened, "seed %d", seed)
				if opened {
					trips++
					return
				}
			}
		})
	}
	t.Logf("%d of 300 tripped, %d successes were never told", trips, calm)
	require.Greater(t, trips, 50)
	require.Less(t, trips, 250)
	require.Greater(t, calm, 1000)
}

// A run of failures can outlive, in the library, the bucket that they stood in:
// a success must still be told to end it.
func TestNoSuccessIsKeptFromTheLibraryWhileARunGoesOn(t *testing.T) {
	inBubble(t, "whatever the window says", func(t *testing.T) {
		b := newBreaker(0, func() {})
		old := b.count(time.Now())
		old.done(failure)
		time.Sleep(time.Second)
		b.count(time.Now()).done(success)
		old.done(failure)
		time.Sleep(9 * time.Second)
		now := b.count(time.Now())
		counts := b.library.Counts()
		require.Zero(t, counts.TotalFailures)
		require.NotZero(t, counts.ConsecutiveFailures)
		now.done(success)
		require.Zero(t, b.library.Counts().ConsecutiveFailures)
	})
}

// plainBreaker is the library with our rule.
func plainBreaker(attemptTimeout time.Duration) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	window := max(breakerWindow, 2*attemptTimeout)
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Interval: window, BucketPeriod: window / breakerBuckets, Timeout: time.Hour,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return trips(c.TotalSuccesses, c.TotalFailures, c.ConsecutiveFailures)
		},
		IsExcluded: func(err error) bool { return err == errNeutral },
	})
}
