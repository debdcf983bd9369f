package resilientpg_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// newPool connects to a server, with further settings as a connection string
// has them. A call whose context ends waits until the server has given up the
// statement, as the package's comment advises.
func newPool(t testing.TB, server *privateserver.PostgresServer, settings string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(server.DSN() + " " + settings)
	require.NoError(t, err)
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute}
	}
	return openPool(t, config)
}

func openPool(t testing.TB, config *pgxpool.Config) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

var tables atomic.Int32

// newStore is a store in a table of its own.
func newStore(t testing.TB, pool *pgxpool.Pool) (s *resilientpg.Store, table string) {
	t.Helper()
	table = fmt.Sprintf("keys_%d", tables.Add(1))
	s = openStore(t, pool, table)
	require.NoError(t, s.Migrate(t.Context()))
	return s, table
}

func openStore(t testing.TB, pool *pgxpool.Pool, table string) *resilientpg.Store {
	t.Helper()
	s, err := resilientpg.New(pool, resilientpg.Config{Table: table})
	require.NoError(t, err)
	return s
}

func newClaim() (c idempotency.Claim) {
	_, _ = rand.Read(c.ID[:])
	_, _ = rand.Read(c.Fingerprint[:])
	c.Lease, c.Keep = time.Hour, time.Hour
	return again(c)
}

// again is the same claim by somebody else.
func again(c idempotency.Claim) idempotency.Claim {
	_, _ = rand.Read(c.Token[:])
	return c
}

func takingOver(c idempotency.Claim) idempotency.Claim {
	c = again(c)
	c.TakeOver = true
	return c
}

var kept = idempotency.Keep{Result: time.Hour, Key: 2 * time.Hour}

func claim(t testing.TB, s idempotency.Store, c idempotency.Claim) idempotency.Record {
	t.Helper()
	rec, claimed, err := s.Claim(t.Context(), c)
	require.NoError(t, err)
	require.True(t, claimed, "%v", rec.State)
	return rec
}

func state(t testing.TB, s idempotency.Store, id idempotency.ID) idempotency.State {
	t.Helper()
	rec, err := s.Lookup(t.Context(), id)
	require.NoError(t, err)
	return rec.State
}

// execute does something to the table that the store does not.
func execute(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int64) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

// waiting returns when so many statements wait for a lock.
func waiting(t testing.TB, pool *pgxpool.Pool, n int64) { waitingOr(t, pool, n, nil) }

// waitingOr does not wait for that where over is closed before.
func waitingOr(t testing.TB, pool *pgxpool.Pool, n int64, over <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		var found int64
		err := pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`).Scan(&found)
		require.NoError(t, err)
		if found >= n {
			return
		}
		select {
		case <-again.C:
		case <-over:
			return
		}
	}
}

// noError is for goroutines, where require must not be used.
func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("error: %v", err)
	}
}
