package resilient_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

type markKey struct{}

// marked adds a mark to those that ctx holds.
func marked(ctx context.Context, mark string) context.Context {
	return context.WithValue(ctx, markKey{}, marks(ctx)+mark)
}

func marks(ctx context.Context) string {
	all, _ := ctx.Value(markKey{}).(string)
	return all
}

// logbook is an Observer that writes down each event with the marks of its
// context and the second it came in.
type logbook struct {
	start time.Time
	lines []string
}

func (d *logbook) add(ctx context.Context, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	d.lines = append(d.lines, fmt.Sprintf("%ds %s [%s]", int(time.Since(d.start).Seconds()), line, marks(ctx)))
}

func (d *logbook) observer(mark string) resilient.Observer {
	return resilient.Observer{
		Start: func(ctx context.Context, op resilient.Operation) context.Context {
			d.add(ctx, "%sstart %s %s key %t", mark, op.Method, op.URL, op.Key != "")
			return marked(ctx, mark+"S")
		},
		AttemptStart: func(ctx context.Context, n int) context.Context {
			d.add(ctx, "%sattempt %d", mark, n)
			return marked(ctx, fmt.Sprintf("%sA%d", mark, n))
		},
		Attempt: func(ctx context.Context, a resilient.Attempt) {
			d.add(ctx, "%sattempt %d: %d %v %v, wait %ds", mark, a.N, a.Status, a.Verdict, a.Outcome, int(a.Wait.Seconds()))
		},
		End: func(ctx context.Context, op resilient.Operation, err error) {
			d.add(ctx, "%send %d attempts %v, error %t", mark, len(op.Attempts), op.Outcome, err != nil)
		},
	}
}

// noting writes down with which marks Base is asked.
func (d *logbook) noting(base http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		d.add(req.Context(), "base")
		return base.RoundTrip(req)
	})
}

func TestTheObserverHearsEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &logbook{start: time.Now()}
		base := d.noting(script(faultinject.Respond(503, "Retry-After: 7"), faultinject.RefuseDial()))
		got := do(t, newClient(t, base, honoured, func(c *resilient.Config) { c.Observer = d.observer("") }), newRequest(t, http.MethodPost, "x"))
		require.Equal(t, 200, got.status)
		require.Equal(t, []string{
			"0s start POST http://api.test/charges key true []",
			"0s attempt 1 [S]",
			"0s base [SA1]",
			"0s attempt 1: 503 throttled answered, wait 7s [S]",
			"7s attempt 2 [S]",
			"7s base [SA2]",
			"7s attempt 2: 0 unsent not sent, wait 0s [S]",
			"7s attempt 3 [S]",
			"7s base [SA3]",
			"7s attempt 3: 200 done answered, wait 0s [S]",
			"7s end 3 attempts answered, error false [S]",
		}, d.lines)
	})
}

func TestObserversNestInTheOrderGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &logbook{start: time.Now()}
		silent := resilient.Observer{}
		both := resilient.Observers(d.observer("a"), silent, d.observer("b"))
		got := do(t, newClient(t, d.noting(script(faultinject.Respond(404))), func(c *resilient.Config) { c.Observer = both }), newRequest(t, http.MethodGet, ""))
		require.Equal(t, 404, got.status)
		require.Equal(t, []string{
			"0s astart GET http://api.test/charges key false []",
			"0s bstart GET http://api.test/charges key false [aS]",
			"0s aattempt 1 [aSbS]",
			"0s battempt 1 [aSbSaA1]",
			"0s base [aSbSaA1bA1]",
			"0s aattempt 1: 404 done answered, wait 0s [aSbS]",
			"0s battempt 1: 404 done answered, wait 0s [aSbS]",
			"0s aend 1 attempts answered, error false [aSbS]",
			"0s bend 1 attempts answered, error false [aSbS]",
		}, d.lines)
	})
}

func TestAnObserverMayReturnNoContextAndKeepsWhatItIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept []resilient.Operation
		observer := resilient.Observer{
			Start:        func(context.Context, resilient.Operation) context.Context { return nil },
			AttemptStart: func(context.Context, int) context.Context { return nil },
			End: func(_ context.Context, op resilient.Operation, err error) {
				require.Error(t, err)
				kept = append(kept, op)
				op.Attempts[0].Status = 999 // his own
			},
		}
		got := do(t, newClient(t, script(lost()), func(c *resilient.Config) { c.Observer = observer }), newRequest(t, http.MethodPost, "x"))
		require.Len(t, kept, 1)
		require.Equal(t, got.record.Key, kept[0].Key)
		require.Equal(t, resilient.ErrUnsafe, errors.Unwrap(kept[0].Stop))
	})
}

func TestAMistakeOfTheCallersIsObservedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &logbook{start: time.Now()}
		req := newRequest(t, http.MethodPost, "x")
		req.Header["Idempotency-Key"] = []string{"a\nb"}
		do(t, newClient(t, script(), func(c *resilient.Config) { c.Observer = d.observer("") }), req)
		require.Equal(t, []string{"0s start POST http://api.test/charges key false []", "0s end 0 attempts not sent, error true [S]"}, d.lines)
	})
}

func TestTheLogTellsTroubleAndNothingElse(t *testing.T) {
	var out bytes.Buffer
	logged := func(c *resilient.Config) {
		c.Keys.New = func() string { return "order-7" }
		c.Backoff = func() resilient.Schedule { return every(time.Second) }
		c.Observer = resilient.LogTo(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
	}
	for _, tt := range []struct {
		name   string
		faults []faultinject.Fault
		change func(*resilient.Config)
		says   string
	}{
		{"silence for an untroubled operation", nil, noChange, ""},
		{"silence for a 404", []faultinject.Fault{faultinject.Respond(404)}, noChange, ""},
		{
			"an answer after a retry", []faultinject.Fault{faultinject.Respond(503)}, honoured,
			`level=WARN msg="attempt failed" n=1 method=POST host=api.test verdict=transient outcome=answered took=0s wait=1s status=503 key_hash=df8cf802
level=INFO msg="operation answered" method=POST url=http://api.test/charges attempts=2 outcome=answered key_hash=df8cf802 status=200
`,
		},
		{
			"an operation that failed", []faultinject.Fault{lost()}, noChange,
			`level=WARN msg="attempt failed" n=1 method=POST host=api.test verdict=transient outcome="outcome unknown" took=0s wait=0s err="read tcp 192.0.2.1:49152->api.test:80: read: connection reset by peer" key_hash=df8cf802
level=ERROR msg="operation failed" method=POST url=http://api.test/charges attempts=1 outcome="outcome unknown" key_hash=df8cf802 stop="not safe to repeat: set Config.HonorsKeys if http://api.test honours Idempotency-Key" err="resilient: POST http://api.test/charges: outcome unknown after 1 attempt: not safe to repeat: set Config.HonorsKeys if http://api.test honours Idempotency-Key: read tcp 192.0.2.1:49152->api.test:80: read: connection reset by peer"
`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out.Reset()
				do(t, newClient(t, script(tt.faults...), logged, tt.change), newRequest(t, http.MethodPost, "x"))
				require.Equal(t, tt.says, out.String())
			})
		})
	}
}

func TestALogHandlerFindsWhatAnObserverPutIntoTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		tracing := resilient.Observer{Start: func(ctx context.Context, _ resilient.Operation) context.Context { return marked(ctx, "trace") }}
		both := resilient.Observers(tracing, resilient.LogTo(slog.New(contextReader{seen: &seen})))
		do(t, newClient(t, script(faultinject.Respond(503)), func(c *resilient.Config) { c.Observer = both }), newRequest(t, http.MethodGet, ""))
		require.Equal(t, []string{"attempt failed [trace]", "operation answered [trace]"}, seen)
	})
}

// contextReader is a slog.Handler that looks into the context.
type contextReader struct {
	slog.Handler
	seen *[]string
}

func (contextReader) Enabled(context.Context, slog.Level) bool { return true }

func (c contextReader) Handle(ctx context.Context, r slog.Record) error {
	*c.seen = append(*c.seen, r.Message+" ["+marks(ctx)+"]")
	return nil
}

// takingApart is a slog.Handler that writes an attribute's value as JSON, as
// many that are made to look nice do.
type takingApart struct {
	slog.Handler
	out *bytes.Buffer
}

func (takingApart) Enabled(context.Context, slog.Level) bool { return true }

func (h takingApart) Handle(_ context.Context, r slog.Record) (err error) {
	r.Attrs(func(a slog.Attr) bool {
		err = errors.Join(err, json.NewEncoder(h.out).Encode(map[string]any{a.Key: a.Value.Any()}))
		return true
	})
	return err
}

