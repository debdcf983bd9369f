package faultinject_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

func Example() {
	charges := 0
	shop := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { charges++ })
	rt := faultinject.Handler(shop, faultinject.Script(faultinject.LoseResponse(faultinject.RST)))
	client := &http.Client{Transport: rt}

	_, err := client.Post("http://shop.test/charge", "", nil)
	fmt.Println(errors.Is(err, syscall.ECONNRESET), charges) // true 1: charged, and nobody knows
	_, err = client.Post("http://shop.test/charge", "", nil)
	fmt.Println(err, charges)                     // <nil> 2: the second arrival passes
	fmt.Println(rt.Deliveries()[0].Fault.Truth()) // applied
	// Output:
	// true 1
	// <nil> 2
	// applied
}

func ExampleParseFault() {
	f, err := faultinject.ParseFault(`respond(429,"Retry-After: 2")`)
	fmt.Println(f, f.Truth(), err)
	fmt.Println(f == faultinject.Respond(429, "Retry-After: 2"))
	// Output:
	// respond(429,"Retry-After: 2") delivered <nil>
	// true
}

// A plan of one's own: only the shop is in trouble, and only at first.
func ExamplePlanFunc() {
	plan := faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		if x.Host == "shop.test" && x.Nth == 1 {
			return faultinject.Respond(503, "Retry-After: 1")
		}
		return faultinject.Pass()
	})
	client := &http.Client{Transport: faultinject.Handler(http.NotFoundHandler(), plan)}
	for _, url := range []string{"http://shop.test/", "http://bank.test/", "http://shop.test/"} {
		resp, err := client.Get(url)
		if err != nil {
			fmt.Println(err)
			continue
		}
		resp.Body.Close()
		fmt.Printf("%d %q\n", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	// Output:
	// 503 "1"
	// 404 ""
	// 404 ""
}

// A plan as one line of text, to keep in a flag or beside the test.
func ExampleParsePlan() {
	plan, err := faultinject.ParsePlan(`
		POST /charge: lose-response(rst) 2*503(Retry-After: 2)   # then all is well
		GET /: random(1, 5%, 503, cut-body(10,fin))
	`)
	fmt.Println(plan, err)
	for nth := range 4 {
		x := faultinject.Exchange{Op: "k1", Nth: nth + 1, Method: "POST", Path: "/charge"}
		fmt.Println(nth+1, plan.Decide(x))
	}
	_, err = faultinject.ParsePlan("POST /charge: stal")
	fmt.Println(err)
	// Output:
	// POST /charge: lose-response(rst) 2*respond(503,"Retry-After: 2"); GET /: random(1,0.05,respond(503),cut-body(10,fin)) <nil>
	// 1 lose-response(rst)
	// 2 respond(503,"Retry-After: 2")
	// 3 respond(503,"Retry-After: 2")
	// 4 pass
	// faultinject: plan, line 1, column 15: unknown fault "stal": did you mean stall?
}

func ExampleMatch() {
	plan := faultinject.First(
		faultinject.Match("POST /charge/{id}", faultinject.Script(faultinject.LoseResponse(faultinject.RST))),
		faultinject.Match("DIAL bank.test/", faultinject.Forever(faultinject.RefuseDial())),
	)
	for _, x := range []faultinject.Exchange{
		{Method: "POST", Host: "shop.test", Path: "/charge/7", Nth: 1},
		{Method: "GET", Host: "shop.test", Path: "/charge/7", Nth: 1},
		{Method: faultinject.MethodDial, Host: "bank.test:443", Nth: 1},
	} {
		fmt.Println(x.Method, plan.Decide(x))
	}
	// Output:
	// POST lose-response(rst)
	// GET pass
	// DIAL refuse-dial
}

// An outage of twenty seconds.
func ExampleWindow() {
	plan := faultinject.Window(40*time.Second, 60*time.Second, faultinject.Forever(faultinject.Respond(503)))
	for _, seconds := range []int{39, 40, 59, 60} {
		since := time.Duration(seconds) * time.Second
		fmt.Println(since, plan.Decide(faultinject.Exchange{Nth: 1, Since: since}))
	}
	// Output:
	// 39s pass
	// 40s respond(503)
	// 59s respond(503)
	// 1m0s pass
}

// A service that charges, and a proxy that loses its first answer.
func ExampleProxy() {
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "charged")
	}))
	defer shop.Close()
	proxy, err := faultinject.Proxy(nil, shop.URL, faultinject.Script(faultinject.MaskResponse(504)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer proxy.Close()
	for range 2 {
		w := httptest.NewRecorder()
		proxy.ServeHTTP(w, httptest.NewRequest("POST", "/charge", nil))
		fmt.Println(w.Code)
	}
	for _, d := range proxy.Deliveries() {
		fmt.Println(d.Fault, d.Reach(), d.Status)
	}
	// Output:
	// 504
	// 200
	// mask-response(504) applied 200
	// pass applied 200
}

// In front of a RoundTripper, for instance one that signs or caches.
func ExampleWrap() {
	shop := httptest.NewServer(http.NotFoundHandler())
	defer shop.Close()
	rt := faultinject.Wrap(shop.Client().Transport, faultinject.Script(faultinject.MaskResponse(502)))
	client := &http.Client{Transport: rt}
	for range 2 {
		resp, err := client.Get(shop.URL)
		if err != nil {
			fmt.Println(err)
			continue
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	for _, d := range rt.Deliveries() {
		fmt.Println(d.Op, d.Nth, d.Fault, d.Reach())
	}
	// Output:
	// 502
	// 404
	// GET / 1 mask-response(502) applied
	// GET / 2 pass applied
}

// A network in memory, on which the certificate of the first connection has
// expired. In a test call NewServer of the network, which closes the server.
func ExampleNetwork_Serve() {
	network := faultinject.NewNetwork()
	defer network.Close()
	shop := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "by ", r.Proto) })
	server, err := network.Serve("https://shop.test", shop, faultinject.Script(faultinject.BadCert(faultinject.Expired)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	client := server.Client()
	for range 2 {
		resp, err := client.Get(server.URL)
		if err != nil {
			fmt.Println("refused:", strings.Contains(err.Error(), "certificate has expired"))
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(string(body), err)
	}
	for _, d := range server.Accepts() {
		fmt.Println(d.Op, d.Fault)
	}
	// Output:
	// refused: true
	// by HTTP/2.0 <nil>
	// accept shop.test:443 bad-cert(expired)
	// accept shop.test:443 pass
}

// Over TLS a client speaks HTTP/2; the transport's Protocols make it speak
// HTTP/1.1 alone.
func ExampleServer_Client() {
	network := faultinject.NewNetwork()
	defer network.Close()
	server, err := network.Serve("https://shop.test", http.NotFoundHandler(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	transport := server.Transport()
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	for _, client := range []*http.Client{server.Client(), {Transport: transport}} {
		resp, err := client.Get(server.URL)
		if err != nil {
			fmt.Println(err)
			continue
		}
		resp.Body.Close()
		fmt.Println(resp.Proto)
	}
	// Output:
	// HTTP/2.0
	// HTTP/1.1
}

// A test over TCP: when it fails, the server logs what came.
func ExampleNewServer() {
	_ = func(t *testing.T) {
		plan := faultinject.Script(faultinject.DropBefore(faultinject.RST))
		server := faultinject.NewServer(t, http.NotFoundHandler(), plan)
		if _, err := server.Client().Get(server.URL); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	}
}

// A dial to a real host is refused.
func ExampleDialer() {
	shop := httptest.NewServer(http.NotFoundHandler())
	defer shop.Close()
	dialer := &faultinject.Dialer{Plan: faultinject.Script(faultinject.RefuseDial())}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	defer client.CloseIdleConnections()
	for range 2 {
		resp, err := client.Get(shop.URL)
		if err != nil {
			fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
			continue
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	// Output:
	// true
	// 404
}

// A handler that charges once for each key, and a client that asks twice.
func ExampleLedger_Once() {
	var ledger faultinject.Ledger
	shop := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(ledger.Once(r, func() []byte { return []byte("receipt 7") }))
	})
	for range 2 {
		r := httptest.NewRequest("POST", "/charge", nil)
		r.Header.Set("Idempotency-Key", "k1")
		w := httptest.NewRecorder()
		shop.ServeHTTP(w, r)
		fmt.Println(w.Body)
	}
	fmt.Println(ledger.Receipts(), ledger.Doubled())
	// Output:
	// receipt 7
	// receipt 7
	// [effect 1 of k1] []
}

// Each seed is another kind of bad day.
func ExampleSwarm() {
	for seed := range uint64(3) {
		plan := faultinject.Swarm(seed, faultinject.Stall(), faultinject.Respond(503), faultinject.Duplicate())
		struck := make(map[faultinject.Fault]int)
		for n := range 1000 {
			struck[plan.Decide(faultinject.Exchange{Op: fmt.Sprint("k", n), Nth: 1})]++
		}
		fmt.Println(struck)
	}
	// Output:
	// map[pass:892 respond(503):108]
	// map[pass:807 respond(503):128 stall:65]
	// map[pass:940 duplicate:60]
}
