package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-resilient/resilient/idempotency"
)

func Example() {
	charges := 0
	charge := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		charges++
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, "charge %d", charges)
	})
	once, err := idempotency.New(idempotency.Config{
		Scope: func(r *http.Request) string { return r.Header.Get("Account") }, // as authenticated
	})
	if err != nil {
		log.Fatal(err)
	}
	server := once(charge)
	for _, body := range []string{"EUR 10", "EUR 10", "EUR 20"} {
		req := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader(body))
		req.Header.Set("Account", "a-1")
		req.Header.Set("Idempotency-Key", "order-7")
		resp := httptest.NewRecorder()
		server.ServeHTTP(resp, req)
		fmt.Println(resp.Code, "replayed:", resp.Header().Get("Idempotent-Replayed") == "true")
	}
	fmt.Println("charged:", charges)
	// Output:
	// 201 replayed: false
	// 201 replayed: true
	// 422 replayed: false
	// charged: 1
}

func ExampleNew() {
	dir, _ := os.MkdirTemp("", "keys")
	defer os.RemoveAll(dir)
	store, err := idempotency.OpenFile(filepath.Join(dir, "keys"), idempotency.FileConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	_, err = idempotency.New(idempotency.Config{Store: store, Retention: -1})
	fmt.Println(err)
	_, err = idempotency.New(idempotency.Config{Store: store, Scope: idempotency.OneScope, KeyRequired: true})
	fmt.Println(err)
	// Output:
	// idempotency: Config.Scope: nil; it must say whose key a request carries (OneScope if there is one caller)
	// <nil>
}

func ExampleNotApplied() {
	once, _ := idempotency.New(idempotency.Config{Scope: idempotency.OneScope})
	server := once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/json" {
			idempotency.NotApplied(r.Context()) // the caller may mend it and use the key again
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	for _, kind := range []string{"text/plain", "application/json"} {
		req := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader("{}"))
		req.Header.Set("Content-Type", kind)
		req.Header.Set("Idempotency-Key", "order-7")
		resp := httptest.NewRecorder()
		server.ServeHTTP(resp, req)
		fmt.Println(resp.Code)
	}
	// Output:
	// 415
	// 201
}

func ExampleRecover() {
	bank := make(map[string]string) // by reference
	find := func(_ context.Context, u idempotency.Unresolved) (idempotency.Answer, error) {
		if charge, ok := bank[u.Key]; ok {
			return idempotency.Answer{Status: http.StatusCreated, Body: []byte(charge)}, nil
		}
		return idempotency.Answer{}, idempotency.ErrNotApplied
	}
	once, _ := idempotency.New(idempotency.Config{Scope: idempotency.OneScope, OnUnknown: idempotency.Recover(find)})
	server := once(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, key, _ := idempotency.Key(r.Context())
		bank[key] = "charge 1"
		panic("and then the lights went out")
	}))
	ask := func() {
		defer func() {
			if p := recover(); p != nil {
				fmt.Println(p)
			}
		}()
		req := httptest.NewRequest(http.MethodPost, "/charges", nil)
		req.Header.Set("Idempotency-Key", "order-7")
		resp := httptest.NewRecorder()
		server.ServeHTTP(resp, req)
		fmt.Println(resp.Code, resp.Body, resp.Header().Get("Idempotent-Replayed"))
	}
	ask()
	ask()
	// Output:
	// and then the lights went out
	// 201 charge 1 true
}

func ExampleEngine_Do() {
	engine, err := idempotency.NewEngine(idempotency.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	consume := func(id, payload string) {
		result, err := engine.Do(context.Background(), "invoices", id, idempotency.FingerprintOf([]byte(payload)),
			func(context.Context) ([]byte, error) {
				fmt.Println("mail", payload)
				return []byte("sent"), nil
			})
		fmt.Println(string(result), errors.Is(err, idempotency.ErrReused))
	}
	consume("message-1", "invoice 7")
	consume("message-1", "invoice 7") // delivered twice
	consume("message-1", "invoice 8")
	// Output:
	// mail invoice 7
	// sent false
	// sent false
	//  true
}

func ExampleCounts() {
	var counts idempotency.Counts // an expvar.Var
	once, _ := idempotency.New(idempotency.Config{Scope: idempotency.OneScope, Observer: counts.Observer()})
	server := once(http.NotFoundHandler())
	for range 3 {
		req := httptest.NewRequest(http.MethodPost, "/charges", nil)
		req.Header.Set("Idempotency-Key", "order-7")
		server.ServeHTTP(httptest.NewRecorder(), req)
	}
	fmt.Println(counts.Of(idempotency.RunBegan), counts.Of(idempotency.Replayed))
	// Output: 1 2
}

func ExampleNew_file() {
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path, mux, charges := filepath.Join(dir, "keys"), http.NewServeMux(), 0
	account := func(*http.Request) string { return "alice" }
	charge := func(w http.ResponseWriter, _ *http.Request) {
		charges++
		fmt.Fprintf(w, "receipt %d", charges)
	}

	store, err := idempotency.OpenFile(path, idempotency.FileConfig{})
	if err != nil {
		log.Fatal(err)
	}
	keys, err := idempotency.New(idempotency.Config{
		Store: store,
		Scope: account, // whose key a request carries, as you have authenticated it
	})
	if err != nil {
		log.Fatal(err)
	}
	mux.Handle("POST /charges", keys(http.HandlerFunc(charge)))

	for range 2 {
		req := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader(`{"amount":4200}`))
		req.Header.Set("Idempotency-Key", "order-1017")
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, req)
		fmt.Printf("%s, replayed: %q\n", answer.Body, answer.Header().Get("Idempotent-Replayed"))
	}
	if err := store.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// receipt 1, replayed: ""
	// receipt 1, replayed: "true"
}

func ExampleEngine_Do_queue() {
	engine, err := idempotency.NewEngine(idempotency.Config{})
	if err != nil {
		log.Fatal(err)
	}
	charges := 0
	charge := func(context.Context, []byte) ([]byte, error) {
		charges++
		return fmt.Appendf(nil, "receipt %d", charges), nil
	}
	ctx := context.Background()
	message := struct {
		ID   string
		Body []byte
	}{"m-17", []byte(`{"amount":4200}`)}

	for range 2 { // the queue delivers it twice
		receipt, err := engine.Do(ctx, "orders", message.ID, idempotency.FingerprintOf(message.Body),
			func(ctx context.Context) ([]byte, error) { return charge(ctx, message.Body) })
		switch {
		case errors.Is(err, idempotency.ErrInProgress), errors.Is(err, idempotency.ErrStore):
			fmt.Println("to be delivered again later:", err)
		case err != nil:
			fmt.Println("for somebody to look into:", err)
		default:
			fmt.Printf("done: %s\n", receipt)
		}
	}
	// Output:
	// done: receipt 1
	// done: receipt 1
}
