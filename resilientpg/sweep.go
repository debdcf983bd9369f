package resilientpg

import (
	"context"
	"fmt"
)

const (
	// sweepEvery and sweepBatch let a claim clear away two records on average: it
	// brings one, which is due twice at most.
	sweepEvery = 64
	sweepBatch = 128
)

// Sweep deletes the records whose time is over, and drops the results that are
// not kept any more from the others. It reports how many records that were.
// Claims do the same bit by bit, and no answer ever depends on it: it is for
// room alone. Several may run at once.
func (s *Store) Sweep(ctx context.Context) (int64, error) {
	var all int64
	for {
		n, err := s.sweep(ctx)
		all += n
		if err != nil {
			return all, fmt.Errorf("resilientpg: sweep: %w", err)
		}
		if n < sweepBatch {
			return all, nil
		}
	}
}

// sweep clears away one batch.
func (s *Store) sweep(ctx context.Context) (n int64, err error) {
	err = again(func() error { return s.pool.QueryRow(ctx, s.sql.sweep).Scan(&n) })
	return n, err
}
