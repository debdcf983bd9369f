package resilientpg_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
)

var created = idempotency.Answer{
	Status: http.StatusCreated,
	Header: http.Header{"Content-Type": {"text/plain"}},
	Body:   []byte("stored with the charge"),
}

// shop makes a charge for each request that it executes, as charge does it.
type shop struct {
	t       *testing.T
	pool    *pgxpool.Pool
	store   *resilientpg.Store
	table   string
	handler http.Handler
	charge  func(context.Context) error
}

func newShop(t *testing.T) *shop {
	pool := newPool(t, privateserver.Postgres(t), "pool_max_conns=8")
	store, table := newStore(t, pool)
	execute(t, pool, `CREATE TABLE charges (id bigserial)`)
	s := &shop{t: t, pool: pool, store: store, table: table}
	keyed, err := idempotency.New(idempotency.Config{Store: store, Scope: idempotency.OneScope, Lease: time.Hour})
	require.NoError(t, err)
	s.handler = keyed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.charge(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	return s
}

func (s *shop) post(key string) *http.Response {
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodPost, "/charges", strings.NewReader("1 EUR"))
	r.Header.Set("Idempotency-Key", strconv.Quote(key))
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Result()
}

func (s *shop) charges() int64 { return count(s.t, s.pool, "SELECT count(*) FROM charges") }

