// Package debug serves a page that shows a client at work, as it happens: each
// host with its breaker, budget and cool-down, and the last operations that were
// in trouble, drawn attempt by attempt with why they stopped.
//
// It is mounted as net/http/pprof is, on a listener that is not public:
//
//	rec, err := debug.New(debug.Config{})
//	rt, err := resilient.NewTransport(resilient.Config{Observer: rec.Observer()})
//	mux.Handle("/debug/resilient/", rec.Handler(rt))
//
// [Handler] alone shows the hosts of a client that has no Recorder. The same is
// at /debug/resilient/state.json for programs. A filter is q, part of a host or
// URL, and key_hash, the short hash of a key as logs and the page show it.
//
// The page works without the internet. It shows no body, query, header value or
// credentials, and of a key a short hash; it does show hosts, paths and the texts
// of errors. Whoever reaches the listener can read it: there is no login.
package debug
