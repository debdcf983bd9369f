package idempotency

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"
)

// MemoryConfig configures a [Memory]. The zero MemoryConfig is ready to use.
type MemoryConfig struct {
	// MaxRecords bounds the records, of some 300 bytes each beside the result.
	// Zero means 100,000.
	MaxRecords int
	// MaxBytes bounds the results together: when they reach it, no key is taken
	// that is not known. The results of runs that have begun are still kept.
	// Zero means 64 MiB.
	MaxBytes int
}

// A Memory is a [Store] in the memory of this process, for one process alone
// and for keys that need not survive it.
//
// It never forgets a record before its time, for that would execute twice: when
// it is full, a claim of a key it does not know gets [ErrFull]. It never waits,
// so that it heeds no context. The Result of a [Record] is shared: whoever gets
// it must not alter it.
type Memory struct {
	maxRecords, maxBytes int
	start                time.Time

	mu    sync.Mutex
	table table
}

// NewMemory returns an empty store.
func NewMemory(c MemoryConfig) (*Memory, error) {
	if c.MaxRecords < 0 {
		return nil, fmt.Errorf("idempotency: MemoryConfig.MaxRecords: %d is negative", c.MaxRecords)
	}
	if c.MaxBytes < 0 {
		return nil, fmt.Errorf("idempotency: MemoryConfig.MaxBytes: %d is negative", c.MaxBytes)
	}
	m := &Memory{maxRecords: c.MaxRecords, maxBytes: c.MaxBytes, start: time.Now()}
	if m.maxRecords == 0 {
		m.maxRecords = 100_000
	}
	if m.maxBytes == 0 {
		m.maxBytes = 64 << 20
	}
	return m, nil
}

// Claim implements [Store].
func (m *Memory) Claim(_ context.Context, c Claim) (Record, bool, error) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	rec, claimed, ch := m.table.claim(now, c)
	if claimed && m.fullLocked(c.ID) {
		return Record{}, false, ErrFull
	}
	m.table.apply(ch)
	return rec, claimed, nil
}

// Renew implements [Store].
func (m *Memory) Renew(_ context.Context, h Holder, lease, keep time.Duration) error {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applyLocked(m.table.renew(now, h, lease, keep))
}

// Complete implements [Store]. It copies the result.
func (m *Memory) Complete(_ context.Context, h Holder, result []byte, keep Keep) error {
	now := m.now()
	result = bytes.Clone(result)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applyLocked(m.table.complete(now, h, result, keep))
}

// Release implements [Store].
func (m *Memory) Release(_ context.Context, h Holder) error {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applyLocked(m.table.release(now, h))
}

// Abandon implements [Store].
func (m *Memory) Abandon(_ context.Context, h Holder, keep time.Duration) error {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applyLocked(m.table.abandon(now, h, keep))
}

// Lookup implements [Store].
func (m *Memory) Lookup(_ context.Context, id ID) (Record, error) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.table.lookup(now, id), nil
}

// now is read from the monotonic clock: a lease must not lapse because somebody
// sets the time of day.
func (m *Memory) now() time.Time { return m.start.Add(time.Since(m.start)) }

func (m *Memory) applyLocked(ch change, err error) error {
	m.table.apply(ch) // nothing, after an error
	return err
}

// fullLocked reports whether there is no room for a key that is not known. It
// clears away all that is due before it says so.
func (m *Memory) fullLocked(id ID) bool {
	for len(m.table.records) >= m.maxRecords || m.table.bytes >= m.maxBytes {
		if m.table.records[id] != nil {
			return false
		}
		if !m.table.sweep() {
			return true
		}
	}
	return false
}
