package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// database is a ledger beside the keys.
type database struct {
	pool *pgxpool.Pool
	keys *resilientpg.Store
}

const schema = `CREATE TABLE IF NOT EXISTS charges (
	id text PRIMARY KEY,
	account text NOT NULL,
	amount bigint NOT NULL,
	currency text NOT NULL
)`

func openPostgres(ctx context.Context, url string) (_ *storage, err error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("-store: %w", err)
	}
	defer func() {
		if err != nil {
			pool.Close()
		}
	}()
	keys, err := resilientpg.New(pool, resilientpg.Config{})
	if err != nil {
		return nil, err
	}
	if err := keys.Migrate(ctx); err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, schema); err != nil {
		return nil, err
	}
	if err := keys.Check(ctx); err != nil {
		slog.Warn("PostgreSQL may forget keys", "err", err)
	}
	slog.Info("keys and charges are kept in PostgreSQL")
	return &storage{
		keys: keys, charges: &database{pool, keys}, close: pool.Close,
		// A run without an answer has left no charge either.
		onUnknown: idempotency.Reexecute(),
	}, nil
}

// add commits the charge and the end of its run together, or neither.
func (d *database) add(ctx context.Context, c charge, answer idempotency.Answer) error {
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO charges VALUES ($1, $2, $3, $4)
			ON CONFLICT (id) DO UPDATE SET id = excluded.id WHERE charges = excluded`, c.ID, c.Account, c.Amount, c.Currency)
		if err == nil && tag.RowsAffected() == 0 {
			err = errCharged
		}
		if err != nil {
			return err
		}
		return d.keys.CompleteTx(ctx, tx, answer)
	})
	if err != nil && !errors.Is(err, idempotency.ErrNotApplied) {
		// Where only the answer to the commit was lost, the middleware finds the
		// stored answer and gives that.
		err = fmt.Errorf("%w: %w", idempotency.ErrNotApplied, err)
	}
	return err
}

func (d *database) find(ctx context.Context, id string) (c charge, ok bool, err error) {
	err = d.pool.QueryRow(ctx, `SELECT id, account, amount, currency FROM charges WHERE id = $1`, id).
		Scan(&c.ID, &c.Account, &c.Amount, &c.Currency)
	if errors.Is(err, pgx.ErrNoRows) {
		return charge{}, false, nil
	}
	return c, err == nil, err
}
