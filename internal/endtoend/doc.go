// Package endtoend holds no code but tests: our client, the middleware of package
// idempotency and its stores together, with real processes that are killed, real
// servers that go away, and a bank that counts what was really done.
package endtoend
