package resilient

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"
)

const testHold = 300 * time.Millisecond

// inBubble runs f as a subtest in virtual time; it fails if f leaves a
// goroutine behind.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func caller(t *testing.T) visit { return visit{ctx: t.Context()} }

// enters makes one call and reports it at once.
func enters(t *testing.T, g *gate, r report) {
	t.Helper()
	p, no := g.enter(caller(t))
	require.NoError(t, no.err)
	p.done(r)
}

// tripped is a gate whose host has just failed ten times in a row.
func tripped(t *testing.T, hold, attemptTimeout time.Duration) *gate {
	t.Helper()
	g := newGate(hold, attemptTimeout, newJitter())
	for range 10 {
		enters(t, g, failure)
	}
	require.False(t, g.closed())
	return g
}

// nextProbe sleeps until a probe is due and returns it.
func nextProbe(t *testing.T, g *gate) pass {
	t.Helper()
	_, no := g.enter(visit{ctx: t.Context(), started: time.Now().Add(-time.Hour)})
	require.ErrorIs(t, no.err, ErrOpen)
	time.Sleep(time.Until(no.next))
	p, no := g.enter(visit{ctx: t.Context(), started: time.Now().Add(-time.Hour)})
	require.NoError(t, no.err)
	return p
}

func TestATrippedHost(t *testing.T) {
	inBubble(t, "refuses at once, and says when the next probe is due", func(t *testing.T) {
		g := tripped(t, 0, 0)
		start := time.Now()
		_, no := g.enter(caller(t))
		require.ErrorIs(t, no.err, ErrOpen)
		require.Zero(t, time.Since(start))
		require.GreaterOrEqual(t, no.next.Sub(start), 262*time.Millisecond)
		require.LessOrEqual(t, no.next.Sub(start), 438*time.Millisecond)
	})
	inBubble(t, "lets everybody in again after one good probe", func(t *testing.T) {
		g := tripped(t, 0, 0)
		nextProbe(t, g).done(success)
		for range 100 {
			enters(t, g, success)
		}
		require.True(t, g.closed())
		require.Equal(t, free, g.mode.Load())
	})
	inBubble(t, "is asked less often the longer it is down, at least every 2.5 s", func(t *testing.T) {
		g := tripped(t, 0, 0)
		start, probes, last := time.Now(), 0, time.Now()
		for time.Since(start) < 5*time.Minute {
			nextProbe(t, g).done(failure)
			require.LessOrEqual(t, time.Since(last), 2500*time.Millisecond)
			last = time.Now()
			probes++
		}
		require.InDelta(t, 190, probes, 25)
	})
	inBubble(t, "is asked more often by a client so busy that its probes are lost in the crowd", func(t *testing.T) {
		g := tripped(t, 0, 0)
		start, probes, callers := time.Now(), 0, 0
		for ; time.Since(start) < 5*time.Minute; time.Sleep(2500 * time.Microsecond) {
			callers++
			if p, no := g.enter(caller(t)); no.err == nil {
				probes++
				p.done(failure)
			}
		}
		require.InDelta(t, 1500, probes, 100, "one in 200 ms")
		require.Less(t, 50*probes, callers)
	})
	inBubble(t, "holds a caller until the probe that he becomes", func(t *testing.T) {
		g := tripped(t, time.Minute, 0)
		start := time.Now()
		p, no := g.enter(caller(t))
		require.NoError(t, no.err)
		require.InDelta(t, 350, time.Since(start).Milliseconds(), 88)
		p.done(success)
	})
	inBubble(t, "does not hold a caller whose time is up before the probe", func(t *testing.T) {
		g := tripped(t, time.Minute, 0)
		for name, v := range map[string]visit{
			"his deadline": {ctx: t.Context(), deadline: time.Now().Add(200 * time.Millisecond)},
			"his hold":     {ctx: t.Context(), started: time.Now().Add(-time.Minute)},
		} {
			start := time.Now()
			_, no := g.enter(v)
			require.ErrorIs(t, no.err, ErrOpen, name)
			require.Zero(t, time.Since(start), name)
		}
	})
	inBubble(t, "lets a waiting caller go as soon as he cancels", func(t *testing.T) {
		g := tripped(t, time.Minute, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, no := g.enter(visit{ctx: ctx})
		require.ErrorIs(t, no.err, errGone)
		old := make(chan struct{})
		time.AfterFunc(50*time.Millisecond, func() { close(old) })
		_, no = g.enter(visit{ctx: t.Context(), cancel: old})
		require.ErrorIs(t, no.err, errGone)
	})
	inBubble(t, "refuses the waiters when their probe has failed, not when their time is up", func(t *testing.T) {
		g := tripped(t, 10*time.Second, 0)
		g.since = g.since.Add(-time.Hour) // two seconds or so between probes
		p := nextProbe(t, g)
		refused := make(chan time.Duration)
		for range 5 {
			go func() {
				start := time.Now()
				_, no := g.enter(visit{ctx: t.Context(), started: start.Add(-9 * time.Second)})
				require.ErrorIs(t, no.err, ErrOpen)
				refused <- time.Since(start)
			}()
		}
		time.Sleep(100 * time.Millisecond)
		p.done(failure)
		for range 5 {
			require.Equal(t, 100*time.Millisecond, <-refused)
		}
		require.Zero(t, g.armed)
	})
	inBubble(t, "holds a thousand at most", func(t *testing.T) {
		g := tripped(t, 200*time.Millisecond, 0)
		nextProbe(t, g) // hangs
		var refused atomic.Int64
		for range 1500 {
			go func() {
				start := time.Now()
				if _, no := g.enter(caller(t)); no.err != nil && time.Since(start) == 0 {
					refused.Add(1)
				}
			}()
		}
		synctest.Wait()
		require.EqualValues(t, 500, refused.Load())
		time.Sleep(time.Second)
	})
}

func TestAProbeThatGoesWrongIsFollowedByAnother(t *testing.T) {
	for name, end := range map[string]func(p pass){
		"it hangs":           func(pass) {},
		"it fails":           func(p pass) { p.done(failure) },
		"it is cancelled":    func(p pass) { p.done(neutral) },
		"it is answered 429": func(p pass) { p.done(neutral) },
		"it panics": func(p pass) {
			defer func() { _ = recover() }()
			var r report
			defer func() { p.done(r) }()
			panic("below")
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			g := tripped(t, 0, 0)
			for range 20 {
				end(nextProbe(t, g))
				probed := time.Now()
				next := nextProbe(t, g)
				due := max(350*time.Millisecond, probed.Sub(g.since)/20)
				require.InDelta(t, due, time.Since(probed), float64(due)/4+1e6, "not at once, and not late")
				end(next)
			}
			nextProbe(t, g).done(success)
			enters(t, g, success)
			require.True(t, g.closed())
		})
	}
}

