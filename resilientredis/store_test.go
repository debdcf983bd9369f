//go:build unix

package resilientredis_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/go-resilient/resilient/resilientredis"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis tells the terminal of every server that a test has killed
	os.Exit(m.Run())
}

// A bench is a store, its server, and a client to look behind the store with.
type bench struct {
	*resilientredis.Store
	server *privateserver.RedisServer
	raw    *redis.Client
}

func newBench(t testing.TB, settings ...string) *bench {
	t.Helper()
	server := privateserver.Redis(t, settings...)
	raw := newClient(t, server)
	return &bench{newStore(t, raw), server, raw}
}

func newClient(t testing.TB, server *privateserver.RedisServer, change ...func(*redis.Options)) *redis.Client {
	o := &redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, DialerRetries: 1}
	for _, c := range change {
		c(o)
	}
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func newStore(t testing.TB, client redis.UniversalClient) *resilientredis.Store {
	t.Helper()
	store, err := resilientredis.New(client, resilientredis.Config{})
	require.NoError(t, err)
	return store
}

// newClaim asks for a new key.
func newClaim() idempotency.Claim {
	c := idempotency.Claim{Lease: time.Hour, Keep: 2 * time.Hour}
	_, _ = rand.Read(c.ID[:])
	_, _ = rand.Read(c.Fingerprint[:])
	return again(c)
}

// again is another run that asks for the same key.
func again(c idempotency.Claim) idempotency.Claim {
	_, _ = rand.Read(c.Token[:])
	return c
}

var week = idempotency.Keep{Result: 24 * time.Hour, Key: 7 * 24 * time.Hour}

func mustClaim(t testing.TB, s idempotency.Store, c idempotency.Claim) idempotency.Record {
	t.Helper()
	rec, claimed, err := s.Claim(t.Context(), c)
	require.NoError(t, err)
	require.True(t, claimed)
	require.Equal(t, idempotency.Running, rec.State)
	return rec
}

func (b *bench) state(t testing.TB, c idempotency.Claim) idempotency.State {
	t.Helper()
	rec, err := b.Lookup(t.Context(), c.ID)
	require.NoError(t, err)
	return rec.State
}

func recordKey(c idempotency.Claim) string { return "idempotency:{" + c.ID.String() + "}" }

// later lets time pass for one record, by moving all of its times back. Redis
// does not notice: it still has the keys.
func (b *bench) later(t testing.TB, c idempotency.Claim, d time.Duration) {
	t.Helper()
	for _, field := range []string{"born", "lease", "keep", "result"} {
		text, err := b.raw.HGet(t.Context(), recordKey(c), field).Result()
		if err == redis.Nil {
			continue
		}
		require.NoError(t, err)
		at, err := strconv.ParseInt(text, 10, 64)
		require.NoError(t, err, field)
		require.NoError(t, b.raw.HSet(t.Context(), recordKey(c), field, at-d.Microseconds()).Err())
	}
}

func TestWhatARecordSaysCountsAndNotWhetherRedisHasExpiredIt(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	mustClaim(t, b, c)
	b.later(t, c, time.Hour+time.Second)
	require.Equal(t, idempotency.Unknown, b.state(t, c))
	require.NoError(t, b.Complete(t.Context(), c.Holder(), []byte("done"), week))
	require.Equal(t, idempotency.Completed, b.state(t, c))
	b.later(t, c, 24*time.Hour)
	require.Equal(t, idempotency.Expired, b.state(t, c))
	b.later(t, c, 6*24*time.Hour)
	require.Equal(t, idempotency.Absent, b.state(t, c))
	require.EqualValues(t, 2, b.raw.DBSize(t.Context()).Val(), "Redis has them all the time")
	require.ErrorIs(t, b.Complete(t.Context(), c.Holder(), nil, week), idempotency.ErrLost)
	require.ErrorIs(t, b.Renew(t.Context(), c.Holder(), time.Hour, time.Hour), idempotency.ErrLost)
	require.NoError(t, b.Release(t.Context(), c.Holder()))

	next := again(c)
	rec := mustClaim(t, b, next)
	require.False(t, rec.TakenOver)
	require.Less(t, rec.Age, time.Hour)
	require.Equal(t, idempotency.Running, b.state(t, c), "nothing of the old record is left")
}

