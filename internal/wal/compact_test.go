package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// image is the directory of a log as a crash would leave it now, and the log in it.
func image(t *testing.T, path string) string {
	dir := t.TempDir()
	for _, name := range []string{path, successor(path)} {
		file, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(name)), file, 0o600))
	}
	return filepath.Join(dir, filepath.Base(path))
}

func TestACompactionKeepsTheSnapshotAndWhatCameAfterIt(t *testing.T) {
	path, _, _ := written(t, "a", "b", "c")
	l, _ := reopen(t, path, Options{})
	release := hold(l)
	_, err := l.Add([]byte("pending"))
	require.NoError(t, err)
	release()
	require.NoError(t, l.Compact(func(add func([]byte) error) error {
		require.NoError(t, add([]byte("abc")))
		require.NoError(t, l.Append(t.Context(), []byte("meanwhile"))) // while it goes on
		require.ErrorIs(t, l.Compact(nil), errBusy)
		require.NoError(t, add(make([]byte, 1<<20))) // more than one frame
		return add([]byte("more"))
	}))
	require.NoError(t, l.Append(t.Context(), []byte("after")))
	require.NoError(t, l.Close())
	got := contents(t, path)
	require.Equal(t, "abc", got[0])
	require.Equal(t, "more", got[2])
	require.Subset(t, []string{"pending", "meanwhile", "after"}, got[3:])
	require.Equal(t, []string{"meanwhile", "after"}, got[len(got)-2:])
	require.NoFileExists(t, successor(path))
}

func TestACrashDuringACompactionLeavesAGoodFile(t *testing.T) {
	path, _, _ := written(t, "a", "b")
	l, _ := reopen(t, path, Options{})
	var before []string
	require.NoError(t, l.Compact(func(add func([]byte) error) error {
		before = append(before, image(t, path))
		require.NoError(t, add(make([]byte, 1<<20)))
		before = append(before, image(t, path))
		return add([]byte("ab"))
	}))
	after := image(t, path)
	for _, crashed := range before {
		require.FileExists(t, successor(crashed))
		require.Equal(t, []string{"a", "b"}, contents(t, crashed))
		require.NoFileExists(t, successor(crashed))
	}
	require.Equal(t, "ab", contents(t, after)[1])
}

func TestACompactionThatFailsLeavesTheLogAsItWas(t *testing.T) {
	path, _, _ := written(t, "a")
	l, _ := reopen(t, path, Options{})
	failed := errors.New("no")
	require.ErrorIs(t, l.Compact(func(func([]byte) error) error { return failed }), failed)
	require.NoError(t, os.Mkdir(successor(path), 0o700)) // it cannot be made
	require.Error(t, l.Compact(func(func([]byte) error) error { return nil }))
	require.NoError(t, os.Remove(successor(path)))
	require.NoError(t, l.Append(t.Context(), []byte("b")))
	require.NoError(t, l.Close())
	require.Equal(t, []string{"a", "b"}, contents(t, path))
}

func TestAppendersAndCompactionsAtOnceLoseNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _ := reopen(t, path, Options{Sync: NoSync})
	const writers, each = 8, 3000
	var latest, acked [writers]atomic.Int64 // what a snapshot tells; what a crash must not undo
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := int64(1); i <= each; i++ {
				p, err := l.Add(fmt.Appendf(nil, "%d=%d", w, i))
				latest[w].Store(i)
				if err := errors.Join(err, l.Wait(t.Context(), p)); err != nil {
					t.Error(err)
				}
				acked[w].Store(i)
			}
		})
	}
	for range 20 {
		require.NoError(t, l.Compact(func(add func([]byte) error) error {
			for w := range writers {
				if err := add(fmt.Appendf(nil, "%d=%d", w, latest[w].Load())); err != nil {
					return err
				}
			}
			return nil
		}))
		var least [writers]int64
		for w := range writers {
			least[w] = acked[w].Load()
		}
		for w, n := range lastOf(t, image(t, path)) {
			require.GreaterOrEqual(t, n, least[w])
		}
	}
	wg.Wait()
	require.NoError(t, l.Close())
	for _, n := range lastOf(t, path) {
		require.Equal(t, int64(each), n)
	}
}

// lastOf is the last number of each writer in a log.
func lastOf(t *testing.T, path string) (last [8]int64) {
	for _, r := range contents(t, path) {
		n, err := strconv.ParseInt(r[2:], 10, 64)
		require.NoError(t, err)
		last[r[0]-'0'] = n
	}
	return last
}
