// Package resilientpg keeps idempotency keys in PostgreSQL: [Store] is an
// [idempotency.Store] in one table, for any number of processes.
//
// # Completing inside the transaction
//
// A service whose effects are in the same database leaves no outcome unknown:
// [Store.CompleteTx] stores the answer in the transaction that has the effects,
// so that both are there or neither is. [Store.CompleteSQL] is the same for
// database/sql.
//
// # What survives
//
// What the store acknowledged is on the server's disk, and survives a crash of
// the server and of the machine under it: also where synchronous_commit is off,
// which the store switches on for its own statements. A replica takes over with
// all of it if it is a synchronous one (synchronous_standby_names); after a
// failover to an asynchronous replica the last claims and answers may be
// missing, and what ran under them can run again. [Store.Check] tells what is
// unsafe about the database it meets.
//
// Leases are measured by the server's clock alone. A clock that is set forward
// lets them lapse early, and one that is set back holds them longer.
//
// # Time limits
//
// When a context ends, pgx closes the connection and does not wait: the server
// may execute the statement later, even after another call about the same key. A
// claim that comes so late holds the key for nobody, until its lease lapses and
// the outcome counts as unknown. A pool whose BuildContextWatcherHandler is
// [pgconn.CancelRequestContextWatcherHandler] has the server give up the
// statement and waits for its word, for as long as DeadlineDelay says.
//
// # Behind PgBouncer
//
// Each method is one statement that is a transaction of its own, and nothing is
// kept in the session, so that a pooler may hand every transaction to another
// connection. In PgBouncer's transaction mode set max_prepared_statements
// (PgBouncer 1.21), or have pgx prepare none: default_query_exec_mode=exec in
// the connection string, or [pgx.QueryExecModeExec] as the pool's
// DefaultQueryExecMode. The store works in every mode.
package resilientpg
