package idempotencytest_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/go-resilient/resilient/idempotency/idempotencytest"
)

// The service takes every request for a new one.
func ExampleCheck() {
	var charges atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		charges.Add(1)
		_, _ = io.WriteString(w, "charged")
	}))
	defer service.Close()

	report, err := idempotencytest.Check(context.Background(), idempotencytest.Target{
		URL:     service.URL + "/charges",
		Header:  http.Header{"Content-Type": {"application/json"}},
		Body:    []byte(`{"amount":4200}`),
		Effects: func(context.Context) (int, error) { return int(charges.Load()), nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Verdict)
	fmt.Println(report.Of(idempotencytest.Duplicate).Text)
	// Output:
	// broken
	// The first answer was 200 "charged", the repeat's 200 "charged". It had 2 effects: a client that repeats after a lost answer does it twice.
}

func ExampleServer() {
	var t *testing.T // of your own test

	idempotencytest.Server(t, idempotencytest.Target{
		URL:         "http://127.0.0.1:8080/charges",
		Header:      http.Header{"Content-Type": {"application/json"}},
		Body:        []byte(`{"amount":4200}`),
		FailingBody: []byte(`{"amount":-1}`),
	})
}
