package faultinject_test

import (
	"errors"
	"fmt"
	"net/http"
	"syscall"

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
