//go:build unix

package endtoend

import (
	"context"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

// broken is the store with something broken on purpose, so that the tests are
// seen to notice.
func broken(s idempotency.Store, what string) idempotency.Store {
	switch what {
	case "late":
		return late{s}
	case "lease":
		return unrenewed{s}
	}
	return s
}

// late acknowledges a result before it is stored.
type late struct{ idempotency.Store }

func (l late) Complete(ctx context.Context, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	time.AfterFunc(30*time.Millisecond, func() {
		_ = l.Store.Complete(context.WithoutCancel(ctx), h, result, keep)
	})
	return nil
}

// unrenewed does not renew leases.
type unrenewed struct{ idempotency.Store }

func (unrenewed) Renew(context.Context, idempotency.Holder, time.Duration, time.Duration) error {
	return nil
}

// With something broken on purpose the same tests must fail.
func TestWhatIsBrokenOnPurposeIsNoticed(t *testing.T) {
	t.Parallel()
	file := stores[0].make
	memory := func(testing.TB) place { return place{Kind: "memory"} }
	for name, b := range map[string]struct {
		killing
		make func(testing.TB) place
	}{
		"the store forgets when its process dies":      {killing{policy: "block", do: everything}, memory},
		"a result is acknowledged before it is stored": {killing{policy: "block", broken: "late", do: everything}, file},
		"an unknown outcome is executed again":         {killing{policy: "reexecute", do: everything}, file},
		"a lease is not renewed": {
			killing{policy: "recover", broken: "lease", do: []behaviour{slow, slow, slow}, insists: true}, file,
		},
		"the bank is sent no fence": {
			killing{policy: "recover", broken: "fence", fenced: true, slow: lease / 3, insists: true}, file,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.kills = 30
			f, bank := b.run(t, b.make(t))
			t.Log(f, bank)
			require.NotEmpty(t, f.faults)
		})
	}
	t.Run("a service calls the next under a key of its own making", func(t *testing.T) {
		t.Parallel()
		c := chain{kills: 30, broken: "key", last: spec{Policy: "recover"}}
		f, _ := c.run(t, [3]place{file(t), file(t), file(t)})
		t.Log(f)
		require.NotEmpty(t, f.faults)
	})
}
