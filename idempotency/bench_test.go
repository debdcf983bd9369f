package idempotency_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

// sink is a ResponseWriter that costs nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}

// caller sends one request over and over, under keys of its own.
type caller struct {
	h      http.Handler
	w      sink
	body   bytes.Reader
	req    *http.Request
	key    [1]string
	prefix string
	n      int
}

var callers atomic.Int64

func newCaller(h http.Handler) *caller {
	c := &caller{h: h, w: sink{make(http.Header)}, prefix: "6f1c9f7e-8a52-4c0b-" + strconv.FormatInt(callers.Add(1), 10) + "-"}
	c.req = httptest.NewRequest(http.MethodPost, "/charges", &c.body)
	c.req.Header.Set("Content-Type", "application/json")
	c.req.ContentLength = int64(len(benchBody))
	c.req.Header["Idempotency-Key"] = c.key[:]
	return c
}

var benchBody = bytes.Repeat([]byte("x"), 200)

func (c *caller) call(fresh bool) {
	clear(c.w.header)
	c.body.Reset(benchBody)
	if fresh {
		c.n++
	}
	c.key[0] = c.prefix + strconv.Itoa(c.n)
	c.h.ServeHTTP(&c.w, c.req)
}

var benchAnswer = bytes.Repeat([]byte("y"), 200)

// What the middleware adds to a handler, over the store in memory. Records live
// for 20 ms, so that the store is as a store is that has run for long: what comes
// in goes out.
func BenchmarkMiddleware(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = jsonType
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(benchAnswer)
	})
	store, _ := idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: 1 << 30, MaxBytes: 1 << 40})
	middleware, err := idempotency.New(idempotency.Config{Store: store, Scope: idempotency.OneScope, Retention: 20 * time.Millisecond, Tombstone: -1, Lease: 30 * time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name  string
		h     http.Handler
		fresh bool
	}{
		{"handler alone", handler, true},
		{"fresh", middleware(handler), true},
		{"replay", middleware(handler), false},
	} {
		b.Run(bench.name+"/1", func(b *testing.B) {
			b.ReportAllocs()
			c := newCaller(bench.h)
			for b.Loop() {
				c.call(bench.fresh)
			}
		})
		b.Run(bench.name+"/64", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				c := newCaller(bench.h)
				for pb.Next() {
					c.call(bench.fresh)
				}
			})
		})
	}
}

var jsonType = []string{"application/json"}
