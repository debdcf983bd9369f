package idempotency

import (
	"bytes"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A key that is taken is one that its quoted form names too, and the other way
// round: they lead to one record.
func FuzzKeyOfAStranger(f *testing.F) {
	for _, seed := range []string{`k`, `"k"`, `"a\"b\\c"`, `"`, `""`, `"a"b`, `"a\`, " k\t", "k\x00", "é", strings.Repeat("k", 256), `a"b`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, err := parseKey([]string{line})
		if err != nil {
			require.Empty(t, key)
			return
		}
		require.NotEmpty(t, key)
		require.LessOrEqual(t, len(key), maxKeyLength)
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		again, err := parseKey([]string{quoted})
		require.NoError(t, err)
		require.Equal(t, key, again)
	})
}

// What a store returns may be damaged. It is refused, or it is what was stored.
func FuzzStoredAnswer(f *testing.F) {
	for _, a := range []Answer{
		{},
		{Status: 200, Header: http.Header{"Etag": {`"e"`}, "Link": {"<a>", "<b>"}}, Body: []byte("body")},
		{Status: 599, Body: bytes.Repeat([]byte{0}, 300)},
	} {
		f.Add(a.encode(keeper(nil)))
	}
	f.Add([]byte{1, 0, 200, 1, 255, 255, 255, 255, 15})
	all := func(name string) string { return name }
	f.Fuzz(func(t *testing.T, stored []byte) {
		a, err := decodeAnswer(stored)
		if err != nil {
			return
		}
		again, err := decodeAnswer(a.encode(all))
		require.NoError(t, err)
		require.Equal(t, a.Status, again.Status)
		require.True(t, bytes.Equal(a.Body, again.Body))
		canonical := make(http.Header)
		for name, values := range a.Header {
			for _, v := range values {
				canonical.Add(name, v)
			}
		}
		if len(canonical) == len(a.Header) { // no two names are the same but for their case
			require.True(t, maps.EqualFunc(canonical, again.Header, func(x, y []string) bool { return reflect.DeepEqual(x, y) }))
		}
	})
}

func FuzzFirstSentOfAStranger(f *testing.F) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f.Add(now.Format(http.TimeFormat))
	f.Add(now.Add(time.Hour).Format(http.TimeFormat))
	f.Add("Sunday, 06-Nov-94 08:49:37 GMT")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		age, err := ageOf(http.Header{"Repeatability-First-Sent": {line}}, func() time.Time { return now })
		require.GreaterOrEqual(t, age, time.Duration(0))
		if err != nil {
			require.Zero(t, age)
		}
	})
}
