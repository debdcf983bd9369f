//go:build unix

package endtoend

import (
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/stretchr/testify/require"
)

// server is one that a store is in.
type server interface {
	Start()
	Stop()
	Kill()
	Pause()
	Resume()
}

// kept is everything but an answer that goes out as it is written: where the store
// is away just then and the service dies, only its caller knows that it was given.
var kept = []behaviour{slow, failAfter, refuse, fall, hang}

// outages is a crowd at three services behind one address that share a store,
// which goes away again and again, as they do.
type outages struct {
	policy string
	fenced bool
	tx     bool
	rounds int
}

func (o outages) run(t testing.TB, at place, store server) *figures {
	bank, url := newBank(t, o.fenced, lease/30)
	var services []*process
	var addrs []string
	for i := range 3 {
		s := start(t, spec{Name: fmt.Sprint("service ", i), Addr: freeAddr(t), Bank: url, Store: at, Policy: o.policy, Tx: o.tx})
		services, addrs = append(services, s), append(addrs, s.spec.Addr)
	}
	crowd := newCrowd(t, proxy(t, addrs...), kept, &http.Transport{DisableKeepAlives: true})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wait := crowd.run(ctx)
	kills := 0
	restart := func() {
		s := services[mrand.N(len(services))]
		s.kill()
		pause(ctx, 20*time.Millisecond)
		s.start()
		kills++
	}
	var refused []string
	for n := range o.rounds {
		pause(ctx, lease)
		restart()
		pause(ctx, lease)
		begin, end := outage(store, n)
		begin()
		refused = append(refused, o.refusal(t, crowd))
		restart()
		end()
	}
	pause(ctx, 2*lease)
	stop()
	for _, s := range services {
		s.kill()
		s.start()
		kills++
	}
	wait()
	effects := bank.done
	if o.tx {
		effects = rows(t, at)
	}
	f := crowd.judge(t.Context(), func(p *placed) []string { return effects(p.key.Value) })
	f.kills = kills
	require.Empty(t, effects(refused...))
	t.Logf("%d outages of the store; %v", o.rounds, bank)
	return f
}

// outage is one of three, in turn.
func outage(store server, n int) (begin, end func()) {
	switch n % 3 {
	case 0:
		return store.Kill, store.Start
	case 1:
		return store.Pause, store.Resume
	}
	return store.Stop, store.Start
}

// refusal asks with a new key while the store is away, and returns the key.
func (o outages) refusal(t testing.TB, c *crowd) string {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	p := &placed{key: resilient.Key{Value: rand.Text()}, order: order{Do: plain}}
	for range 100 {
		got := again(t.Context(), client, c.url, p)
		if got.err != nil { // a service that has just been killed
			continue
		}
		require.Equal(t, "store-unavailable", got.problem, got)
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.True(t, got.patient)
		return p.key.Value
	}
	t.Fatal("nobody answers")
	return ""
}

func TestThreeServicesAndTheirStoreMayGoAwayAndNothingIsDoneTwice(t *testing.T) {
	t.Parallel()
	rounds := 3
	if nightly() {
		rounds = 30
	}
	for name, o := range map[string]outages{
		"block":                   {policy: "block", rounds: rounds},
		"recover":                 {policy: "recover", fenced: true, rounds: rounds},
		"reexecute a transaction": {policy: "reexecute", tx: true, rounds: rounds},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !o.tx { // Redis has none that a handler could write to
				t.Run("redis", func(t *testing.T) {
					t.Parallel()
					server := privateserver.Redis(t)
					o.run(t, place{"redis", server.Addr(), "keys:"}, server).requireTruth(t)
				})
			}
			t.Run("postgres", func(t *testing.T) {
				t.Parallel()
				server := privateserver.Postgres(t)
				o.run(t, inPostgres(t, server, "keys"), server).requireTruth(t)
			})
		})
	}
}
