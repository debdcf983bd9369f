package idempotency

import "github.com/go-resilient/resilient/internal/wal"

// LoadFile is OpenFile without what only an end of the process tells: that
// those who held keys are dead. The contract does not ask for it.
func LoadFile(path string) (*File, error) {
	return loadFile(path, FileConfig{}, wal.Options{Kind: fileKind, Sync: wal.NoSync})
}
