// Package resilientotel tells OpenTelemetry what a client of package resilient
// does: a span for each operation and each attempt, metrics of both, and what
// the client remembers of each host.
//
//	tel, err := resilientotel.New(resilientotel.Config{})
//	transport, err := resilient.NewTransport(resilient.Config{
//		Observer: tel.Observer(), // spans and metrics
//		Prepare:  tel.Prepare,    // traceparent on each attempt
//	})
//	stop, err := tel.Observe(transport) // budgets and breakers
//
// # Spans
//
// An operation is an INTERNAL span, "resilient POST". It has no attributes of
// HTTP but those that name the server: it holds resilient.outcome (answered,
// not_sent or unknown), resilient.attempts, resilient.stop where there was no
// further attempt, and an event "wait" for each pause. It is in error where the
// operation ended in an error that is not the caller's own cancellation.
//
// An attempt is a CLIENT span below it, by OpenTelemetry's conventions for HTTP,
// from before resilient.Config.Prepare, which the metric leaves out, to its headers:
// named "POST", or "POST /charges/{id}" under [WithTemplate];
// http.request.resend_count is absent on the first request and 1, 2, … on those
// that follow it. A redirect hop is an operation of its own here, since net/http
// asks for it as a request of its own; its attempts count on. What net/http
// sent again by itself, below us, is a span too, marked resilient.replay: only
// that it was on the wire is known, so it has the times of the attempt it belongs
// to, and its traceparent was that attempt's.
//
// url.full is without user, query and fragment, and neither spans nor metrics
// hold a key.
//
// # Metrics
//
// Their labels are few-valued: http.request.method (an unknown one is _OTHER),
// server.address and server.port (above Config.MaxServers _OTHER),
// http.response.status_code, network.protocol.version, error.type,
// resilient.outcome and resilient.stop.
//
//	http.client.request.duration   histogram, s          each attempt, to its headers
//	resilient.operation.duration   histogram, s          each operation, waits included
//	resilient.operation.attempts   histogram, {attempt}  how many it took
//	resilient.retry.wait           histogram, s          each pause
//	resilient.retries              counter, {request}    sent again after an attempt that failed
//	resilient.hidden_resends       counter, {request}    sent again by net/http, by itself
//	resilient.replayed_answers     counter, {answer}     a server gave an earlier answer back
//	resilient.key_conflicts        counter, {answer}     409 and 422 to a request with a key
//	resilient.host.budget.balance  gauge, {retry}        what [Telemetry.Observe] adds, as all below
//	resilient.host.breaker.state   up-down, {host}       1 for resilient.breaker.state = closed, open or half_open
//	resilient.host.breaker.trips   counter, {trip}       how often it opened
//	resilient.host.cooldown        gauge, s              how much longer the host is to be left alone
//	resilient.host.active_operations up-down, {operation} in flight, waits included
//
// Operations that had no further attempt because the budget was spent are those
// of resilient.operation.duration with resilient.stop = budget.
//
// The folder dashboards holds a dashboard for Grafana and alerts for Prometheus
// that use them.
//
// # Beside otelhttp
//
// Under an otelhttp.Transport as Base, say Config.AttemptsBelow: then the CLIENT
// spans and http.client.request.duration are otelhttp's, nothing is doubled, and
// [Telemetry.ClientTrace] adds resend_count to them:
//
//	base := otelhttp.NewTransport(http.DefaultTransport, otelhttp.WithClientTrace(tel.ClientTrace))
//	transport, err := resilient.NewTransport(resilient.Config{Base: base, BaseIsWire: true, Observer: tel.Observer()})
//
// otelhttp around the client is another matter: it would call a whole operation
// one request.
package resilientotel
