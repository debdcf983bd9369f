package resilientotel_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/resilientotel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

const charges = "http://api.test/charges?card=4711"

func TestEachAttemptIsAClientSpanBelowItsOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		base := handled(faultinject.Respond(503), faultinject.LoseResponse(faultinject.RST))
		require.NoError(t, send(t.Context(), t, r.transport(base), http.MethodPost, charges))
		require.Equal(t, []map[string]string{
			{
				"name": "POST", "code": "Error", "http.request.method": "POST", "server.address": "api.test", "server.port": "80",
				"url.full": "http://api.test/charges", "http.response.status_code": "503", "error.type": "503",
				"network.protocol.version": "1.1",
			},
			{
				"name": "POST", "code": "Error", "http.request.method": "POST", "server.address": "api.test", "server.port": "80",
				"url.full": "http://api.test/charges", "http.request.resend_count": "1", "error.type": "connection_reset",
			},
			{
				"name": "POST", "code": "Unset", "http.request.method": "POST", "server.address": "api.test", "server.port": "80",
				"url.full": "http://api.test/charges", "http.request.resend_count": "2", "http.response.status_code": "200",
				"network.protocol.version": "1.1",
			},
		}, r.clients())
		require.Equal(t, []map[string]string{{
			"name": "resilient POST", "code": "Unset", "server.address": "api.test", "server.port": "80",
			"resilient.outcome": "answered", "resilient.attempts": "3",
		}}, r.operations())
		operation := r.of(trace.SpanKindInternal)[0]
		for _, s := range r.of(trace.SpanKindClient) {
			require.Equal(t, operation.SpanContext().SpanID(), s.Parent().SpanID())
		}
	})
}

func TestWaitsAreEventsOfTheOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		require.NoError(t, send(t.Context(), t, r.transport(handled(faultinject.Respond(503, "Retry-After: 7"))), http.MethodGet, charges))
		events := r.of(trace.SpanKindInternal)[0].Events()
		require.Len(t, events, 1)
		require.Equal(t, "wait", events[0].Name)
		waited := events[0].Attributes[0].Value.AsFloat64()
		require.GreaterOrEqual(t, waited, 7.0)
		require.Equal(t, []point{{map[string]string{"http.request.method": "GET", "server.address": "api.test", "server.port": "80"}, 1, waited}},
			r.points("resilient.retry.wait"))
		spans := r.of(trace.SpanKindClient)
		require.InDelta(t, waited, spans[1].StartTime().Sub(spans[0].EndTime()).Seconds(), 1e-6, "the pause lies between the spans")
	})
}

func TestARedirectHopCountsAsAResend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		base := faultinject.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/charges" {
				http.Redirect(w, req, "https://other.test:8443/there", http.StatusTemporaryRedirect)
			}
		}), faultinject.Script(faultinject.Respond(503)))
		require.NoError(t, send(t.Context(), t, r.transport(base), http.MethodGet, charges))
		require.Equal(t, []string{"", "1", "2", "3"}, column(r.clients(), "http.request.resend_count"))
		require.Equal(t, []string{"80", "80", "8443", "8443"}, column(r.clients(), "server.port"))
		require.Equal(t, []string{"2", "4"}, column(r.operations(), "resilient.attempts"))
		require.EqualValues(t, 4, sum(r.points("resilient.operation.attempts")), "no attempt is counted twice")
		require.EqualValues(t, 4, r.total("http.client.request.duration"))
		require.EqualValues(t, 2, r.total("resilient.retries"), "a hop is none")
	})
}

func sum(points []point) (all float64) {
	for _, p := range points {
		all += p.sum
	}
	return all
}

func TestWhatNetHTTPSendsByItselfIsASpanToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := faultinject.NewNetwork()
		server := n.NewServer(t, "http://api.test", answers(200), faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
			if x.Path == "/charges" && x.Nth == 1 {
				return faultinject.LoseResponse(faultinject.FIN) // executed, and the used connection ends
			}
			return faultinject.Pass()
		}))
		base := server.Transport()
		require.NoError(t, send(t.Context(), t, base, http.MethodGet, "http://api.test/warm"))
		synctest.Wait()
		r := newRig(t)
		counted := func(c *resilient.Config) { c.BaseIsWire, c.CountReplays = false, true }
		require.NoError(t, send(t.Context(), t, r.transport(base, counted), http.MethodGet, charges))
		require.Equal(t, []string{"true", ""}, column(r.clients(), "resilient.replay"))
		require.Equal(t, []string{"", "1"}, column(r.clients(), "http.request.resend_count"))
		require.Equal(t, []string{"", "200"}, column(r.clients(), "http.response.status_code"))
		require.EqualValues(t, 1, r.total("resilient.hidden_resends"))
		require.Zero(t, r.total("resilient.retries"))
		require.EqualValues(t, 1, r.total("http.client.request.duration"), "what a replay took is not known")
		require.EqualValues(t, 2, sum(r.points("resilient.operation.attempts")))
	})
}

func TestACallerWhoLeavesIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		require.ErrorIs(t, send(ctx, t, r.transport(handled(faultinject.Stall())), http.MethodPost, charges), context.Canceled)
		require.Equal(t, []string{"Unset"}, column(r.clients(), "code"))
		require.Equal(t, []string{""}, column(r.clients(), "error.type"))
		require.Equal(t, []string{"Unset"}, column(r.operations(), "code"))
		require.Equal(t, []string{"canceled"}, column(r.operations(), "resilient.stop"))
		require.Equal(t, []string{"unknown"}, column(r.operations(), "resilient.outcome"))
		for _, p := range r.points("http.client.request.duration") {
			require.NotContains(t, p.labels, "error.type")
			require.InDelta(t, 1, p.sum, 1e-6)
		}
	})
}

func TestTheTypeOfAnErrorIsOneOfFewWords(t *testing.T) {
	attemptTimeout := func(c *resilient.Config) { c.AttemptTimeout = time.Second }
	for _, tt := range []struct {
		name   string
		fault  faultinject.Fault
		change func(*resilient.Config)
		want   string
	}{
		{"a time-out", faultinject.Stall(), attemptTimeout, "timeout"},
		{"a look-up that timed out", faultinject.DNSTimeout(), attemptTimeout, "timeout"},
		{"a refused dial", faultinject.RefuseDial(), attemptTimeout, "connection_refused"},
		{"a reset", faultinject.LoseResponse(faultinject.RST), attemptTimeout, "connection_reset"},
		{"no such host", faultinject.NXDomain(), attemptTimeout, "*net.DNSError"},
		{"a bare end", faultinject.LoseResponse(faultinject.FIN), attemptTimeout, "*errors.errorString"},
		{"an answer", faultinject.Respond(404), attemptTimeout, "404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				base := faultinject.Handler(answers(200), faultinject.Forever(tt.fault))
				_ = send(t.Context(), t, r.transport(base, tt.change), http.MethodGet, charges)
				require.Equal(t, tt.want, r.clients()[0]["error.type"])
				require.Equal(t, tt.want, r.points("http.client.request.duration")[0].labels["error.type"])
			})
		})
	}
}

func TestATemplateNamesTheSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx := resilientotel.WithTemplate(t.Context(), "/charges/{id}")
		require.NoError(t, send(ctx, t, r.transport(handled()), http.MethodGet, "http://api.test/charges/7"))
		require.NoError(t, send(ctx, t, r.transport(handled()), "BREW", "http://api.test/charges/7"))
		require.Equal(t, []string{"GET /charges/{id}", "HTTP /charges/{id}"}, column(r.clients(), "name"))
		require.Equal(t, []string{"/charges/{id}", "/charges/{id}"}, column(r.clients(), "url.template"))
		require.Equal(t, []string{"", "BREW"}, column(r.clients(), "http.request.method_original"))
		require.Equal(t, []string{"resilient GET /charges/{id}", "resilient HTTP /charges/{id}"}, column(r.operations(), "name"))
	})
}

func TestEveryMethodThatTheConventionsKnowIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "QUERY"}
		r := newRig(t)
		for _, method := range known {
			require.NoError(t, send(t.Context(), t, r.transport(faultinject.Handler(answers(200), nil)), method, charges))
		}
		require.Equal(t, known, column(r.clients(), "http.request.method"))
	})
}

func TestEachAttemptCarriesItsOwnSpanToTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var sent []string
		base := handled(faultinject.Respond(503))
		seen := roundTrip(func(req *http.Request) (*http.Response, error) {
			sent = append(sent, req.Header.Get("Traceparent"))
			return base.RoundTrip(req)
		})
		require.NoError(t, send(t.Context(), t, r.transport(seen), http.MethodPost, charges))
		var want []string
		for _, s := range r.of(trace.SpanKindClient) {
			want = append(want, "00-"+s.SpanContext().TraceID().String()+"-"+s.SpanContext().SpanID().String()+"-01")
		}
		require.Len(t, want, 2)
		require.Equal(t, want, sent)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestASpanEndsWhereItsRequestWasNeverHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		broken := func(c *resilient.Config) { c.Prepare = func(*http.Request) error { return errors.New("no token") } }
		require.Error(t, send(t.Context(), t, r.transport(handled(), broken), http.MethodPost, charges))
		require.Equal(t, []string{"Error"}, column(r.clients(), "code"))
		require.Equal(t, []string{"not_sent"}, column(r.operations(), "resilient.outcome"))
		require.Zero(t, r.total("http.client.request.duration"))
	})
}

