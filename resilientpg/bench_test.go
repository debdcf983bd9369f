package resilientpg_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/stretchr/testify/require"
)

// What the store adds to a request, on the server as it comes, fsync included:
// a new key is a claim and a completion, a repetition is a claim that finds the
// result of 1 KiB.
func BenchmarkStore(b *testing.B) {
	server := privateserver.Postgres(b)
	for _, callers := range []int{1, 64} {
		s, _ := newStore(b, newPool(b, server, "pool_max_conns=16"))
		result := make([]byte, 1<<10)
		settled := newClaim()
		claim(b, s, settled)
		require.NoError(b, s.Complete(b.Context(), settled.Holder(), result, kept))

		b.Run(fmt.Sprintf("fresh/callers=%d", callers), func(b *testing.B) {
			benchmark(b, callers, func() error {
				c := newClaim()
				if _, _, err := s.Claim(b.Context(), c); err != nil {
					return err
				}
				return s.Complete(b.Context(), c.Holder(), result, kept)
			})
		})
		b.Run(fmt.Sprintf("replay/callers=%d", callers), func(b *testing.B) {
			benchmark(b, callers, func() error {
				rec, _, err := s.Claim(b.Context(), again(settled))
				if err == nil && rec.State != idempotency.Completed {
					err = fmt.Errorf("the record is %v", rec.State)
				}
				return err
			})
		})
	}
}

func benchmark(b *testing.B, callers int, do func() error) {
	b.ReportAllocs()
	if callers == 1 {
		for b.Loop() {
			require.NoError(b, do())
		}
		return
	}
	b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
