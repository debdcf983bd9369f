package resilientpg

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/jackc/pgx/v5"
)

// CompleteTx stores the answer of the run that ctx belongs to in tx, which must
// be on the database of the store. The commit then makes the effects of tx and
// the answer take place together; a rollback leaves the key running and nothing
// done. What the handler writes itself as its answer is not sent.
//
// Call it once, as the last statement before the commit: from then on tx locks
// the record, and whoever wants the key waits. After [idempotency.ErrLost] the
// caller must roll back: somebody else has the key, or an earlier transaction of
// this run was committed after all, though its Commit returned an error. Any
// other error ends in a rollback as well. At REPEATABLE READ or above it fails
// with SQLSTATE 40001 where the lease was renewed since tx began, and the whole
// of tx may be repeated.
//
// The commit waits for the disk also where synchronous_commit is off.
func (s *Store) CompleteTx(ctx context.Context, tx pgx.Tx, answer idempotency.Answer) error {
	return s.completeJoined(ctx, answer, func(sql string, args ...any) (int64, error) {
		tag, err := tx.Exec(ctx, sql, args...)
		return tag.RowsAffected(), err
	})
}

// CompleteSQL is [Store.CompleteTx] for database/sql, with any driver that has
// PostgreSQL's parameters ($1); [stdlib.OpenDBFromPool] makes a [sql.DB] of the
// store's own pool.
//
// [stdlib.OpenDBFromPool]: https://pkg.go.dev/github.com/jackc/pgx/v5/stdlib#OpenDBFromPool
func (s *Store) CompleteSQL(ctx context.Context, tx *sql.Tx, answer idempotency.Answer) error {
	return s.completeJoined(ctx, answer, func(sql string, args ...any) (int64, error) {
		result, err := tx.ExecContext(ctx, sql, args...)
		if err != nil {
			return 0, err
		}
		return result.RowsAffected()
	})
}

// completeJoined does not look for an earlier call that succeeded, as Complete
// does: that would have been in another transaction, and this one would have its
// effects a second time.
func (s *Store) completeJoined(ctx context.Context, answer idempotency.Answer,
	exec func(sql string, args ...any) (changed int64, err error)) error {
	c, err := idempotency.Join(ctx, s, answer)
	if err != nil {
		return fmt.Errorf("resilientpg: complete: %w", err)
	}
	args := append([]any{c.Holder.ID[:], c.Holder.Token[:]}, completion(c.Result, c.Keep)...)
	changed, err := exec(s.sql.complete, args...)
	if err != nil {
		return fmt.Errorf("resilientpg: complete: %w", err)
	}
	if changed == 0 {
		return idempotency.ErrLost
	}
	return nil
}
