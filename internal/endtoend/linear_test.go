//go:build unix

package endtoend

import (
	"testing"

	"github.com/go-resilient/resilient/internal/linear"
	"github.com/stretchr/testify/require"
)

// What many callers do at once to one key, some order explains in which they did
// it one after the other.
func TestEveryStoreIsAtomic(t *testing.T) {
	t.Parallel()
	for _, s := range stores {
		t.Run(s.kind, func(t *testing.T) {
			t.Parallel()
			store, err := s.make(t).open(t.Context())
			require.NoError(t, err)
			rounds := 50
			if nightly() {
				rounds = 1000
			}
			linear.Check(t, store, rounds)
			t.Logf("%d rounds of 96 calls on two keys", rounds)
		})
	}
}
