package resilient_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// onlyHost is the state of the only host that the Transport knows.
func onlyHost(t *testing.T, rt *resilient.Transport) resilient.HostState {
	t.Helper()
	all := rt.Hosts()
	require.Len(t, all, 1)
	return all[0]
}

func newStormTransport(t testing.TB, cfg resilient.Config) *resilient.Transport {
	rt, err := resilient.NewTransport(cfg)
	require.NoError(t, err)
	return rt
}

func TestAnOutageIsSeenFromItsFirstFailureToItsEnd(t *testing.T) {
	inStorm(t, "of a server that is down for a minute", func(t *testing.T) {
		var (
			start = time.Now()
			up    = func() bool { d := time.Since(start); return d < 5*time.Second || d >= time.Minute }
			rt    = newStormTransport(t, resilient.Config{Base: roundTrip(func(req *http.Request) (*http.Response, error) {
				time.Sleep(20 * time.Millisecond)
				if up() {
					return answer(req, 200), nil
				}
				return answer(req, 503), nil
			})})
			wg    sync.WaitGroup
			calls []call
		)
		require.Empty(t, rt.Hosts(), "nothing was called yet")
		wg.Go(func() { calls = load(t, 1, 100, 80*time.Second, &http.Client{Transport: rt}) })

		time.Sleep(4 * time.Second)
		before := onlyHost(t, rt)
		require.Equal(t, "http://api.test", before.Host)
		require.Equal(t, resilient.BreakerClosed, before.Breaker)
		require.Equal(t, start, before.Since)
		require.InDelta(t, 400, before.Successes, 80)
		require.Zero(t, before.Failures)
		require.EqualValues(t, 10, before.Balance)
		require.Zero(t, before.Trips)

		var opened time.Time
		seen := make(map[resilient.BreakerState]int)
		for last := before; time.Since(start) < 70*time.Second; time.Sleep(10 * time.Millisecond) {
			now := onlyHost(t, rt)
			seen[now.Breaker]++
			require.GreaterOrEqual(t, now.Trips, last.Trips)
			if now.Breaker == resilient.BreakerOpen {
				if last.Breaker == resilient.BreakerClosed {
					opened = now.Since
					require.LessOrEqual(t, time.Since(opened), 10*time.Millisecond)
				}
				require.Equal(t, opened, now.Since)
				require.Less(t, time.Until(now.NextProbe), 2600*time.Millisecond)
				require.Greater(t, time.Until(now.NextProbe), -time.Second, "a caller every 10 ms is the probe that is due")
				require.LessOrEqual(t, now.Waiting, now.InFlight)
				require.Zero(t, now.Successes+now.Failures)
				require.True(t, now.Doubted || time.Since(opened) < 2*time.Second)
			} else {
				require.Zero(t, now.NextProbe)
			}
			last = now
		}
		require.Positive(t, seen[resilient.BreakerHalfOpen], "the ramp")
		require.Greater(t, seen[resilient.BreakerOpen], 5000)
		require.GreaterOrEqual(t, opened.Sub(start), 5*time.Second)
		wg.Wait()
		after := onlyHost(t, rt)
		require.Equal(t, resilient.BreakerClosed, after.Breaker)
		require.GreaterOrEqual(t, after.Since.Sub(start), time.Minute, "the good probe")
		require.LessOrEqual(t, after.Since.Sub(start), 63*time.Second)
		require.EqualValues(t, 1, after.Trips)
		require.Zero(t, after.InFlight+after.Waiting)
		require.False(t, after.Doubted)
		require.Greater(t, stops(calls, resilient.ErrOpen), 1000)
	})
}

func TestCallersWhoWaitForTheirHostAreCounted(t *testing.T) {
	inStorm(t, "seven of them", func(t *testing.T) {
		rt := newStormTransport(t, resilient.Config{Base: answersAlways(503), MaxAttempts: 1})
		client := &http.Client{Transport: rt}
		for range 10 {
			send(t, client, "http://api.test/", time.Now())
		}
		time.Sleep(200 * time.Millisecond) // now the probe comes within their patience
		var wg sync.WaitGroup
		for range 7 {
			wg.Go(func() { send(t, client, "http://api.test/", time.Now()) })
		}
		synctest.Wait()
		s := onlyHost(t, rt)
		require.Equal(t, 7, s.InFlight)
		require.Equal(t, 7, s.Waiting)
		require.Positive(t, time.Until(s.NextProbe))
		wg.Wait()
		s = onlyHost(t, rt)
		require.Zero(t, s.InFlight+s.Waiting)
	})
}

