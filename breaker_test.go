package resilient

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"
)

func TestWhatTripsTheBreaker(t *testing.T) {
	for _, tt := range []struct {
		name                     string
		successes, failures, run uint32
		want                     bool
	}{
		{"nothing", 0, 0, 0, false},
		{"nine failures in a row", 0, 9, 9, false},
		{"ten failures in a row", 0, 10, 10, true},
		{"half of nineteen", 9, 10, 1, false},
		{"half of twenty", 10, 10, 1, true},
		{"less than half of many", 501, 499, 9, false},
		{"a run of ten within five hundred", 490, 10, 10, true},
		{"a run of ten within more: one connection took its streams down", 491, 10, 10, false},
		{"a run as long as 2 % of many", 4900, 100, 100, true},
		{"counters near their limit", 1 << 31, 1 << 31, 1 << 31, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, trips(tt.successes, tt.failures, tt.run))
		})
	}
}

// Counting most successes beside the library must not change what it decides.
// Each attempt is told, as it is told to ours, to a breaker that hears of every
// one by itself.
func TestTheBreakerDecidesAsTheLibraryWould(t *testing.T) {
	var trips, calm int
	for seed := range uint64(300) {
		inBubble(t, "over any history", func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			timeout := time.Duration(r.IntN(2)*12) * time.Second
			var opened bool
			ours := newBreaker(timeout, func() { opened = true })
			plain := plainBreaker(timeout)
			type attempt struct {
				tally *tally
				plain func(error)
			}
			var inside []attempt
			failing, pause := r.IntN(70), 1+r.IntN(1500)
			for range 600 {
				switch n := r.IntN(20); {
				case n < 9:
					done, err := plain.Allow()
					require.NoError(t, err)
					tally := ours.count(time.Now())
					require.NotNil(t, tally)
					inside = append(inside, attempt{tally, done})
				case n < 18 && len(inside) > 0:
					i := r.IntN(len(inside))
					a := inside[i]
					inside = slices.Delete(inside, i, i+1)
					told := report(1)
					if x := r.IntN(100); x < failing {
						told = failure
					} else if x > 95 {
						told = neutral
					}
					if told == success && a.tally.calm == ours.failures.Load() {
						calm++
					}
					a.tally.done(told)
					a.plain(told.err())
				default:
					time.Sleep(time.Duration(r.IntN(pause)) * time.Millisecond)
					if r.IntN(50) == 0 {
						failing = r.IntN(70)
					}
				}
				require.Equal(t, plain.State() == gobreaker.StateOpen, opened, "seed %d", seed)
				if opened {
					trips++
					return
				}
			}
		})
	}
	t.Logf("%d of 300 tripped, %d successes were never told", trips, calm)
	require.Greater(t, trips, 50)
	require.Less(t, trips, 250)
	require.Greater(t, calm, 1000)
}

// A run of failures can outlive, in the library, the bucket that they stood in:
// a success must still be told to end it.
func TestNoSuccessIsKeptFromTheLibraryWhileARunGoesOn(t *testing.T) {
	inBubble(t, "whatever the window says", func(t *testing.T) {
		b := newBreaker(0, func() {})
		old := b.count(time.Now())
		old.done(failure)
		time.Sleep(time.Second)
		b.count(time.Now()).done(success)
		old.done(failure)
		time.Sleep(9 * time.Second)
		now := b.count(time.Now())
		counts := b.library.Counts()
		require.Zero(t, counts.TotalFailures)
		require.NotZero(t, counts.ConsecutiveFailures)
		now.done(success)
		require.Zero(t, b.library.Counts().ConsecutiveFailures)
	})
}

// plainBreaker is the library with our rule.
func plainBreaker(attemptTimeout time.Duration) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	window := max(breakerWindow, 2*attemptTimeout)
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Interval: window, BucketPeriod: window / breakerBuckets, Timeout: time.Hour,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return trips(c.TotalSuccesses, c.TotalFailures, c.ConsecutiveFailures)
		},
		IsExcluded: func(err error) bool { return err == errNeutral },
	})
}
