package resilient_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// answerOK is the server of most tests: it does what it is asked.
var answerOK = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "done")
})

// script returns a Base that speaks like net/http and strikes in that order.
func script(faults ...faultinject.Fault) *faultinject.Transport {
	return faultinject.Handler(answerOK, faultinject.Script(faults...))
}

// newClient returns a client over base, which is believed as net/http is.
func newClient(t *testing.T, base http.RoundTripper, change ...func(*resilient.Config)) *http.Client {
	t.Helper()
	cfg := resilient.Config{Base: base, BaseIsWire: true}
	for _, c := range change {
		c(&cfg)
	}
	client, err := resilient.NewClient(cfg)
	require.NoError(t, err)
	return client
}

func honoured(cfg *resilient.Config) { cfg.HonorsKeys = resilient.AnyHost }

func newRequest(t *testing.T, method, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://api.test/charges", r)
	require.NoError(t, err)
	return req
}

// told is what a caller learns of one operation.
type told struct {
	status   int
	outcome  resilient.Outcome
	stop     error
	attempts int
	err      error
	record   resilient.Operation
}

func do(t *testing.T, client *http.Client, req *http.Request) told {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		e, ok := errors.AsType[*resilient.Error](err)
		require.True(t, ok, "%v", err)
		return told{outcome: e.Outcome, stop: e.Stop, attempts: len(e.Attempts), err: err, record: e.Operation}
	}
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	op, ok := resilient.OperationOf(resp)
	if !ok {
		op.Attempts = []resilient.Attempt{{}}
	}
	return told{status: resp.StatusCode, outcome: op.Outcome, stop: op.Stop, attempts: len(op.Attempts), record: op}
}

func TestOperationsEndAsTheTableSays(t *testing.T) {
	lost := faultinject.LoseResponse(faultinject.RST)
	refused := faultinject.RefuseDial()
	for _, tt := range []struct {
		name     string
		method   string
		body     string
		change   func(*resilient.Config)
		faults   []faultinject.Fault
		status   int
		outcome  resilient.Outcome
		stop     error
		attempts int
		effects  int
	}{
		{"a GET is repeated after a reset", "GET", "", nil, []faultinject.Fault{lost}, 200, resilient.Answered, nil, 2, 2},
		{"a GET is repeated after 503 and 500", "GET", "", nil, []faultinject.Fault{faultinject.Respond(503), faultinject.Respond(500)}, 200, resilient.Answered, nil, 3, 1},
		{"a POST is repeated after a refused dial", "POST", "x", nil, []faultinject.Fault{refused, refused}, 200, resilient.Answered, nil, 3, 1},
		{"a POST whose answer was lost is not repeated unless keys are honoured", "POST", "x", nil, []faultinject.Fault{lost}, 0, resilient.Unknown, resilient.ErrUnsafe, 1, 1},
		{"a POST whose answer was lost is repeated where keys are honoured", "POST", "x", honoured, []faultinject.Fault{lost}, 200, resilient.Answered, nil, 2, 2},
		{"a POST that never left is told so", "POST", "x", nil, []faultinject.Fault{refused, refused, refused, refused}, 0, resilient.NotSent, resilient.ErrAttempts, 4, 0},
		{"a refused dial after a lost answer changes nothing", "POST", "x", honoured, []faultinject.Fault{lost, refused, refused, refused}, 0, resilient.Unknown, resilient.ErrAttempts, 4, 1},
		{"a 503 to a POST is returned as the answer it is", "POST", "x", nil, []faultinject.Fault{faultinject.Respond(503)}, 503, resilient.Answered, resilient.ErrUnsafe, 1, 0},
		{"the last 503 is returned as the answer it is", "GET", "", nil, []faultinject.Fault{faultinject.Respond(503), faultinject.Respond(503), faultinject.Respond(503), faultinject.Respond(503)}, 503, resilient.Answered, resilient.ErrAttempts, 4, 0},
		{"a 404 is final", "GET", "", nil, []faultinject.Fault{faultinject.Respond(404)}, 404, resilient.Answered, nil, 1, 0},
		{"a 425 is repeated for any method", "POST", "x", nil, []faultinject.Fault{faultinject.Respond(425)}, 200, resilient.Answered, nil, 2, 1},
		{"a name that does not exist is tried twice", "POST", "x", nil, []faultinject.Fault{faultinject.NXDomain(), faultinject.NXDomain(), faultinject.NXDomain()}, 0, resilient.NotSent, resilient.ErrAttempts, 2, 0},
		{"a DELETE is repeated after a lost answer", "DELETE", "", nil, []faultinject.Fault{lost}, 200, resilient.Answered, nil, 2, 2},
		{"a POST without a body is not repeated after a lost answer", "POST", "", nil, []faultinject.Fault{lost}, 0, resilient.Unknown, resilient.ErrUnsafe, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := script(tt.faults...)
				change := tt.change
				if change == nil {
					change = func(*resilient.Config) {}
				}
				client := newClient(t, base, change)
				got := do(t, client, newRequest(t, tt.method, tt.body))
				require.Equal(t, tt.status, got.status)
				require.ErrorIs(t, got.stop, tt.stop)
				require.Equal(t, tt.attempts, got.attempts)
				if got.status == 0 || got.record.Method != "" {
					require.Equal(t, tt.outcome, got.outcome)
				}
				effects := 0
				for _, n := range base.Effects() {
					effects += n
				}
				require.Equal(t, tt.effects, effects)
			})
		})
	}
}

