package resilientpg

import (
	"context"
	"errors"
	"fmt"
)

const checkSQL = `SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean,
	current_setting('fsync')::boolean,
	(SELECT relpersistence::text FROM pg_class WHERE oid = to_regclass($1::text))`

// Check tells what is unsafe about the database behind the pool, in words and
// all at once ([errors.Join]): a server that only reads, as a standby does; one
// that does not wait for its disk (fsync is off); a table that is missing, or
// that a crash empties (UNLOGGED). It cannot tell whether somebody would fail
// over to an asynchronous replica. Nil means that it found nothing.
func (s *Store) Check(ctx context.Context) error {
	var standby, readOnly, fsync bool
	var persistence *string
	err := s.pool.QueryRow(ctx, checkSQL, s.name.table).Scan(&standby, &readOnly, &fsync, &persistence)
	if err != nil {
		return fmt.Errorf("resilientpg: check: %w", err)
	}
	var found []error
	tell := func(unsafe bool, format string, args ...any) {
		if unsafe {
			found = append(found, fmt.Errorf("resilientpg: "+format, args...))
		}
	}
	tell(standby, "the server is a standby: it cannot take a claim")
	tell(readOnly && !standby, "transactions are read-only: the server cannot take a claim")
	tell(!fsync, "fsync is off: a crash of the machine can lose claims and answers, and the table with them")
	tell(persistence == nil, "the table %s is missing", s.name.table)
	tell(persistence != nil && *persistence != "p", "the table %s is not permanent: a crash of the server empties it", s.name.table)
	return errors.Join(found...)
}
