// Package resilient is an HTTP client that repeats a request only when
// repeating is harmless, says truthfully what happened when it is not, and
// never adds to an outage.
//
//	http.Client ─▶ Transport ─▶ Base (net/http, or what you put there)
//	                 one operation, many attempts, one loop
//
// [NewClient] gives an *http.Client, [NewTransport] the [http.RoundTripper] in
// it, for any client or SDK that takes one. The zero [Config] is complete. What
// most programs add to it is HonorsKeys: which servers honour idempotency keys,
// so that a POST to them may be repeated.
//
// An answer is returned as that answer, whatever its status; [OperationOf] has
// its record. An error is an [*Error]: its Outcome says whether the server can
// have acted, and its Key is what to go on with, by [WithKey].
//
// Package faultinject makes HTTP fail in tests.
package resilient
