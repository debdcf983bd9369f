//go:build unix

package resilientredis_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/idempotency/idempotencytest"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/go-resilient/resilient/resilientredis"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestTheStoreKeepsTheContract(t *testing.T) {
	server := privateserver.Redis(t)
	idempotencytest.Store(t, func(t *testing.T) idempotencytest.Instance {
		open := func() idempotency.Store { return newStore(t, newClient(t, server)) }
		return idempotencytest.Instance{Store: open(), Reopen: func() idempotency.Store {
			server.Kill()
			server.Start()
			return open()
		}}
	})
}

func TestTheStoreKeepsTheContractOnACluster(t *testing.T) {
	server := privateserver.RedisCluster(t)
	idempotencytest.Store(t, func(t *testing.T) idempotencytest.Instance {
		open := func() idempotency.Store { return newStore(t, newClusterClient(t, server)) }
		return idempotencytest.Instance{Store: open(), Reopen: open}
	})
}

func TestWhatWasAcknowledgedSurvivesAKillOfTheServer(t *testing.T) {
	b := newBench(t)
	var held, done []idempotency.Claim
	for range 5 {
		for range 10 {
			held = append(held, newClaim())
			mustClaim(t, b, held[len(held)-1])
			done = append(done, newClaim())
			mustClaim(t, b, done[len(done)-1])
			require.NoError(t, b.Complete(t.Context(), done[len(done)-1].Holder(), done[len(done)-1].ID[:], week))
		}
		b.server.Kill()
		_, _, err := b.Claim(t.Context(), newClaim())
		require.Error(t, err, "nobody is there")
		b.server.Start()
		b.Store = newStore(t, newClient(t, b.server)) // go-redis holds a server for lost some time longer
		for _, c := range held {
			require.NoError(t, b.Renew(t.Context(), c.Holder(), c.Lease, c.Keep), "it is still held")
		}
		for _, c := range done {
			rec, err := b.Lookup(t.Context(), c.ID)
			require.NoError(t, err)
			require.Equal(t, c.ID[:], rec.Result)
		}
	}
}

func TestAMethodEndsWithItsContextThoughTheServerStandsStill(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	for method, call := range methods(b, c) {
		b.server.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := call(ctx) // the client's own limits are far longer than this test may take
		cancel()
		requireDiscreet(t, err, method, c)
		require.ErrorIs(t, err, context.DeadlineExceeded, method)
		b.server.Resume()
	}
}

func TestAClaimWhoseAnswerWasLostIsRepeatedAndStands(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	b.server.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := b.Claim(ctx, c)
	require.Error(t, err)
	b.server.Resume()
	mustClaim(t, b, c)
	_, claimed, err := b.Claim(t.Context(), again(c))
	require.NoError(t, err)
	require.False(t, claimed)
}

func TestAServerThatForgetsItsScriptsIsToldThemAgain(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	for _, method := range []string{"claim", "renew", "abandon", "lookup", "release", "claim", "complete", "lookup"} {
		require.NoError(t, b.raw.ScriptFlush(t.Context()).Err())
		require.NoError(t, methods(b, c)[method](t.Context()), method)
	}
	require.Equal(t, idempotency.Completed, b.state(t, c))
}

func newClusterClient(t testing.TB, server *privateserver.RedisServer) *redis.ClusterClient {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestAClusterKeepsBothKeysOfARecordTogether(t *testing.T) {
	client := newClusterClient(t, privateserver.RedisCluster(t))
	store, err := resilientredis.New(client, resilientredis.Config{Prefix: "payments:"})
	require.NoError(t, err)
	require.NoError(t, store.Check(t.Context()))
	for range 100 {
		c := newClaim()
		mustClaim(t, store, c)
		require.NoError(t, store.Complete(t.Context(), c.Holder(), []byte("done"), week))
		rec, claimed, err := store.Claim(t.Context(), again(c))
		require.NoError(t, err)
		require.False(t, claimed)
		require.Equal(t, "done", string(rec.Result))
	}
	require.NoError(t, client.ConfigSet(t.Context(), "appendfsync", "no").Err())
	require.ErrorContains(t, store.Check(t.Context()), `: appendfsync is "no", not always`)
}

func TestCheckNamesEachSettingThatMayLoseAKey(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.Check(t.Context()))
	require.NoError(t, b.raw.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	require.NoError(t, b.raw.ConfigSet(t.Context(), "appendfsync", "everysec").Err())
	err := b.Check(t.Context())
	require.ErrorContains(t, err, `maxmemory-policy is "allkeys-lru", not noeviction`)
	require.ErrorContains(t, err, `appendfsync is "everysec", not always`)
	require.NoError(t, b.raw.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err())
	require.NoError(t, b.raw.ConfigSet(t.Context(), "appendonly", "no").Err())
	err = b.Check(t.Context())
	require.ErrorContains(t, err, "appendonly is not on")
	require.NotContains(t, err.Error(), "append"+"fsync", "it matters only with appendonly")
	b.server.Kill()
	require.Error(t, b.Check(t.Context()), "it cannot tell")
}

func TestClientsThatWouldBreakTheContractAreRefused(t *testing.T) {
	refused := func(client redis.UniversalClient, why string, c resilientredis.Config) {
		t.Helper()
		_, err := resilientredis.New(client, c)
		require.ErrorContains(t, err, why)
		if client != nil {
			require.NoError(t, client.Close())
		}
	}
	refused(nil, "is nil", resilientredis.Config{})
	refused(redis.NewClient(&redis.Options{}), "ContextTimeoutEnabled", resilientredis.Config{})
	refused(redis.NewClusterClient(&redis.ClusterOptions{}), "ContextTimeoutEnabled", resilientredis.Config{})
	refused(redis.NewRing(&redis.RingOptions{ContextTimeoutEnabled: true}), "Ring", resilientredis.Config{})
	for _, prefix := range []string{"a{", "}", "{}"} {
		refused(redis.NewClient(&redis.Options{ContextTimeoutEnabled: true}), "Config.Prefix: ", resilientredis.Config{Prefix: prefix})
	}
}
