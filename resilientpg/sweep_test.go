package resilientpg_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// insertDue adds n records whose time is over.
const insertDue = ` SELECT sha256(i::text::bytea), 1, sha256('f'), '\x00', i, false,
	now() - interval '3 hours', now() - interval '2 hours', now() - interval '1 hour' FROM generate_series(1, $1::int) AS i`

const insertInto = " (id, version, fingerprint, token, fence, taken_over, claimed_at, lease_until, keep_until)"

func TestClaimsClearAwayWhatIsDueBitByBit(t *testing.T) {
	pool := newPool(t, privateserver.Postgres(t), "")
	s, table := newStore(t, pool)
	execute(t, pool, "INSERT INTO "+table+insertInto+insertDue, 300)
	left := func() int64 { return count(t, pool, "SELECT count(*) FROM "+table+" WHERE keep_until < now()") }
	for _, want := range []int64{300 - 128, 300 - 256, 0} {
		before := left()
		for range 63 {
			claim(t, s, newClaim())
		}
		require.Equal(t, before, left(), "nothing for 63 claims")
		claim(t, s, newClaim())
		require.Equal(t, want, left(), "and at most 128 records with the next")
	}
	require.EqualValues(t, 3*64, count(t, pool, "SELECT count(*) FROM "+table), "records that are kept stay")
}

func TestAClaimIsMadeThoughTheSweepBeforeItFails(t *testing.T) {
	server := privateserver.Postgres(t)
	owner := newPool(t, server, "")
	_, table := newStore(t, owner)
	execute(t, owner, `CREATE ROLE careless; GRANT SELECT, INSERT, UPDATE ON `+table+` TO careless; GRANT USAGE ON SEQUENCE `+table+`_fence TO careless`)
	s := openStore(t, newPool(t, server, "options='-c role=careless'"), table)
	for range 128 {
		claim(t, s, newClaim())
	}
	_, err := s.Sweep(t.Context())
	require.ErrorContains(t, err, "resilientpg: sweep: ")
}

func TestTheSweepDropsResultsBeforeKeysAndPassesOverWhatIsLocked(t *testing.T) {
	pool := newPool(t, privateserver.Postgres(t), "")
	s, table := newStore(t, pool)
	settled := func(result, key time.Duration) idempotency.ID {
		c := newClaim()
		claim(t, s, c)
		require.NoError(t, s.Complete(t.Context(), c.Holder(), []byte("done"), idempotency.Keep{Result: result, Key: key}))
		return c.ID
	}
	sweep := func(want int64) {
		t.Helper()
		n, err := s.Sweep(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	late, expired, forgotten, locked := settled(time.Hour, time.Hour), settled(0, time.Hour), settled(0, 0), settled(0, 0)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM "+table+" WHERE id = $1 FOR UPDATE", locked[:])
	require.NoError(t, err)
	sweep(2)
	sweep(0)
	require.NoError(t, tx.Rollback(t.Context()))
	sweep(1)

	require.Equal(t, idempotency.Completed, state(t, s, late))
	require.Equal(t, idempotency.Expired, state(t, s, expired))
	require.Equal(t, idempotency.Absent, state(t, s, forgotten))
	require.EqualValues(t, 2, count(t, pool, "SELECT count(*) FROM "+table))
	require.EqualValues(t, 1, count(t, pool, "SELECT count(*) FROM "+table+" WHERE result IS NULL"))
}

func TestSweepClearsAwayAllThatIsDueByTheIndex(t *testing.T) {
	pool := newPool(t, privateserver.Postgres(t), "")
	s, table := newStore(t, pool)
	execute(t, pool, "INSERT INTO "+table+insertInto+insertDue, 1000)
	execute(t, pool, "UPDATE "+table+" SET keep_until = now() + interval '1 hour' WHERE fence > 500")
	execute(t, pool, "ANALYSE "+table)
	rows, err := pool.Query(t.Context(), "EXPLAIN "+s.SweepStatement())
	require.NoError(t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Regexp(t, "Index Scan using "+table+"_due[^\n]*\n *Index Cond: ", strings.Join(plan, "\n"))

	n, err := s.Sweep(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 500, n)
	require.EqualValues(t, 500, count(t, pool, "SELECT count(*) FROM "+table))
}