func TestALogHandlerThatTakesErrorsApartFindsNoKeyInThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		got := do(t, newClient(t, script(lost()), func(c *resilient.Config) {
			c.Keys.New = func() string { return "order-7" }
			c.Observer = resilient.LogTo(slog.New(takingApart{out: &out}))
		}), newRequest(t, http.MethodPost, "x"))
		require.Error(t, got.err)
		require.NotContains(t, out.String(), "order-7")
		require.Contains(t, out.String(), `{"key_hash":"df8cf802"}`)
		require.Contains(t, out.String(), `{"stop":"not safe to repeat`)
		require.Contains(t, out.String(), `{"err":"resilient: POST http://api.test/charges: outcome unknown after 1 attempt`)
	})
}

func TestTheLogCallsACallerWhoLeavesNoError(t *testing.T) {
	for _, tt := range []struct {
		name   string
		leaves bool
		level  slog.Level
	}{{"one who leaves", true, slog.LevelWarn}, {"one whose time runs out", false, slog.LevelError}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				levels := make(map[string]slog.Level)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if tt.leaves {
					time.AfterFunc(time.Millisecond, cancel)
				}
				client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
					<-req.Context().Done()
					return nil, req.Context().Err()
				}), func(c *resilient.Config) { c.Observer = resilient.LogTo(slog.New(levelReader{levels: levels})) })
				got := do(t, client, newRequest(t, http.MethodPost, "x").WithContext(ctx))
				require.Error(t, got.err)
				require.Equal(t, map[string]slog.Level{"attempt failed": slog.LevelWarn, "operation failed": tt.level}, levels)
			})
		})
	}
}

// levelReader is a slog.Handler that notes the level of each message.
type levelReader struct {
	slog.Handler
	levels map[string]slog.Level
}

func (levelReader) Enabled(context.Context, slog.Level) bool { return true }

func (h levelReader) Handle(_ context.Context, r slog.Record) error {
	h.levels[r.Message] = r.Level
	return nil
}

func TestALogThatNobodyWantsCostsNothing(t *testing.T) {
	op := resilient.Operation{Method: "GET", URL: "http://api.test/", Key: "k", Attempts: []resilient.Attempt{
		{N: 1, Method: "GET", Host: "api.test", Verdict: resilient.Transient, Err: errors.New("reset"), Status: 0},
	}}
	err, ctx := errors.New("failed"), t.Context()
	log := resilient.LogTo(slog.New(slog.DiscardHandler))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		log.Attempt(ctx, op.Attempts[0])
		log.End(ctx, op, nil)
		log.End(ctx, op, err)
	}))
	require.NotPanics(t, func() {
		client := newClient(t, script(lost()), func(c *resilient.Config) { c.Observer = resilient.LogTo(nil) })
		require.Error(t, do(t, client, newRequest(t, http.MethodPost, "x")).err)
	}, "a Logger that was forgotten")
}

func TestAnAttemptTellsAReplayedAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(faultinject.Respond(503), faultinject.Respond(200, "Idempotent-Replayed: true"))
		got := do(t, newClient(t, base, honoured), newRequest(t, http.MethodPost, "x"))
		require.Len(t, got.record.Attempts, 2)
		require.False(t, got.record.Attempts[0].ReplayedAnswer)
		require.True(t, got.record.Attempts[1].ReplayedAnswer)
	})
}

