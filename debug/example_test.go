package debug_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/debug"
)

// mount puts the page beside pprof, on a mux whose listener is not public, and
// the recorder beside the observers that there are.
func mount(internal *http.ServeMux, logger *slog.Logger) error {
	rec, err := debug.New(debug.Config{})
	if err != nil {
		return err
	}
	rt, err := resilient.NewTransport(resilient.Config{
		Observer: resilient.Observers(rec.Observer(), resilient.LogTo(logger)),
	})
	if err != nil {
		return err
	}
	internal.Handle("/debug/resilient/", rec.Handler(rt))
	return nil
}

func Example() {
	internal := http.NewServeMux()
	if err := mount(internal, slog.New(slog.DiscardHandler)); err != nil {
		fmt.Println(err)
		return
	}
	w := httptest.NewRecorder()
	internal.ServeHTTP(w, httptest.NewRequest("GET", "/debug/resilient/", nil))
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "<title>resilient</title>"))
	// Output: 200 true
}

// What the page shows is there as JSON, too.
func ExampleRecorder_Handler() {
	rec, err := debug.New(debug.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	rt, err := resilient.NewTransport(resilient.Config{
		Base:     statuses(503, 200), // a server that fails once
		Backoff:  func() resilient.Schedule { return atOnce{} },
		Observer: rec.Observer(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: rt}
	resp, err := client.Get("http://api.test/orders")
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = resp.Body.Close()

	w := httptest.NewRecorder()
	rec.Handler(rt).ServeHTTP(w, httptest.NewRequest("GET", "/debug/resilient/state.json?q=orders", nil))
	var page struct {
		Operations struct {
			Shown []struct {
				URL      string
				Status   int
				Attempts []struct {
					Status  int
					Verdict string
				}
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		fmt.Println(err)
	}
	for _, op := range page.Operations.Shown {
		fmt.Println(op.URL, op.Status, op.Attempts)
	}
	// Output: http://api.test/orders 200 [{503 transient} {200 done}]
}

func ExampleHandler() {
	rt, err := resilient.NewTransport(resilient.Config{Base: statuses(200)})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/resilient/", debug.Handler(rt))

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/debug/resilient/", nil))
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "<title>resilient</title>"))
	// Output: 200 true
}