func TestAProbeSlowerThanTheInterval(t *testing.T) {
	inBubble(t, "still lets the host in again when its good answer comes", func(t *testing.T) {
		g := tripped(t, 0, 0)
		slow := nextProbe(t, g)
		nextProbe(t, g)
		nextProbe(t, g)
		slow.done(success)
		enters(t, g, success)
		require.True(t, g.closed())
	})
	inBubble(t, "counts even when a later probe has failed just before", func(t *testing.T) {
		g := tripped(t, 0, 0)
		slow := nextProbe(t, g)
		nextProbe(t, g).done(failure)
		slow.done(success)
		_, no := g.enter(caller(t))
		require.ErrorIs(t, no.err, ErrOpen)
		require.Equal(t, breakerOpen+time.Millisecond, time.Until(no.next))
		time.Sleep(time.Until(no.next))
		for range 3 {
			p, no := g.enter(caller(t))
			require.NoError(t, no.err, "no probe any more, but the ramp")
			require.Equal(t, ramp, p.mode)
		}
	})
	inBubble(t, "does no harm with its bad answer", func(t *testing.T) {
		g := tripped(t, 0, 0)
		slow := nextProbe(t, g)
		latest := nextProbe(t, g)
		due := g.next
		slow.done(failure)
		require.Equal(t, due, g.next)
		latest.done(success)
		enters(t, g, success)
	})
	inBubble(t, "changes nothing once the host has come back and tripped again", func(t *testing.T) {
		g := tripped(t, 0, 0)
		slow := nextProbe(t, g)
		nextProbe(t, g).done(success)
		enterTen(t, g)
		_, before := g.enter(caller(t))
		slow.done(success)
		_, no := g.enter(caller(t))
		require.ErrorIs(t, no.err, ErrOpen)
		require.Equal(t, before.next, no.next)
	})
	inBubble(t, "leaves the breaker the time to half-open when it fails late", func(t *testing.T) {
		g := tripped(t, 0, 0)
		slow := nextProbe(t, g)
		time.Sleep(time.Until(g.next) - time.Millisecond)
		slow.done(failure)
		_, no := g.enter(caller(t))
		require.Equal(t, breakerOpen+time.Millisecond, time.Until(no.next))
		time.Sleep(time.Until(no.next))
		enters(t, g, success)
	})
}