func TestAnAttemptTellsTheVersionOfHTTPThatItsAnswerCameBy(t *testing.T) {
	for want, url := range map[[2]uint8]string{{1, 1}: "http://api.test/", {2, 0}: "https://api.test/"} {
		synctest.Test(t, func(t *testing.T) {
			base := serving(t, want[0] == 2, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
			got := do(t, overWire(t, base), wireKinds[1].request(t, t.Context(), url))
			require.Equal(t, want, [2]uint8{got.record.Attempts[0].ProtoMajor, got.record.Attempts[0].ProtoMinor})
		})
	}
}

// gossip returns Bases that put all they know of a request into their errors.
func gossip(base http.RoundTripper) map[string]http.RoundTripper {
	dressed := func(dress func(*http.Request, error) error) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := base.RoundTrip(req)
			if err != nil {
				err = dress(req, err)
			}
			return resp, err
		})
	}
	return map[string]http.RoundTripper{
		"as it is": base,
		"the whole URL": dressed(func(req *http.Request, err error) error {
			return &url.Error{Op: req.Method, URL: req.URL.String(), Err: err}
		}),
		"the whole URL, without quotes": dressed(func(req *http.Request, err error) error {
			return fmt.Errorf("%s %s: %w", req.Method, req.URL, err)
		}),
		"its parts": dressed(func(req *http.Request, err error) error {
			return fmt.Errorf("%s, %v, %v: %w", req.URL.RawQuery, req.URL.Query(), req.URL.User, err)
		}),
		"the header map": dressed(func(req *http.Request, err error) error {
			return fmt.Errorf("headers %v: %w", req.Header, err)
		}),
		"the header map in quotes": dressed(func(req *http.Request, err error) error {
			return fmt.Errorf("headers %q, query %q: %w", req.Header, req.URL.Query().Encode(), err)
		}),
		"a bare token and key": dressed(func(req *http.Request, err error) error {
			_, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
			return fmt.Errorf("token %s, key %s: %w", token, req.Header.Get("Idempotency-Key"), err)
		}),
		"another URL": dressed(func(_ *http.Request, err error) error {
			return fmt.Errorf(`Post "https://canary:canary@auth.test/token?canary=canary#canary": %w`, err)
		}),
	}
}

func TestNoSecretReachesATextOrALog(t *testing.T) {
	keys := map[string]func(*http.Request) *http.Request{
		"minted":  func(r *http.Request) *http.Request { return r },
		"WithKey": func(r *http.Request) *http.Request { return withKey(r, resilient.Key{Value: "canary-key"}) },
		"header":  func(r *http.Request) *http.Request { r.Header.Set("Idempotency-Key", "canary-key"); return r },
	}
	for _, fault := range faultinject.Catalogue() {
		t.Run(fault.String(), func(t *testing.T) {
			for key, bearing := range keys {
				for name := range gossip(nil) {
					synctest.Test(t, func(t *testing.T) {
						base := faultinject.Handler(answerOK, always(fault))
						texts := secretive(t, gossip(base)[name], bearing)
						base.Settle()
						require.NotContains(t, texts, "canary", "key %s, Base tells %s", key, name)
					})
				}
			}
		})
	}
}

// secretive makes a request full of secrets and returns all the texts that came
// of it.
func secretive(t *testing.T, base http.RoundTripper, bearing func(*http.Request) *http.Request) string {
	t.Helper()
	var texts bytes.Buffer
	observer := resilient.Observers(
		resilient.LogTo(slog.New(slog.NewJSONHandler(&texts, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		resilient.Observer{
			Attempt: func(_ context.Context, a resilient.Attempt) { fmt.Fprintln(&texts, a.Host, a.Err) },
			End: func(_ context.Context, op resilient.Operation, err error) {
				fmt.Fprintln(&texts, op.URL, op.Stop, err)
				for _, a := range op.Attempts {
					fmt.Fprintln(&texts, a.Err)
				}
			},
		})
	req := newRequest(t, http.MethodPost, "x")
	req.URL.User = url.UserPassword("canary-user", "canary-password")
	req.URL.RawQuery = "token=canary%20query&b=canary-b"
	req.URL.Fragment = "canary"
	req.Header.Set("Cookie", "session=canary-cookie")
	client := newClient(t, base, honoured, func(c *resilient.Config) {
		c.Observer, c.MaxAttempts, c.AttemptTimeout = observer, 2, time.Second
		c.Keys.New, c.Keys.Quoted = func() string { return "canary-key" }, true
		c.Prepare = func(r *http.Request) error { r.Header.Set("Authorization", "Bearer canary-token"); return nil }
	})
	resp, err := client.Transport.RoundTrip(bearing(req))
	if err == nil {
		require.NoError(t, resp.Body.Close())
		return texts.String()
	}
	fmt.Fprintf(&texts, "%v %+v %s", err, err, err.Error())
	for wrapped := err; wrapped != nil; wrapped = errors.Unwrap(wrapped) {
		fmt.Fprintln(&texts, wrapped)
	}
	return texts.String()
}

func TestATimeoutOfTheHTTPClientIsNeverToldAsACallerWhoLeft(t *testing.T) {
	for range 50 { // it speaks by the context and by Request.Cancel, and either may be first
		synctest.Test(t, func(t *testing.T) {
			var told resilient.Operation
			end := func(_ context.Context, op resilient.Operation, _ error) { told = op }
			server := faultinject.NewNetwork().NewServer(t, "http://api.test", answerOK, always(faultinject.Stall()))
			client := newClient(t, server.Transport(), func(c *resilient.Config) { c.Observer.End = end })
			client.Timeout = time.Second
			_, err := client.Do(newRequest(t, http.MethodGet, ""))
			require.Error(t, err)
			require.ErrorIs(t, told.Stop, context.DeadlineExceeded)
			require.ErrorIs(t, told.Attempts[0].Err, context.DeadlineExceeded)
		})
	}
}

func TestACallerWhoLeavesByRequestCancelIsFoundInTheAttemptToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := faultinject.NewNetwork().NewServer(t, "http://api.test", answerOK, always(faultinject.Stall()))
		left := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(left) })
		req := newRequest(t, http.MethodGet, "")
		req.Cancel = left
		got := do(t, newClient(t, server.Transport()), req)
		require.ErrorIs(t, got.stop, context.Canceled)
		require.ErrorIs(t, got.record.Attempts[0].Err, context.Canceled)
	})
}