func TestAnAttemptThatWasNotToBeMadeIsNoSuccess(t *testing.T) {
	for name, fault := range map[string]faultinject.Fault{
		"an answer before it": faultinject.Respond(503),
		"an error before it":  faultinject.LoseResponse(faultinject.RST),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				n := 0
				broken := func(c *resilient.Config) {
					c.Prepare = func(*http.Request) error {
						if n++; n > 1 {
							return errors.New("no token")
						}
						return nil
					}
				}
				_ = send(t.Context(), t, r.transport(handled(fault), broken), http.MethodPost, charges)
				require.Equal(t, []string{"Error", "Error"}, column(r.clients(), "code"))
				require.Equal(t, "Config.Prepare: no token", r.of(trace.SpanKindClient)[1].Status().Description)
				require.Equal(t, "*errors.errorString", r.clients()[1]["error.type"])
			})
		})
	}
}

func TestAPauseThatTheCallerLeavesIsAsLongAsHeStayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		err := send(ctx, t, r.transport(handled(faultinject.Respond(503, "Retry-After: 50"))), http.MethodGet, charges)
		require.ErrorIs(t, err, context.Canceled)
		require.InDelta(t, 2, sum(r.points("resilient.retry.wait")), 1e-6)
		events := r.of(trace.SpanKindInternal)[0].Events()
		require.Len(t, events, 1)
		require.InDelta(t, 2, events[0].Attributes[0].Value.AsFloat64(), 1e-6)
		require.Equal(t, r.of(trace.SpanKindClient)[0].EndTime(), events[0].Time)
	})
}

func TestATimeoutOfTheHTTPClientIsAnErrorHoweverItIsHeard(t *testing.T) {
	for range 30 { // net/http tells it in two ways at once
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			server := faultinject.NewNetwork().NewServer(t, "http://api.test", answers(200), faultinject.Forever(faultinject.Stall()))
			client := &http.Client{Transport: r.transport(server.Transport()), Timeout: time.Second}
			_, err := client.Get(charges)
			require.Error(t, err)
			require.Equal(t, []string{"timeout"}, column(r.clients(), "error.type"))
			require.Equal(t, []string{"timeout"}, column(r.operations(), "error.type"))
			require.Equal(t, []string{"deadline"}, column(r.operations(), "resilient.stop"))
		})
	}
}

func TestSpansEndWhereBasePanics(t *testing.T) {
	for _, below := range []bool{false, true} {
		r := newRig(t, func(c *resilientotel.Config) { c.AttemptsBelow = below })
		base := roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") })
		require.PanicsWithValue(t, "boom", func() { _ = send(t.Context(), t, r.transport(base), http.MethodPost, charges) })
		require.Equal(t, []string{"Error"}, column(r.operations(), "code"))
		require.NotContains(t, column(r.clients(), "code"), "Unset")
	}
}

func TestASpanIsAsLongAsItsMetricSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second)
			return &http.Response{StatusCode: 200, Body: slowBody{}, Request: req}, nil
		})
		buffered := func(c *resilient.Config) { c.BufferResponse = 100 }
		require.NoError(t, send(t.Context(), t, r.transport(base, buffered), http.MethodGet, charges))
		s := r.of(trace.SpanKindClient)[0]
		require.InDelta(t, 2, s.EndTime().Sub(s.StartTime()).Seconds(), 1e-6)
		require.InDelta(t, 2, sum(r.points("http.client.request.duration")), 1e-6)
	})
}

// slowBody ends after three seconds, which are no part of the headers' time.
type slowBody struct{}

func (slowBody) Read([]byte) (int, error) {
	time.Sleep(3 * time.Second)
	return 0, io.EOF
}

func (slowBody) Close() error { return nil }

func TestTwoTelemetriesDoNotMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newRig(t), newRig(t)
		both := func(c *resilient.Config) { c.Observer = resilient.Observers(a.tel.Observer(), b.tel.Observer()) }
		require.NoError(t, send(t.Context(), t, a.transport(handled(faultinject.Respond(503)), both), http.MethodGet, charges))
		for _, r := range []*rig{a, b} {
			require.Equal(t, []string{"", "1"}, column(r.clients(), "http.request.resend_count"))
			require.EqualValues(t, 2, r.total("http.client.request.duration"))
		}
	})
}

func TestTransportsInsideOneAnotherHaveSpansOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		inner := r.transport(handled(faultinject.Respond(503)))
		require.NoError(t, send(t.Context(), t, r.transport(inner), http.MethodPost, charges))
		require.Len(t, r.operations(), 3)
		require.Len(t, r.clients(), 4, "two attempts of each")
	})
}

func TestAttributesOfTheUsersAreAddedAndDoNotOverruleOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *resilientotel.Config) {
			c.Attributes = func(_ context.Context, op resilient.Operation) []attribute.KeyValue {
				require.NotEmpty(t, op.Key)
				return []attribute.KeyValue{attribute.String("peer.service", "bank"), attribute.String("server.address", "mine")}
			}
		})
		require.NoError(t, send(t.Context(), t, r.transport(handled()), http.MethodPost, charges))
		for _, m := range []map[string]string{r.clients()[0], r.operations()[0], r.points("http.client.request.duration")[0].labels} {
			require.Equal(t, "bank", m["peer.service"])
			require.Equal(t, "api.test", m["server.address"])
		}
	})
}