func TestAllAttemptsBearOneKeyAndTheSameBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(faultinject.RefuseDial(), faultinject.LoseResponse(faultinject.FIN), faultinject.Respond(500), faultinject.Pass())
		got := do(t, newClient(t, base, honoured), newRequest(t, "POST", "amount=1"))
		require.Equal(t, 200, got.status)
		seen := base.Deliveries()
		require.NotEmpty(t, got.record.Key)
		for _, d := range seen {
			if d.Fault.Truth() != faultinject.NeverSent {
				require.Equal(t, got.record.Key, d.Key)
			}
		}
	})
}

func TestCancellingWakesTheWaitAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(faultinject.Respond(503, "Retry-After: 30"))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second); cancel() }()
		start := time.Now()
		_, err := newClient(t, base).Do(newRequest(t, "GET", "").WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestADeadlineThatTheWaitWouldPassEndsTheOperationAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(faultinject.Respond(503, "Retry-After: 30"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		got := do(t, newClient(t, base), newRequest(t, "GET", "").WithContext(ctx))
		require.Equal(t, 503, got.status)
		require.ErrorIs(t, got.stop, resilient.ErrNoTime)
		require.False(t, got.record.NotBefore.Before(start.Add(30*time.Second)))
		require.Zero(t, time.Since(start))
	})
}

func TestTheCallersRequestIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, "POST", "x")
		req.Header.Set("X-A", "1")
		before := req.Clone(req.Context())
		got := do(t, newClient(t, script(faultinject.Respond(500)), honoured, func(c *resilient.Config) {
			c.Prepare = func(r *http.Request) error { r.Header.Add("X-A", "2"); r.URL.Path += "/y"; return nil }
		}), req)
		require.Equal(t, 200, got.status)
		require.Equal(t, before.Header, req.Header)
		require.Equal(t, before.URL, req.URL)
	})
}

func TestTheTimeoutCoversAllHops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hops := 0
		slow := roundTrip(func(req *http.Request) (*http.Response, error) {
			hops++
			select {
			case <-time.After(time.Second):
				return answer(req, http.StatusFound, "Location: /next"), nil
			case <-req.Context().Done():
				return nil, context.Cause(req.Context())
			}
		})
		client := newClient(t, slow, func(c *resilient.Config) { c.Timeout = 2500 * time.Millisecond })
		start := time.Now()
		got := do(t, client, newRequest(t, "GET", ""))
		require.ErrorIs(t, got.stop, resilient.ErrNoTime)
		require.ErrorIs(t, got.err, context.DeadlineExceeded)
		require.Equal(t, 2500*time.Millisecond, time.Since(start))
		require.Equal(t, 3, hops)
		require.Equal(t, 3, got.attempts)
	})
}

func TestTheTimeoutCoversWhatPrepareTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, script(faultinject.Stall()), func(c *resilient.Config) {
			c.Prepare = func(*http.Request) error { time.Sleep(3 * time.Second); return nil }
			c.Timeout = 5 * time.Second
		})
		start := time.Now()
		require.ErrorIs(t, do(t, client, newRequest(t, http.MethodGet, "")).stop, resilient.ErrNoTime)
		require.Equal(t, 5*time.Second, time.Since(start))
	})
}

func TestEveryBadValueOfTheConfigIsNamed(t *testing.T) {
	fields := reflect.TypeFor[resilient.Config]()
	for i := range fields.NumField() {
		field := fields.Field(i)
		switch field.Type.Kind() {
		case reflect.Int, reflect.Int64:
		default:
			continue
		}
		var cfg resilient.Config
		reflect.ValueOf(&cfg).Elem().Field(i).SetInt(-1)
		client, err := resilient.NewClient(cfg)
		require.ErrorContains(t, err, "Config."+field.Name+": ")
		require.Nil(t, client)
	}
	for name, cfg := range map[string]resilient.Config{
		"Config.AttemptTimeout: ":   {Timeout: time.Second, AttemptTimeout: time.Minute},
		"Config.BaseIsWire: ":       {BaseIsWire: true},
		"Config.Keys.TTL: ":         {Keys: resilient.KeyConfig{TTL: -1}},
		"Config.Keys.Header: \"not": {Keys: resilient.KeyConfig{Header: "not a header"}},
		"Config.Keys.Header: Host":  {Keys: resilient.KeyConfig{Header: "host"}},
	} {
		_, err := resilient.NewTransport(cfg)
		require.ErrorContains(t, err, name)
	}
}