func TestAHolderWhoseKeyWasForgottenHasLostItThoughRedisStillHasTheRecord(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	mustClaim(t, b, c)
	b.later(t, c, 2*time.Hour)
	for _, method := range []string{"renew", "complete", "abandon"} {
		require.ErrorIs(t, methods(b, c)[method](t.Context()), idempotency.ErrLost, method)
		require.Equal(t, idempotency.Absent, b.state(t, c))
	}
}

func TestAKeyIsNotForgottenWhileItIsHeld(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	c.Keep = 0
	mustClaim(t, b, c)
	require.NoError(t, b.Renew(t.Context(), c.Holder(), time.Hour, 0))
	require.Equal(t, idempotency.Running, b.state(t, c))
}

func TestTheShortestTimeIsNotNone(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	c.Lease = 1
	require.Equal(t, time.Microsecond, mustClaim(t, b, c).Left)
}

func TestRedisFreesTheResultFirstAndTheKeyLater(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	mustClaim(t, b, c)
	kept := func(key string) time.Duration { return b.raw.PTTL(t.Context(), key).Val() }
	notBefore := func(key, field string) {
		at, err := b.raw.HGet(t.Context(), recordKey(c), field).Int64()
		require.NoError(t, err)
		require.EqualValues(t, (at+999)/1000, b.raw.PExpireTime(t.Context(), key).Val().Milliseconds())
	}
	notBefore(recordKey(c), "keep")
	require.Greater(t, kept(recordKey(c)), time.Hour)
	require.LessOrEqual(t, kept(recordKey(c)), 2*time.Hour+time.Millisecond)
	require.NoError(t, b.Complete(t.Context(), c.Holder(), []byte("done"), week))
	require.Greater(t, kept(recordKey(c)), 6*24*time.Hour)
	require.Greater(t, kept(recordKey(c)+":result"), 23*time.Hour)
	require.LessOrEqual(t, kept(recordKey(c)+":result"), 24*time.Hour+time.Millisecond)

	notBefore(recordKey(c), "keep")
	notBefore(recordKey(c)+":result", "result")

	c = newClaim()
	mustClaim(t, b, c)
	keep := idempotency.Keep{Result: time.Hour, Key: time.Minute}
	require.NoError(t, b.Complete(t.Context(), c.Holder(), []byte("done"), keep))
	require.LessOrEqual(t, kept(recordKey(c)+":result"), time.Minute+time.Millisecond, "a result does not outlive its key")

	c = newClaim()
	mustClaim(t, b, c)
	keep = idempotency.Keep{Result: time.Millisecond, Key: 2 * time.Millisecond}
	require.NoError(t, b.Complete(t.Context(), c.Holder(), []byte("done"), keep))
	require.Eventually(t, func() bool { return b.raw.DBSize(t.Context()).Val() == 4 }, time.Minute, time.Millisecond)
}

func TestAResultThatRedisLostReadsAsExpired(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	mustClaim(t, b, c)
	require.NoError(t, b.Complete(t.Context(), c.Holder(), []byte("done"), week))
	require.NoError(t, b.raw.Del(t.Context(), recordKey(c)+":result").Err())
	require.Equal(t, idempotency.Expired, b.state(t, c))
	rec, claimed, err := b.Claim(t.Context(), again(c))
	require.NoError(t, err)
	require.False(t, claimed)
	require.Equal(t, idempotency.Expired, rec.State)
}

func TestEveryByteOfAResultComesBack(t *testing.T) {
	b := newBench(t)
	all := make([]byte, 1<<20)
	for i := range all {
		all[i] = byte(i)
	}
	for _, result := range [][]byte{nil, {0}, []byte("\r\n$-1\r\n"), all} {
		c := newClaim()
		mustClaim(t, b, c)
		require.NoError(t, b.Complete(t.Context(), c.Holder(), result, week))
		rec, err := b.Lookup(t.Context(), c.ID)
		require.NoError(t, err)
		require.Equal(t, idempotency.Completed, rec.State)
		require.Equal(t, string(result), string(rec.Result))
	}
}

