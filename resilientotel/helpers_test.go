package resilientotel_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/resilientotel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// rig is a Telemetry with exporters in memory, and what it is given to watch.
type rig struct {
	t        *testing.T
	tel      *resilientotel.Telemetry
	spans    *tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
	reader   *metric.ManualReader
}

func newRig(t *testing.T, change ...func(*resilientotel.Config)) *rig {
	t.Helper()
	r := &rig{t: t, spans: tracetest.NewSpanRecorder(), reader: metric.NewManualReader()}
	r.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans))
	cfg := resilientotel.Config{
		TracerProvider: r.provider,
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(r.reader)),
		Propagator:     propagation.TraceContext{},
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	r.tel, err = resilientotel.New(cfg)
	require.NoError(t, err)
	return r
}

// transport is a resilient.Transport under observation.
func (r *rig) transport(base http.RoundTripper, change ...func(*resilient.Config)) *resilient.Transport {
	r.t.Helper()
	cfg := resilient.Config{
		Base: base, BaseIsWire: true, HonorsKeys: resilient.AnyHost,
		Observer: r.tel.Observer(), Prepare: r.tel.Prepare,
	}
	for _, c := range change {
		c(&cfg)
	}
	transport, err := resilient.NewTransport(cfg)
	require.NoError(r.t, err)
	return transport
}

func handled(faults ...faultinject.Fault) *faultinject.Transport {
	return faultinject.Handler(answers(200), faultinject.Script(faults...))
}

func answers(status int, header ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for _, line := range header {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
	})
}

// send makes one request and reads the answer to its end.
func send(ctx context.Context, t *testing.T, transport http.RoundTripper, method, url string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		require.NoError(t, resp.Body.Close())
	}
	return err
}

// of are the ended spans of a kind, in the order of their ends.
func (r *rig) of(kind trace.SpanKind) []sdktrace.ReadOnlySpan {
	var found []sdktrace.ReadOnlySpan
	for _, s := range r.spans.Ended() {
		if s.SpanKind() == kind {
			found = append(found, s)
		}
	}
	require.Len(r.t, r.spans.Ended(), len(r.spans.Started()), "a span has not ended")
	return found
}

// clients and operations are the spans' attributes.
func (r *rig) clients() []map[string]string    { return tell(r.of(trace.SpanKindClient)) }
func (r *rig) operations() []map[string]string { return tell(r.of(trace.SpanKindInternal)) }

func tell(spans []sdktrace.ReadOnlySpan) []map[string]string {
	var all []map[string]string
	for _, s := range spans {
		m := words(s.Attributes())
		m["name"], m["code"] = s.Name(), s.Status().Code.String()
		all = append(all, m)
	}
	return all
}

func words(attrs []attribute.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, a := range attrs {
		m[string(a.Key)] = a.Value.String()
	}
	return m
}

// column is one attribute of each.
func column(rows []map[string]string, name string) []string {
	var all []string
	for _, r := range rows {
		all = append(all, r[name])
	}
	return all
}

// point is one series of a metric: its labels, and its value or, of a
// histogram, how much was recorded.
type point struct {
	labels     map[string]string
	value, sum float64
}

func (r *rig) points(name string) []point {
	for _, m := range r.metrics() {
		if m.Name == name {
			return pointsOf(m.Data)
		}
	}
	return nil
}

func (r *rig) metrics() []metricdata.Metrics {
	r.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(r.t, r.reader.Collect(context.WithoutCancel(r.t.Context()), &all))
	var found []metricdata.Metrics
	for _, scope := range all.ScopeMetrics {
		found = append(found, scope.Metrics...)
	}
	return found
}

func pointsOf(data metricdata.Aggregation) []point {
	var all []point
	switch d := data.(type) {
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			all = append(all, point{words(p.Attributes.ToSlice()), float64(p.Count), p.Sum})
		}
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			all = append(all, point{words(p.Attributes.ToSlice()), float64(p.Value), 0})
		}
	case metricdata.Gauge[float64]:
		for _, p := range d.DataPoints {
			all = append(all, point{words(p.Attributes.ToSlice()), p.Value, 0})
		}
	}
	return all
}

// total adds up the points whose labels say so.
func (r *rig) total(name string, labels ...string) (value float64) {
	for _, p := range r.points(name) {
		if p.has(labels) {
			value += p.value
		}
	}
	return value
}

func (p point) has(labels []string) bool {
	for _, l := range labels {
		name, value, _ := strings.Cut(l, "=")
		if p.labels[name] != value {
			return false
		}
	}
	return true
}
