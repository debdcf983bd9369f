package resilientotel

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/go-resilient/resilient"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// An option made for each span would be an allocation for each.
var (
	internalKind = trace.WithSpanKind(trace.SpanKindInternal)
	clientKind   = trace.WithSpanKind(trace.SpanKindClient)
)

// tracer makes the spans of one Telemetry.
type tracer struct {
	trace.Tracer
	attemptsBelow bool
}

// run is one operation between its events, which come one after another. It is
// the context of the operation: that is how they find it.
type run struct {
	context.Context // with the operation's span

	by                         *tracer
	start                      time.Time
	method, original, template string
	url                        string
	server                     server // as called
	counted                    server // as in the metrics
	keyed                      bool
	extra                      []attribute.KeyValue

	n       atomic.Int32  // the attempt that is made; a Base may look late
	made    int           // requests on the wire
	tries   int           // of them, those that we made
	wait    time.Duration // the pause to be made; 0 outside of one
	waits   time.Time     // since when
	span    trace.Span    // the operation's
	current trace.Span    // the attempt's; nil outside of one
}

// runKey finds the run of one Telemetry: there may be two of them.
type runKey struct{ by *tracer }

func (t *tracer) runOf(ctx context.Context) *run {
	r, _ := ctx.Value(runKey{t}).(*run)
	return r
}

// Value finds the run itself, or what the contexts before it hold.
func (r *run) Value(key any) any {
	if key == (runKey{r.by}) {
		return r
	}
	return r.Context.Value(key)
}

func (r *run) begin(ctx context.Context) {
	attrs := append(r.extra[:len(r.extra):len(r.extra)],
		semconv.ServerAddress(r.server.address), semconv.ServerPort(r.server.port))
	r.Context, r.span = r.by.Start(ctx, r.name("resilient "),
		internalKind, trace.WithAttributes(attrs...))
}

// name is the method and the template, if there is one.
func (r *run) name(prefix string) string {
	method := r.method
	if method == otherMethod {
		method = "HTTP"
	}
	if r.template == "" {
		return prefix + method
	}
	return prefix + method + " " + r.template
}

func (r *run) beginAttempt(ctx context.Context, n int) context.Context {
	ctx, r.current = r.by.Start(ctx, r.name(""), clientKind, r.attributes(n))
	return ctx
}

// attributes are those of the n-th request.
func (r *run) attributes(n int) trace.SpanStartEventOption {
	attrs := make([]attribute.KeyValue, 0, len(r.extra)+7)
	attrs = append(append(attrs, r.extra...),
		semconv.HTTPRequestMethodKey.String(r.method),
		semconv.ServerAddress(r.server.address),
		semconv.ServerPort(r.server.port),
		semconv.URLFull(r.url))
	if r.method == otherMethod {
		attrs = append(attrs, semconv.HTTPRequestMethodOriginal(r.original))
	}
	if r.template != "" {
		attrs = append(attrs, semconv.URLTemplate(r.template))
	}
	if n > 1 {
		attrs = append(attrs, semconv.HTTPRequestResendCount(n-1))
	}
	return trace.WithAttributes(attrs...)
}

// replay makes the span of a request that net/http sent by itself. It was sent
// before the one that brought the answer, which has the span begun for it.
func (r *run) replay(a resilient.Attempt) {
	if r.by.attemptsBelow {
		return
	}
	_, span := r.by.Start(r, r.name(""), clientKind, trace.WithTimestamp(a.Start),
		r.attributes(a.N), trace.WithAttributes(attribute.Bool("resilient.replay", true)))
	span.End(trace.WithTimestamp(a.Start.Add(a.Duration)))
}

func (r *run) endAttempt(a resilient.Attempt, failure string) {
	span := r.current
	if span == nil {
		return
	}
	r.current = nil
	if span.IsRecording() {
		attrs := make([]attribute.KeyValue, 0, 4)
		if a.N > 1 { // more than at its start, where net/http has sent copies
			attrs = append(attrs, semconv.HTTPRequestResendCount(a.N-1))
		}
		if a.Status != 0 {
			attrs = append(attrs, semconv.HTTPResponseStatusCode(a.Status))
		}
		if version := protocolVersion(a); version != "" {
			attrs = append(attrs, semconv.NetworkProtocolVersion(version))
		}
		if failure != "" {
			attrs = append(attrs, semconv.ErrorTypeKey.String(failure))
			span.SetStatus(codes.Error, text(a.Err))
		}
		span.SetAttributes(attrs...)
	}
	span.End(trace.WithTimestamp(a.Start.Add(a.Duration)))
}

func (r *run) end(outcome, stop string, op resilient.Operation, err error) {
	if span := r.current; span != nil { // it was never handed to Base: Prepare failed, say
		r.current = nil
		why := op.Stop // err may be nil, or speak of the attempt before
		if why == nil {
			why = err
		}
		fail(span, stop, why)
		span.End()
	}
	if !r.span.IsRecording() {
		r.span.End()
		return
	}
	r.span.SetAttributes(attribute.String("resilient.outcome", outcome), attribute.Int("resilient.attempts", len(op.Attempts)))
	if stop != "" {
		r.span.SetAttributes(attribute.String("resilient.stop", stop))
	}
	fail(r.span, stop, err)
	r.span.End()
}

// fail marks the span as failed by err, unless there is none or the caller left.
func fail(span trace.Span, stop string, err error) {
	if err == nil || stop == stopCanceled {
		return
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
	span.SetStatus(codes.Error, err.Error())
}

func text(err error) string {
	if err == nil {
		return "" // the status tells
	}
	return err.Error()
}