func TestAnythingFromBeforeTheTrip(t *testing.T) {
	inBubble(t, "that has the half-open slot only puts the probe off", func(t *testing.T) {
		g := tripped(t, 0, 0)
		_, no := g.enter(caller(t))
		time.Sleep(time.Until(no.next))
		stolen, err := g.breaker.library.Allow()
		require.NoError(t, err)
		_, no = g.enter(caller(t))
		require.ErrorIs(t, no.err, ErrOpen, "the probe is put off")
		require.Greater(t, time.Until(no.next), 200*time.Millisecond)
		stolen(errNeutral)
		nextProbe(t, g).done(success)
		enters(t, g, success)
	})
	inBubble(t, "is not heard after it", func(t *testing.T) {
		g := newGate(0, 0, newJitter())
		var before []pass
		for range 20 {
			p, _ := g.enter(caller(t))
			before = append(before, p)
		}
		enterTen(t, g)
		for i, p := range before {
			p.done(report(i % 3))
		}
		_, no := g.enter(caller(t))
		require.ErrorIs(t, no.err, ErrOpen)
		nextProbe(t, g).done(success)
		enters(t, g, success)
	})
}

func TestTheRamp(t *testing.T) {
	// inRamp lets in as many as may go.
	inRamp := func(t *testing.T, g *gate) (all []pass) {
		for range 100 {
			p, no := g.enter(caller(t))
			if no.err != nil {
				require.ErrorIs(t, no.err, ErrOpen)
				require.Zero(t, no.next, "there is no next probe")
				return all
			}
			all = append(all, p)
		}
		t.Fatal("everybody may go")
		return nil
	}
	inBubble(t, "doubles each round trip to sixteen, then grows by a quarter", func(t *testing.T) {
		g := tripped(t, time.Minute, 0)
		var mu sync.Mutex
		let := map[time.Time]int{}
		var wg sync.WaitGroup
		for range 150 {
			wg.Go(func() {
				p, _ := g.enter(caller(t))
				mu.Lock()
				let[time.Now()]++
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
				p.done(success)
			})
		}
		wg.Wait()
		var rounds []int
		for _, at := range slices.SortedFunc(maps.Keys(let), time.Time.Compare) {
			rounds = append(rounds, let[at])
		}
		require.Equal(t, []int{1, 4, 8, 16}, rounds[:4])
		for i, n := range rounds[4 : len(rounds)-1] {
			require.InDelta(t, 1.25*float64(rounds[i+3]), n, 1)
		}
	})
	inBubble(t, "stands still while half of the calls fail", func(t *testing.T) {
		g := tripped(t, 0, 0)
		nextProbe(t, g).done(success)
		all := inRamp(t, g)
		for i := range 18 { // not the twenty that would trip it
			all[0].done(success + report(i%2))
			all = append(all[1:], inRamp(t, g)...)
			require.InDelta(t, rampStart, len(all), 1)
		}
	})
	inBubble(t, "is not shut by calls that never answer", func(t *testing.T) {
		g := tripped(t, 0, 0)
		nextProbe(t, g).done(success)
		for _, want := range []int{4, 4, 8, 16, 32} {
			require.Len(t, inRamp(t, g), want)
			time.Sleep(probeLongest)
		}
	})
	inBubble(t, "keeps its waiters when the host fails again", func(t *testing.T) {
		g := tripped(t, time.Minute, 0)
		var good, bad atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				p, no := g.enter(caller(t))
				require.NoError(t, no.err)
				time.Sleep(20 * time.Millisecond)
				switch {
				case p.mode == ramp && g.trip == 1:
					p.done(failure)
					bad.Add(1)
				default:
					p.done(success)
					good.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 2, g.trip)
		require.EqualValues(t, 100, good.Load()+bad.Load())
		require.LessOrEqual(t, bad.Load(), int64(12), "the run of ten, and those in flight")
	})
}

