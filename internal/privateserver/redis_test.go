//go:build unix

package privateserver

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatRedisAcknowledgedIsThereAfterAKill(t *testing.T) {
	r := Redis(t)
	for _, end := range []func(){r.Kill, r.Stop} {
		answer, err := r.ask(t.Context(), "INCR n")
		require.NoError(t, err)
		end()
		_, err = r.ask(t.Context(), "PING")
		require.Error(t, err)
		r.Start()
		r.Start()
		again, err := r.ask(t.Context(), "GET n")
		require.NoError(t, err)
		require.Equal(t, answer, again)
	}
}

func TestARedisThatPausesAnswersLater(t *testing.T) {
	r := Redis(t)
	r.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := r.ask(ctx, "PING")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	r.Resume()
	_, err = r.ask(t.Context(), "PING")
	require.NoError(t, err)
	r.Pause()
	r.Stop() // a server that stands still is resumed, so that it can end
}

func TestAServerThatCannotStartTellsWhy(t *testing.T) {
	r := Redis(t)
	r.Stop()
	p := newProcess(t, r.process.command[0], "--appendonly", "perhaps")
	require.ErrorContains(t, p.start(r.ready), "argument must be 'yes' or 'no'")
}

func TestAClusterOfOneServesEverySlot(t *testing.T) {
	r := RedisCluster(t)
	_, err := r.ask(t.Context(), "SET a 1")
	require.NoError(t, err)
	r.Kill()
	r.Start()
	answer, err := r.ask(t.Context(), "GET a")
	require.NoError(t, err)
	require.Equal(t, "1", answer)
}
