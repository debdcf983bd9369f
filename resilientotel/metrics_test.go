package resilientotel_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/resilientotel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

func TestTheMetricOfRequestsIsTheConventions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		base := handled(faultinject.Respond(503), faultinject.Delay(time.Second))
		require.NoError(t, send(t.Context(), t, r.transport(base), http.MethodPost, charges))
		for _, m := range r.metrics() {
			require.NotEmpty(t, m.Description, m.Name)
			require.NotEmpty(t, m.Unit, m.Name)
			if m.Name != "http.client.request.duration" {
				continue
			}
			require.Equal(t, "s", m.Unit)
			points := m.Data.(metricdata.Histogram[float64]).DataPoints
			require.Equal(t, []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}, points[0].Bounds)
		}
		require.ElementsMatch(t, []point{
			{map[string]string{
				"http.request.method": "POST", "server.address": "api.test", "server.port": "80",
				"http.response.status_code": "503", "error.type": "503", "network.protocol.version": "1.1",
			}, 1, 0},
			{map[string]string{
				"http.request.method": "POST", "server.address": "api.test", "server.port": "80",
				"http.response.status_code": "200", "network.protocol.version": "1.1",
			}, 1, 1},
		}, r.points("http.client.request.duration"))
	})
}

func TestOperationsAreCountedByTheirOutcomeAndStop(t *testing.T) {
	lost := faultinject.LoseResponse(faultinject.RST)
	refused := faultinject.RefuseDial()
	nobodyHonours := func(c *resilient.Config) { c.HonorsKeys = nil }
	for _, tt := range []struct {
		name   string
		fault  faultinject.Fault
		change func(*resilient.Config)
		labels []string
		took   int
	}{
		{"an answer", faultinject.Pass(), noChange, []string{"resilient.outcome=answered", "resilient.stop="}, 1},
		{"an answer that is no good", faultinject.Respond(503), noChange, []string{"resilient.outcome=answered", "resilient.stop=attempts"}, 4},
		{"nothing arrived", refused, noChange, []string{"resilient.outcome=not_sent", "resilient.stop=attempts"}, 4},
		{"nobody knows", lost, noChange, []string{"resilient.outcome=unknown", "resilient.stop=attempts"}, 4},
		{"nobody knows, and nobody may ask again", lost, nobodyHonours, []string{"resilient.outcome=unknown", "resilient.stop=unsafe"}, 1},
		{"no time", faultinject.Respond(503, "Retry-After: 3600"), noChange, []string{"resilient.outcome=answered", "resilient.stop=no_time"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				base := faultinject.Handler(answers(200), faultinject.Forever(tt.fault))
				_ = send(t.Context(), t, r.transport(base, tt.change), http.MethodPost, charges)
				require.EqualValues(t, 1, r.total("resilient.operation.duration", tt.labels...))
				require.EqualValues(t, 1, r.total("resilient.operation.duration"))
				require.EqualValues(t, tt.took, sum(r.points("resilient.operation.attempts")))
				require.EqualValues(t, tt.took, r.total("http.client.request.duration"))
				require.EqualValues(t, tt.took-1, r.total("resilient.retry.wait"))
				require.EqualValues(t, tt.took-1, r.total("resilient.retries"))
			})
		})
	}
}

func noChange(*resilient.Config) {}