func TestTheFenceGrowsWithEveryRun(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	c.TakeOver = true
	last := uint64(0)
	run := func() {
		t.Helper()
		c = again(c)
		rec := mustClaim(t, b, c)
		require.Greater(t, rec.Fence, last)
		require.Equal(t, rec.Fence, mustClaim(t, b, c).Fence, "it is the same run")
		last = rec.Fence
	}
	run()
	require.NoError(t, b.Release(t.Context(), c.Holder()))
	run()
	require.NoError(t, b.Abandon(t.Context(), c.Holder(), time.Hour))
	run()
	b.later(t, c, 3*time.Hour)
	run()
	require.NoError(t, b.raw.Del(t.Context(), recordKey(c)).Err()) // as Redis does when the key's time is over
	run()

	// A server whose clock is a day behind the one that gave the last fence.
	last += uint64((24 * time.Hour).Microseconds())
	require.NoError(t, b.raw.HSet(t.Context(), recordKey(c), "fence", last).Err())
	require.NoError(t, b.Abandon(t.Context(), c.Holder(), time.Hour))
	run()
	last += uint64((24 * time.Hour).Microseconds())
	require.NoError(t, b.raw.HSet(t.Context(), recordKey(c), "fence", last).Err())
	b.later(t, c, 3*time.Hour)
	run()
}

func TestALeaseWithoutEndEndsNever(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	c.Lease, c.Keep = 1<<63-1, 1<<63-1
	require.Greater(t, mustClaim(t, b, c).Left, 100*365*24*time.Hour)
	keep := idempotency.Keep{Result: 1<<63 - 1, Key: 1<<63 - 1}
	require.NoError(t, b.Complete(t.Context(), c.Holder(), nil, keep))
	require.Equal(t, idempotency.Completed, b.state(t, c))
}

func TestOneOfManyCallersGetsTheKey(t *testing.T) {
	b := newBench(t)
	for range 20 {
		c := newClaim()
		var wg sync.WaitGroup
		claims := make(chan bool, 64)
		for range cap(claims) {
			wg.Go(func() {
				_, claimed, err := b.Claim(t.Context(), again(c))
				claims <- claimed && err == nil
			})
		}
		wg.Wait()
		close(claims)
		n := 0
		for claimed := range claims {
			if claimed {
				n++
			}
		}
		require.Equal(t, 1, n)
	}
}

// methods is every method of a store, called for one claim.
func methods(s idempotency.Store, c idempotency.Claim) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"claim": func(ctx context.Context) error { _, _, err := s.Claim(ctx, c); return err },
		"renew": func(ctx context.Context) error { return s.Renew(ctx, c.Holder(), c.Lease, c.Keep) },
		"complete": func(ctx context.Context) error {
			return s.Complete(ctx, c.Holder(), []byte("a secret result"), week)
		},
		"release": func(ctx context.Context) error { return s.Release(ctx, c.Holder()) },
		"abandon": func(ctx context.Context) error { return s.Abandon(ctx, c.Holder(), time.Hour) },
		"lookup":  func(ctx context.Context) error { _, err := s.Lookup(ctx, c.ID); return err },
	}
}

// requireDiscreet asks for an error that names the method, and nothing that is
// nobody's business in any of the forms a byte can be printed in.
func requireDiscreet(t *testing.T, err error, method string, c idempotency.Claim) {
	t.Helper()
	require.ErrorContains(t, err, "resilientredis: "+method+": ")
	for _, secret := range [][]byte{c.Token[:], c.Fingerprint[:], []byte("secret result")} {
		for _, form := range []string{"%s", "%x", "%X", "%q", "%v"} {
			require.NotContains(t, err.Error(), strings.Trim(fmt.Sprintf(form, secret), `"[]`))
		}
	}
}

func TestARecordOfAnotherVersionIsNeverTakenForAbsent(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	for name, spoil := range map[string]func() error{
		"a later version":   func() error { return b.raw.HSet(t.Context(), recordKey(c), "version", "2").Err() },
		"no version":        func() error { return b.raw.HDel(t.Context(), recordKey(c), "version").Err() },
		"no times":          func() error { return b.raw.HDel(t.Context(), recordKey(c), "keep").Err() },
		"not even a record": func() error { return b.raw.Set(t.Context(), recordKey(c), "x", 0).Err() },
	} {
		require.NoError(t, b.raw.FlushAll(t.Context()).Err())
		mustClaim(t, b, c)
		require.NoError(t, spoil())
		before := b.raw.Dump(t.Context(), recordKey(c)).Val()
		for method, call := range methods(b, c) {
			err := call(t.Context())
			require.NotErrorIs(t, err, idempotency.ErrLost, "%s: %s", name, method)
			requireDiscreet(t, err, method, c)
		}
		require.Equal(t, before, b.raw.Dump(t.Context(), recordKey(c)).Val(), name)
	}
}