func TestWhatPrepareTakesIsNoPartOfTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		got := do(t, newClient(t, script(faultinject.Delay(time.Second)), func(c *resilient.Config) {
			c.Prepare = func(*http.Request) error { time.Sleep(3 * time.Second); return nil }
		}), newRequest(t, http.MethodPut, ""))
		require.Equal(t, 200, got.status)
		require.Equal(t, begun.Add(3*time.Second), got.record.Attempts[0].Start)
		require.Equal(t, time.Second, got.record.Attempts[0].Duration)
	})
}

func TestAnOperationThatPanicsIsTakenLeaveOf(t *testing.T) {
	for _, tt := range []struct {
		where    string
		attempts int
		outcome  resilient.Outcome
	}{
		{"Prepare", 0, resilient.NotSent},
		{"Base", 1, resilient.Unknown},
		{"Classify", 1, resilient.Unknown},
	} {
		t.Run(tt.where, func(t *testing.T) {
			var told []resilient.Operation
			here := func(where string) {
				if where == tt.where {
					panic(where)
				}
			}
			base := roundTrip(func(req *http.Request) (*http.Response, error) {
				here("Base")
				return answer(req, http.StatusOK), nil
			})
			client := newClient(t, base, func(c *resilient.Config) {
				c.Prepare = func(*http.Request) error { here("Prepare"); return nil }
				c.Classify = func(_ *http.Request, _ *http.Response, _ error, v resilient.Verdict) resilient.Verdict {
					here("Classify")
					return v
				}
				c.Observer.End = func(_ context.Context, op resilient.Operation, err error) {
					require.Error(t, err)
					told = append(told, op)
				}
			})
			req := newRequest(t, http.MethodGet, "")
			require.PanicsWithValue(t, tt.where, func() { _, _ = client.Transport.RoundTrip(req) })
			require.Len(t, told, 1)
			require.Len(t, told[0].Attempts, tt.attempts)
			require.Equal(t, tt.outcome, told[0].Outcome)
		})
	}
}

func TestErrorsAreFoundThroughOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := do(t, newClient(t, faultinject.Handler(answerOK, always(faultinject.LoseResponse(faultinject.RST)))), newRequest(t, http.MethodGet, ""))
		require.ErrorIs(t, got.err, syscall.ECONNRESET)
		require.ErrorIs(t, got.err, resilient.ErrAttempts)
		op, ok := errors.AsType[*net.OpError](got.err)
		require.True(t, ok)
		require.Equal(t, "read", op.Op)
		require.ErrorIs(t, got.record.Attempts[0].Err, syscall.ECONNRESET)

		got = do(t, newClient(t, faultinject.Handler(answerOK, always(faultinject.NXDomain()))), newRequest(t, http.MethodPost, "x"))
		dns, ok := errors.AsType[*net.DNSError](got.err)
		require.True(t, ok && dns.IsNotFound)
	})
	t.Run("and where a text had to be cleaned", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := gossip(faultinject.Handler(answerOK, always(faultinject.RefuseDial())))["the whole URL"]
			req := newRequest(t, http.MethodPost, "x")
			req.URL.RawQuery = "canary"
			got := do(t, newClient(t, base), req)
			require.ErrorIs(t, got.err, syscall.ECONNREFUSED)
			require.Equal(t, resilient.NotSent, got.outcome)
		})
	})
}

