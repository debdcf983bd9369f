package resilientpg_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

func TestWhatTheStoreAcknowledgedIsThereAfterTheServerWasKilled(t *testing.T) {
	server := privateserver.Postgres(t)
	for name, settings := range map[string]string{
		"as it comes":                     "",
		"where synchronous_commit is off": "options='-c synchronous_commit=off'",
	} {
		t.Run(name, func(t *testing.T) {
			s, table := newStore(t, newPool(t, server, settings))
			for range 3 {
				acknowledged := until(t, server.Kill, s)
				server.Start()
				s = openStore(t, newPool(t, server, settings), table)
				require.NotEmpty(t, acknowledged)
				for id, want := range acknowledged {
					rec, err := s.Lookup(t.Context(), id)
					require.NoError(t, err)
					if want == idempotency.Running && rec.State == idempotency.Completed {
						continue // the completion was under way
					}
					require.Equal(t, want, rec.State)
				}
			}
		})
	}
}

// until has many callers claim and complete until the store fails, and in the
// midst of it does what makes it fail. It returns what they were told.
func until(t *testing.T, fails func(), s idempotency.Store) map[idempotency.ID]idempotency.State {
	var mu sync.Mutex
	all := make(map[idempotency.ID]idempotency.State)
	note := func(id idempotency.ID, state idempotency.State) int {
		mu.Lock()
		defer mu.Unlock()
		all[id] = state
		return len(all)
	}
	enough := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				c := newClaim()
				if _, _, err := s.Claim(t.Context(), c); err != nil {
					return
				}
				if note(c.ID, idempotency.Running) == 100 {
					once.Do(func() { close(enough) })
				}
				if err := s.Complete(t.Context(), c.Holder(), c.ID[:], kept); err != nil {
					return
				}
				note(c.ID, idempotency.Completed)
			}
		})
	}
	<-enough
	fails()
	wg.Wait()
	return maps.Clone(all)
}

func TestEveryMethodEndsWithItsContextThoughTheServerStandsStill(t *testing.T) {
	server := privateserver.Postgres(t)
	config, err := pgxpool.ParseConfig(server.DSN())
	require.NoError(t, err)
	s, _ := newStore(t, openPool(t, config))
	c := newClaim()
	claim(t, s, c)
	server.Pause()
	methods := map[string]func(context.Context) error{
		"Claim": func(ctx context.Context) error {
			_, _, err := s.Claim(ctx, c)
			return err
		},
		"Lookup": func(ctx context.Context) error {
			_, err := s.Lookup(ctx, c.ID)
			return err
		},
		"Renew":    func(ctx context.Context) error { return s.Renew(ctx, c.Holder(), time.Hour, time.Hour) },
		"Abandon":  func(ctx context.Context) error { return s.Abandon(ctx, c.Holder(), time.Hour) },
		"Complete": func(ctx context.Context) error { return s.Complete(ctx, c.Holder(), []byte("done"), kept) },
		"Release":  func(ctx context.Context) error { return s.Release(ctx, newClaim().Holder()) },
		"Migrate":  s.Migrate,
		"Check":    s.Check,
		"Sweep": func(ctx context.Context) error {
			_, err := s.Sweep(ctx)
			return err
		},
	}
	for name, method := range methods {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		require.ErrorIs(t, method(ctx), context.DeadlineExceeded, name)
		cancel()
	}
	server.Resume()
	require.NoError(t, methods["Complete"](t.Context()))
	require.Equal(t, idempotency.Completed, state(t, s, c.ID))
}

func TestCheckTellsWhatIsUnsafe(t *testing.T) {
	server := privateserver.Postgres(t, "fsync=off")
	pool := newPool(t, server, "")
	s, table := newStore(t, pool)
	missing := openStore(t, pool, "missing")
	require.EqualError(t, missing.Check(t.Context()),
		"resilientpg: fsync is off: a crash of the machine can lose claims and answers, and the table with them\n"+
			`resilientpg: the table "missing" is missing`)
	execute(t, pool, "ALTER TABLE "+table+" SET UNLOGGED")
	require.ErrorContains(t, s.Check(t.Context()), "is not permanent: a crash of the server empties it")
	readOnly := openStore(t, newPool(t, server, "default_transaction_read_only=on"), table)
	require.ErrorContains(t, readOnly.Check(t.Context()), "transactions are read-only")
	_, claimed, err := readOnly.Claim(t.Context(), newClaim())
	require.Error(t, err)
	require.False(t, claimed)

	var data string
	require.NoError(t, pool.QueryRow(t.Context(), "SHOW data_directory").Scan(&data))
	server.Stop()
	require.NoError(t, os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644))
	server.Start()
	pool = newPool(t, server, "")
	require.ErrorContains(t, openStore(t, pool, table).Check(t.Context()), "the server is a standby: it cannot take a claim")
}
