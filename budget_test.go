package resilient

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAFullBudgetAllowsTenRetriesAndNoMore(t *testing.T) {
	var b budget
	require.True(t, b.full())
	require.Equal(t, 10.0, b.balance(0))
	for range 10 {
		require.True(t, b.withdraw(0))
	}
	require.False(t, b.withdraw(0))
	require.Equal(t, 0.0, b.balance(0))
	require.False(t, b.full())
}

func TestTenOperationsEarnOneRetry(t *testing.T) {
	var b budget
	for b.withdraw(time.Hour) {
	}
	for range 9 {
		b.deposit(time.Hour)
		require.False(t, b.withdraw(time.Hour))
	}
	b.deposit(time.Hour)
	require.True(t, b.withdraw(time.Hour))
	require.False(t, b.withdraw(time.Hour))
}

func TestTenSecondsEarnOneRetry(t *testing.T) {
	var b budget
	for b.withdraw(0) {
	}
	require.False(t, b.withdraw(10*time.Second-1))
	require.True(t, b.withdraw(10*time.Second))
	require.False(t, b.withdraw(10*time.Second))
	require.Equal(t, 10.0, b.balance(24*time.Hour), "a day fills it to the cap, not beyond")
}

func TestARetryThatWasNeverSentIsPaidBack(t *testing.T) {
	var b budget
	require.True(t, b.withdraw(0))
	b.refund(0)
	require.True(t, b.full())
	b.refund(0)
	b.deposit(0)
	require.Equal(t, 10.0, b.balance(0))
}

// The representation may hit the word that stands for full: it must not then
// become full.
func TestNoInstantIsMistakenForFull(t *testing.T) {
	for now := range 300 {
		var b budget
		for b.withdraw(time.Duration(now) * time.Second) {
		}
		require.Equal(t, 0.0, b.balance(time.Duration(now)*time.Second), "at %d s", now)
		require.False(t, b.full())
	}
}

// plainBudget is the same budget in thousandths of a token, told the time in
// whole steps of them.
type plainBudget struct {
	thousandths int
	last        time.Duration
}

func (p *plainBudget) add(now time.Duration, n int) {
	p.thousandths = min(10000, p.thousandths+int((now-p.last)/(10*time.Millisecond)))
	p.last = now
	p.thousandths = min(10000, p.thousandths+n)
}

func TestOverAnyHistoryTheBudgetIsThePlainOne(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var b budget
		plain := plainBudget{thousandths: 10000}
		var now time.Duration
		began, operations, retries := now, 0, 0
		for range 500 {
			now += time.Duration(r.IntN(1+r.IntN(2000))) * 10 * time.Millisecond
			switch r.IntN(5) {
			case 0, 1:
				operations++
				plain.add(now, 100)
				if !b.full() {
					b.deposit(now)
				}
			case 2, 3:
				plain.add(now, 0)
				want := plain.thousandths >= 1000
				if want {
					retries++
					plain.thousandths -= 1000
				}
				require.Equal(t, want, b.withdraw(now), "seed %d", seed)
			case 4:
				plain.add(now, 0)
				if retries > 0 {
					retries--
					plain.add(now, 1000)
					b.refund(now)
				}
			}
			require.InDelta(t, float64(plain.thousandths)/1000, b.balance(now), 1e-9, "seed %d", seed)
			require.LessOrEqual(t, float64(retries), 10+0.1*float64(operations)+0.1*(now-began).Seconds()+1e-9)
		}
		for range 100 {
			b.deposit(now)
		}
		require.True(t, b.full(), "a hundred operations fill it, whatever came before")
	}
}

func TestConcurrentCallersNeitherMintNorLoseRetries(t *testing.T) {
	const workers, rounds = 8, 5000
	var b budget
	var won, paidBack atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			for range rounds {
				switch r.IntN(3) {
				case 0:
					if b.withdraw(0) {
						won.Add(1)
						if r.IntN(4) == 0 {
							b.refund(0)
							paidBack.Add(1)
						}
					}
				default:
					if bal := b.balance(0); bal < 0 || bal > 10 {
						t.Errorf("balance %v", bal)
					}
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 10.0-float64(won.Load()-paidBack.Load()), b.balance(0))
}

func BenchmarkBudget(b *testing.B) {
	b.Run("an operation, full", func(b *testing.B) {
		var budget budget
		b.ReportAllocs()
		for b.Loop() {
			if !budget.full() {
				budget.deposit(0)
			}
		}
	})
	b.Run("a retry and ten operations", func(b *testing.B) {
		var budget budget
		b.ReportAllocs()
		for b.Loop() {
			budget.withdraw(0)
			for range 10 {
				budget.deposit(0)
			}
		}
	})
}

func TestAHostThatOnlyFailsForASecondIsWorthNoMoreRetries(t *testing.T) {
	const first = 10 * time.Second
	for _, tt := range []struct {
		name  string
		began time.Duration
		now   time.Duration
		lift  bool
		want  bool
	}{
		{"that began within the second it is", first + doubtAfter - 1, first + 9*time.Second, false, true},
		{"then not", first + doubtAfter, first + doubtAfter, false, false},
		{"but to an operation that was there before", first - 1, first + 9*time.Second, false, true},
		{"nor to one that began much later", first + 50*time.Second, first + 51*time.Second, false, false},
		{"it is once it has answered", first + doubtAfter, first + doubtAfter, true, true},
		{"and after a minute in which nobody asked", first + doubtEnds, first + doubtEnds, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d doubt
			require.True(t, d.fail(first-1, first))
			if tt.lift {
				d.lift()
			}
			require.Equal(t, tt.want, d.fail(tt.began, tt.now))
		})
	}
	t.Run("nor is it while somebody asks each minute", func(t *testing.T) {
		var d doubt
		for now := time.Second; now < time.Hour; now += doubtEnds - 1 {
			require.Equal(t, now == time.Second, d.fail(now, now))
		}
	})
	t.Run("and that is remembered as long as it counts", func(t *testing.T) {
		h := &host{}
		h.fail(first, first)
		require.False(t, h.evict(first+doubtEnds-1))
		require.True(t, h.evict(first+doubtEnds))
	})
	t.Run("but the host that stands for many is never doubted", func(t *testing.T) {
		h := &host{shared: true}
		h.fail(first, first)
		require.True(t, h.fail(first+doubtAfter, first+doubtAfter))
	})
}

func TestAnAnswerThatComesAsAnAttemptFailsCostsItNoRetry(t *testing.T) {
	const now = 100 * time.Second
	var d doubt
	var answers sync.WaitGroup
	var done atomic.Bool
	answers.Go(func() {
		for !done.Load() {
			d.lift()
		}
	})
	for range 1_000_000 {
		if !d.fail(now, now) {
			t.Error("judged by a doubt that is over")
			break
		}
	}
	done.Store(true)
	answers.Wait()
}