func TestTimeoutTellsWhetherTimeRanOut(t *testing.T) {
	attemptTimeout := func(c *resilient.Config) { c.AttemptTimeout = time.Second }
	for _, tt := range []struct {
		name    string
		fault   faultinject.Fault
		change  func(*resilient.Config)
		limit   time.Duration
		timeout bool
	}{
		{"AttemptTimeout", faultinject.Stall(), attemptTimeout, time.Minute, true},
		{"Config.Timeout", faultinject.Stall(), func(c *resilient.Config) { c.Timeout = time.Second }, time.Minute, true},
		{"the context's deadline", faultinject.Stall(), noChange, time.Second, true},
		{"a look-up that timed out", faultinject.DNSTimeout(), noChange, time.Minute, true},
		{"a refused dial", faultinject.RefuseDial(), noChange, time.Minute, false},
		{"a reset", lost(), noChange, time.Minute, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, http.MethodPut, "x")
				ctx, cancel := context.WithTimeout(req.Context(), tt.limit)
				defer cancel()
				_, err := newClient(t, faultinject.Handler(answerOK, always(tt.fault)), tt.change).Do(req.WithContext(ctx))
				outer, ok := errors.AsType[*url.Error](err)
				require.True(t, ok)
				require.Equal(t, tt.timeout, outer.Timeout(), "%v", err)
				ours, ok := errors.AsType[*resilient.Error](err)
				require.True(t, ok)
				require.Equal(t, tt.timeout, ours.Timeout())
				require.Equal(t, tt.timeout && tt.fault != faultinject.DNSTimeout(), errors.Is(err, context.DeadlineExceeded) && tt.fault != faultinject.DNSTimeout())
			})
		})
	}
}

func TestAnHTTPAnswerToAnHTTPSRequestIsNamedAsEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, answerOK, nil)
		w.base.TLSClientConfig = &tls.Config{ServerName: "api.test"}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			req := newRequest(t, method, "")
			req.URL.Scheme, req.URL.Host = "https", "api.test:80"
			got := do(t, newClient(t, w.base), req)
			require.ErrorIs(t, got.err, http.ErrSchemeMismatch)
			require.Equal(t, 1, got.attempts)
		}
	})
}

func TestEveryReasonToStopIsReachedAndTold(t *testing.T) {
	respond := func(header ...string) faultinject.Plan { return always(faultinject.Respond(503, header...)) }
	one := func(n int) func(*resilient.Config) { return func(c *resilient.Config) { c.MaxAttempts = n } }
	for _, tt := range []struct {
		name   string
		plan   faultinject.Plan
		change func(*resilient.Config)
		body   io.Reader
		before int // operations
		limit  time.Duration
		stop   error
		due    bool // NotBefore is known
	}{
		{"MaxAttempts", respond(), one(2), nil, 0, 0, resilient.ErrAttempts, false},
		{"the end of the schedule", respond(), func(c *resilient.Config) { c.Backoff = func() resilient.Schedule { return every(-1) } }, nil, 0, 0, resilient.ErrAttempts, false},
		{"the budget", respond(), func(c *resilient.Config) { c.NoBreaker = true }, nil, 4, 0, resilient.ErrBudget, true},
		{"the breaker", respond(), func(c *resilient.Config) { c.NoBudget = true }, nil, 10, 0, resilient.ErrOpen, true},
		{"the breaker, without a hold", respond(), func(c *resilient.Config) { c.FailFast = true }, nil, 10, 0, resilient.ErrOpen, true},
		{"a request that must not be repeated", always(lost()), func(c *resilient.Config) { c.HonorsKeys = nil }, nil, 0, 0, resilient.ErrUnsafe, false},
		{"a body that cannot be", respond(), func(c *resilient.Config) { c.MaxReplayBytes = 1 }, struct{ io.Reader }{strings.NewReader("longer")}, 0, 0, resilient.ErrBody, false},
		{"the context's deadline", respond("Retry-After: 20"), noChange, nil, 0, 10 * time.Second, resilient.ErrNoTime, true},
		{"Config.Timeout", respond("Retry-After: 20"), func(c *resilient.Config) { c.Timeout = 10 * time.Second }, nil, 0, 0, resilient.ErrNoTime, true},
		{"MaxRetryAfter", respond("Retry-After: 20"), func(c *resilient.Config) { c.MaxRetryAfter = 10 * time.Second }, nil, 0, 0, resilient.ErrNoTime, true},
		{"the age of the key", respond("Retry-After: 20"), func(c *resilient.Config) { c.Keys.TTL = 10 * time.Second }, nil, 0, 0, resilient.ErrKeyExpired, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := newClient(t, faultinject.Handler(answerOK, tt.plan), honoured, tt.change)
				for range tt.before {
					do(t, client, newRequest(t, http.MethodPost, "x"))
				}
				ctx, cancel := context.WithTimeout(t.Context(), max(tt.limit, time.Duration(0)))
				if tt.limit == 0 {
					ctx = t.Context()
				}
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://api.test/charges", tt.body)
				require.NoError(t, err)
				now := time.Now()
				got := do(t, client, req)
				require.ErrorIs(t, got.stop, tt.stop)
				require.Equal(t, tt.due, !got.record.NotBefore.IsZero(), "%v", got.record.NotBefore)
				if tt.due {
					require.True(t, got.record.NotBefore.After(now))
				}
				require.Equal(t, got.err == nil, got.status != 0)
				if got.err != nil {
					require.ErrorIs(t, got.err, tt.stop)
				}
			})
		})
	}
}

