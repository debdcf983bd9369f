package resilientpg

import (
	"encoding/binary"

	"github.com/go-resilient/resilient/idempotency"
)

// statements are the methods of a Store in SQL, for one table.
//
// They are written for READ COMMITTED, each a transaction of its own. There a
// statement sees what was committed before it began (its snapshot); a row that
// it changes is locked first, in the version that was committed last, and the
// condition is tested again on that version. So a change is decided on the
// record as it stands, also where the statement had to wait for the row.
//
// The clock is clock_timestamp(): now() is when the transaction began, which in
// the caller's own transaction may be long ago.
type statements struct{ claim, renew, complete, release, abandon, lookup, sweep string }

// recordVersion is of what the columns mean. Statements leave a record of
// another version alone.
const recordVersion = 1

// columns are the record r as query reads it, behind a column of its own.
const columns = `r.version, r.fingerprint, r.fence, r.taken_over,
	CASE WHEN r.result_until > clock_timestamp() THEN r.result END AS result,
	(extract(epoch FROM clock_timestamp() - r.claimed_at) * 1000000)::bigint AS age,
	(extract(epoch FROM r.lease_until - clock_timestamp()) * 1000000)::bigint AS lease_left,
	(extract(epoch FROM r.result_until - clock_timestamp()) * 1000000)::bigint AS result_left,
	(extract(epoch FROM r.keep_until - clock_timestamp()) * 1000000)::bigint AS keep_left`

// durable makes the statement's transaction wait for the disk where the
// database, the user or the session has turned that off. Other settings of
// synchronous_commit are left as they are.
const durable = `(SELECT CASE current_setting('synchronous_commit') WHEN 'off'
	THEN set_config('synchronous_commit', 'on', true) END) AS durable`

// The claim looks first: a key that somebody else has, or that is settled, is
// answered from the snapshot, and nothing is written. Otherwise it inserts, or
// takes over what is in the way if that is free still. No row at all means that
// it was not, and that the snapshot is stale: claim again.
//
// The lock orders the claims of one key, so that their fences come in the order
// of their runs. Without it a claim could take its number, stand still while
// another one runs and releases the key, and then insert the lower number. The
// lock ends with the statement; a key that shares the lock only waits. It comes
// before the number because a WITH query that has effects of its own is executed
// apart from what reads it.
//
// The update reads the clock once, when it has the row: it is decided then what
// the record was. The condition has read it a moment before, and what was free
// stays so. The lease begins then too, and what is left of it is told as of then.
const claimSQL = `WITH seen AS (
	SELECT r.version = {version} AND (r.keep_until <= clock_timestamp()
			OR r.result_until IS NULL AND (r.token = $3::bytea
				OR $6::boolean AND r.lease_until <= clock_timestamp() AND r.fingerprint = $2::bytea)) AS free,
		{columns}
	FROM {table} AS r WHERE r.id = $1::bytea
), turn AS (
	SELECT pg_advisory_xact_lock($7::bigint) FROM {durable} WHERE NOT EXISTS (SELECT FROM seen WHERE NOT free)
), taken AS (
	INSERT INTO {table} AS r
		(id, version, fingerprint, token, fence, taken_over, claimed_at, lease_until, keep_until)
	SELECT $1::bytea, {version}, $2::bytea, $3::bytea, nextval('{sequence}'), false, clock_timestamp(),
		clock_timestamp() + $4::bigint * interval '1 microsecond',
		clock_timestamp() + $5::bigint * interval '1 microsecond'
	FROM turn
	ON CONFLICT (id) DO UPDATE SET
		(fingerprint, token, fence, taken_over, claimed_at, lease_until, keep_until, result, result_until) = (
			SELECT EXCLUDED.fingerprint, EXCLUDED.token,
				CASE WHEN r.keep_until > c.now AND r.token = EXCLUDED.token THEN r.fence ELSE EXCLUDED.fence END,
				r.keep_until > c.now AND (r.taken_over OR r.token <> EXCLUDED.token),
				CASE WHEN r.keep_until > c.now THEN r.claimed_at ELSE c.now END,
				c.now + $4::bigint * interval '1 microsecond',
				c.now + $5::bigint * interval '1 microsecond', NULL::bytea, NULL::timestamptz
			FROM (SELECT clock_timestamp() AS now) AS c)
	WHERE r.version = {version} AND (r.keep_until <= clock_timestamp()
		OR r.result_until IS NULL AND (r.token = EXCLUDED.token
			OR $6::boolean AND r.lease_until <= clock_timestamp() AND r.fingerprint = EXCLUDED.fingerprint))
	RETURNING r.version, r.fingerprint, r.fence, r.taken_over,
		(extract(epoch FROM clock_timestamp() - r.claimed_at) * 1000000)::bigint AS age
)
SELECT true, version, fingerprint, fence, taken_over, NULL::bytea, age, $4::bigint, NULL::bigint, $5::bigint
FROM taken
UNION ALL
SELECT false, version, fingerprint, fence, taken_over, result, age, lease_left, result_left, keep_left
FROM seen WHERE NOT free`