func TestACallerWhoGoesJustAsHeIsLetIn(t *testing.T) {
	inBubble(t, "leaves no probe behind that others would wait for", func(t *testing.T) {
		g := tripped(t, time.Minute, 0)
		ctx, cancel := context.WithCancel(t.Context())
		refused := make(chan error)
		go func() {
			_, no := g.enter(visit{ctx: ctx})
			refused <- no.err
		}()
		synctest.Wait()
		time.Sleep(time.Until(g.next) - 1)
		g.mu.Lock()
		cancel() // he awakes, but has to wait for the lock
		g.next = time.Now()
		g.release(time.Now())
		probing := g.out
		g.unlock()
		require.True(t, probing)
		require.ErrorIs(t, <-refused, errGone)
		require.False(t, g.out)
		require.Nil(t, g.slot)
		nextProbe(t, g).done(success)
	})
}

func TestAThousandCallersAtOnceMakeOneProbe(t *testing.T) {
	inBubble(t, "and it answers them all", func(t *testing.T) {
		g := tripped(t, time.Minute, 0)
		var inside, most, calls atomic.Int64
		var first atomic.Bool
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				p, no := g.enter(caller(t))
				require.NoError(t, no.err)
				if n := inside.Add(1); !first.Load() && n > most.Load() {
					most.Store(n)
				}
				time.Sleep(20 * time.Millisecond)
				inside.Add(-1)
				first.Store(true)
				calls.Add(1)
				p.done(success)
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, most.Load())
		require.EqualValues(t, 1000, calls.Load())
		require.True(t, g.closed())
	})
}

func TestNothingIsLeftRunningWhenNobodyCalls(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		g := tripped(t, testHold, 0)
		require.Nil(t, g.timer, "shut, but nobody waits")
		ctx, cancel := context.WithCancel(t.Context())
		go g.enter(visit{ctx: ctx, started: time.Now().Add(time.Minute)})
		synctest.Wait()
		require.False(t, g.armed.IsZero())
		cancel()
		synctest.Wait()
		require.False(t, g.timer.Stop(), "it was stopped")
		nextProbe(t, g).done(success)
		enters(t, g, success)
		require.False(t, g.timer.Stop())
	})
}

// The end of the ramp and a trip are decided by two calls that answer at the
// same moment: whichever is first, the gate must not stand open before an open
// breaker.
func TestATripThatRacesTheEndOfTheRampIsNotLost(t *testing.T) {
	for range 300 {
		g := newGate(0, 0, newJitter())
		g.readmitForTest()
		var passes []pass
		for range rampStart {
			p, no := g.enter(caller(t))
			require.NoError(t, no.err)
			passes = append(passes, p)
		}
		var last func(error)
		for range 10 {
			done, err := g.breaker.library.Allow()
			require.NoError(t, err)
			if last != nil {
				last(errFailure)
			}
			last = done
		}
		var wg sync.WaitGroup
		wg.Go(func() { last(errFailure) })
		wg.Go(func() {
			for _, p := range passes {
				p.done(neutral) // the last of them ends the ramp
			}
		})
		wg.Wait()
		require.Equal(t, gobreaker.StateOpen, g.breaker.library.State())
		_, no := g.enter(caller(t))
		require.ErrorIs(t, no.err, ErrOpen)
		require.Equal(t, shut, g.mode.Load())
	}
}

// readmitForTest puts a gate whose breaker is closed at the start of a ramp.
func (g *gate) readmitForTest() {
	g.mu.Lock()
	defer g.unlock()
	g.slot = func(error) {}
	g.readmit(time.Now())
}

