package resilientpg_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/idempotency/idempotencytest"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

func TestStoreKeepsItsContract(t *testing.T) {
	server := privateserver.Postgres(t)
	for name, settings := range map[string]string{
		"as pgx comes": "",
		"where nothing is prepared, as behind PgBouncer": "default_query_exec_mode=exec",
		"in a database that is serializable":             "default_transaction_isolation=serializable",
	} {
		t.Run(name, func(t *testing.T) {
			idempotencytest.Store(t, func(t *testing.T) idempotencytest.Instance {
				pool := newPool(t, server, settings)
				s, table := newStore(t, pool)
				return idempotencytest.Instance{Store: s, Reopen: func() idempotency.Store {
					pool.Close()
					return openStore(t, newPool(t, server, settings), table)
				}}
			})
		})
	}
}

func TestTheStoreWorksInEveryModeOfPgx(t *testing.T) {
	server := privateserver.Postgres(t)
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		s, _ := newStore(t, newPool(t, server, "default_query_exec_mode="+mode))
		c := newClaim()
		claim(t, s, c)
		require.NoError(t, s.Renew(t.Context(), c.Holder(), time.Hour, time.Hour))
		require.NoError(t, s.Abandon(t.Context(), c.Holder(), time.Hour))
		other := takingOver(c)
		require.True(t, claim(t, s, other).TakenOver)
		require.ErrorIs(t, s.Complete(t.Context(), c.Holder(), nil, kept), idempotency.ErrLost)
		require.NoError(t, s.Complete(t.Context(), other.Holder(), []byte("\x00\\'"), kept))
		rec, err := s.Lookup(t.Context(), c.ID)
		require.NoError(t, err)
		require.Equal(t, "\x00\\'", string(rec.Result))
		claim(t, s, again(newClaim()))
		require.NoError(t, s.Release(t.Context(), newClaim().Holder()))
		_, err = s.Sweep(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.Check(t.Context()))
	}
}

func TestARecordOfAnotherReleaseIsAnErrorAndLeftAlone(t *testing.T) {
	pool := newPool(t, privateserver.Postgres(t), "")
	s, table := newStore(t, pool)
	c := newClaim()
	claim(t, s, c)
	execute(t, pool, "UPDATE "+table+" SET version = 2, lease_until = now() - interval '1 hour'")
	forgotten := newClaim()
	claim(t, s, forgotten)
	execute(t, pool, "UPDATE "+table+" SET version = 3, keep_until = now() - interval '1 hour' WHERE id = $1", forgotten.ID[:])

	for _, c := range []idempotency.Claim{c, takingOver(c), forgotten, takingOver(forgotten)} {
		_, claimed, err := s.Claim(t.Context(), c)
		require.ErrorContains(t, err, "has version")
		require.False(t, claimed)
		_, err = s.Lookup(t.Context(), c.ID)
		require.ErrorContains(t, err, "has version")
		for _, err := range []error{
			s.Renew(t.Context(), c.Holder(), time.Hour, time.Hour),
			s.Complete(t.Context(), c.Holder(), nil, kept),
			s.Release(t.Context(), c.Holder()),
			s.Abandon(t.Context(), c.Holder(), time.Hour),
		} {
			require.ErrorContains(t, err, "has version")
			require.NotErrorIs(t, err, idempotency.ErrLost)
		}
	}
	swept, err := s.Sweep(t.Context())
	require.NoError(t, err)
	require.Zero(t, swept)
	require.EqualValues(t, 2, count(t, pool, "SELECT count(*) FROM "+table))
}

func TestAClaimThatIsSlowToBeWrittenHasNoLowerFenceThanAFasterOne(t *testing.T) {
	pool := newPool(t, privateserver.Postgres(t), "pool_max_conns=8")
	s, table := newStore(t, pool)
	slow := newClaim()
	execute(t, pool, `CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.fence = 1 THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN NEW; END $$`)
	execute(t, pool, "CREATE TRIGGER slow BEFORE INSERT ON "+table+" FOR EACH ROW EXECUTE FUNCTION stand_still()")
	gate, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = gate.Exec(t.Context(), "SELECT pg_advisory_xact_lock(1)")
	require.NoError(t, err)

	var mu sync.Mutex
	var fences []uint64 // in the order of the runs
	run := func(c idempotency.Claim) {
		rec, claimed, err := s.Claim(t.Context(), c)
		noError(t, err)
		if claimed {
			mu.Lock()
			fences = append(fences, rec.Fence)
			mu.Unlock()
			noError(t, s.Release(t.Context(), c.Holder()))
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { run(slow) })
	waiting(t, pool, 1)
	faster := make(chan struct{})
	wg.Go(func() {
		run(again(slow))
		close(faster)
	})
	waitingOr(t, pool, 2, faster)
	require.NoError(t, gate.Rollback(t.Context()))
	wg.Wait()
	run(again(slow))
	require.IsIncreasing(t, fences)
}

func TestTheConfigIsChecked(t *testing.T) {
	_, err := resilientpg.New(nil, resilientpg.Config{})
	require.EqualError(t, err, "resilientpg: New needs a pool, not nil")
	pool, err := pgxpool.New(t.Context(), "host=nowhere.invalid")
	require.NoError(t, err)
	defer pool.Close()
	for _, table := range []string{`a"b`, "Keys", "a.b.c", "a b", ".a", "a.", "1a", "a;b", "\u00e9", strings.Repeat("a", 58)} {
		_, err := resilientpg.New(pool, resilientpg.Config{Table: table})
		require.ErrorContains(t, err, "resilientpg: Config.Table: ")
		_, err = resilientpg.Schema(table)
		require.ErrorContains(t, err, "resilientpg: Schema: ")
	}
	for _, table := range []string{"", "a", "_1.b2", strings.Repeat("a", 57)} {
		_, err := resilientpg.New(pool, resilientpg.Config{Table: table})
		require.NoError(t, err)
	}
}
