// Package idempotency is the server half of idempotency keys: one key, one
// effect, whatever is repeated, lost, slow or killed on the way.
//
// [New] makes a middleware of it for any http.Handler, [Engine.Do] does the same
// for message consumers and jobs. Both claim a key in a [Store] before the work
// begins, hold it by a lease while it runs, and store the answer before anybody
// sees it:
//
//	           claim                    answer stored
//	Absent ───────────▶ Running ──────────────────────▶ Completed ──▶ Expired
//	   ▲                   │                                ▲   (the answer is gone,
//	   │ NotApplied        │ the lease lapsed: a crash,     │    the key still known)
//	   └───────────────────┤ a hang, a panic                │
//	                       ▼                                │
//	                    Unknown ────────────────────────────┘
//	                             Recover, Reexecute, or late, by who had the lease
//
// A key whose outcome is unknown is never executed again unless the service says
// that this is harmless ([Reexecute]) or finds out what happened ([Recover]).
package idempotency
