//go:build unix

package privateserver

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPostgresServerIsStoppedKilledPausedAndStartedAgain(t *testing.T) {
	p := Postgres(t)
	require.NoError(t, p.ready(t.Context()))
	p.Start() // it runs already

	p.Stop()
	require.Error(t, p.ready(t.Context()))
	p.Start()

	p.Pause()
	p.Resume()
	require.NoError(t, p.ready(t.Context()))

	p.Pause()
	p.Kill()
	require.Error(t, p.ready(t.Context()))
	require.Zero(t, p.signal(0), "all its processes have ended")
	p.Start()
	require.NoError(t, p.ready(t.Context()))
}
