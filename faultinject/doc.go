// Package faultinject makes HTTP fail in tests, and knows what really
// happened when it did.
//
// A [Fault] is a value that prints and parses, and its [Fault.Truth] says how
// far a request struck by it got: never sent, maybe partly, delivered but not
// handled, or applied. A [Plan] decides which exchange is struck. A [Transport]
// strikes without sockets, in front of a handler or of another RoundTripper; a
// [Server] strikes on real connections, with TLS and HTTP/2 if the client likes,
// over an in-memory [Network], in virtual time, or over TCP. Both keep a record of
// what arrived, to hold against what the client says.
//
//	charges := 0
//	shop := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { charges++ })
//	rt := faultinject.Handler(shop, faultinject.Script(faultinject.LoseResponse(faultinject.RST)))
//	client := &http.Client{Transport: rt}
//
//	_, err := client.Post("http://shop.test/charge", "", nil)
//	fmt.Println(errors.Is(err, syscall.ECONNRESET), charges) // true 1: charged, and nobody knows
//	_, err = client.Post("http://shop.test/charge", "", nil)
//	fmt.Println(err, charges)                     // <nil> 2: the second arrival passes
//	fmt.Println(rt.Deliveries()[0].Fault.Truth()) // applied
//
// [Explore] makes the plans itself: it runs a client under every schedule of
// faults that it can meet, and holds what the client says against what the server
// did; [Simulate] does so for many operations at once, by seeds.
//
// Nothing here is kept in package variables: tests may run in parallel. In a
// bubble of testing/synctest make everything inside the bubble, and close it
// there.
package faultinject
