package together

import (
	"net/http"
	"testing"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/resilientotel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// BenchmarkGet is what one untroubled GET costs before it reaches the wire, with
// spans that are sampled, and metrics.
func BenchmarkGet(b *testing.B) {
	tracers := sdktrace.NewTracerProvider()
	meters := metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()))
	telemetry := func(cfg resilientotel.Config) *resilientotel.Telemetry {
		cfg.Propagator = propagation.TraceContext{}
		if cfg.TracerProvider == nil {
			cfg.TracerProvider, cfg.MeterProvider = tracers, meters
		}
		tel, err := resilientotel.New(cfg)
		require.NoError(b, err)
		return tel
	}
	client := func(cfg resilient.Config) http.RoundTripper {
		t, err := resilient.NewTransport(cfg)
		require.NoError(b, err)
		return t
	}
	own := telemetry(resilientotel.Config{})
	below := telemetry(resilientotel.Config{AttemptsBelow: true})
	silent := telemetry(resilientotel.Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: noop.NewMeterProvider()})
	instrumented := otelhttp.NewTransport(wire{}, otelhttp.WithTracerProvider(tracers), otelhttp.WithMeterProvider(meters),
		otelhttp.WithPropagators(propagation.TraceContext{}), otelhttp.WithClientTrace(below.ClientTrace))
	for _, bb := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"client", client(resilient.Config{Base: wire{}})},
		{"client+noop", client(resilient.Config{Base: wire{}, Observer: silent.Observer()})},
		{"client+resilientotel", client(resilient.Config{Base: wire{}, Observer: own.Observer(), Prepare: own.Prepare})},
		{"otelhttp", instrumented},
		{"client+otelhttp", client(resilient.Config{Base: instrumented})},
		{"client+resilientotel+otelhttp", client(resilient.Config{Base: instrumented, Observer: below.Observer()})},
	} {
		b.Run(bb.name, func(b *testing.B) {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "https://api.test/charges/7", nil)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				resp, err := bb.rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				_ = resp.Body.Close()
			}
		})
	}
}

// wire answers at once.
type wire struct{}

func (wire) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}, Request: req}, nil
}
