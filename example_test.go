package resilient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
)

// till is the server of the examples: it charges once for each key.
func till() http.Handler {
	seen := make(map[string]bool)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		switch {
		case r.URL.Path != "/charges":
			_, _ = io.WriteString(w, "found")
		case seen[key]:
			_, _ = io.WriteString(w, "charged before")
		default:
			seen[key] = true
			_, _ = io.WriteString(w, "charged")
		}
	})
}

// network is the way to a till; faults strike the first requests there.
func network(faults ...faultinject.Fault) *faultinject.Transport {
	return faultinject.Handler(till(), faultinject.Script(faults...))
}

// atOnce is a schedule without pauses, so that the examples take no time.
func atOnce() resilient.Schedule { return noPause{} }

type noPause struct{}

func (noPause) NextBackOff() time.Duration { return 0 }

// show prints an answer.
func show(resp *http.Response, err error) {
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(body))
}

func ExampleNewClient() {
	client, err := resilient.NewClient(resilient.Config{HonorsKeys: resilient.Hosts("api.example.com")})
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Post("https://api.example.com/charges", "application/json", strings.NewReader(`{"amount":4200}`))
	if e, ok := errors.AsType[*resilient.Error](err); ok && e.Outcome == resilient.NotSent {
		log.Fatal("not charged: ", err)
	} else if err != nil {
		log.Fatal("perhaps charged: ", err)
	}
	defer resp.Body.Close()
}

// The server charges, its answer is lost on the way, and the repeat under the
// same key brings it.
func ExampleNewClient_lostAnswer() {
	client, err := resilient.NewClient(resilient.Config{
		Base:       network(faultinject.LoseResponse(faultinject.RST)),
		HonorsKeys: resilient.Hosts("api.example.com"),
		Backoff:    atOnce,
	})
	if err != nil {
		log.Fatal(err)
	}
	show(client.Post("https://api.example.com/charges", "application/json", strings.NewReader(`{"amount":4200}`)))
	// Output: 200 charged before
}

// A Transport goes wherever an http.RoundTripper goes: under a client with a
// cookie jar, into an SDK, or below another RoundTripper.
func ExampleNewTransport() {
	transport, err := resilient.NewTransport(resilient.Config{
		Base:    network(faultinject.RefuseDial(), faultinject.Respond(503)),
		Backoff: atOnce,
	})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	show(client.Get("https://api.example.com/charges/7"))
	// Output: 200 found
}

func ExampleNewTransport_badConfig() {
	_, err := resilient.NewTransport(resilient.Config{MaxAttempts: -1})
	fmt.Println(err)
	// Output: resilient: Config.MaxAttempts: -1 is negative
}

func ExampleHosts() {
	honors := resilient.Hosts("api.example.com", "http://127.0.0.1:8080")
	for _, url := range []string{
		"https://api.example.com/charges",
		"http://api.example.com/charges",
		"https://example.com/charges",
		"http://127.0.0.1:8080/charges",
	} {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, nil)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(honors(req), url)
	}
	// Output:
	// true https://api.example.com/charges
	// false http://api.example.com/charges
	// false https://example.com/charges
	// true http://127.0.0.1:8080/charges
}

// An operation whose end nobody knows is carried on under its own key, here or
// in another process.
func ExampleWithKey() {
	ctx := context.Background()
	client, err := resilient.NewClient(resilient.Config{
		Base:        network(faultinject.LoseResponse(faultinject.RST)),
		HonorsKeys:  resilient.Hosts("api.example.com"),
		MaxAttempts: 1, // so that it ends unknown
	})
	if err != nil {
		log.Fatal(err)
	}
	charge := func(ctx context.Context) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.example.com/charges", strings.NewReader(`{"amount":4200}`))
		if err != nil {
			return nil, err
		}
		return client.Do(req)
	}

	resp, err := charge(ctx)
	if e, ok := errors.AsType[*resilient.Error](err); ok {
		fmt.Println(e.Outcome) // what a journal or a queue would keep: e.Key, e.FirstSent
		key := resilient.Key{Value: e.Key, FirstSent: e.FirstSent}
		resp, err = charge(resilient.WithKey(ctx, key))
	}
	show(resp, err)
	// Output:
	// outcome unknown
	// 200 charged before
}

// A search harms nobody if it is made twice, whatever its method says.
func ExampleWithRepeatable() {
	client, err := resilient.NewClient(resilient.Config{
		Base:    network(faultinject.Respond(500)),
		Backoff: atOnce,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := resilient.WithRepeatable(context.Background(), true)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.example.com/search", strings.NewReader(`{"q":"tea"}`))
	if err != nil {
		log.Fatal(err)
	}
	show(client.Do(req))
	// Output: 200 found
}

// The record of an operation that was answered: how often it was sent, and
// whether the answer may be the echo of an earlier attempt of ours.
func ExampleOperationOf() {
	client, err := resilient.NewClient(resilient.Config{
		Base:    network(faultinject.LoseResponse(faultinject.FIN), faultinject.Respond(404)),
		Backoff: atOnce,
	})
	if err != nil {
		log.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodDelete, "https://api.example.com/charges/7", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	if op, ok := resilient.OperationOf(resp); ok {
		fmt.Println(resp.StatusCode, "after", len(op.Attempts), "attempts")
		if op.EarlierUnknown() && resp.StatusCode == http.StatusNotFound {
			fmt.Println("gone: perhaps by our own first attempt")
		}
	}
	// Output:
	// 404 after 2 attempts
	// gone: perhaps by our own first attempt
}

// An operation that needed more than one attempt leaves a trace in the log.
func ExampleLogTo() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "took" {
				return slog.Attr{} // they differ from run to run
			}
			return a
		},
	}))
	client, err := resilient.NewClient(resilient.Config{
		Base:     network(faultinject.Respond(503)),
		Backoff:  atOnce,
		Observer: resilient.LogTo(logger),
	})
	if err != nil {
		log.Fatal(err)
	}
	show(client.Get("https://api.example.com/charges/7?token=secret"))
	// Output:
	// level=WARN msg="attempt failed" n=1 method=GET host=api.example.com verdict=transient outcome=answered wait=0s status=503
	// level=INFO msg="operation answered" method=GET url=https://api.example.com/charges/7 attempts=2 outcome=answered status=200
	// 200 found
}

