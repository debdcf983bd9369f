//go:build unix

package resilientredis_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// Beside the store these measure how fast the disk takes an append.
func BenchmarkStore(b *testing.B) {
	server := newBench(b)
	result := make([]byte, 512)
	done := newClaim()
	mustClaim(b, server, done)
	require.NoError(b, server.Complete(b.Context(), done.Holder(), result, week))
	for name, op := range map[string]func() error{
		"fresh": func() error {
			c := newClaim()
			if _, _, err := server.Claim(b.Context(), c); err != nil {
				return err
			}
			return server.Complete(b.Context(), c.Holder(), result, week)
		},
		"replay": func() error {
			_, _, err := server.Claim(b.Context(), again(done))
			return err
		},
	} {
		b.Run(name+"/callers=1", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := op(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/callers=64", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0))) // for each of them
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := op(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
