//go:build unix

package endtoend

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// TestMain is also the main function of the services: the test binary runs itself.
func TestMain(m *testing.M) {
	if spec := os.Getenv(specVariable); spec != "" {
		os.Exit(serviceMain(spec))
	}
	os.Exit(m.Run())
}

func nightly() bool { return os.Getenv("RESILIENT_NIGHTLY") != "" }

// raced reports whether the race detector watches, under which a process takes
// far longer to start.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// kills is how often services are killed: so many each night, fewer on each
// push, and few where the same was done already, in the other modules' versions
// or without the race detector.
func kills(night, push int) int {
	switch {
	case nightly():
		return night
	case raced() || testing.Short():
		return push / 5
	}
	return push
}

// pause waits on the real clock: the instant of a kill is chance, and nothing
// is asserted of it.
func pause(ctx context.Context, atMost time.Duration) {
	select {
	case <-time.After(rand.N(atMost)):
	case <-ctx.Done():
	}
}