// held is the record that a holder may change: his, and neither forgotten nor settled.
const held = `r.id = $1::bytea AND r.token = $2::bytea AND r.version = {version}
	AND r.keep_until > clock_timestamp() AND r.result_until IS NULL`

const renewSQL = `UPDATE {table} AS r SET
	lease_until = clock_timestamp() + $3::bigint * interval '1 microsecond',
	keep_until = clock_timestamp() + $4::bigint * interval '1 microsecond'
FROM {durable} WHERE {held}`

const completeSQL = `UPDATE {table} AS r SET
	result = $3::bytea,
	result_until = clock_timestamp() + $4::bigint * interval '1 microsecond',
	keep_until = clock_timestamp() + $5::bigint * interval '1 microsecond'
FROM {durable} WHERE {held}`

const abandonSQL = `UPDATE {table} AS r SET
	lease_until = least(r.lease_until, clock_timestamp()),
	keep_until = clock_timestamp() + $3::bigint * interval '1 microsecond'
FROM {durable} WHERE {held}`

// What is released reads as absent and is left to the sweep. Were it deleted, a
// claim that waits for that would insert a lease that began before the wait.
const releaseSQL = `UPDATE {table} AS r SET keep_until = clock_timestamp() FROM {durable} WHERE {held}`

const lookupSQL = `SELECT r.token = $2::bytea, {columns} FROM {table} AS r WHERE r.id = $1::bytea`

// due is when time takes something of a record that needs room: its result, or
// all of it. The index is on this expression.
const due = `(CASE WHEN result IS NULL THEN keep_until ELSE result_until END)`

// The sweep passes over rows that are locked: somebody is at work on them. The
// clock is a subquery because an index is not searched for a volatile function.
const sweepSQL = `WITH due AS (
	SELECT r.id, r.keep_until <= clock_timestamp() AS over FROM {table} AS r
	WHERE {due} <= (SELECT clock_timestamp()) AND r.version = {version}
	ORDER BY {due} LIMIT {batch} FOR UPDATE SKIP LOCKED
), forgotten AS (
	DELETE FROM {table} AS r USING due WHERE r.id = due.id AND due.over RETURNING 1
), dropped AS (
	UPDATE {table} AS r SET result = NULL FROM due WHERE r.id = due.id AND NOT due.over RETURNING 1
)
SELECT (SELECT count(*) FROM forgotten) + (SELECT count(*) FROM dropped)`

func newStatements(name names) statements {
	in := name.fill
	return statements{
		claim:    in(claimSQL),
		renew:    in(renewSQL),
		complete: in(completeSQL),
		release:  in(releaseSQL),
		abandon:  in(abandonSQL),
		lookup:   in(lookupSQL),
		sweep:    in(sweepSQL),
	}
}

// lockOf is the advisory lock of a key.
func lockOf(id idempotency.ID) int64 { return int64(binary.BigEndian.Uint64(id[:])) }

// completion is the arguments of complete behind the holder's.
func completion(result []byte, keep idempotency.Keep) []any {
	if result == nil {
		result = []byte{} // NULL is a result that is not kept any more
	}
	return []any{result, min(keep.Result, keep.Key).Microseconds(), keep.Key.Microseconds()}
}
