package resilient_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// headersOf returns a Base over the faults that notes the header map of every
// attempt as Base was given it.
func headersOf(faults ...faultinject.Fault) (http.RoundTripper, *[]http.Header) {
	base, seen := script(faults...), new([]http.Header)
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		*seen = append(*seen, req.Header.Clone())
		return base.RoundTrip(req)
	}), seen
}

func lost() faultinject.Fault { return faultinject.LoseResponse(faultinject.RST) }

func TestAPostAndAPatchGetAKeyAndNothingElseDoes(t *testing.T) {
	for _, tt := range []struct {
		method string
		minted bool
	}{
		{"POST", true}, {"PATCH", true}, {"GET", false}, {"HEAD", false}, {"PUT", false}, {"DELETE", false}, {"OPTIONS", false}, {"LOCK", false},
	} {
		t.Run(tt.method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, seen := headersOf(faultinject.RefuseDial(), faultinject.RefuseDial())
				client := newClient(t, base)
				req := newRequest(t, tt.method, "x")
				first := do(t, client, req)
				if !tt.minted {
					require.Empty(t, (*seen)[0])
					return
				}
				key, err := uuid.Parse(first.record.Key)
				require.NoError(t, err)
				require.EqualValues(t, 4, key.Version(), "a version that tells no time")
				require.Len(t, *seen, 3)
				for _, h := range *seen {
					require.Equal(t, []string{first.record.Key}, h["Idempotency-Key"], "one key for all attempts")
				}
				require.Empty(t, req.Header, "the caller's request is not touched")
				require.NotEqual(t, first.record.Key, do(t, client, newRequest(t, tt.method, "x")).record.Key, "one key for one operation")
			})
		})
	}
}

func TestAKeyOfTheCallersIsHisWordAndIsSentAsItStands(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		key    string
	}{
		{"canonical", http.Header{"Idempotency-Key": {"mine"}}, "mine"},
		{"raw lower case", http.Header{"idempotency-key": {"mine"}}, "mine"},
		{"X-Idempotency-Key", http.Header{"X-Idempotency-Key": {"mine"}}, "mine"},
		{"the header of Config.Keys", http.Header{"X-Token": {"mine"}}, "mine"},
		{"the header of Config.Keys in lower case", http.Header{"x-token": {"mine"}}, "mine"},
		{"in quotes", http.Header{"Idempotency-Key": {`"mine"`}}, `"mine"`},
		{"longer than ours may be", http.Header{"Idempotency-Key": {strings.Repeat("k", 300)}}, strings.Repeat("k", 300)},
		{"the marker that sends nothing", http.Header{"Idempotency-Key": nil}, ""},
		{"the other marker that sends nothing", http.Header{"X-Idempotency-Key": {}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, seen := headersOf(lost(), faultinject.Respond(500))
				req := newRequest(t, http.MethodPost, "x")
				req.Header = tt.header.Clone()
				got := do(t, newClient(t, base, func(c *resilient.Config) { c.Keys.Header = "x-token"; c.Keys.Quoted = true }), req)
				require.Equal(t, 200, got.status, "%v", got.err)
				require.Equal(t, 3, got.attempts)
				require.Equal(t, tt.key, got.record.Key)
				for _, h := range *seen {
					require.Equal(t, tt.header, h)
				}
			})
		})
	}
}

func TestAnImpossibleKeyIsAnErrorBeforeAnythingIsSent(t *testing.T) {
	inHeader := func(name, key string) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request { r.Header[name] = []string{key}; return r }
	}
	wish := func(key string) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request {
			return r.WithContext(resilient.WithKey(r.Context(), resilient.Key{Value: key}))
		}
	}
	makes := func(key string) func(*resilient.Config) {
		return func(c *resilient.Config) { c.Keys.New = func() string { return key } }
	}
	none := func(*resilient.Config) {}
	same := func(r *http.Request) *http.Request { return r }
	long := strings.Repeat("k", 256)
	for name, tt := range map[string]struct {
		change func(*resilient.Config)
		with   func(*http.Request) *http.Request
		says   string
	}{
		"a line break in the header":          {none, inHeader("Idempotency-Key", "a\r\nb"), "control character"},
		"a line break in lower case":          {none, inHeader("idempotency-key", "a\nb"), "control character"},
		"a DEL in X-Idempotency-Key":          {none, inHeader("X-Idempotency-Key", "a\x7f"), "control character"},
		"an empty key in WithKey":             {none, wish(""), "WithKey"},
		"a line break in WithKey":             {none, wish("a\nb"), "control character"},
		"256 bytes in WithKey":                {none, wish(long), "256 bytes"},
		"an empty key from Keys.New":          {makes(""), same, "Config.Keys.New"},
		"a line break from Keys.New":          {makes("a\nb"), same, "Config.Keys.New"},
		"256 bytes from Keys.New":             {makes(long), same, "Config.Keys.New"},
		"letters outside ASCII from Keys.New": {makes("ключ"), same, "Config.Keys.New"},
		"255 bytes that grow by their quotes": {func(c *resilient.Config) {
			makes(long[:255])(c)
			c.Keys.Quoted = true
		}, same, "Config.Keys.New"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script()
				got := do(t, newClient(t, base, tt.change), tt.with(newRequest(t, http.MethodPost, "x")))
				require.ErrorContains(t, got.err, tt.says)
				require.Equal(t, resilient.NotSent, got.outcome)
				require.Empty(t, base.Deliveries())
			})
		})
	}
}

