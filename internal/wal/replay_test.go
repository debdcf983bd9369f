package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func putSum(head []byte) {
	binary.LittleEndian.PutUint32(head[headSize-4:], crc32.Checksum(head[:headSize-4], castagnoli))
}

func replayed(file []byte) (records [][]byte, end int64, err error) {
	r := reader{path: "file", file: bytes.NewReader(file), size: int64(len(file))}
	end, err = r.replay(func(record []byte) error {
		records = append(records, bytes.Clone(record))
		return nil
	})
	return records, end, err
}

// FuzzReplay reads what a stranger wrote: as a file, behind a good header, and
// in a frame whose checksums are right.
func FuzzReplay(f *testing.F) {
	head := header{salt: [8]byte{1, 2, 3}}
	frame := appendRecord(appendRecord(nil, []byte("one")), []byte("two"))
	head.seal(frame)
	f.Add(append(head.encode(), frame...))
	f.Add(frame)
	f.Add(append(bytes.Clone(frame), frame[:20]...))
	f.Add(binary.AppendUvarint(nil, math.MaxUint64))
	f.Add(make([]byte, 2000))
	f.Fuzz(func(t *testing.T, data []byte) {
		sealed := append(make([]byte, frameSize), data...)
		head.seal(sealed)
		for _, file := range [][]byte{data, append(head.encode(), data...), append(head.encode(), sealed...)} {
			records, end, err := replayed(file)
			if err != nil {
				continue
			}
			if end > int64(len(file)) || end < headSize {
				t.Fatalf("the end of %d bytes is at %d", len(file), end)
			}
			again, same, err := replayed(file[:end])
			if err != nil || same != end || len(again) != len(records) {
				t.Fatalf("what was kept reads otherwise: %d records, then %d, to %d, then %d: %v", len(records), len(again), end, same, err)
			}
		}
	})
}

func TestALengthThatTheFileDoesNotHaveCostsNoMemory(t *testing.T) {
	head := header{}
	frame := make([]byte, frameSize)
	binary.LittleEndian.PutUint32(frame, math.MaxUint32)
	binary.LittleEndian.PutUint32(frame[8:], head.sum(frame))
	file := append(head.encode(), frame...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, end, err := replayed(file)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Equal(t, int64(headSize), end)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func appendAll(b *testing.B, l *Log, record []byte, writers int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, writers)
	for range writers {
		go func() {
			for left.Add(-1) >= 0 {
				if err := l.Append(b.Context(), record); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range writers {
		require.NoError(b, <-done)
	}
}
