package resilient

import (
	"net/http"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// throttling answers 429, for seven seconds.
type throttling struct{}

func (throttling) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}, Request: req}, nil
}

// The clock on the wall is set, the one that only runs is not: a laptop that
// slept, a virtual machine that was moved. A bubble has one clock, so this has
// none, and half an hour's room.
func TestAClockThatWasSetMovesNoTime(t *testing.T) {
	rt, err := NewTransport(Config{Base: throttling{}, MaxAttempts: 1})
	require.NoError(t, err)
	// time.Time keeps seconds from bit 30 on; nothing else makes one whose two clocks disagree.
	*(*uint64)(unsafe.Pointer(&rt.epoch)) -= 3600 << 30
	require.Greater(t, time.Now().Round(0).Sub(rt.epoch.Round(0)), time.Since(rt.epoch)+30*time.Minute)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.test/", nil)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	op, ok := OperationOf(resp)
	require.True(t, ok)
	require.WithinDuration(t, time.Now().Round(0), op.Attempts[0].Start.Round(0), 30*time.Minute)
	require.WithinDuration(t, time.Now().Round(0), rt.Hosts()[0].CoolUntil.Round(0), 30*time.Minute)
}

// A server counts a key's time while we sleep.
func TestAKeyAgesWhileTheMachineSleeps(t *testing.T) {
	key := opKey{value: "k", firstSent: time.Now()}
	require.False(t, key.expired(time.Now(), defaultKeyTTL))
	*(*uint64)(unsafe.Pointer(&key.firstSent)) -= 3600 << 30
	require.True(t, key.expired(time.Now(), defaultKeyTTL))
}

func TestAKeyFromAnotherProcessIsAsOldAsTheClockOnTheWallSays(t *testing.T) {
	rt, err := NewTransport(Config{Base: throttling{}, MaxAttempts: 1})
	require.NoError(t, err)
	*(*uint64)(unsafe.Pointer(&rt.epoch)) -= 3600 << 30
	key := Key{Value: "k", FirstSent: time.Now().Round(0).Add(-30 * time.Minute)}
	req, err := http.NewRequestWithContext(WithKey(t.Context(), key), http.MethodPost, "http://api.test/", nil)
	require.NoError(t, err)
	_, err = rt.RoundTrip(req)
	require.ErrorIs(t, err, ErrKeyExpired)
}
