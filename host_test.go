package resilient

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOneServerHasOneKey(t *testing.T) {
	for _, tt := range []struct{ url, scheme, host string }{
		{"https://api.example.com/a?b", "https", "api.example.com"},
		{"https://api.example.com:443/", "https", "api.example.com"},
		{"https://api.example.com:/", "https", "api.example.com"},
		{"HTTPS://API.Example.COM:443/", "https", "api.example.com"},
		{"http://api.example.com:80/", "http", "api.example.com"},
		{"http://api.example.com:443/", "http", "api.example.com:443"},
		{"https://api.example.com:80/", "https", "api.example.com:80"},
		{"https://user:secret@api.example.com:8443/", "https", "api.example.com:8443"},
		{"https://[::1]:443/", "https", "[::1]"},
		{"https://[2001:DB8::443]/", "https", "[2001:db8::443]"},
		{"http://127.0.0.1:8080/", "http", "127.0.0.1:8080"},
	} {
		u, err := url.Parse(tt.url)
		require.NoError(t, err)
		require.Equal(t, hostKey{tt.scheme, tt.host}, hostKeyOf(u), tt.url)
	}
	require.Equal(t, hostKey{"https", "::443"}, hostKeyOf(&url.URL{Scheme: "https", Host: "::443"}),
		"the end of a bare address is not a port")
}

func named(i int) hostKey { return hostKey{"https", fmt.Sprintf("h%d.example.com", i)} }

func newTestHosts(max int) *hosts {
	return newHosts(max, func() *gate { return newGate(0, 0, newJitter()) }, time.Now())
}

func TestWhatHappensToOneHostStaysWithIt(t *testing.T) {
	h := newTestHosts(10)
	a, b := h.acquire(named(1)), h.acquire(named(2))
	require.NotSame(t, a, b)
	require.Same(t, a, h.acquire(named(1)))
	for a.budget.withdraw(0) {
	}
	for range 10 {
		enters(t, a.gate, failure)
	}
	a.coolDown(time.Minute, 0)
	require.True(t, b.budget.full())
	require.True(t, b.gate.closed())
	require.Zero(t, b.cooling(0))
}

func TestACoolDownIsOnlyEverLengthened(t *testing.T) {
	h := newTestHosts(10).acquire(named(1))
	h.coolDown(5*time.Second, 0)
	h.coolDown(3*time.Second, 0)
	require.Equal(t, 4*time.Second, h.cooling(time.Second))
	h.coolDown(9*time.Second, time.Second)
	require.Equal(t, 8*time.Second, h.cooling(time.Second))
	require.Zero(t, h.cooling(10*time.Second))
	h.coolDown(20*time.Second, 10*time.Second)
	h.heard(success)
	require.Zero(t, h.cooling(10*time.Second), "an answer ends it early")
}

func TestAHundredThousandHostsNeverKeepMoreThanAllowed(t *testing.T) {
	const most = 1000
	h := newTestHosts(most)
	for i := range 100_000 {
		host := h.acquire(named(i))
		require.False(t, host.shared)
		host.release()
		require.LessOrEqual(t, h.kept.Load(), int64(most))
	}
	require.Equal(t, most, h.stored())
}

// stored counts what is really in the maps.
func (h *hosts) stored() int {
	n := 0
	for i := range h.shards {
		if m := h.shards[i].bySum.Load(); m != nil {
			n += len(*m)
		}
	}
	return n
}

func TestOnlyAnIdleAndHealthyHostIsEvicted(t *testing.T) {
	for name, trouble := range map[string]func(h *host){
		"an open breaker":     func(h *host) { enterTen(t, h.gate); h.release() },
		"an operation inside": func(h *host) {},
		"a budget in part":    func(h *host) { h.budget.withdraw(0); h.release() },
		"a cool-down":         func(h *host) { h.coolDown(time.Hour, 0); h.release() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestHosts(3)
			var kept []*host
			for i := range 3 {
				kept = append(kept, h.acquire(named(i)))
				trouble(kept[i])
			}
			for i := range 100 {
				other := h.acquire(named(1000 + i))
				require.Same(t, h.overflow, other)
				require.Nil(t, other.gate)
				other.release()
			}
			for i := range 3 {
				require.Same(t, kept[i], h.acquire(named(i)))
			}
		})
	}
}

func enterTen(t *testing.T, g *gate) {
	for range 10 {
		enters(t, g, failure)
	}
}

func TestAHostThatRecoversMakesRoomAgain(t *testing.T) {
	inBubble(t, "after the pause between searches", func(t *testing.T) {
		h := newTestHosts(1)
		first := h.acquire(named(1))
		require.Same(t, h.overflow, h.acquire(named(2)))
		first.release()
		require.Same(t, h.overflow, h.acquire(named(2)), "newcomers do not repeat a search that has just failed")
		time.Sleep(hostSearchPause)
		second := h.acquire(named(2))
		require.Equal(t, named(2), second.key)
		require.Equal(t, 1, h.stored())
	})
}

func TestAHostThatStandsForManyCannotSilenceThem(t *testing.T) {
	h := newTestHosts(0)
	shared := h.acquire(named(1))
	shared.coolDown(time.Hour, 0)
	require.Zero(t, shared.cooling(0))
	require.True(t, shared.budget.withdraw(0))
}

func TestManyCallersAtOnceNeverHoldTwoStatesOfOneHost(t *testing.T) {
	const names, most = 8, 2
	h := newTestHosts(most)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 3))
			for range 5000 {
				i := r.IntN(names)
				host := h.acquire(named(i))
				if !host.shared {
					if host.key != named(i) {
						t.Errorf("%v for %v", host.key, named(i))
					}
					if now := h.acquire(named(i)); now != host {
						t.Errorf("two states of %v", host.key)
					}
					host.release()
				}
				host.release()
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, h.stored(), most)
	require.EqualValues(t, h.stored(), h.kept.Load())
}

func TestWhoFindsAHostJustEvictedSeesThatItIs(t *testing.T) {
	found := newTestHosts(1).acquire(named(1))
	require.False(t, found.evict(0), "in use")
	found.release()
	require.True(t, found.evict(0))
	require.Negative(t, found.users.Add(1))
	require.False(t, found.evict(0))
}

func BenchmarkHostKey(b *testing.B) {
	u, _ := url.Parse("https://api.example.com/v1/charges")
	b.ReportAllocs()
	for b.Loop() {
		hostKeyOf(u)
	}
}

func BenchmarkHosts(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		h := newTestHosts(10_000)
		keys := make([]hostKey, n)
		for i := range keys {
			keys[i] = named(i)
			h.acquire(keys[i]).release()
		}
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				h.acquire(keys[i]).release()
				if i++; i == n {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("%d parallel", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := rand.IntN(n)
				for pb.Next() {
					h.acquire(keys[i]).release()
					if i++; i == n {
						i = 0
					}
				}
			})
		})
	}
	b.Run("newcomers when full", func(b *testing.B) {
		h := newTestHosts(10_000)
		keys := make([]hostKey, 100_000)
		for i := range keys {
			keys[i] = named(i)
		}
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			h.acquire(keys[i]).release()
			if i++; i == len(keys) {
				i = 0
			}
		}
	})
}
