package endtoend

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

// What a request costs under a new key and as a repetition, for each store. The
// handler does nothing, so nearly all of it is the store's: a sync of the disk
// for the file, a round trip or two for the others.
func BenchmarkRequest(b *testing.B) {
	open := func(make func(testing.TB) place) func(*testing.B) idempotency.Store {
		return func(b *testing.B) idempotency.Store {
			store, err := make(b).open(b.Context())
			require.NoError(b, err)
			return store
		}
	}
	b.Run("memory", func(b *testing.B) {
		benchmarkStore(b, func(*testing.B) idempotency.Store { return nil })
	})
	for _, s := range stores {
		b.Run(s.kind, func(b *testing.B) { benchmarkStore(b, open(s.make)) })
	}
}

func benchmarkStore(b *testing.B, open func(*testing.B) idempotency.Store) {
	answer := bytes.Repeat([]byte("y"), 200)
	keys, err := idempotency.New(idempotency.Config{Store: open(b), Scope: idempotency.OneScope})
	require.NoError(b, err)
	h := keys(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(answer)
	}))
	var callers atomic.Int64
	for _, fresh := range []bool{true, false} {
		name := map[bool]string{true: "fresh", false: "replay"}[fresh]
		for _, n := range []int{1, 64} {
			b.Run(name+"/"+strconv.Itoa(n), func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(max(1, n/2)) // times GOMAXPROCS, which is 2 where the figures are from
				if n == 1 {
					call := newCall(h, callers.Add(1))
					call(false)
					for b.Loop() {
						call(fresh)
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					call := newCall(h, callers.Add(1))
					for pb.Next() {
						call(fresh)
					}
				})
			})
		}
	}
}

// newCall returns what makes one request after another.
func newCall(h http.Handler, caller int64) func(fresh bool) {
	content := bytes.Repeat([]byte("x"), 200)
	n := 0
	return func(fresh bool) {
		if fresh {
			n++
		}
		req := httptest.NewRequest(http.MethodPost, "/charges", bytes.NewReader(content))
		req.Header.Set("Idempotency-Key", strconv.FormatInt(caller, 10)+"-"+strconv.Itoa(n))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != http.StatusCreated {
			panic(w.Body.String())
		}
	}
}
