package resilient_test

import (
	"encoding/json"
	"testing"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

func TestJSONShowsVerdictsOutcomesAndBreakersAsWordsAndReadsThemBack(t *testing.T) {
	type record struct {
		Verdict resilient.Verdict
		Outcome resilient.Outcome
		Breaker resilient.BreakerState
	}
	seen := map[string]bool{}
	for i := range 5 {
		want := record{resilient.Verdict(i), resilient.Outcome(i % 3), resilient.BreakerState(i % 3)}
		text, err := json.Marshal(want)
		require.NoError(t, err)
		require.NotRegexp(t, `\d|invalid`, string(text))
		var got record
		require.NoError(t, json.Unmarshal(text, &got))
		require.Equal(t, want, got)
		for _, word := range []string{want.Verdict.String(), want.Outcome.String(), want.Breaker.String()} {
			seen[word] = true
		}
	}
	require.Len(t, seen, 5+3+3)
	var got record
	for _, name := range []string{"Verdict", "Outcome", "Breaker"} {
		err := json.Unmarshal([]byte(`{"`+name+`": "sent?"}`), &got)
		require.ErrorContains(t, err, `"sent?" is not a resilient.`+name)
	}
}
