package idempotency_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/idempotency/idempotencytest"
	"github.com/stretchr/testify/require"
)

func newMemory(t testing.TB, c idempotency.MemoryConfig) *idempotency.Memory {
	m, err := idempotency.NewMemory(c)
	require.NoError(t, err)
	return m
}

// memoryClaim is a claim of key n with token n, for a lease of 10s and a keep of 60s.
func memoryClaim(n int) (c idempotency.Claim) {
	binary.BigEndian.PutUint64(c.ID[:], uint64(n))
	binary.BigEndian.PutUint64(c.Token[:], uint64(n))
	c.Lease, c.Keep = 10*time.Second, time.Minute
	return c
}

// memoryRun claims a key and completes it, to be kept for a minute.
func memoryRun(t testing.TB, m *idempotency.Memory, n int, result []byte) {
	c := memoryClaim(n)
	_, claimed, err := m.Claim(t.Context(), c)
	require.NoError(t, err)
	require.True(t, claimed)
	require.NoError(t, m.Complete(t.Context(), c.Holder(), result, idempotency.Keep{Result: 30 * time.Second, Key: time.Minute}))
}

func TestMemoryIsAStore(t *testing.T) {
	open := func(t *testing.T) idempotencytest.Instance {
		return idempotencytest.Instance{Store: newMemory(t, idempotency.MemoryConfig{})}
	}
	t.Run("in virtual time", func(t *testing.T) { idempotencytest.StoreInBubble(t, open) })
	t.Run("in real time", func(t *testing.T) { idempotencytest.Store(t, open) })
}

func TestABoundBelowZeroIsAnErrorThatNamesIt(t *testing.T) {
	_, err := idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: -1})
	require.EqualError(t, err, "idempotency: MemoryConfig.MaxRecords: -1 is negative")
	_, err = idempotency.NewMemory(idempotency.MemoryConfig{MaxBytes: -2})
	require.EqualError(t, err, "idempotency: MemoryConfig.MaxBytes: -2 is negative")
}

func TestAFullMemoryTakesNoNewKeyAndForgetsNone(t *testing.T) {
	for name, c := range map[string]idempotency.MemoryConfig{
		"by records": {MaxRecords: 20},
		"by bytes":   {MaxBytes: 20 * 100},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, c)
				for n := range 20 {
					memoryRun(t, m, n, make([]byte, 100))
				}
				_, _, err := m.Claim(t.Context(), memoryClaim(20))
				require.ErrorIs(t, err, idempotency.ErrFull)
				for n := range 20 {
					rec, claimed, err := m.Claim(t.Context(), memoryClaim(n))
					require.NoError(t, err, "of a key that it knows")
					require.False(t, claimed)
					require.Len(t, rec.Result, 100)
				}
			})
		})
	}
}

func TestAMemoryHasRoomAsSoonAsSomethingExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, idempotency.MemoryConfig{MaxRecords: 20, MaxBytes: 20 * 100})
		for n := range 20 {
			memoryRun(t, m, n, make([]byte, 100))
		}
		time.Sleep(30 * time.Second) // the results expire, the keys do not
		_, _, err := m.Claim(t.Context(), memoryClaim(20))
		require.ErrorIs(t, err, idempotency.ErrFull)
		time.Sleep(30 * time.Second)
		for n := range 20 {
			memoryRun(t, m, 20+n, make([]byte, 100))
		}
	})
}

func TestAMemoryLooksForRoomBehindAllThatIsDueBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, idempotency.MemoryConfig{MaxRecords: 21})
		for n := range 20 { // their results go after 30s, and make no room
			c := memoryClaim(n)
			_, _, err := m.Claim(t.Context(), c)
			require.NoError(t, err)
			keep := idempotency.Keep{Result: 30 * time.Second, Key: time.Hour}
			require.NoError(t, m.Complete(t.Context(), c.Holder(), []byte("done"), keep))
		}
		memoryRun(t, m, 20, nil) // this key goes after 60s
		time.Sleep(time.Minute)
		memoryRun(t, m, 21, nil)
	})
}

func TestAFullMemoryServesTheRunsThatItKnows(t *testing.T) {
	m := newMemory(t, idempotency.MemoryConfig{MaxRecords: 1})
	c := memoryClaim(1)
	for range 2 { // the second time its answer was lost
		_, claimed, err := m.Claim(t.Context(), c)
		require.NoError(t, err)
		require.True(t, claimed)
	}
	require.NoError(t, m.Abandon(t.Context(), c.Holder(), time.Minute))
	c.Token, c.TakeOver = idempotency.Token{2}, true
	_, claimed, err := m.Claim(t.Context(), c)
	require.NoError(t, err)
	require.True(t, claimed)
	require.NoError(t, m.Complete(t.Context(), c.Holder(), []byte("done"), idempotency.Keep{Result: time.Minute, Key: time.Minute}))
}

