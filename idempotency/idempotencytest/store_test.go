package idempotencytest

import (
	"testing"

	"github.com/go-resilient/resilient/idempotency"
)

func openMemory(t *testing.T) Instance {
	m, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return Instance{Store: m, Reopen: func() idempotency.Store { return m }}
}

func TestTheSuiteHasNothingAgainstARightStore(t *testing.T) {
	StoreInBubble(t, openMemory)
}

func TestTheSuiteHasNothingAgainstARightStoreInRealTime(t *testing.T) {
	Store(t, openMemory)
}
