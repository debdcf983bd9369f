package idempotency_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/idempotency/idempotencytest"
)

// afterCrash is a copy of the file as it is now, which is what the kill of a
// process leaves. The old store still has the lock of its own.
func afterCrash(t *testing.T, path string) string {
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	next := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(next, file, 0o600))
	return next
}

// openInstance is a file that opens as it was left, again and again.
func openInstance(t *testing.T) idempotencytest.Instance {
	path := filepath.Join(t.TempDir(), "keys")
	open := func() idempotency.Store {
		f, err := idempotency.LoadFile(path)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		return f
	}
	return idempotencytest.Instance{
		Store: open(),
		Reopen: func() idempotency.Store {
			path = afterCrash(t, path)
			return open()
		},
	}
}

func TestAFileKeepsTheContract(t *testing.T) {
	idempotencytest.StoreInBubble(t, openInstance)
}

func TestAFileKeepsTheContractInRealTime(t *testing.T) {
	idempotencytest.Store(t, openInstance)
}

// A file whose disk is waited for, and whose holders are known to be dead: all
// but the cases of crashes, which expect them alive.
func TestAFileThatSyncsKeepsTheContract(t *testing.T) {
	idempotencytest.StoreInBubble(t, func(t *testing.T) idempotencytest.Instance {
		f, err := idempotency.OpenFile(filepath.Join(t.TempDir(), "keys"), idempotency.FileConfig{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		return idempotencytest.Instance{Store: f}
	})
}
