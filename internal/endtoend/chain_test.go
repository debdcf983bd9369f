//go:build unix

package endtoend

import (
	"context"
	"testing"
	"time"

	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/stretchr/testify/require"
)

// chain is three services in a row, each with a store of its own. Only the last
// has an effect; what the others do is to call the next, and that they may do
// again, since its key derives from their own.
type chain struct {
	kills  int
	broken string
	last   spec // of the last one: its policy, and where its effect is
	do     []behaviour
}

func (c chain) run(t testing.TB, at [3]place) (f *figures, again int) {
	bank, url := newBank(t, true, lease/30)
	names := [3]string{"A", "B", "C"}
	var row [3]*process
	next := ""
	for i := 2; i >= 0; i-- {
		s := spec{Name: names[i], Addr: freeAddr(t), Bank: url, Store: at[i], Policy: "reexecute", Next: next, Broken: c.broken, Wait: lease / 2}
		if i == 2 {
			s.Policy, s.Tx = c.last.Policy, c.last.Tx
		}
		row[i] = start(t, s)
		next = "http://" + s.Addr + "/orders"
	}
	crowd := newCrowd(t, row[0].spec.Addr, c.do, nil)
	crowd.insists = true
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wait := crowd.run(ctx)
	for n := range c.kills {
		pause(ctx, 150*time.Millisecond)
		row[n%3].kill()
		row[n%3].start()
	}
	stop()
	wait()
	effects := bank.done
	if c.last.Tx {
		effects = rows(t, at[2])
	}
	f = crowd.judge(t.Context(), func(p *placed) []string {
		keys, _ := bank.keys("C", p.order.ID)
		return effects(keys...)
	})
	f.kills = c.kills
	for _, p := range crowd.placed {
		for _, service := range names[1:] {
			keys, times := bank.keys(service, p.order.ID)
			if len(keys) != 1 {
				f.wrong(&f.untrue, p, "%s was called under the keys %v", service, keys)
			}
			again += times - 1
		}
	}
	return f, again
}

func TestInARowOfServicesEachKilledInTurnAnOrderIsCarriedOutOnceAtItsEnd(t *testing.T) {
	t.Parallel()
	files := func(t testing.TB) (at [3]place) {
		for i := range at {
			at[i] = stores[0].make(t)
		}
		return at
	}
	for name, c := range map[string]struct {
		chain
		make func(testing.TB) [3]place
	}{
		"three files, and the bank is asked": {chain{last: spec{Policy: "recover"}, do: []behaviour{slow, fall}}, files},
		"a file, Redis, and a transaction": {chain{last: spec{Policy: "reexecute", Tx: true}, do: []behaviour{slow}},
			func(t testing.TB) [3]place {
				return [3]place{stores[0].make(t), stores[1].make(t), inPostgres(t, privateserver.Postgres(t), "keys")}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.kills = kills(240, 60)
			f, again := c.run(t, c.make(t))
			t.Logf("%d runs beside the first of an order at a service", again)
			f.requireAllDone(t)
			require.NotZero(t, again)
		})
	}
}
