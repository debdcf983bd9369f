package resilientotel

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/go-resilient/resilient"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

const (
	scopeName         = "github.com/go-resilient/resilient/resilientotel"
	defaultMaxServers = 100
)

// Config says where telemetry goes. The zero Config uses OpenTelemetry's global
// providers and propagator, whenever the program sets them. Nothing global is
// changed.
type Config struct {
	// TracerProvider makes the spans. Nil means the global one.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the metrics. Nil means the global one.
	MeterProvider metric.MeterProvider
	// Propagator writes a span into the headers of an attempt, see
	// [Telemetry.Prepare]. Nil means the global one.
	Propagator propagation.TextMapPropagator
	// AttemptsBelow leaves the spans of attempts and
	// http.client.request.duration to Base, as an otelhttp.Transport makes both.
	AttemptsBelow bool
	// MaxServers bounds the servers, by address and port, that have labels of
	// their own in the metrics: the first that are called. Zero means 100.
	MaxServers int
	// Attributes adds to the spans and metrics of an operation, of which Method,
	// URL and Key are set; those of the package win over equal names. Metrics
	// keep memory for each combination, so the values must be few. Nil adds none.
	Attributes func(context.Context, resilient.Operation) []attribute.KeyValue
}

// Telemetry is made by [New]. It may serve many transports, and its methods may
// be called from any goroutine.
type Telemetry struct {
	cfg    Config // complete
	silent bool   // both providers do nothing
	meter  metric.Meter
	spans  tracer
	meters
	servers servers
}

// New returns a Telemetry. An error names the field that cannot be, or the
// metric that the MeterProvider refused.
func New(cfg Config) (*Telemetry, error) {
	if cfg.MaxServers < 0 {
		return nil, fmt.Errorf("resilientotel: Config.MaxServers: %d is negative", cfg.MaxServers)
	}
	if cfg.MaxServers == 0 {
		cfg.MaxServers = defaultMaxServers
	}
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = otel.GetTracerProvider()
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = otel.GetMeterProvider()
	}
	if cfg.Propagator == nil {
		cfg.Propagator = otel.GetTextMapPropagator()
	}
	t := &Telemetry{
		cfg:   cfg,
		spans: tracer{cfg.TracerProvider.Tracer(scopeName, trace.WithSchemaURL(semconv.SchemaURL)), cfg.AttemptsBelow},
		meter: cfg.MeterProvider.Meter(scopeName, metric.WithSchemaURL(semconv.SchemaURL)),
	}
	_, noSpans := cfg.TracerProvider.(tracenoop.TracerProvider)
	_, noMetrics := cfg.MeterProvider.(metricnoop.MeterProvider)
	t.silent = noSpans && noMetrics
	t.servers.max = cfg.MaxServers
	if err := t.meters.make(t.meter); err != nil {
		return nil, err
	}
	return t, nil
}

// Observer is what to set as resilient.Config.Observer. Put it before
// resilient.LogTo in resilient.Observers, so that the log finds the span. With
// the providers of the noop packages it is the zero Observer and costs nothing.
func (t *Telemetry) Observer() resilient.Observer {
	if t.silent {
		return resilient.Observer{}
	}
	return resilient.Observer{Start: t.start, AttemptStart: t.attemptStart, Attempt: t.attempt, End: t.end}
}

// Prepare is what to set as resilient.Config.Prepare, or to call from it: it
// writes the attempt's span into the request's headers, which an Observer cannot
// touch. Call it before whatever signs the headers. The error is always nil.
// Under Config.AttemptsBelow the Base does this.
func (t *Telemetry) Prepare(req *http.Request) error {
	t.cfg.Propagator.Inject(req.Context(), propagation.HeaderCarrier(req.Header))
	return nil
}

// ClientTrace is what to give to otelhttp.WithClientTrace: it adds
// http.request.resend_count to the span in ctx, where the attempt is not the
// first request of its operation. The trace it returns has no hooks.
func (t *Telemetry) ClientTrace(ctx context.Context) *httptrace.ClientTrace {
	if r := t.spans.runOf(ctx); r != nil {
		if n := r.n.Load(); n > 1 {
			trace.SpanFromContext(ctx).SetAttributes(semconv.HTTPRequestResendCount(int(n) - 1))
		}
	}
	return &httptrace.ClientTrace{}
}

type templateKey struct{}

// WithTemplate names the route of the requests under ctx, such as
// "/charges/{id}": their spans bear it. It must have few values.
func WithTemplate(ctx context.Context, template string) context.Context {
	return context.WithValue(ctx, templateKey{}, template)
}

func (t *Telemetry) start(ctx context.Context, op resilient.Operation) context.Context {
	r := &run{
		by: &t.spans, start: time.Now(), method: knownMethod(op.Method), original: op.Method,
		url: op.URL, server: serverOf(op.URL), keyed: op.Key != "",
	}
	r.template, _ = ctx.Value(templateKey{}).(string)
	r.counted = t.servers.bound(r.server)
	if t.cfg.Attributes != nil {
		r.extra = t.cfg.Attributes(ctx, op)
	}
	r.begin(ctx)
	return r
}

func (t *Telemetry) attemptStart(ctx context.Context, n int) context.Context {
	r := t.spans.runOf(ctx)
	if r == nil {
		return nil
	}
	r.n.Store(int32(n))
	t.waited(ctx, r)
	if t.cfg.AttemptsBelow {
		return nil
	}
	return r.beginAttempt(ctx, n)
}

func (t *Telemetry) attempt(ctx context.Context, a resilient.Attempt) {
	r := t.spans.runOf(ctx)
	if r == nil {
		return
	}
	r.made++
	if a.Replay {
		r.replay(a)
		t.count(ctx, t.hiddenResends, r, labels{})
		return
	}
	if r.tries++; r.tries > 1 {
		t.count(ctx, t.retries, r, labels{})
	}
	l := labels{status: a.Status, version: protocolVersion(a), failure: attemptFailure(ctx, a)}
	r.endAttempt(a, l.failure)
	if !t.cfg.AttemptsBelow {
		t.record(ctx, t.requestDuration, a.Duration.Seconds(), r, l)
	}
	if a.Wait > 0 {
		r.wait, r.waits = a.Wait, time.Now()
	}
	if a.ReplayedAnswer {
		t.count(ctx, t.replayedAnswers, r, labels{})
	} else if r.keyed && (a.Status == http.StatusConflict || a.Status == http.StatusUnprocessableEntity) {
		t.count(ctx, t.keyConflicts, r, labels{status: a.Status})
	}
}

// waited tells of a pause at its end, since a caller who leaves cuts it short.
func (t *Telemetry) waited(ctx context.Context, r *run) {
	if r.wait == 0 {
		return
	}
	took := min(r.wait, time.Since(r.waits)).Seconds() // what is above it was the breaker's
	r.wait = 0
	r.span.AddEvent("wait", trace.WithTimestamp(r.waits), trace.WithAttributes(attribute.Float64("resilient.wait", took)))
	t.record(ctx, t.retryWait, took, r, labels{})
}

func (t *Telemetry) end(ctx context.Context, op resilient.Operation, err error) {
	r := t.spans.runOf(ctx)
	if r == nil {
		return
	}
	t.waited(ctx, r)
	l := labels{outcome: outcomeName(op.Outcome), stop: stopName(op.Stop)}
	r.end(l.outcome, l.stop, op, err)
	t.record(ctx, t.operationDuration, time.Since(r.start).Seconds(), r, l)
	l.stop = ""
	t.record(ctx, t.operationAttempts, float64(r.made), r, l)
}