func TestErrorsTellNothingOfWhatIsStored(t *testing.T) {
	b := newBench(t, "--rename-command", "EVALSHA", "")
	c := newClaim()
	for _, prefix := range []string{"", "i"} {
		store, err := resilientredis.New(b.raw, resilientredis.Config{Prefix: prefix})
		require.NoError(t, err)
		for method, call := range methods(store, c) {
			requireDiscreet(t, call(t.Context()), method, c) // Redis repeats some of the arguments
		}
	}
	require.NoError(t, b.raw.Close())
	for method, call := range methods(b, c) {
		requireDiscreet(t, call(t.Context()), method, c)
	}
}

func TestAFullServerRefusesNewKeysOnly(t *testing.T) {
	b := newBench(t)
	done, running, abandoned := newClaim(), newClaim(), newClaim()
	for _, c := range []idempotency.Claim{done, running, abandoned} {
		mustClaim(t, b, c)
	}
	require.NoError(t, b.Complete(t.Context(), done.Holder(), []byte("done"), week))
	require.NoError(t, b.raw.ConfigSet(t.Context(), "maxmemory", "1").Err())

	_, _, err := b.Claim(t.Context(), newClaim())
	require.ErrorIs(t, err, idempotency.ErrFull)
	rec, _, err := b.Claim(t.Context(), again(done))
	require.NoError(t, err)
	require.Equal(t, "done", string(rec.Result))
	require.NoError(t, b.Renew(t.Context(), running.Holder(), time.Hour, time.Hour))
	require.NoError(t, b.Complete(t.Context(), running.Holder(), []byte("done"), week))
	require.Equal(t, idempotency.Completed, b.state(t, running))
	require.NoError(t, b.Abandon(t.Context(), abandoned.Holder(), time.Hour))
	require.NoError(t, b.Release(t.Context(), abandoned.Holder()))
}

func TestAReplicaIsNeverBelieved(t *testing.T) {
	b := newBench(t)
	_, port, _ := strings.Cut(b.server.Addr(), ":")
	replica := newStore(t, newClient(t, privateserver.Redis(t, "--replicaof", "127.0.0.1 "+port)))
	c := newClaim()
	for method, call := range methods(replica, c) {
		require.ErrorContains(t, call(t.Context()), "READONLY", method)
	}
}

func TestEveryMethodIsOneRoundTripAndSendsNoTimeOfItsOwn(t *testing.T) {
	b := newBench(t)
	c := newClaim()
	for _, call := range methods(b, c) {
		_ = call(t.Context()) // the server has seen every script now
	}
	var sent sentCommands
	b.raw.AddHook(&sent)
	require.NoError(t, b.raw.FlushAll(t.Context()).Err())
	for method, call := range methods(b, c) {
		sent = nil
		_ = call(t.Context())
		require.Len(t, sent, 1, method)
		_ = call(t.Context())
		require.Equal(t, sent[0], sent[1], method)
	}
}

type sentCommands [][]any

func (s *sentCommands) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *sentCommands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		*s = append(*s, cmd.Args())
		return next(ctx, cmd)
	}
}

func (s *sentCommands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestAUserNeedsWhatTheDocumentationSays(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.raw.Do(t.Context(), "ACL", "SETUSER", "keys", "on", ">secret", "~idempotency:*", "+evalsha", "+eval",
		"+time", "+exists", "+hmget", "+hset", "+get", "+set", "+del", "+pexpireat").Err())
	client := newClient(t, b.server, func(o *redis.Options) { o.Username, o.Password = "keys", "secret" })
	store := newStore(t, client)
	c := newClaim()
	for _, method := range []string{"claim", "renew", "lookup", "abandon", "claim", "release", "claim", "complete", "lookup"} {
		require.NoError(t, methods(store, c)[method](t.Context()))
	}
	require.Error(t, store.Check(t.Context()), "it may not ask")
	require.NoError(t, b.raw.Do(t.Context(), "ACL", "SETUSER", "keys", "+info").Err())
	require.NoError(t, store.Check(t.Context()), "and may not ask for appendfsync")
	require.NoError(t, b.raw.ConfigSet(t.Context(), "appendfsync", "everysec").Err())
	require.NoError(t, store.Check(t.Context()))
	require.NoError(t, b.raw.Do(t.Context(), "ACL", "SETUSER", "keys", "+config|get").Err())
	require.ErrorContains(t, store.Check(t.Context()), "appendfsync")
}
