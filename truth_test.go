package resilient_test

// What was once told untruly, or held against nobody.

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// stateOf is what client remembers of the one host it has called.
func stateOf(t *testing.T, client *http.Client) resilient.HostState {
	t.Helper()
	rt, ok := client.Transport.(*resilient.Transport)
	require.True(t, ok)
	return onlyHost(t, rt)
}

func TestAfterAnAttemptThatTheCallerEndsNoTimeIsToldForTheNext(t *testing.T) {
	for name, leave := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 5*time.Second)
		},
		"cancel": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(5*time.Second, cancel)
			return ctx, cancel
		},
		"Config.Timeout": context.WithCancel,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := newClient(t, script(faultinject.Respond(503), faultinject.Stall()), steady, func(c *resilient.Config) {
					if name == "Config.Timeout" {
						c.Timeout = 5 * time.Second
					}
				})
				ctx, cancel := leave(t.Context())
				defer cancel()
				got := do(t, client, newRequest(t, http.MethodPut, "x").WithContext(ctx))
				require.Equal(t, 2, got.attempts)
				require.Error(t, got.stop)
				require.Zero(t, got.record.NotBefore, "what stood there was for the attempt just made")
			})
		})
	}
}

// The connection lives and could serve such streams for ever, so that nothing
// bounds what would be repeated for free, and no breaker would open.
func TestAStreamEndedOnALiveConnectionIsAFailureOfItsServer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		strike func(*peer, uint32)
	}{
		{"NO_ERROR", rstStream(codeNo)},
		{"REFUSED_STREAM", rstStream(codeRefused)},
	} {
		for _, k := range wireKinds[2:] {
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, base := overHTTP2(t, struck(func(n int) bool { return n > 1 }, tt.strike))
					client := overWire(t, base, hasty, k.config)
					do(t, client, newRequestTo(t, overH2))
					do(t, client, k.request(t, t.Context(), overH2))
					require.NotZero(t, stateOf(t, client).Failures)
				})
			})
		}
	}
}

func TestA409ToACopyOfNetHTTPsOwnMayBeTheCopyBeforeItStillRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, base := overHTTP1(t, func(p *peer) {
			for {
				switch p.request() {
				case 0, 2: // it acts, but its answer is lost
					return
				case 3:
					p.answer(http.StatusConflict)
				default:
					p.answer(http.StatusOK)
				}
			}
		})
		client := overWire(t, base, hasty)
		do(t, client, newRequestTo(t, overH1))
		req := wireKinds[3].request(t, t.Context(), overH1)
		req.Header.Set("Idempotency-Key", "mine")
		got := do(t, client, req)
		require.Equal(t, "200, 3", brief(got, len(end.arrivals())-1))
		require.True(t, got.record.Attempts[0].Replay)
	})
}

func TestARefusalOfACopyDoesNotVouchForTheOneBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, base := overHTTP1(t, struck(func(n int) bool { return n > 1 }, func(p *peer, stream uint32) {
			if len(p.end.arrivals()) == 2 {
				p.rstStream(stream, codeProtocol)
				return
			}
			p.frame(frameHeaders, flagEndHeaders|flagEndStream, stream, 0x08, 3, '4', '2', '9') // :status, by its name's index
		}))
		base.Protocols = new(http.Protocols)
		base.Protocols.SetUnencryptedHTTP2(true)
		client := overWire(t, base, hasty, func(c *resilient.Config) {
			c.TrustRefusal = func(*http.Response) bool { return true }
		})
		do(t, client, newRequestTo(t, overH1))
		got := do(t, client, wireKinds[3].request(t, t.Context(), overH1))
		require.Equal(t, "429, 2", brief(got, len(end.arrivals())-1))
		require.ErrorIs(t, got.stop, resilient.ErrUnsafe)
	})
}

func TestTheWaitForAHostThatAskedForTimeIsToldAfterADeadConnectionToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, base := overHTTP1(t, func(p *peer) {
			for {
				switch p.request() {
				case 0, 3:
					return
				case 2:
					p.say("HTTP/1.1 429 No\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n")
				default:
					p.answer(http.StatusOK)
				}
			}
		})
		k := wireKinds[2]
		client := overWire(t, base, hasty, k.config)
		do(t, client, newRequestTo(t, overH1))
		do(t, client, k.request(t, resilient.WithMaxAttempts(t.Context(), 1), overH1))
		begun := time.Now()
		got := do(t, client, k.request(t, t.Context(), overH1))
		require.Equal(t, http.StatusOK, got.status)
		require.Equal(t, time.Since(begun), got.record.Attempts[0].Wait)
	})
}

func TestNoAttemptStartsAfterTheKeysTimeHoweverLongPrepareTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(faultinject.LoseResponse(faultinject.RST))
		body := &stream{Reader: strings.NewReader(strings.Repeat("x", 200))}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://api.test/charges", body)
		require.NoError(t, err)
		got := do(t, newClient(t, base, steady, honoured, func(c *resilient.Config) {
			c.Keys.TTL = 10 * time.Second
			c.Prepare = func(*http.Request) error { time.Sleep(6 * time.Second); return nil }
		}), req)
		require.EqualValues(t, 1, body.closed.Load())
		require.ErrorIs(t, got.stop, resilient.ErrKeyExpired)
		require.Equal(t, resilient.Unknown, got.outcome)
		require.Len(t, base.Deliveries(), 1)
	})
}