func TestAnAnswerThatMayBeTheEchoOfOurOwnSuccessSaysSo(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults []faultinject.Fault
		echo   bool
	}{
		{"after a lost answer", []faultinject.Fault{lost(), faultinject.Respond(404)}, true},
		{"after a refused dial", []faultinject.Fault{faultinject.RefuseDial(), faultinject.Respond(404)}, false},
		{"at once", []faultinject.Fault{faultinject.Respond(404)}, false},
		{"after a 503 that a server gave", []faultinject.Fault{faultinject.Respond(503), faultinject.Respond(404)}, false},
		{"after all of them", []faultinject.Fault{lost(), faultinject.RefuseDial(), faultinject.Respond(404)}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := do(t, newClient(t, script(tt.faults...)), newRequest(t, http.MethodDelete, ""))
				require.Equal(t, 404, got.status)
				require.Equal(t, tt.echo, got.record.EarlierUnknown())
			})
		})
	}
	require.False(t, resilient.Operation{}.EarlierUnknown())
}

// An observer of trouble alone hears nothing of what goes well, and the client
// then costs what it costs without one.
func TestAnObserverOfTroubleAloneHearsOnlyOfTrouble(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, tt := range []struct {
			name     string
			statuses []int
			attempts int // told of
			ends     int
		}{
			{"answered", []int{200}, 0, 0},
			{"not found", []int{404}, 0, 0},
			{"answered at the second attempt", []int{503, 200}, 2, 1},
			{"never answered", []int{503, 503}, 2, 1},
			{"answered behind a redirect", []int{307, 200}, 0, 0},
			{"answered at the second attempt behind a redirect", []int{307, 503, 200}, 2, 1},
		} {
			inStorm(t, method+" "+tt.name, func(t *testing.T) {
				attempts, ends, all := 0, 0, 0
				trouble := resilient.Observer{
					TroubleOnly: true,
					Attempt:     func(context.Context, resilient.Attempt) { attempts++ },
					End:         func(context.Context, resilient.Operation, error) { ends++ },
				}
				everything := resilient.Observer{End: func(context.Context, resilient.Operation, error) { all++ }}
				for _, o := range []resilient.Observer{trouble, resilient.Observers(trouble), resilient.Observers(trouble, everything)} {
					attempts, ends, all = 0, 0, 0
					base := &diary{answer: func(req *http.Request, n int) *http.Response { return answer(req, tt.statuses[n], "Location: /there") }}
					client := newClient(t, base, hasty, func(c *resilient.Config) {
						c.Observer, c.MaxAttempts, c.HonorsKeys = o, 2, resilient.AnyHost
					})
					do(t, client, newRequest(t, method, ""))
					require.Equal(t, tt.attempts, attempts)
					require.Equal(t, tt.ends, ends)
				}
				hops := 1
				if tt.statuses[0] == 307 {
					hops = 2
				}
				require.Equal(t, hops, all)
			})
		}
	}
}