// A service that was itself given a key carries its caller's operation on to
// the services behind it.
func ExampleDeriveKey() {
	incoming := "9b2d7a52-38a4-4d3f-8f37-0e0d4c4a51a7" // the caller's Idempotency-Key
	fmt.Println(resilient.DeriveKey(incoming, "charge"))
	fmt.Println(resilient.DeriveKey(incoming, "ship"))
	// Output:
	// 83c6b7a9-9aeb-8d0a-b52a-a8e9bdb3e674
	// 68ad7019-1e37-84cb-809f-5d39cbe7f479
}

// A handler that is called again under its key calls the services behind it
// under the same keys as before, so that nothing is done twice.
func ExampleWithParentKey() {
	client, err := resilient.NewClient(resilient.Config{Base: network(), HonorsKeys: resilient.Hosts("api.example.com")})
	if err != nil {
		log.Fatal(err)
	}
	order := func(ctx context.Context, key string) {
		ctx = resilient.WithParentKey(ctx, resilient.Key{Value: key})
		for _, amount := range []string{"4200", "350"} { // the goods, the postage
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.example.com/charges", strings.NewReader(amount))
			if err != nil {
				log.Fatal(err)
			}
			show(client.Do(req))
		}
	}
	order(context.Background(), "order-7")
	order(context.Background(), "order-7")
	// Output:
	// 200 charged
	// 200 charged
	// 200 charged before
	// 200 charged before
}

// Calls whose order may change are named.
func ExampleWithStep() {
	client, err := resilient.NewClient(resilient.Config{Base: network(), HonorsKeys: resilient.Hosts("api.example.com")})
	if err != nil {
		log.Fatal(err)
	}
	order := func(ctx context.Context, key string, steps ...string) {
		ctx = resilient.WithParentKey(ctx, resilient.Key{Value: key})
		for _, step := range steps {
			ctx := resilient.WithStep(ctx, step)
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.example.com/charges", strings.NewReader(step))
			if err != nil {
				log.Fatal(err)
			}
			show(client.Do(req))
		}
	}
	order(context.Background(), "order-7", "goods", "postage")
	order(context.Background(), "order-7", "postage", "gift wrapping", "goods")
	// Output:
	// 200 charged
	// 200 charged
	// 200 charged before
	// 200 charged
	// 200 charged before
}

// An error says whether the server can have acted, and why there was no further
// attempt.
func ExampleError() {
	for _, fault := range []faultinject.Fault{
		faultinject.RefuseDial(),
		faultinject.LoseResponse(faultinject.FIN),
	} {
		client, err := resilient.NewClient(resilient.Config{
			Base:        network(fault),
			BaseIsWire:  true, // it speaks as net/http does; an *http.Transport needs no such word
			MaxAttempts: 1,
		})
		if err != nil {
			log.Fatal(err)
		}
		resp, err := client.Post("https://api.example.com/charges", "application/json", strings.NewReader(`{"amount":4200}`))
		e, ok := errors.AsType[*resilient.Error](err)
		switch {
		case ok && e.Outcome == resilient.NotSent:
			fmt.Println("not charged:", e)
		case ok:
			fmt.Println("perhaps charged:", e)
		case err != nil:
			fmt.Println("not an end of ours:", err) // a redirect refused by CheckRedirect, for instance
		default:
			resp.Body.Close()
		}
	}
	// Output:
	// not charged: resilient: POST https://api.example.com/charges: not sent after 1 attempt: attempts exhausted: dial tcp api.example.com:443: connect: connection refused
	// perhaps charged: resilient: POST https://api.example.com/charges: outcome unknown after 1 attempt: not safe to repeat: set Config.HonorsKeys if api.example.com honours Idempotency-Key: EOF
}

// An Observer counts what a metrics library would.
func ExampleObserver() {
	var operations, attempts int // one request at a time here; use atomic counters
	client, err := resilient.NewClient(resilient.Config{
		Base:    network(faultinject.Respond(502), faultinject.Respond(502)),
		Backoff: atOnce,
		Observer: resilient.Observer{
			Attempt: func(context.Context, resilient.Attempt) { attempts++ },
			End:     func(context.Context, resilient.Operation, error) { operations++ },
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	show(client.Get("https://api.example.com/charges/7"))
	fmt.Println(operations, "operation,", attempts, "attempts")
	// Output:
	// 200 found
	// 1 operation, 3 attempts
}
