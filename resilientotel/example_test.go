package resilientotel_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/resilientotel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func Example() {
	tel, err := resilientotel.New(resilientotel.Config{}) // OpenTelemetry's global providers
	if err != nil {
		log.Fatal(err)
	}
	transport, err := resilient.NewTransport(resilient.Config{
		Observer: tel.Observer(), // spans and metrics
		Prepare:  tel.Prepare,    // traceparent on each attempt
	})
	if err != nil {
		log.Fatal(err)
	}
	stop, err := tel.Observe(transport) // budgets and breakers
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = stop() }()
	client := &http.Client{Transport: transport}
	_ = client
}

func ExampleTelemetry_Observer() {
	spans := tracetest.NewSpanRecorder() // in a program: an exporter
	tel, err := resilientotel.New(resilientotel.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
	})
	if err != nil {
		log.Fatal(err)
	}
	client, err := resilient.NewClient(resilient.Config{
		Base:     faultinject.Handler(http.NotFoundHandler(), faultinject.Script(faultinject.Respond(503))),
		Observer: tel.Observer(),
		Prepare:  tel.Prepare,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := resilientotel.WithTemplate(context.Background(), "/charges/{id}")
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.test/charges/7", nil)
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	for _, s := range spans.Ended() {
		fmt.Println(s.SpanKind(), s.Name(), s.Status().Code)
	}
	// Output:
	// client GET /charges/{id} Error
	// client GET /charges/{id} Error
	// internal resilient GET /charges/{id} Unset
}

func ExampleLogHandler() {
	tel, err := resilientotel.New(resilientotel.Config{})
	if err != nil {
		log.Fatal(err)
	}
	logger := slog.New(resilientotel.LogHandler(slog.NewJSONHandler(os.Stderr, nil)))
	client, err := resilient.NewClient(resilient.Config{
		Observer: resilient.Observers(tel.Observer(), resilient.LogTo(logger)), // in this order
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = client
}
