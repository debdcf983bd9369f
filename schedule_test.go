package resilient

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
)

// A caller's own schedule may be one of that library's.
var _ Schedule = backoff.BackOff(nil)

const jitterDraws = 20_000

// jitterTolerance is the distance between a sample of that many draws and its true
// distribution which chance exceeds once in 10¹² samples (the bound of Dvoretzky,
// Kiefer and Wolfowitz with Massart's constant).
var jitterTolerance = math.Sqrt(math.Log(2e12) / (2 * jitterDraws))

// uniformDistance is the Kolmogorov-Smirnov distance between a sample and the uniform
// distribution on [low, high].
func uniformDistance(sample []time.Duration, low, high time.Duration) float64 {
	slices.Sort(sample)
	worst, n := 0.0, float64(len(sample))
	for i, d := range sample {
		want := float64(d-low) / float64(high-low)
		worst = max(worst, math.Abs(want-float64(i)/n), math.Abs(want-float64(i+1)/n))
	}
	return worst
}

func TestEachPauseIsSpreadEvenlyUpToABoundThatDoublesAndStopsAtTenSeconds(t *testing.T) {
	bounds := []time.Duration{
		100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
		1600 * time.Millisecond, 3200 * time.Millisecond, 6400 * time.Millisecond, 10 * time.Second, 10 * time.Second,
	}
	samples := make([][]time.Duration, len(bounds))
	for range jitterDraws {
		s := newSchedule()
		for n := range bounds {
			samples[n] = append(samples[n], s.NextBackOff())
		}
	}
	for n, bound := range bounds {
		t.Run(fmt.Sprintf("retry %d within %v", n, bound), func(t *testing.T) {
			require.GreaterOrEqual(t, slices.Min(samples[n]), time.Duration(0))
			require.LessOrEqual(t, slices.Max(samples[n]), bound)
			require.Less(t, uniformDistance(samples[n], 0, bound), jitterTolerance)
		})
	}
}

func TestAScheduleNeitherEndsNorOverflowsHoweverLongItRuns(t *testing.T) {
	s := newSchedule()
	for range 1000 {
		d := s.NextBackOff()
		require.GreaterOrEqual(t, d, time.Duration(0))
		require.LessOrEqual(t, d, 10*time.Second)
	}
}

func TestNobodyWakesBeforeTheMomentAskedForNorAllTogetherAfterIt(t *testing.T) {
	chance := newJitter()
	rows := []struct {
		name           string
		asked, stretch time.Duration
	}{
		{"a millisecond is followed by a tenth of a second", time.Millisecond, 100 * time.Millisecond},
		{"a second is followed by its tenth", time.Second, 100 * time.Millisecond},
		{"a minute is followed by its tenth", time.Minute, 6 * time.Second},
		{"an hour is followed by ten seconds at most", time.Hour, 10 * time.Second},
		{"a century is followed by ten seconds at most", 100 * 365 * 24 * time.Hour, 10 * time.Second},
		{"what almost overflows keeps what room there is", maxDuration - time.Second, time.Second},
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			seen := make([]time.Duration, 1000)
			for i := range seen {
				seen[i] = pause(0, tt.asked, chance)
			}
			least, most := slices.Min(seen), slices.Max(seen)
			require.GreaterOrEqual(t, least, tt.asked)
			require.Greater(t, most-least, tt.stretch/2, "all woke together")
			require.LessOrEqual(t, most-tt.asked, tt.stretch)
		})
	}
}

func TestTheMomentsOfWakingAreSpreadEvenlyOverTheStretch(t *testing.T) {
	chance := newJitter()
	seen := make([]time.Duration, jitterDraws)
	for i := range seen {
		seen[i] = pause(0, time.Minute, chance)
	}
	require.Less(t, uniformDistance(seen, time.Minute, 66*time.Second), jitterTolerance)
}

func TestTheLongerOfTheScheduleAndTheServerIsWaited(t *testing.T) {
	chance := newJitter()
	require.Equal(t, 3*time.Second, pause(3*time.Second, 0, chance), "nothing asked: the schedule alone")
	require.Equal(t, time.Duration(0), pause(0, 0, chance))
	require.Equal(t, 3*time.Second, pause(3*time.Second, time.Second, chance), "the schedule is longer")
	require.GreaterOrEqual(t, pause(3*time.Second, time.Minute, chance), time.Minute, "the server asked for more")
	require.Equal(t, maxDuration, pause(0, maxDuration, chance), "the longest wait saturates")
	require.Equal(t, maxDuration, pause(maxDuration, time.Second, chance))
}

func TestAScheduleThatHasEndedStaysEndedWhateverTheServerAsks(t *testing.T) {
	chance := newJitter()
	require.Negative(t, pause(backoff.Stop, 0, chance))
	require.Negative(t, pause(backoff.Stop, time.Minute, chance))
	require.Negative(t, pause(backoff.Stop, maxDuration, chance))
}

// What a failed attempt costs before its pause is known.
func BenchmarkSchedule(b *testing.B) {
	chance := newJitter()
	b.ReportAllocs()
	for b.Loop() {
		pause(newSchedule().NextBackOff(), time.Second, chance)
	}
}

func TestThereIsNoBoundThatJitterCannotDrawBelow(t *testing.T) {
	chance := newJitter()
	for _, most := range []time.Duration{math.MinInt64, -1, 0, 1, maxDuration - 1, maxDuration} {
		drawn := chance.upTo(most)
		require.GreaterOrEqual(t, drawn, time.Duration(0))
		require.LessOrEqual(t, drawn, max(most, 0))
	}
}

func TestJitterIsRepeatedWhereCryptoRandIs(t *testing.T) {
	draws := func(seed uint64) (seen []time.Duration) {
		cryptotest.SetGlobalRandom(t, seed)
		chance := newJitter()
		for range 100 {
			seen = append(seen, chance.upTo(time.Second))
		}
		return seen
	}
	require.Equal(t, draws(1), draws(1))
	require.NotEqual(t, draws(1), draws(2))
}