func TestWhatAHostAskedForAndWhatIsLeftForItAreTold(t *testing.T) {
	inStorm(t, "a cool-down, until it is over", func(t *testing.T) {
		rt := newStormTransport(t, resilient.Config{MaxAttempts: 1, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			return answer(req, 429, "Retry-After: 7"), nil
		})})
		start := time.Now()
		send(t, &http.Client{Transport: rt}, "http://api.test/", start)
		require.Equal(t, start.Add(7*time.Second), onlyHost(t, rt).CoolUntil)
		require.Zero(t, onlyHost(t, rt).Failures, "429 says nothing about the host")
		time.Sleep(7 * time.Second)
		require.Zero(t, onlyHost(t, rt).CoolUntil)
	})
	for _, free := range []bool{false, true} {
		inStorm(t, fmt.Sprint("doubt and the budget; lifted: ", free), func(t *testing.T) {
			status := 503
			rt := newStormTransport(t, resilient.Config{NoBreaker: true, NoBudget: free,
				Base: &answering{next: func(int) int { return status }}})
			client := &http.Client{Transport: rt}
			send(t, client, "http://api.test/", time.Now())
			require.False(t, onlyHost(t, rt).Doubted, "not yet a second")
			time.Sleep(time.Second)
			s := onlyHost(t, rt)
			require.Equal(t, !free, s.Doubted)
			require.Equal(t, free, s.Balance == 10)
			require.Equal(t, resilient.HostState{Host: s.Host, Doubted: s.Doubted, Balance: s.Balance}, s, "there is no breaker")
			status = 200
			send(t, client, "http://api.test/", time.Now())
			require.False(t, onlyHost(t, rt).Doubted)
		})
	}
	inStorm(t, "the attempts of the last ten seconds, and no older ones", func(t *testing.T) {
		rt := newStormTransport(t, resilient.Config{MaxAttempts: 1, Base: &answering{next: func(n int) int { return [...]int{200, 200, 503}[n%3] }}})
		start := time.Now()
		for range 9 {
			send(t, &http.Client{Transport: rt}, "http://api.test/", start)
			time.Sleep(time.Second)
		}
		s := onlyHost(t, rt)
		require.Equal(t, [2]int{6, 3}, [2]int{s.Successes, s.Failures})
		time.Sleep(4 * time.Second)
		s = onlyHost(t, rt)
		require.Equal(t, [2]int{3, 2}, [2]int{s.Successes, s.Failures})
		time.Sleep(6 * time.Second)
		s = onlyHost(t, rt)
		require.Zero(t, s.Successes+s.Failures)
	})
}

func TestHostsAreNamedSoThatNobodyMistakesThem(t *testing.T) {
	inStorm(t, "by server, in order; those that found no place as one", func(t *testing.T) {
		rt := newStormTransport(t, resilient.Config{Base: answersAlways(503), MaxHosts: 3, MaxAttempts: 2})
		for _, url := range []string{"https://B.test:443/x?y", "http://a.test:8080/", "https://[::1]:9/", "http://late.test/", "http://later.test/"} {
			send(t, &http.Client{Transport: rt}, url, time.Now())
		}
		var names []string
		for _, s := range rt.Hosts() {
			names = append(names, s.Host)
		}
		require.Equal(t, []string{resilient.OtherHosts, "http://a.test:8080", "https://[::1]:9", "https://b.test"}, names)
	})
	inStorm(t, "by the caller's own groups", func(t *testing.T) {
		rt := newStormTransport(t, resilient.Config{Base: answersAlways(200), HostKey: func(*http.Request) string { return "Payments" }})
		send(t, &http.Client{Transport: rt}, "http://a.test/", time.Now())
		require.Equal(t, "Payments", onlyHost(t, rt).Host)
	})
	for state, name := range map[resilient.BreakerState]string{0: "closed", 1: "open", 2: "half-open", 3: "invalid breaker state"} {
		require.Equal(t, name, state.String())
	}
}

// Whoever looks all the time changes nothing: the same requests reach the server.
func TestLookingAtTheHostsChangesNothing(t *testing.T) {
	history := func(t *testing.T, looks bool) (sent []time.Duration) {
		start := time.Now()
		rt := newStormTransport(t, resilient.Config{FailFast: true, MaxAttempts: 1, Base: &answering{next: func(n int) int {
			sent = append(sent, time.Since(start))
			return [...]int{503, 503, 200, 503}[min(n/60, 3)]
		}}})
		for range 5000 {
			send(t, &http.Client{Transport: rt}, "http://api.test/", start)
			for ; looks && len(rt.Hosts()) != 1; rt.Hosts() {
				t.Error("one host")
			}
			time.Sleep(5 * time.Millisecond)
		}
		return sent[:10] // the first trip; later ones are dated by jitter
	}
	var all [2][]time.Duration
	for i := range all {
		inStorm(t, fmt.Sprint("looked at: ", i == 1), func(t *testing.T) { all[i] = history(t, i == 1) })
	}
	require.Equal(t, all[0], all[1])
}

func TestHostsAreReadWhileTheyAreCalled(t *testing.T) {
	rt := newStormTransport(t, resilient.Config{MaxHosts: 50, MaxAttempts: 1, FailFast: true, Base: &answering{next: func(n int) int { return [...]int{200, 503}[n/100%2] }}})
	ctx, cancel := context.WithCancel(t.Context())
	var readers, callers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				for _, s := range rt.Hosts() {
					if s.Host == "" || s.InFlight < 0 || s.Waiting < 0 || s.Balance < 0 || s.Balance > 10 {
						t.Errorf("%+v", s)
					}
				}
			}
		})
	}
	for c := range 4 {
		callers.Go(func() {
			for i := range 500 {
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://h%d.test/", (i+c)%80), nil)
				if resp, err := rt.RoundTrip(req); err == nil {
					_ = resp.Body.Close()
				}
			}
		})
	}
	callers.Wait()
	cancel()
	readers.Wait()
}

// BenchmarkLookAtHosts reads 10,000 hosts.
func BenchmarkLookAtHosts(b *testing.B) {
	rt := newStormTransport(b, resilient.Config{Base: stub{http.Header{}}})
	for i := range 10_000 {
		req := benchRequest(b, http.MethodGet, nil)
		req.URL.Host = fmt.Sprintf("host%d.test", i)
		benchSend(b, rt, req)
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(rt.Hosts()) != 10_000 {
			b.Fatal("hosts are missing")
		}
	}
}