func TestARequestWithoutAURLIsRefusedAndItsBodyClosed(t *testing.T) {
	rt, err := resilient.NewTransport(resilient.Config{})
	require.NoError(t, err)
	body := &closing{Reader: strings.NewReader("x")}
	_, err = rt.RoundTrip(&http.Request{Method: http.MethodPost, Header: http.Header{}, Body: body})
	require.ErrorContains(t, err, "nil Request.URL")
	require.Equal(t, 1, body.closed)
	e, ok := errors.AsType[*resilient.Error](err)
	require.True(t, ok)
	require.Equal(t, resilient.NotSent, e.Outcome)
}

func TestAnAnswerIsNotLostWhereTheNextRequestCannotBeMade(t *testing.T) {
	for name, change := range map[string]func(*http.Request, *resilient.Config){
		"GetBody fails": func(req *http.Request, _ *resilient.Config) {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		},
		"Prepare fails": func(_ *http.Request, cfg *resilient.Config) {
			n := 0
			cfg.Prepare = func(*http.Request) error {
				if n++; n > 1 {
					return errors.New("gone")
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answered := &closing{Reader: strings.NewReader("busy")}
				base := roundTrip(func(req *http.Request) (*http.Response, error) {
					closeAll(t, req.Body)
					resp := answer(req, http.StatusServiceUnavailable)
					resp.Body = answered
					return resp, nil
				})
				req := newRequest(t, http.MethodPut, "x")
				resp, err := newClient(t, base, func(cfg *resilient.Config) { change(req, cfg) }).Do(req)
				require.NoError(t, err)
				require.Zero(t, answered.closed)
				text, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, "busy", string(text))
				require.NoError(t, resp.Body.Close())
				require.Equal(t, 1, answered.closed)
				op, ok := resilient.OperationOf(resp)
				require.True(t, ok)
				require.ErrorContains(t, op.Stop, "gone")
				require.Len(t, op.Attempts, 1)
			})
		})
	}
}

func TestTheAdviceNamesTheServerAsHostsTakesIt(t *testing.T) {
	for _, server := range []string{"api.test", "api.test:8443", "http://api.test", "http://127.0.0.1:8080"} {
		synctest.Test(t, func(t *testing.T) {
			req := newRequest(t, http.MethodPost, "x")
			target := server
			if !strings.Contains(server, "://") {
				target = "https://" + server
			}
			var err error
			req.URL, err = req.URL.Parse(target)
			require.NoError(t, err)
			got := do(t, newClient(t, script(faultinject.Respond(503))), req)
			require.ErrorContains(t, got.stop, "set Config.HonorsKeys if "+server+" honours Idempotency-Key")
			require.True(t, resilient.Hosts(server)(req))
		})
	}
}

func TestASafeRequestWithABadKeyIsRefusedBeforeItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := script(faultinject.Respond(503))
		req := newRequest(t, http.MethodGet, "")
		req.Header.Set("Idempotency-Key", "a\nb")
		got := do(t, newClient(t, base), req)
		require.ErrorContains(t, got.err, "control character")
		require.Equal(t, resilient.NotSent, got.outcome)
		require.Empty(t, base.Deliveries())
	})
}

func TestAPanicBelowLeavesNothingOpen(t *testing.T) {
	for _, where := range []string{"Prepare", "Classify"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answered := &closing{Reader: strings.NewReader("busy")}
				base := roundTrip(func(req *http.Request) (*http.Response, error) {
					closeAll(t, req.Body)
					resp := answer(req, http.StatusInternalServerError)
					resp.Body = answered
					return resp, nil
				})
				rt, err := resilient.NewTransport(resilient.Config{
					Base: base,
					Prepare: func(*http.Request) error {
						if where == "Prepare" {
							panic(where)
						}
						return nil
					},
					Classify: func(*http.Request, *http.Response, error, resilient.Verdict) resilient.Verdict { panic(where) },
				})
				require.NoError(t, err)
				body := &closing{Reader: strings.NewReader("x")}
				req := newRequest(t, http.MethodPut, "")
				req.Body, req.ContentLength = body, 1
				require.PanicsWithValue(t, where, func() { _, _ = rt.RoundTrip(req) })
				require.Equal(t, 1, body.closed)
				if where == "Classify" {
					require.Equal(t, 1, answered.closed)
				}
			})
		})
	}
}

func closeAll(t *testing.T, body io.ReadCloser) {
	t.Helper()
	_, err := io.Copy(io.Discard, body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
}

// closing is a body that counts its Close calls.
type closing struct {
	io.Reader
	closed int
}

func (c *closing) Close() error { c.closed++; return nil }

func TestNoBackoffAndAScheduleThatEndsAreWhatTheySay(t *testing.T) {
	for _, tt := range []struct {
		name     string
		backoff  func() resilient.Schedule
		attempts int
	}{
		{"a nil Schedule is the default one", func() resilient.Schedule { return nil }, 4},
		{"a negative pause ends the operation", func() resilient.Schedule { return every(-1) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := faultinject.Handler(answerOK, always(faultinject.Respond(500)))
				got := do(t, newClient(t, base, func(c *resilient.Config) { c.Backoff = tt.backoff }), newRequest(t, "GET", ""))
				require.Equal(t, tt.attempts, got.attempts)
				require.ErrorIs(t, got.stop, resilient.ErrAttempts)
			})
		})
	}
}
