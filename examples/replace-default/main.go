// Replace-default makes the whole of a service resilient by one assignment:
//
//	http.DefaultClient = client
//
// Whatever calls http.Get, http.Post or http.DefaultClient then goes through it.
// http.DefaultTransport is left alone: many libraries clone it by way of
// http.DefaultTransport.(*http.Transport) and panic if something else stands
// there, and it is what this client itself builds on.
//
//	go run ./examples/replace-default
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"

	"github.com/go-resilient/resilient"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "replace-default:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, err := resilient.NewClient(resilient.Config{
		Observer: resilient.LogTo(slog.New(slog.NewTextHandler(out, nil))),
	})
	if err != nil {
		return err
	}
	http.DefaultClient = client //nolint:forbidigo // a program may, a library must not

	upstream := httptest.NewServer(flaky())
	defer upstream.Close()
	service := httptest.NewServer(weather(upstream.URL))
	defer service.Close()

	for _, town := range []string{"Leeds", "Cork", "Lyon"} {
		answer, err := ask(ctx, service.URL+"/?town="+town)
		if err != nil {
			return err
		}
		fmt.Fprint(out, answer)
	}
	return nil
}

// weather is the service: it knows nothing of retries.
func weather(upstream string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		town := r.FormValue("town")
		text, err := ask(r.Context(), upstream+"/degrees?town="+town)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		var degrees int
		if err := json.Unmarshal([]byte(text), &degrees); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "%s: %d degrees\n", town, degrees)
	})
}

// flaky is the upstream: two requests in three fail, each in its own way. The
// log does not show the second: net/http itself repeats a GET whose connection
// had served before. A Config with CountReplays would show it.
func flaky() http.Handler {
	var asked atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) % 3 {
		case 1:
			http.Error(w, "overloaded", http.StatusServiceUnavailable)
		case 2:
			panic(http.ErrAbortHandler) // the connection ends without an answer
		default:
			fmt.Fprint(w, 10+len(r.FormValue("town")))
		}
	})
}

func ask(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req) //nolint:forbidigo // as http.Get does
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), err
}
