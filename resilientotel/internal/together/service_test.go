package together

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/resilientotel"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/otlptranslator"
	"github.com/stretchr/testify/require"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// service calls seven servers, each of which has another trouble while there is
// any, and tells a registry of Prometheus about it.
type service struct {
	t        testing.TB
	registry *prometheus.Registry
	trouble  atomic.Bool
	client   *http.Client
	wire     *http.Transport
}

func newService(t testing.TB) *service {
	s := &service{t: t, registry: prometheus.NewRegistry()}
	s.trouble.Store(true)
	// These are the names that the dashboard and the alerts use.
	reader, err := exporter.New(exporter.WithRegisterer(s.registry), exporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	require.NoError(t, err)
	tel, err := resilientotel.New(resilientotel.Config{
		TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
	})
	require.NoError(t, err)
	transport, err := resilient.NewTransport(resilient.Config{
		Base: s.base(), BaseIsWire: true, CountReplays: true, Observer: tel.Observer(),
	})
	require.NoError(t, err)
	stop, err := tel.Observe(transport)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stop()) })
	s.client = &http.Client{Transport: transport}
	return s
}

var servers = []struct {
	method, host string
	fault        faultinject.Fault
	every        int
}{
	{method: http.MethodGet, host: "flaky.test", fault: faultinject.Respond(503), every: 3},
	{method: http.MethodGet, host: "down.test", fault: faultinject.RefuseDial()},
	{method: http.MethodGet, host: "busy.test", fault: faultinject.Respond(429, "Retry-After: 1"), every: 4},
	{method: http.MethodGet, host: "wire.test", fault: faultinject.LoseResponse(faultinject.FIN), every: 2},
	{method: http.MethodPost, host: "lossy.test", fault: faultinject.LoseResponse(faultinject.RST), every: 3},
	{method: http.MethodPost, host: "replays.test", fault: faultinject.Respond(201, "Idempotent-Replayed: true"), every: 2},
	{method: http.MethodPost, host: "strict.test", fault: faultinject.Respond(422), every: 2},
}

// base leads to the servers: wire.test over connections, so that net/http sends
// again by itself.
func (s *service) base() http.RoundTripper {
	var counts [7]atomic.Int64
	plan := faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		for i, server := range servers {
			if x.Host == server.host && s.trouble.Load() && counts[i].Add(1)%int64(max(1, server.every)) == 0 {
				return server.fault
			}
		}
		return faultinject.Pass()
	})
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	network := faultinject.NewNetwork()
	network.NewServer(s.t, "http://wire.test", ok, plan).Keep(1) // of the record
	s.wire = network.Transport()
	s.t.Cleanup(s.wire.CloseIdleConnections)
	direct := faultinject.Handler(ok, plan)
	direct.Keep(1)
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == "wire.test" {
			return s.wire.RoundTrip(req)
		}
		return direct.RoundTrip(req)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// run calls each server now and then until ctx ends.
func (s *service) run(ctx context.Context) {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, server := range servers {
			calls.Go(func() { s.call(ctx, server.method, "http://"+server.host+"/"+strconv.Itoa(n)) })
		}
	}
}

func (s *service) call(ctx context.Context, method, url string) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return // the metrics tell
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}