func TestAPanicOfPreparePaysBackTheRetryThatWasNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(faultinject.Respond(500))
		client := newClient(t, base, hasty, func(c *resilient.Config) {
			c.Prepare = func(*http.Request) error {
				if len(base.Deliveries()) == 1 {
					panic(errors.New("no token"))
				}
				return nil
			}
		})
		require.Panics(t, func() { _, _ = client.Do(newRequest(t, http.MethodPut, "x")) })
		require.InDelta(t, 10, stateOf(t, client).Balance, 0)
	})
}

func TestAPanicOfPrepareLeavesNoAnswerOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &stream{Reader: strings.NewReader("no")}
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 500, ProtoMajor: 1, ProtoMinor: 1, Body: body, ContentLength: 2, Request: req}, nil
		})
		prepared := 0
		client := newClient(t, base, hasty, func(c *resilient.Config) {
			c.Prepare = func(*http.Request) error {
				if prepared++; prepared == 2 {
					panic(errors.New("no token"))
				}
				return nil
			}
		})
		require.Panics(t, func() { _, _ = client.Do(newRequest(t, http.MethodPut, "x")) })
		require.EqualValues(t, 1, body.closed.Load())
	})
}

// A queue that resumes an operation through an outage longer than Keys.TTL would
// otherwise never send it.
func TestAKeyThatNeverLeftBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := faultinject.Handler(answerOK, faultinject.Window(0, time.Hour, always(faultinject.RefuseDial())))
		client := newClient(t, base, hasty)
		got := do(t, client, newRequest(t, http.MethodPost, "x"))
		for range 2 {
			require.Equal(t, resilient.NotSent, got.outcome)
			require.NotEmpty(t, got.record.Key)
			require.Zero(t, got.record.FirstSent)
			time.Sleep(40 * time.Minute)
			key := resilient.Key{Value: got.record.Key, FirstSent: got.record.FirstSent}
			got = do(t, client, withKey(newRequest(t, http.MethodPost, "x"), key))
		}
		require.Equal(t, http.StatusOK, got.status)
		require.False(t, got.record.FirstSent.IsZero())
	})
}

// endless is an answer whose body is slow to end.
func endless(req *http.Request, status int) *http.Response {
	resp := answer(req, status)
	resp.ContentLength = -1
	resp.Body, _ = io.Pipe()
	return resp
}

func TestAnAnswersSlowBodyLengthensNoWait(t *testing.T) {
	for _, pause := range []time.Duration{time.Second, 10 * time.Millisecond, 0} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Time
				base := roundTrip(func(req *http.Request) (*http.Response, error) {
					if asked = append(asked, time.Now()); len(asked) == 1 {
						return endless(req, http.StatusServiceUnavailable), nil
					}
					time.Sleep(time.Second)
					return answer(req, http.StatusOK), nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second+time.Second+60*time.Millisecond)
				defer cancel()
				got := do(t, newClient(t, base, func(c *resilient.Config) {
					c.Backoff = func() resilient.Schedule { return every(pause) }
				}), newRequest(t, http.MethodPut, "x").WithContext(ctx))
				require.Equal(t, http.StatusOK, got.status)
				first, second := got.record.Attempts[0], got.record.Attempts[1]
				drained := asked[1].Sub(asked[0]) - first.Wait
				require.LessOrEqual(t, drained, 50*time.Millisecond, "which is what its connection is worth")
				require.Equal(t, asked[1], second.Start)
				require.Equal(t, time.Second, second.Duration)
			})
		})
	}
}

func TestTheOperationsTimeoutGoesOnWhileAnAnswersBodyIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, asked := time.Now(), 0
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			if asked++; asked == 1 {
				return endless(req, http.StatusServiceUnavailable), nil
			}
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		client := newClient(t, base, hasty, func(c *resilient.Config) { c.Timeout = time.Second })
		got := do(t, client, newRequest(t, http.MethodPut, "x"))
		require.ErrorIs(t, got.stop, resilient.ErrNoTime)
		require.Equal(t, time.Second, time.Since(begun))
	})
}

func TestTheCallersBodyIsClosedAlsoWherePrepareLeavesAnEarlierAnswer(t *testing.T) {
	for _, limit := range []int64{0, 100} { // of which the latter keeps nothing of it
		for why, prepare := range map[string]func() error{
			"no token":    func() error { return errors.New("no token") },
			"key expired": func() error { time.Sleep(time.Hour); return nil },
		} {
			synctest.Test(t, func(t *testing.T) {
				body := &stream{Reader: strings.NewReader(strings.Repeat("x", 200))}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://api.test/charges", body)
				require.NoError(t, err)
				asked := 0
				base := roundTrip(func(req *http.Request) (*http.Response, error) { // an early answer
					asked++
					return answer(req, http.StatusServiceUnavailable), nil
				})
				got := do(t, newClient(t, base, hasty, honoured, func(c *resilient.Config) {
					c.MaxReplayBytes = limit
					c.Prepare = func(*http.Request) error {
						if asked == 1 {
							return prepare()
						}
						return nil
					}
				}), req)
				require.Equal(t, http.StatusServiceUnavailable, got.status)
				require.ErrorContains(t, got.stop, why)
				require.EqualValues(t, 1, body.closed.Load())
			})
		}
	}
}
