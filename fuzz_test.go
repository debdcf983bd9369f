package resilient_test

import (
	"bufio"
	"bytes"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// historySeeds are a few plain histories, one that leaves the breaker open, and
// many that chance made.
func historySeeds() [][]byte {
	seeds := [][]byte{nil, bytes.Repeat([]byte{1}, 60), bytes.Repeat([]byte{2}, 60), bytes.Repeat([]byte{3}, 60)}
	seeds = append(seeds, []byte("0c;72YY18CZAcB020z9  \xb6C27\xea7710812170000100119XC800 21107A001090100001200(700000000920000000708"))
	rng := rand.New(rand.NewPCG(7, 7))
	for range 500 {
		seed := make([]byte, 20+rng.IntN(150))
		for i := range seed {
			seed[i] = byte(rng.IntN(256))
		}
		seeds = append(seeds, seed)
	}
	return seeds
}

func FuzzOperation(f *testing.F) {
	for _, seed := range historySeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, wrong := range play(t, decode(data)) {
			t.Error(wrong)
		}
	})
}

// FuzzKey gives a key by each of the ways there are: it is sent as it stands, or
// refused before anything is.
func FuzzKey(f *testing.F) {
	for _, key := range []string{
		"", "k", "8e03978e-40d5-43e8-bc93-6894a57f9324", `"quoted"`, `a"b\c`, " padded ", "two words", "\u00e9\u00e8", "\xff\xfe",
		"a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\x00b", "\t", "\x7f", strings.Repeat("k", 255), strings.Repeat("k", 256), "a, b", ";=()",
	} {
		for way := range byte(5) {
			f.Add(key, way)
		}
	}
	f.Fuzz(func(t *testing.T, key string, way byte) {
		var wire bytes.Buffer
		cfg := resilient.Config{BaseIsWire: true, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			return answer(req, 200), req.Write(&wire)
		})}
		req := newRequest(t, "POST", "x")
		switch way % 5 {
		case 0:
			req.Header.Set("Idempotency-Key", key)
		case 1:
			req.Header["x-idempotency-key"] = []string{key}
		case 2:
			req = req.WithContext(resilient.WithKey(req.Context(), resilient.Key{Value: key, FirstSent: time.Now()}))
		case 3:
			cfg.Keys.New = func() string { return key }
		case 4:
			cfg.Keys.New, cfg.Keys.Quoted = func() string { return key }, true
		}
		rt, err := resilient.NewTransport(cfg)
		require.NoError(t, err)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			e, ok := errors.AsType[*resilient.Error](err)
			require.True(t, ok)
			require.Zero(t, wire.Len(), "sent all the same")
			require.Equal(t, resilient.NotSent, e.Outcome)
			require.Contains(t, err.Error(), "key")
			require.True(t, refusable(key, way%5 > 2), "%q was refused: %v", key, err)
			return
		}
		require.NoError(t, resp.Body.Close())
		got, err := http.ReadRequest(bufio.NewReader(&wire))
		require.NoError(t, err)
		require.Empty(t, got.Header.Values("X-Evil"))
		op, _ := resilient.OperationOf(resp)
		require.Contains(t, slices.Concat(got.Header.Values("Idempotency-Key"), got.Header.Values("X-Idempotency-Key")), strings.Trim(op.Key, " \t"))
		if way%5 != 4 {
			require.Equal(t, key, op.Key)
		}
	})
}

// refusable reports whether there is a reason not to send the key. Quotes and
// what must be escaped between them count for the length, and a minted key is to
// be ASCII.
func refusable(key string, minted bool) bool {
	long := len(key)+2+strings.Count(key, `"`)+strings.Count(key, `\`) > 255
	return key == "" || long || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f || minted && r > 0x7f })
}
