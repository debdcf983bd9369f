// Sdk puts the client below a vendor's SDK: here Stripe's, whose own retries are
// turned off so that two layers do not multiply. Stripe's SDK gives every write
// an Idempotency-Key of its own. It stands in the header, so it is the caller's
// word that the server honours it: the write is repeated under that key, and
// Config.HonorsKeys need not be set.
//
//	go run ./examples/sdk
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"

	"github.com/go-resilient/resilient"
	"github.com/stripe/stripe-go/v85"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sdk:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server := &server{answers: make(map[string]string)}
	local := httptest.NewServer(server)
	defer local.Close()

	client, err := resilient.NewClient(resilient.Config{
		Observer: resilient.Observer{Attempt: func(_ context.Context, a resilient.Attempt) {
			fmt.Fprintf(out, "attempt %d: %s, %s\n", a.N, a.Verdict, a.Outcome)
		}},
	})
	if err != nil {
		return err
	}
	sdk := stripe.NewClient("sk_test_123", stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		HTTPClient:        client,
		MaxNetworkRetries: stripe.Int64(0), // the client below does it
		URL:               stripe.String(local.URL),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
	})))

	intent, err := sdk.V1PaymentIntents.Create(ctx, &stripe.PaymentIntentCreateParams{
		Amount: stripe.Int64(4200), Currency: stripe.String("eur"),
	})
	if e, ok := errors.AsType[*resilient.Error](err); ok {
		return fmt.Errorf("%v: the same call with the key from the error is safe", e.Outcome)
	} else if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s of %d %s, made %d time(s) by the server\n", intent.ID, intent.Amount, intent.Currency, server.made)
	return nil
}

// server does what it is asked, loses its first answer and has no time the
// second time.
type server struct {
	mu      sync.Mutex
	asked   int
	made    int
	answers map[string]string // by key
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked++; s.asked == 2 {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if s.answers[key] == "" {
		s.made++
		answer, _ := json.Marshal(map[string]any{
			"id": "pi_1", "object": "payment_intent", "amount": 4200, "currency": r.FormValue("currency"),
		})
		s.answers[key] = string(answer)
	}
	if s.asked == 1 {
		panic(http.ErrAbortHandler) // made, and the connection ends: nobody hears of it
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, s.answers[key])
}