func TestOverAnyHistory(t *testing.T) {
	for seed := range uint64(150) {
		inBubble(t, "the gate stands open only before a closed breaker, and always opens in the end", func(t *testing.T) {
			h := &history{t: t, g: newGate(0, 0, newJitter()), rand: rand.New(rand.NewPCG(seed, 4))}
			for range 400 {
				h.step()
			}
			for _, p := range h.inside {
				if h.rand.IntN(2) == 0 {
					p.done(neutral) // the others never answer
				}
			}
			h.recover()
		})
	}
}

// history drives a gate at random, and knows what may be seen of it.
type history struct {
	t      *testing.T
	g      *gate
	rand   *rand.Rand
	inside []pass
	probed time.Time // the latest probe
	trip   uint32
	limit  float64 // of the ramp, kept apart
	ramped int
}

func (h *history) step() {
	switch n := h.rand.IntN(10); {
	case n < 5:
		h.enter()
	case n < 9 && len(h.inside) > 0:
		i := h.rand.IntN(len(h.inside))
		p := h.inside[i]
		h.inside = slices.Delete(h.inside, i, i+1)
		h.done(p, []report{neutral, success, failure, failure}[h.rand.IntN(4)])
	default:
		time.Sleep(time.Duration(h.rand.IntN(200)) * time.Millisecond)
	}
	if h.g.mode.Load() == free {
		require.Equal(h.t, gobreaker.StateClosed, h.g.breaker.library.State())
	}
	require.True(h.t, h.g.armed.IsZero(), "nobody waits")
}

func (h *history) enter() {
	was := h.g.mode.Load()
	p, no := h.g.enter(visit{ctx: h.t.Context()})
	if no.err != nil {
		require.ErrorIs(h.t, no.err, ErrOpen)
		require.NotEqual(h.t, free, was)
		if was == ramp {
			require.GreaterOrEqual(h.t, float64(h.ramped), h.limit)
		} else {
			require.True(h.t, no.next.After(time.Now()))
		}
		return
	}
	h.inside = append(h.inside, p)
	switch p.mode {
	case shut:
		if p.trip == h.trip {
			require.GreaterOrEqual(h.t, time.Since(h.probed), 262*time.Millisecond)
		}
		h.probed, h.trip = time.Now(), p.trip
	case ramp:
		if was == shut {
			h.limit, h.ramped = rampStart, 0
		}
		if float64(h.ramped) >= h.limit { // led by time
			h.limit *= 2
		}
		h.ramped++
		require.Less(h.t, h.limit, 1e6)
	}
}

func (h *history) done(p pass, r report) {
	was, trip := h.g.mode.Load(), h.g.trip
	p.done(r)
	now := h.g.mode.Load()
	switch {
	case was == shut && now == ramp:
		require.Equal(h.t, success, r)
		require.Equal(h.t, shut, p.mode)
		h.limit, h.ramped = rampStart, 0
	case was == shut:
		require.Equal(h.t, shut, now)
	case was == ramp && p.mode == ramp && p.trip == trip && h.g.trip == trip:
		h.ramped--
		step := 1.0
		if h.limit >= rampKnee {
			step = 0.25
		}
		switch r {
		case success:
			h.limit += step
		case failure:
			h.limit = max(1, h.limit-step)
		}
		require.Equal(h.t, h.limit >= float64(2*h.ramped+1), now == free)
	}
}

// recover has the host answer well from now on.
func (h *history) recover() {
	start := time.Now()
	for h.g.mode.Load() != free {
		require.Less(h.t, time.Since(start), 30*time.Second)
		if p, no := h.g.enter(visit{ctx: h.t.Context()}); no.err == nil {
			p.done(success)
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Equal(h.t, gobreaker.StateClosed, h.g.breaker.library.State())
}

func BenchmarkGate(b *testing.B) {
	g := newGate(testHold, 0, newJitter())
	v := visit{ctx: b.Context(), started: time.Now()}
	b.Run("free", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p, _ := g.enter(v)
			p.done(success)
		}
	})
	b.Run("free, the time known", func(b *testing.B) {
		now := v
		b.ReportAllocs()
		for b.Loop() {
			now.now = now.started
			p, _ := g.enter(now)
			p.done(success)
		}
	})
	b.Run("the breaker alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			done, _ := g.breaker.library.Allow()
			done(nil)
		}
	})
}
