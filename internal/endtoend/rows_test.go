//go:build unix

package endtoend

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// rows tells the effects that are rows of a database.
func rows(t testing.TB, at place) func(keys ...string) []string {
	pool, err := pgxpool.New(t.Context(), at.At)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return func(keys ...string) (receipts []string) {
		found, err := pool.Query(t.Context(), "SELECT id FROM effects WHERE key = ANY($1) ORDER BY id", keys)
		require.NoError(t, err)
		defer found.Close()
		for found.Next() {
			var id int64
			require.NoError(t, found.Scan(&id))
			receipts = append(receipts, fmt.Sprintf("receipt %d", id))
		}
		require.NoError(t, found.Err())
		return receipts
	}
}
