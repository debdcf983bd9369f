package together

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/resilientotel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestUnderOtelhttpNothingIsDoubledAndResendsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spans, reader := tracetest.NewSpanRecorder(), metric.NewManualReader()
		tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
		meters := metric.NewMeterProvider(metric.WithReader(reader))
		tel, err := resilientotel.New(resilientotel.Config{TracerProvider: tracers, MeterProvider: meters, AttemptsBelow: true})
		require.NoError(t, err)
		wire := faultinject.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			require.Len(t, r.Header.Values("Traceparent"), 1)
		}), faultinject.Script(faultinject.Respond(503), faultinject.Respond(503)))
		base := otelhttp.NewTransport(wire, otelhttp.WithTracerProvider(tracers), otelhttp.WithMeterProvider(meters),
			otelhttp.WithPropagators(propagation.TraceContext{}), otelhttp.WithClientTrace(tel.ClientTrace))
		client, err := resilient.NewClient(resilient.Config{Base: base, BaseIsWire: true, Observer: tel.Observer()})
		require.NoError(t, err)
		get(t, client, "http://api.test/")

		var resends []int64
		var operation trace.SpanID
		for _, s := range spans.Ended() {
			if s.SpanKind() == trace.SpanKindInternal {
				operation = s.SpanContext().SpanID()
				continue
			}
			resends = append(resends, resendCount(s))
		}
		require.Equal(t, []int64{-1, 1, 2}, resends, "one CLIENT span per attempt")
		for _, s := range spans.Ended() {
			if s.SpanKind() == trace.SpanKindClient {
				require.Equal(t, operation, s.Parent().SpanID())
			}
		}
		require.Equal(t, map[string]uint64{"http.client.request.duration": 3, "resilient.operation.duration": 1}, counts(t, reader))
	})
}

func get(t testing.TB, client *http.Client, url string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

// resendCount is -1 where the span has none.
func resendCount(s sdktrace.ReadOnlySpan) int64 {
	for _, a := range s.Attributes() {
		if a.Key == "http.request.resend_count" {
			return a.Value.AsInt64()
		}
	}
	return -1
}

// counts tells how often durations were recorded, over all series.
func counts(t *testing.T, reader metric.Reader) map[string]uint64 {
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	found := make(map[string]uint64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			h, ok := m.Data.(metricdata.Histogram[float64])
			if !ok || m.Name != "http.client.request.duration" && m.Name != "resilient.operation.duration" {
				continue
			}
			for _, p := range h.DataPoints {
				found[m.Name] += p.Count
			}
		}
	}
	return found
}
