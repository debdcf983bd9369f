package resilientpg_test

import (
	"sync"
	"testing"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/stretchr/testify/require"
)

func TestManyProcessesMigrateAtOnceAndAgain(t *testing.T) {
	server := privateserver.Postgres(t)
	execute(t, newPool(t, server, ""), `CREATE SCHEMA shop`)
	for _, table := range []string{"", "keys", "order", "shop.keys"} {
		var wg sync.WaitGroup
		for range 8 {
			s := openStore(t, newPool(t, server, "pool_max_conns=2"), table)
			wg.Go(func() {
				for range 2 {
					noError(t, s.Migrate(t.Context()))
				}
				_, claimed, err := s.Claim(t.Context(), newClaim())
				noError(t, err)
				if !claimed {
					t.Error("not claimed")
				}
			})
		}
		wg.Wait()
	}
	pool := newPool(t, server, "")
	for _, table := range []string{"idempotency_keys", "keys", `"order"`, "shop.keys"} {
		require.EqualValues(t, 8, count(t, pool, "SELECT count(*) FROM "+table))
	}
}

func TestMigrateWaitsForNobodyWhereAllIsThere(t *testing.T) {
	pool := newPool(t, privateserver.Postgres(t), "")
	s, table := newStore(t, pool)
	claim(t, s, newClaim())
	tx, err := pool.Begin(t.Context()) // somebody who writes
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "UPDATE "+table+" SET version = version")
	require.NoError(t, err)
	require.NoError(t, s.Migrate(t.Context()))
	require.NoError(t, tx.Rollback(t.Context()))
}

func TestWhoeverUsesTheStoreNeedsNoMoreRightsThanToldAndMigratesWhereAllIsThere(t *testing.T) {
	server := privateserver.Postgres(t)
	owner := newPool(t, server, "")
	schema, err := resilientpg.Schema("keys")
	require.NoError(t, err)
	execute(t, owner, schema)
	execute(t, owner, `CREATE ROLE service`)
	execute(t, owner, `GRANT SELECT, INSERT, UPDATE, DELETE ON keys TO service`)
	execute(t, owner, `GRANT USAGE ON SEQUENCE keys_fence TO service`)

	s := openStore(t, newPool(t, server, "options='-c role=service'"), "keys")
	require.NoError(t, s.Migrate(t.Context()))
	require.NoError(t, s.Check(t.Context()))
	c := newClaim()
	claim(t, s, c)
	require.NoError(t, s.Complete(t.Context(), c.Holder(), nil, kept))
	require.Equal(t, idempotency.Completed, state(t, s, c.ID))
	_, err = s.Sweep(t.Context())
	require.NoError(t, err)
	require.Error(t, openStore(t, newPool(t, server, "options='-c role=service'"), "other").Migrate(t.Context()))
}
