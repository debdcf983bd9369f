package main

import (
	"cmp"
	"slices"
)

// middle is the median; of an even number the upper one.
func middle[T cmp.Ordered](all []T) T { return quantile(all, 1, 2) }

// quantile is the n-th of so many parts.
func quantile[T cmp.Ordered](all []T, n, parts int) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*n/parts)]
}

// Spread is a median with the middle half of what it was taken from.
type Spread struct{ Low, Median, High float64 }

func spread(all []float64) Spread {
	return Spread{quantile(all, 1, 4), middle(all), quantile(all, 3, 4)}
}

// exactly is a figure that does not spread, or whose spread nobody measured.
func exactly(x float64) Spread { return Spread{x, x, x} }

func (s Spread) over(n float64) Spread { return Spread{s.Low / n, s.Median / n, s.High / n} }

func each[T any](all []T, of func(T) float64) []float64 {
	v := make([]float64, len(all))
	for i, x := range all {
		v[i] = of(x)
	}
	return v
}