func TestAKeyHeaderThatCannotBeIsNamed(t *testing.T) {
	for _, name := range []string{"a b", "a:", "clé", "a\n"} {
		_, err := resilient.NewTransport(resilient.Config{Keys: resilient.KeyConfig{Header: name}})
		require.ErrorContains(t, err, "Config.Keys.Header")
	}
	_, err := resilient.NewTransport(resilient.Config{Keys: resilient.KeyConfig{TTL: -1}})
	require.ErrorContains(t, err, "Config.Keys.TTL")
}

func TestAKeyIsSentUnderTheNameAndInTheFormAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, seen := headersOf(lost())
		got := do(t, newClient(t, base, honoured, func(c *resilient.Config) {
			c.Keys = resilient.KeyConfig{Header: "x-operation", Quoted: true, New: func() string { return `a"b\c` }}
		}), newRequest(t, http.MethodPost, "x"))
		require.Equal(t, 200, got.status)
		require.Equal(t, `"a\"b\\c"`, got.record.Key, "RFC 8941, section 4.1.6")
		require.Equal(t, []http.Header{{"X-Operation": {got.record.Key}}, {"X-Operation": {got.record.Key}}}, *seen)
	})
}

func TestTheTimeOfTheFirstSendingIsTheSameOnAllAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, seen := headersOf(faultinject.Respond(503, "Retry-After: 7"), faultinject.Respond(503, "Retry-After: 7"))
		before := time.Now()
		got := do(t, newClient(t, base, honoured, func(c *resilient.Config) { c.Keys.SendFirstSent = true }), newRequest(t, http.MethodPost, "x"))
		require.Len(t, *seen, 3)
		for _, h := range *seen {
			require.Equal(t, before.UTC().Format(http.TimeFormat), h.Get("Repeatability-First-Sent"))
		}
		require.Equal(t, before, got.record.FirstSent)
	})
}

func TestNoKeysMintsNoneAndLeavesTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, seen := headersOf(faultinject.Pass(), lost())
		client := newClient(t, base, noKeys, honoured)
		require.Empty(t, do(t, client, newRequest(t, http.MethodPost, "x")).record.Key)
		require.Empty(t, (*seen)[0])
		require.ErrorIs(t, do(t, client, newRequest(t, http.MethodPost, "x")).stop, resilient.ErrUnsafe)

		base, _ = headersOf(lost())
		req := newRequest(t, http.MethodPost, "x")
		req.Header.Set("Idempotency-Key", "mine")
		require.Equal(t, 2, do(t, newClient(t, base, noKeys), req).attempts)
	})
}

// withKey is req under a key, each time the same one.
func withKey(req *http.Request, key resilient.Key) *http.Request {
	return req.WithContext(resilient.WithKey(req.Context(), key))
}

func TestWithKeyNamesOneOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, seen := headersOf(lost())
		client := newClient(t, base)
		ctx := resilient.WithKey(t.Context(), resilient.Key{Value: "order-7"})
		got := do(t, client, newRequest(t, http.MethodPost, "x").WithContext(ctx))
		require.Equal(t, 2, got.attempts, "the caller's word that the server honours it")
		require.Equal(t, "order-7", got.record.Key)
		for _, h := range *seen {
			require.Equal(t, []string{"order-7"}, h["Idempotency-Key"])
		}

		again := do(t, client, newRequest(t, http.MethodPost, "x").WithContext(ctx))
		require.Equal(t, "order-7", again.record.Key, "an exact repetition is the same operation")

		sent := len(*seen)
		other := newRequest(t, http.MethodPost, "x").WithContext(ctx)
		other.URL.Path = "/refunds"
		refused := do(t, client, other)
		require.ErrorContains(t, refused.err, "another request")
		require.Equal(t, resilient.NotSent, refused.outcome)
		require.Len(t, *seen, sent, "nothing is sent")
	})
}

func TestTwoKeysForOneRequestAreAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, seen := headersOf()
		client := newClient(t, base)
		req := withKey(newRequest(t, http.MethodPost, "x"), resilient.Key{Value: "a"})
		req.Header.Set("Idempotency-Key", "b")
		got := do(t, client, req)
		require.ErrorContains(t, got.err, "another idempotency key")
		require.Equal(t, resilient.NotSent, got.outcome)
		require.Empty(t, *seen)

		req = withKey(newRequest(t, http.MethodPost, "x"), resilient.Key{Value: "a"})
		req.Header.Set("Idempotency-Key", "a")
		require.Equal(t, 200, do(t, client, req).status, "the same key twice is no conflict")
	})
}

func TestAnExpiredKeyEndsTheOperationAndNobodyIsToldItWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script()
		key := resilient.Key{Value: "a", FirstSent: time.Now().Add(-6 * time.Minute)}
		got := do(t, newClient(t, base), withKey(newRequest(t, http.MethodPost, "x"), key))
		require.ErrorIs(t, got.err, resilient.ErrKeyExpired)
		require.Equal(t, resilient.Unknown, got.outcome, "an earlier process sent it")
		require.Empty(t, base.Deliveries())
		require.Equal(t, key.FirstSent, got.record.FirstSent)

		longer := func(c *resilient.Config) { c.Keys.TTL = time.Hour }
		got = do(t, newClient(t, script(lost()), longer), withKey(newRequest(t, http.MethodPost, "x"), key))
		require.Equal(t, 200, got.status)

		refused := always(faultinject.RefuseDial())
		got = do(t, newClient(t, faultinject.Handler(answerOK, refused), longer), withKey(newRequest(t, http.MethodPost, "x"), key))
		require.Equal(t, resilient.Unknown, got.outcome, "that this process sent nothing does not unsay the earlier one")
	})
}

func TestACarriedOnOperationMayStillBeRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := resilient.Key{Value: "a", FirstSent: time.Now().Add(-time.Second)}
		got := do(t, newClient(t, script(faultinject.Respond(409), faultinject.Respond(409))), withKey(newRequest(t, http.MethodPost, "x"), key))
		require.Equal(t, 200, got.status, "the 409 is the earlier process's request")
		require.Equal(t, 3, got.attempts)
	})
}

func TestAKeyInTheHeaderIsCarriedOnByWithKeyToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request := func(age time.Duration) *http.Request {
			req := withKey(newRequest(t, http.MethodPost, "x"), resilient.Key{Value: "a", FirstSent: time.Now().Add(-age)})
			req.Header.Set("Idempotency-Key", "a")
			return req
		}
		base := faultinject.Handler(answerOK, always(faultinject.RefuseDial()))
		got := do(t, newClient(t, base), request(time.Second))
		require.Equal(t, resilient.Unknown, got.outcome, "an earlier process sent it")
		got = do(t, newClient(t, base), request(time.Hour))
		require.ErrorIs(t, got.stop, resilient.ErrKeyExpired)
		require.Len(t, base.Deliveries(), 4)
	})
}

func TestAKeyIsAsOldOnALaterHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &hops{status: http.StatusTemporaryRedirect, next: map[string]string{"api.test/charges": "/b"}}
		base := faultinject.Handler(s, faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
			if x.Nth == 1 {
				return faultinject.Respond(503, "Retry-After: 10")
			}
			return faultinject.Pass()
		}))
		for _, name := range []string{"Idempotency-Key", ""} {
			req := newRequest(t, http.MethodPost, "x")
			if name != "" {
				req.Header.Set(name, "mine")
			}
			start := time.Now()
			got := do(t, newClient(t, base, honoured), req)
			require.Equal(t, 200, got.status)
			require.Equal(t, start, got.record.FirstSent)
			require.Len(t, got.record.Attempts, 3)
		}
	})
}

func TestAKeyThatWouldExpireInTheWaitEndsTheOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		got := do(t, newClient(t, script(lost(), faultinject.Respond(503, "Retry-After: 50")), honoured,
			func(c *resilient.Config) { c.Keys.TTL = 30 * time.Second }), newRequest(t, http.MethodPost, "x"))
		require.Equal(t, 503, got.status, "the answer it has")
		require.ErrorIs(t, got.stop, resilient.ErrKeyExpired)
		require.Less(t, time.Since(start), time.Second)
		require.True(t, got.record.EarlierUnknown())
	})
}

