//go:build unix

package endtoend

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// stores are those that survive their process.
var stores = []struct {
	kind string
	make func(testing.TB) place
}{
	{"file", func(t testing.TB) place { return place{"file", filepath.Join(t.TempDir(), "keys"), ""} }},
	{"redis", func(t testing.TB) place { return place{"redis", privateserver.Redis(t).Addr(), "keys:"} }},
	{"postgres", func(t testing.TB) place { return inPostgres(t, privateserver.Postgres(t), "keys") }},
}

// inPostgres makes the table of a store, and the one of effects.
func inPostgres(t testing.TB, server *privateserver.PostgresServer, table string) place {
	pool, err := pgxpool.New(t.Context(), server.DSN())
	require.NoError(t, err)
	defer pool.Close()
	store, err := resilientpg.New(pool, resilientpg.Config{Table: table})
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	_, err = pool.Exec(t.Context(), `CREATE TABLE IF NOT EXISTS effects (id bigserial, key text, fence bigint)`)
	require.NoError(t, err)
	return place{"postgres", server.DSN(), table}
}

// killing is a crowd at one service that is killed and started again and again.
type killing struct {
	policy string
	broken string
	fenced bool
	slow   time.Duration // of the bank, at most
	tx     bool
	do     []behaviour
	kills  int
	// insists: see crowd.
	insists bool
}

func (k killing) run(t testing.TB, at place) (*figures, *bank) {
	bank, url := newBank(t, k.fenced, k.slow)
	service := start(t, spec{
		Name: "service", Addr: freeAddr(t), Bank: url, Store: at, Policy: k.policy, Broken: k.broken, Tx: k.tx,
	})
	crowd := newCrowd(t, service.spec.Addr, k.do, nil)
	crowd.insists = k.insists
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wait := crowd.run(ctx)
	for n := range k.kills {
		killSoon(ctx, bank, n)
		service.kill()
		service.start()
	}
	pause(ctx, lease)
	stop()
	service.kill() // nothing of before runs on
	service.start()
	wait()
	effects := bank.done
	if k.tx {
		effects = rows(t, at)
	}
	f := crowd.judge(t.Context(), func(p *placed) []string { return effects(p.key.Value) })
	f.kills = int(service.died.Load())
	return f, bank
}

// killSoon waits until it is time to kill: every other time at an instant of its
// own, else about when an effect was had whose answer is not stored yet.
func killSoon(ctx context.Context, b *bank, n int) {
	switch {
	case n%10 == 9: // so that runs outlast their lease
		pause(ctx, 5*lease)
		return
	case n%2 == 0:
		pause(ctx, 100*time.Millisecond)
		return
	}
	select {
	case <-b.struck: // one of before
	default:
	}
	select {
	case <-b.struck:
		pause(ctx, 3*time.Millisecond)
	case <-time.After(lease):
	case <-ctx.Done():
	}
}

func TestAServiceThatIsKilledAgainAndAgainDoesNothingTwiceAndTellsTheTruth(t *testing.T) {
	t.Parallel()
	for _, s := range stores {
		t.Run(s.kind, func(t *testing.T) {
			t.Parallel()
			f, bank := killing{policy: "block", slow: lease / 30, do: everything, kills: kills(400, 200)}.run(t, s.make(t))
			t.Log(bank)
			f.requireTruth(t)
		})
	}
}

// Where it can be found out what was done, no outcome stays unknown.
func TestWithRecoverEveryOrderIsCarriedOutOnceHoweverOftenTheServiceIsKilled(t *testing.T) {
	t.Parallel()
	for _, s := range stores {
		t.Run(s.kind, func(t *testing.T) {
			t.Parallel()
			f, bank := killing{
				policy: "recover", fenced: true, slow: lease / 3, insists: true,
				do: []behaviour{slow, fall, hang, stream}, kills: kills(200, 40),
			}.run(t, s.make(t))
			t.Log(bank)
			f.requireAllDone(t)
		})
	}
}

// A run whose transaction was not committed has done nothing, and the record knows
// of every one that was: so the handler may always begin anew.
func TestWithTheAnswerInTheTransactionEveryOrderIsCarriedOutOnceAndNobodyIsAsked(t *testing.T) {
	t.Parallel()
	at := inPostgres(t, privateserver.Postgres(t), "keys")
	f, _ := killing{
		policy: "reexecute", tx: true, insists: true, do: []behaviour{slow}, kills: kills(400, 60),
	}.run(t, at)
	f.requireAllDone(t)
}
