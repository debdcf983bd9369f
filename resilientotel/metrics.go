package resilientotel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// requestBuckets are those that the conventions give for
// http.client.request.duration. An operation may wait, so it has a few more.
var (
	requestBuckets   = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	operationBuckets = append(requestBuckets[:len(requestBuckets):len(requestBuckets)], 30, 60, 120)
	attemptBuckets   = []float64{1, 2, 3, 4, 5, 10}
	waitBuckets      = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
)

// meters are what counts.
type meters struct {
	requestDuration, operationDuration, operationAttempts, retryWait metric.Float64Histogram
	retries, hiddenResends, replayedAnswers, keyConflicts            metric.Int64Counter

	sets sets
}

func (m *meters) make(meter metric.Meter) error {
	var errs []error
	histogram := func(name, unit, text string, bounds []float64) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(text), metric.WithExplicitBucketBoundaries(bounds...))
		errs = append(errs, refused(name, err))
		return h
	}
	counter := func(name, unit, text string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, refused(name, err))
		return c
	}
	m.requestDuration = histogram("http.client.request.duration", "s", "Duration of HTTP client requests.", requestBuckets)
	m.operationDuration = histogram("resilient.operation.duration", "s",
		"Duration of operations up to the answer's headers or the error, waits included.", operationBuckets)
	m.operationAttempts = histogram("resilient.operation.attempts", "{attempt}", "Requests on the wire that an operation took.", attemptBuckets)
	m.retryWait = histogram("resilient.retry.wait", "s", "Pauses before retries.", waitBuckets)
	m.retries = counter("resilient.retries", "{request}", "Requests sent again after an attempt that failed.")
	m.hiddenResends = counter("resilient.hidden_resends", "{request}", "Requests that net/http sent again by itself.")
	m.replayedAnswers = counter("resilient.replayed_answers", "{answer}", "Answers that a server had kept from an earlier request with the key.")
	m.keyConflicts = counter("resilient.key_conflicts", "{answer}", "Answers 409 and 422 to requests with an idempotency key.")
	return errors.Join(errs...)
}

func refused(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("resilientotel: metric %s: %w", name, err)
}

// labels are what a metric says of an event beside whom it called.
type labels struct {
	status                          int
	version, failure, outcome, stop string
}

func (l labels) attributes(r *run) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, len(r.extra)+8)
	attrs = append(attrs, r.extra...)
	attrs = append(attrs, semconv.HTTPRequestMethodKey.String(r.method))
	attrs = append(attrs, r.counted.attributes()...)
	if l.status != 0 {
		attrs = append(attrs, semconv.HTTPResponseStatusCode(l.status))
	}
	if l.version != "" {
		attrs = append(attrs, semconv.NetworkProtocolVersion(l.version))
	}
	if l.failure != "" {
		attrs = append(attrs, semconv.ErrorTypeKey.String(l.failure))
	}
	if l.outcome != "" {
		attrs = append(attrs, attribute.String("resilient.outcome", l.outcome))
	}
	if l.stop != "" {
		attrs = append(attrs, attribute.String("resilient.stop", l.stop))
	}
	return attrs
}

func (s server) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{semconv.ServerAddress(s.address), semconv.ServerPort(s.port)}
}

func (m *meters) count(ctx context.Context, c metric.Int64Counter, r *run, l labels) {
	c.Add(ctx, 1, metric.WithAttributes(l.attributes(r)...))
}

func (m *meters) record(ctx context.Context, h metric.Float64Histogram, value float64, r *run, l labels) {
	if h.Enabled(ctx) {
		h.Record(ctx, value, m.sets.of(r, l)...)
	}
}

// maxSets bounds the sets that are kept. A program meets far fewer.
const maxSets = 2000

// sets keeps the sets of attributes that were needed, since making one costs
// more than counting.
type sets struct {
	mu    sync.RWMutex
	known map[setKey][]metric.RecordOption
}

type setKey struct {
	method string
	server server
	labels labels
}

func (s *sets) of(r *run, l labels) []metric.RecordOption {
	if len(r.extra) > 0 {
		return []metric.RecordOption{metric.WithAttributes(l.attributes(r)...)}
	}
	key := setKey{r.method, r.counted, l}
	s.mu.RLock()
	known := s.known[key]
	s.mu.RUnlock()
	if known != nil {
		return known
	}
	fresh := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(l.attributes(r)...))}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[setKey][]metric.RecordOption)
	}
	if len(s.known) < maxSets {
		s.known[key] = fresh
	}
	return fresh
}