func TestHostsDeclaresOriginsAndNothingMore(t *testing.T) {
	honours := resilient.Hosts("api.example.com", "Shop.Example.COM:8443", "http://127.0.0.1:8080", "[2001:db8::1]", "https://[2001:db8::2]:444",
		"", "://", "http://", "%zz", "a b", "api.example.org/v1")
	for url, want := range map[string]bool{
		"https://api.example.com/v1":        true,
		"https://API.example.com:443/":      true,
		"https://api.example.com:8443/":     false,
		"http://api.example.com/":           false, // whoever can read the key on the way can replay it
		"http://api.example.com:443/":       false,
		"https://evil.example.com/":         false,
		"https://api.example.com.evil.net/": false,
		"https://api.example.com@evil.net/": false,
		"https://shop.example.com:8443/":    true,
		"https://shop.example.com/":         false,
		"http://127.0.0.1:8080/":            true,
		"https://127.0.0.1:8080/":           false,
		"http://127.0.0.1/":                 false,
		"https://[2001:db8::1]/":            true,
		"https://[2001:db8::1]:443/":        true,
		"https://[2001:db8::2]:444/":        true,
		"https://[2001:db8::2]/":            false,
		"https:///":                         false,
		"https://a/":                        false,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
		require.NoError(t, err)
		require.Equal(t, want, honours(req), url)
		require.True(t, resilient.AnyHost(req))
	}
}

func TestAKeyMintedForAServerNobodyVouchedForLicensesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := do(t, newClient(t, script(lost()), func(c *resilient.Config) { c.HonorsKeys = resilient.Hosts("http://other.test") }), newRequest(t, http.MethodPost, "x"))
		require.ErrorIs(t, got.err, resilient.ErrUnsafe)
		require.ErrorContains(t, got.err, "set Config.HonorsKeys if http://api.test honours Idempotency-Key")
		require.NotEmpty(t, got.record.Key, "to resume with")
		require.False(t, got.record.FirstSent.IsZero())
	})
}

func TestADerivedKeyIsTheSameForTheSameStepAndForNoOther(t *testing.T) {
	require.Equal(t, "2312d755", resilient.DeriveKey("order-7", "charge")[:8], "a release that changes it would charge twice")
	seen := map[string]bool{}
	for _, pair := range [][2]string{{"", ""}, {"a", ""}, {"", "a"}, {"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"", "abc"}, {"a\x00", "b"}, {"a", "\x00b"}} {
		key := resilient.DeriveKey(pair[0], pair[1])
		require.Equal(t, key, resilient.DeriveKey(pair[0], pair[1]))
		require.False(t, seen[key], "%q", pair)
		seen[key] = true
		id, err := uuid.Parse(key)
		require.NoError(t, err)
		require.EqualValues(t, 8, id.Version(), "RFC 9562, section 5.8")
		require.Equal(t, uuid.RFC4122, id.Variant())
	}
}

func TestWithRepeatableOverrulesMethodKeyAndServer(t *testing.T) {
	for _, tt := range []struct {
		name     string
		method   string
		say      bool
		change   func(*resilient.Config)
		attempts int
	}{
		{"a POST that does no harm", "POST", true, noKeys, 2},
		{"a PUT that does", "PUT", false, noChange, 1},
		{"a POST in spite of an honoured key", "POST", false, honoured, 1},
		{"a GET that costs", "GET", false, noChange, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, tt.method, "x")
				got := do(t, newClient(t, script(lost()), tt.change), req.WithContext(resilient.WithRepeatable(req.Context(), tt.say)))
				require.Equal(t, tt.attempts, got.attempts)
				require.Equal(t, tt.attempts == 1, errors.Is(got.stop, resilient.ErrUnsafe))
			})
		})
	}
}

func noChange(*resilient.Config) {}

func TestARequestThatPrepareRefusedWasNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script()
		got := do(t, newClient(t, base, func(c *resilient.Config) {
			c.Prepare = func(*http.Request) error { return errors.New("no token") }
		}), newRequest(t, http.MethodPost, "x"))
		require.ErrorContains(t, got.err, "no token")
		require.Equal(t, resilient.NotSent, got.outcome)
		require.Zero(t, got.record.FirstSent, "a later process may begin with the key as with a new one")
		require.Empty(t, base.Deliveries())
	})
}
