package resilientpg_test

import (
	"context"
	"log"
	"net/http"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A charge is a row of the service's own database, and its answer is stored with
// it: a crash leaves both or neither.
func ExampleStore_CompleteTx() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://shop@db.example/shop")
	if err != nil {
		log.Fatal(err)
	}
	store, err := resilientpg.New(pool, resilientpg.Config{})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	keyed, err := idempotency.New(idempotency.Config{Store: store, Scope: idempotency.OneScope})
	if err != nil {
		log.Fatal(err)
	}
	charge := func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context() // it leads to the run, and outlives the caller
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO charges (amount) VALUES ($1)`, r.FormValue("amount")); err != nil {
				return err
			}
			return store.CompleteTx(ctx, tx, idempotency.Answer{Status: http.StatusCreated})
		})
		if err != nil { // sent only if the transaction was not committed
			http.Error(w, "not charged", http.StatusServiceUnavailable)
		}
	}
	http.Handle("POST /charges", keyed(http.HandlerFunc(charge)))
	log.Fatal(http.ListenAndServe(":8080", nil))
}