// inTx makes the charge and stores the answer in one transaction.
func (s *shop) inTx(ctx context.Context) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO charges DEFAULT VALUES`); err != nil {
			return err
		}
		return s.store.CompleteTx(ctx, tx, created)
	})
}

func (s *shop) inSQL(db *sql.DB) func(context.Context) error {
	return func(ctx context.Context) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.ExecContext(ctx, `INSERT INTO charges DEFAULT VALUES`); err != nil {
			return err
		}
		if err := s.store.CompleteSQL(ctx, tx, created); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func TestTheAnswerCommittedWithTheEffectsIsGivenNowAndLater(t *testing.T) {
	s := newShop(t)
	db := stdlib.OpenDBFromPool(s.pool)
	defer func() { _ = db.Close() }()
	for key, charge := range map[string]func(context.Context) error{"pgx": s.inTx, "database/sql": s.inSQL(db)} {
		s.charge = charge
		before := s.charges()
		for range 3 {
			resp := s.post(key)
			require.Equal(t, http.StatusCreated, resp.StatusCode)
			require.Equal(t, "text/plain", resp.Header.Get("Content-Type"))
			require.EqualValues(t, before+1, s.charges())
		}
	}
}

func TestWhatTheHandlerSaysAfterTheCommitChangesNothing(t *testing.T) {
	s := newShop(t)
	s.charge = func(ctx context.Context) error {
		return errors.Join(s.inTx(ctx), errors.New("the connection broke during the commit"))
	}
	for range 2 {
		require.Equal(t, http.StatusCreated, s.post("k").StatusCode)
		require.EqualValues(t, 1, s.charges())
	}
}

func TestATransactionRolledBackLeavesTheKeyFree(t *testing.T) {
	s := newShop(t)
	s.charge = func(ctx context.Context) error {
		tx, err := s.pool.Begin(ctx)
		require.NoError(t, err)
		require.NoError(t, s.store.CompleteTx(ctx, tx, created))
		return errors.Join(tx.Rollback(ctx), errors.New("out of stock"))
	}
	require.Equal(t, http.StatusInternalServerError, s.post("k").StatusCode)
	s.charge = s.inTx
	require.Equal(t, http.StatusCreated, s.post("k").StatusCode)
	require.EqualValues(t, 1, s.charges())
}

func TestTheTransactionOfARunThatHasLostItsKeyMustBeRolledBack(t *testing.T) {
	s := newShop(t)
	s.charge = func(ctx context.Context) error {
		execute(t, s.pool, "UPDATE "+s.table+" SET token = '\\x00'") // as if somebody had taken over
		return s.inTx(ctx)
	}
	require.NotEqual(t, http.StatusCreated, s.post("k").StatusCode)
	require.Zero(t, s.charges())
}

func TestATransactionRepeatedThoughTheFirstWasCommittedHasNoEffectsOfItsOwn(t *testing.T) {
	s := newShop(t)
	s.charge = func(ctx context.Context) error {
		require.NoError(t, s.inTx(ctx))
		require.ErrorIs(t, s.inTx(ctx), idempotency.ErrLost) // its Commit seemed to fail
		return nil
	}
	require.Equal(t, http.StatusCreated, s.post("k").StatusCode)
	require.EqualValues(t, 1, s.charges())
}

func TestOfTwoTransactionsThatCompleteOneRunAtOnceOneIsCommitted(t *testing.T) {
	s := newShop(t)
	s.charge = func(ctx context.Context) error {
		tx, err := s.pool.Begin(ctx)
		require.NoError(t, err)
		require.NoError(t, s.store.CompleteTx(ctx, tx, created))
		var second error
		var wg sync.WaitGroup
		wg.Go(func() { second = s.inTx(ctx) })
		waiting(t, s.pool, 1)
		require.NoError(t, tx.Commit(ctx))
		wg.Wait()
		require.ErrorIs(t, second, idempotency.ErrLost)
		return nil
	}
	require.Equal(t, http.StatusCreated, s.post("k").StatusCode)
	require.Zero(t, s.charges(), "the first made none")
}

func TestATakeoverWaitsForATransactionThatSettlesTheKeyAndThenSeesHowItEnded(t *testing.T) {
	s := newShop(t)
	for key, end := range map[string]func(pgx.Tx, context.Context) error{"commit": pgx.Tx.Commit, "rollback": pgx.Tx.Rollback} {
		s.charge = func(ctx context.Context) error {
			execute(t, s.pool, "UPDATE "+s.table+" SET lease_until = now() - interval '1 hour'")
			tx, err := s.pool.Begin(ctx)
			require.NoError(t, err)
			require.NoError(t, s.store.CompleteTx(ctx, tx, created))
			var rec idempotency.Record
			var claimed bool
			var wg sync.WaitGroup
			wg.Go(func() { rec, claimed, err = s.store.Claim(ctx, s.takeover()) })
			waiting(t, s.pool, 1)
			var ended time.Time
			require.NoError(t, s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&ended))
			require.NoError(t, end(tx, ctx))
			wg.Wait()
			require.NoError(t, err)
			if claimed {
				require.EqualValues(t, 1, count(t, s.pool, "SELECT count(*) FROM "+s.table+" WHERE lease_until > $1::timestamptz + interval '1 hour'", ended),
					"the lease begins when the wait is over")
			}
			require.Equal(t, key == "rollback", claimed)
			require.Equal(t, key == "rollback", rec.TakenOver)
			require.Equal(t, key == "commit", rec.State == idempotency.Completed)
			return nil
		}
		s.post(key)
	}
}

// takeover is a claim of the key claimed last, by somebody else.
func (s *shop) takeover() (c idempotency.Claim) {
	var id, fingerprint []byte
	require.NoError(s.t, s.pool.QueryRow(s.t.Context(), "SELECT id, fingerprint FROM "+s.table+" ORDER BY fence DESC LIMIT 1").Scan(&id, &fingerprint))
	c = takingOver(newClaim())
	c.ID, c.Fingerprint = idempotency.ID(id), idempotency.Fingerprint(fingerprint)
	return c
}

func TestOnlyARunOfThisStoreIsCompletedInATransaction(t *testing.T) {
	s := newShop(t)
	other := openStore(t, s.pool, s.table)
	s.charge = func(ctx context.Context) error {
		tx, err := s.pool.Begin(ctx)
		require.NoError(t, err)
		require.ErrorContains(t, other.CompleteTx(ctx, tx, created), "resilientpg: complete: idempotency: ")
		require.ErrorContains(t, s.store.CompleteTx(t.Context(), tx, created), "resilientpg: complete: idempotency: ")
		require.NoError(t, tx.Rollback(ctx))
		return nil
	}
	require.Equal(t, http.StatusOK, s.post("k").StatusCode)
}
