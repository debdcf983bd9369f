package resilientpg

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says where the records are. The zero Config suits a database of one
// service.
type Config struct {
	// Table is the name of the table, with or without its schema: lower-case
	// letters, digits and underscores. The names of its sequence and of its index
	// begin with it. Services that share a database each need a table of their
	// own, or scopes that differ. Empty means idempotency_keys.
	Table string
}

// Store is an [idempotency.Store] in a table of PostgreSQL. It is safe for use
// by many goroutines, and by many processes that name the same table.
type Store struct {
	pool *pgxpool.Pool
	name names
	sql  statements

	claims atomic.Uint64 // how often Claim was called, to sweep at times
}

var _ idempotency.Store = (*Store)(nil)

// New returns a Store that works through pool, which stays the caller's to
// close. It does not ask the server for anything: a table that is not there
// ([Store.Migrate]) is an error of every method.
func New(pool *pgxpool.Pool, config Config) (*Store, error) {
	if pool == nil {
		return nil, errors.New("resilientpg: New needs a pool, not nil")
	}
	name, err := parseTable(config.Table)
	if err != nil {
		return nil, fmt.Errorf("resilientpg: Config.Table: %w", err)
	}
	return &Store{pool: pool, name: name, sql: newStatements(name)}, nil
}

// attempts bounds how often a method begins again because others were faster.
// Each time one of them has got on, so that only an error that stays gets there.
const attempts = 100

// Claim implements [idempotency.Store]. Every 64th call first clears away some
// of what is due ([Store.Sweep]); if that fails, the claim is made all the same.
func (s *Store) Claim(ctx context.Context, c idempotency.Claim) (rec idempotency.Record, claimed bool, err error) {
	if s.claims.Add(1)%sweepEvery == 0 {
		_, _ = s.sweep(ctx) // the next one tries again, and Sweep tells
	}
	args := []any{
		c.ID[:], c.Fingerprint[:], c.Token[:],
		c.Lease.Microseconds(), keepHeld(c.Lease, c.Keep), c.TakeOver, lockOf(c.ID),
	}
	err = again(func() error {
		rec, claimed, err = s.query(ctx, c.ID, s.sql.claim, args)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && !claimed && claimable(rec, c) {
			return errStale
		}
		return err
	})
	if err != nil {
		return idempotency.Record{}, false, fmt.Errorf("resilientpg: claim: %w", err)
	}
	if claimed && rec.State == idempotency.Unknown {
		rec.State = idempotency.Running // the lease was so short that it lapsed on the way
	}
	return rec, claimed, nil
}

// claimable reports whether c would have the key by what it was told of it: the
// lease, or all of the record, was over between two looks at the clock.
func claimable(rec idempotency.Record, c idempotency.Claim) bool {
	return rec.State == idempotency.Absent ||
		rec.State == idempotency.Unknown && c.TakeOver && rec.Fingerprint == c.Fingerprint
}

// Renew implements [idempotency.Store].
func (s *Store) Renew(ctx context.Context, h idempotency.Holder, lease, keep time.Duration) error {
	return s.alter(ctx, "renew", h, s.sql.renew, never, lease.Microseconds(), keepHeld(lease, keep))
}

// Complete implements [idempotency.Store]. [Store.CompleteTx] does it inside a
// transaction.
func (s *Store) Complete(ctx context.Context, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	return s.alter(ctx, "complete", h, s.sql.complete, func(state idempotency.State, mine bool) bool {
		return mine && (state == idempotency.Completed || state == idempotency.Expired)
	}, completion(result, keep)...)
}

// Release implements [idempotency.Store].
func (s *Store) Release(ctx context.Context, h idempotency.Holder) error {
	return s.alter(ctx, "release", h, s.sql.release, func(state idempotency.State, _ bool) bool {
		return state == idempotency.Absent
	})
}

// Abandon implements [idempotency.Store].
func (s *Store) Abandon(ctx context.Context, h idempotency.Holder, keep time.Duration) error {
	return s.alter(ctx, "abandon", h, s.sql.abandon, never, keep.Microseconds())
}

// Lookup implements [idempotency.Store].
func (s *Store) Lookup(ctx context.Context, id idempotency.ID) (idempotency.Record, error) {
	rec, _, err := s.look(ctx, idempotency.Holder{ID: id})
	if err != nil {
		return idempotency.Record{}, fmt.Errorf("resilientpg: lookup: %w", err)
	}
	return rec, nil
}