func TestAReleaseMakesRoom(t *testing.T) {
	m := newMemory(t, idempotency.MemoryConfig{MaxRecords: 1})
	for n := range 3 {
		_, claimed, err := m.Claim(t.Context(), memoryClaim(n))
		require.NoError(t, err)
		require.True(t, claimed)
		require.NoError(t, m.Release(t.Context(), memoryClaim(n).Holder()))
	}
}

func TestAResultIsKeptAlsoWhereThereIsNoRoomForIt(t *testing.T) {
	m := newMemory(t, idempotency.MemoryConfig{MaxBytes: 10})
	memoryRun(t, m, 1, make([]byte, 1000))
	rec, err := m.Lookup(t.Context(), memoryClaim(1).ID)
	require.NoError(t, err)
	require.Len(t, rec.Result, 1000)
}

func TestAKeyCostsThreeAllocationsAndItsReplayNone(t *testing.T) {
	m := newMemory(t, idempotency.MemoryConfig{})
	n, result := 0, []byte("created")
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		n++
		memoryRun(t, m, n, result)
	}), 3.0)
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _, _ = m.Claim(t.Context(), memoryClaim(n)) }))
}

func ExampleMemory() {
	store, err := idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	c := idempotency.Claim{ID: sha256.Sum256([]byte("order 1")), Token: idempotency.Token{1}, Lease: time.Minute, Keep: time.Hour}
	_, claimed, _ := store.Claim(ctx, c)
	fmt.Println("claimed:", claimed)
	_ = store.Complete(ctx, c.Holder(), []byte("created"), idempotency.Keep{Result: time.Hour, Key: time.Hour})

	c.Token = idempotency.Token{2} // the same again, by another run
	rec, claimed, _ := store.Claim(ctx, c)
	fmt.Printf("claimed: %t, %s: %s\n", claimed, rec.State, rec.Result)
	// Output:
	// claimed: true
	// claimed: false, completed: created
}

// A key that is new, from its claim to its result, where as many expire as come:
// what the store adds to a request.
func BenchmarkMemoryRun(b *testing.B) {
	m, ctx, n := benchEmpty(b), b.Context(), 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		benchRun(ctx, m, n)
	}
}

// The same by 64 callers at once.
func BenchmarkMemoryRunBy64(b *testing.B) {
	var n atomic.Int64
	m, ctx := benchEmpty(b), b.Context()
	benchBy64(b, func() { benchRun(ctx, m, int(n.Add(1))) })
}

// A key whose result is at hand, among 100,000 of them.
func BenchmarkMemoryReplay(b *testing.B) {
	m, ctx, n := benchFull(b), b.Context(), 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		_, _, _ = m.Claim(ctx, memoryClaim(n%benchRecords))
	}
}

func BenchmarkMemoryReplayBy64(b *testing.B) {
	var n atomic.Int64
	m, ctx := benchFull(b), b.Context()
	benchBy64(b, func() { _, _, _ = m.Claim(ctx, memoryClaim(int(n.Add(1)%benchRecords))) })
}

const benchRecords = 100_000

var benchResult = make([]byte, 200)

func benchRun(ctx context.Context, m *idempotency.Memory, n int) {
	c := memoryClaim(n)
	_, _, _ = m.Claim(ctx, c)
	_ = m.Complete(ctx, c.Holder(), benchResult, idempotency.Keep{Result: 10 * time.Millisecond, Key: 10 * time.Millisecond})
}

func benchBy64(b *testing.B, f func()) {
	b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f()
		}
	})
}

func benchEmpty(b *testing.B) *idempotency.Memory {
	return newMemory(b, idempotency.MemoryConfig{MaxRecords: 10 * benchRecords})
}

func benchFull(b *testing.B) *idempotency.Memory {
	m := newMemory(b, idempotency.MemoryConfig{})
	for n := range benchRecords {
		c := memoryClaim(n)
		_, _, _ = m.Claim(b.Context(), c)
		_ = m.Complete(b.Context(), c.Holder(), benchResult, idempotency.Keep{Result: time.Hour, Key: time.Hour})
	}
	return m
}