func TestAnOutageIsSeenInTheBudgetAndTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		base := faultinject.Handler(answers(200), faultinject.Window(0, time.Minute, faultinject.Forever(faultinject.RefuseDial())))
		transport := r.transport(base)
		stop, err := r.tel.Observe(transport, attribute.String("client", "bank"))
		require.NoError(t, err)
		state := func(s string) float64 { return r.total("resilient.host.breaker.state", "resilient.breaker.state="+s) }
		for range 30 {
			_ = send(t.Context(), t, transport, http.MethodGet, charges)
		}
		require.Less(t, r.total("resilient.host.budget.balance"), 10.0)
		require.Equal(t, []float64{0, 1}, []float64{state("closed"), state("open")})
		require.EqualValues(t, 1, r.total("resilient.host.breaker.trips"))
		require.Positive(t, r.total("resilient.operation.duration", "resilient.stop=circuit_open"))
		require.Equal(t, "bank", r.points("resilient.host.budget.balance")[0].labels["client"])

		time.Sleep(2 * time.Minute)
		for range 100 {
			require.NoError(t, send(t.Context(), t, transport, http.MethodGet, charges))
		}
		require.Equal(t, []float64{1, 0}, []float64{state("closed"), state("open")})
		require.EqualValues(t, 1, r.total("resilient.host.breaker.trips"))
		require.InDelta(t, 10, r.total("resilient.host.budget.balance"), 0.01)
		require.NoError(t, stop())
		require.Empty(t, r.points("resilient.host.budget.balance"))
	})
}

func TestACooldownAndWhatIsInFlightAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		transport := r.transport(handled(faultinject.Respond(429, "Retry-After: 20")))
		_, err := r.tel.Observe(transport)
		require.NoError(t, err)
		done := make(chan error)
		go func() { done <- send(t.Context(), t, transport, http.MethodGet, charges) }()
		time.Sleep(5 * time.Second)
		require.EqualValues(t, 1, r.total("resilient.host.active_operations"))
		require.InDelta(t, 15, r.total("resilient.host.cooldown"), 1e-6)
		require.NoError(t, <-done)
		require.Zero(t, r.total("resilient.host.active_operations"))
		require.Zero(t, r.total("resilient.host.cooldown"))
	})
}

func TestTripsDoNotFallWhenHostsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *resilientotel.Config) { c.MaxServers = 1 })
		base := faultinject.Handler(answers(200), faultinject.Window(0, time.Minute, faultinject.Forever(faultinject.Respond(500))))
		transport := r.transport(base, func(c *resilient.Config) { c.MaxHosts = 20 })
		_, err := r.tel.Observe(transport)
		require.NoError(t, err)
		call := func(name string, hosts, times int) {
			for i := range hosts * times {
				_ = send(t.Context(), t, transport, http.MethodGet, fmt.Sprintf("http://%s%d.test", name, i%hosts))
			}
		}
		call("first", 1, 1)
		call("bad", 5, 12)
		require.EqualValues(t, 5, r.total("resilient.host.breaker.trips"))
		time.Sleep(2 * time.Minute)
		call("bad", 5, 100)
		call("new", 100, 1)
		require.EqualValues(t, 5, r.total("resilient.host.breaker.trips", "server.address=_OTHER"))
	})
}

func TestReplayedAnswersAndConflictsOfKeysAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, answer := range []http.Handler{
			answers(201, "Idempotent-Replayed: true"), answers(422, "Idempotent-Replayed: true"),
			answers(409), answers(422), answers(422),
		} {
			require.NoError(t, send(t.Context(), t, r.transport(faultinject.Handler(answer, nil)), http.MethodPost, charges))
		}
		require.EqualValues(t, 2, r.total("resilient.replayed_answers"))
		require.EqualValues(t, 1, r.total("resilient.key_conflicts", "http.response.status_code=409"))
		require.EqualValues(t, 2, r.total("resilient.key_conflicts", "http.response.status_code=422"))

		base := faultinject.Handler(answers(422), nil)
		require.NoError(t, send(t.Context(), t, r.transport(base), http.MethodGet, charges))
		require.EqualValues(t, 3, r.total("resilient.key_conflicts"), "a GET has no key")
	})
}

func TestLabelsAreFewWhateverIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *resilientotel.Config) { c.MaxServers = 3 })
		transport := r.transport(faultinject.Handler(answers(200), nil))
		_, err := r.tel.Observe(transport)
		require.NoError(t, err)
		for i := range 10 {
			ctx := resilient.WithKey(t.Context(), resilient.Key{Value: fmt.Sprint("canary", i)})
			require.NoError(t, send(ctx, t, transport, http.MethodPost, fmt.Sprintf("https://h%d.test/canary/%d?canary=%d", i, i, i)))
			require.NoError(t, send(t.Context(), t, transport, fmt.Sprint("M", i), "http://H0.test:80/"))
		}
		for _, name := range []string{"http.client.request.duration", "resilient.operation.duration", "resilient.host.budget.balance"} {
			servers := make(map[string]bool)
			for _, p := range r.points(name) {
				servers[p.labels["server.address"]+":"+p.labels["server.port"]] = true
				require.Contains(t, []string{"POST", "_OTHER", ""}, p.labels["http.request.method"])
				require.NotContains(t, fmt.Sprint(p.labels), "canary")
			}
			require.Equal(t, map[string]bool{"h0.test:443": true, "h0.test:80": true, "h1.test:443": true, "_OTHER:0": true}, servers)
		}
		require.EqualValues(t, 11, r.total("resilient.host.breaker.state", "resilient.breaker.state=closed"))
	})
}

func TestWhereATemplateOfHostsGroupsThemTheGroupIsTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		grouped := func(c *resilient.Config) { c.HostKey = func(*http.Request) string { return "tenants" } }
		transport := r.transport(handled(), grouped)
		_, err := r.tel.Observe(transport)
		require.NoError(t, err)
		require.NoError(t, send(t.Context(), t, transport, http.MethodGet, "http://[::1]:8080/x"))
		require.Equal(t, "tenants", r.points("resilient.host.budget.balance")[0].labels["server.address"])
		require.Equal(t, "::1", r.points("http.client.request.duration")[0].labels["server.address"])
		require.Equal(t, "8080", r.points("http.client.request.duration")[0].labels["server.port"])
	})
}

func TestWithoutProvidersNothingIsObserved(t *testing.T) {
	tel, err := resilientotel.New(resilientotel.Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider()})
	require.NoError(t, err)
	o := tel.Observer()
	require.True(t, o.Start == nil && o.AttemptStart == nil && o.Attempt == nil && o.End == nil)
}

func TestTheGlobalProvidersAreTheDefaultAndNeedNotBeThereYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *resilientotel.Config) { *c = resilientotel.Config{} })
		require.NoError(t, send(t.Context(), t, r.transport(handled(faultinject.Respond(503))), http.MethodPost, charges))
	})
}

func TestWhatCannotBeIsAnErrorThatNamesIt(t *testing.T) {
	_, err := resilientotel.New(resilientotel.Config{MaxServers: -1})
	require.EqualError(t, err, "resilientotel: Config.MaxServers: -1 is negative")

	_, err = resilientotel.New(resilientotel.Config{MeterProvider: sulking{}})
	require.ErrorContains(t, err, "resilientotel: metric http.client.request.duration: not today")

	r := newRig(t)
	_, err = r.tel.Observe(nil)
	require.EqualError(t, err, "resilientotel: Observe: transport is nil")
}

// sulking is a MeterProvider that makes no histograms.
type sulking struct{ metricnoop.MeterProvider }

func (sulking) Meter(string, ...metric.MeterOption) metric.Meter { return sulkingMeter{} }

type sulkingMeter struct{ metricnoop.Meter }

func (sulkingMeter) Float64Histogram(string, ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return nil, errors.New("not today")
}

func TestAnObserverWithoutItsStartHearsNothing(t *testing.T) {
	r := newRig(t)
	o, ctx := r.tel.Observer(), context.Background() //nolint:usetesting // what a foreign context holds is nothing
	require.Nil(t, o.AttemptStart(ctx, 1))
	o.Attempt(ctx, resilient.Attempt{})
	o.End(ctx, resilient.Operation{}, nil)
	require.NotNil(t, r.tel.ClientTrace(ctx))
	require.Empty(t, r.spans.Started())
}