// keepHeld is how long a record lives that is held, in microseconds: until its
// lease lapses at least, or somebody else would run beside the holder.
func keepHeld(lease, keep time.Duration) int64 { return max(lease, keep).Microseconds() }

// alter executes a statement that changes a record which h holds. Where it
// changed none, done looks at the record, and whether it is of h: an earlier
// call that was not answered may have done it.
func (s *Store) alter(ctx context.Context, what string, h idempotency.Holder, sql string,
	done func(state idempotency.State, mine bool) bool, args ...any) error {
	args = append([]any{h.ID[:], h.Token[:]}, args...)
	err := again(func() error {
		tag, err := s.pool.Exec(ctx, sql, args...)
		if err != nil || tag.RowsAffected() > 0 {
			return err
		}
		rec, mine, err := s.look(ctx, h)
		switch {
		case err != nil || done(rec.State, mine):
			return err
		case mine && (rec.State == idempotency.Running || rec.State == idempotency.Unknown):
			return errStale // h has claimed it between the two
		}
		return idempotency.ErrLost
	})
	if err != nil && !errors.Is(err, idempotency.ErrLost) {
		return fmt.Errorf("resilientpg: %s: %w", what, err)
	}
	return err
}

func never(idempotency.State, bool) bool { return false }

// look is the record of a key, and whether h was the last to claim it.
func (s *Store) look(ctx context.Context, h idempotency.Holder) (rec idempotency.Record, mine bool, err error) {
	err = again(func() error {
		rec, mine, err = s.query(ctx, h.ID, s.sql.lookup, []any{h.ID[:], h.Token[:]})
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // and rec is Absent
		}
		return err
	})
	return rec, mine, err
}

// again repeats a statement that the server has undone and that may succeed the
// next time: at READ COMMITTED a deadlock, which ours do not make among
// themselves; at the stricter levels that a database may have as its default
// also a record that others changed meanwhile.
func again(statement func() error) error {
	var err error
	for range attempts {
		err = statement()
		var refusal *pgconn.PgError
		undone := errors.As(err, &refusal) && (refusal.Code == serializationFailure || refusal.Code == deadlockDetected)
		if !undone && !errors.Is(err, errStale) {
			break
		}
	}
	return err
}

// SQLSTATEs of class 40: the transaction was rolled back, and may be repeated.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
)

// errStale is of a statement that saw the record as it was before somebody changed it.
var errStale = errors.New("others change the key all the time")

// query returns the record that a statement returns, and its first column.
func (s *Store) query(ctx context.Context, id idempotency.ID, sql string, args []any) (rec idempotency.Record, first bool, err error) {
	var r row
	err = s.pool.QueryRow(ctx, sql, args...).Scan(&first, &r.version, &r.fingerprint, &r.fence, &r.takenOver, &r.result,
		&r.age, &r.leaseLeft, &r.resultLeft, &r.keepLeft)
	if err == nil {
		rec, err = r.record(id)
	}
	return rec, first, err
}

// A row is a record as the statements return it, times counted from now and in
// microseconds.
type row struct {
	version        int
	fingerprint    []byte
	fence          uint64
	takenOver      bool
	result         []byte // nil once it is not kept any more
	age, leaseLeft int64
	resultLeft     *int64 // nil until completed
	keepLeft       int64
}

// record is what the row says. One that another release wrote is an error:
// whoever guesses what it means may do a thing twice.
func (r *row) record(id idempotency.ID) (rec idempotency.Record, err error) {
	if r.version != recordVersion || len(r.fingerprint) != len(rec.Fingerprint) {
		return rec, fmt.Errorf("the record %v has version %d, and this release knows %d only", id, r.version, recordVersion)
	}
	rec = idempotency.Record{
		Fingerprint: idempotency.Fingerprint(r.fingerprint),
		Fence:       r.fence,
		TakenOver:   r.takenOver,
		Age:         max(0, time.Duration(r.age)*time.Microsecond),
	}
	switch {
	case r.keepLeft <= 0:
		return idempotency.Record{}, nil
	case r.resultLeft == nil && r.leaseLeft > 0:
		rec.State, rec.Left = idempotency.Running, time.Duration(r.leaseLeft)*time.Microsecond
	case r.resultLeft == nil:
		rec.State = idempotency.Unknown
	case *r.resultLeft > 0 && r.result != nil:
		rec.State, rec.Result = idempotency.Completed, r.result
	default:
		rec.State = idempotency.Expired
	}
	return rec, nil
}
