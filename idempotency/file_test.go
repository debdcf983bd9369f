package idempotency

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-resilient/resilient/internal/wal"
)

func fileClaim(n, token byte) Claim {
	return Claim{ID: ID{n}, Fingerprint: Fingerprint{n}, Token: Token{token}, Lease: time.Minute, Keep: time.Hour}
}

var fileKeep = Keep{Result: 10 * time.Minute, Key: time.Hour}

func fileOpen(t *testing.T, path string) *File {
	t.Helper()
	f, err := OpenFile(path, FileConfig{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// fileCrash is what a kill leaves: a copy of the file as it is.
func fileCrash(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	next := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(next, b, 0o600))
	return next
}

func (f *File) mustClaim(t *testing.T, c Claim) Record {
	t.Helper()
	rec, claimed, err := f.Claim(t.Context(), c)
	require.NoError(t, err)
	require.True(t, claimed)
	return rec
}

func (f *File) state(t *testing.T, id ID) State {
	t.Helper()
	rec, err := f.Lookup(t.Context(), id)
	require.NoError(t, err)
	return rec.State
}

func TestAKeyWhoseProcessDiedIsUnknownAtOnceAndNotRunAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	f := fileOpen(t, path)
	c := fileClaim(1, 1)
	fence := f.mustClaim(t, c).Fence

	for range 2 {
		path = fileCrash(t, path)
		f = fileOpen(t, path)
		require.Equal(t, Unknown, f.state(t, c.ID))
		_, claimed, err := f.Claim(t.Context(), fileClaim(1, 2))
		require.NoError(t, err)
		require.False(t, claimed)
	}
	next := fileClaim(1, 3)
	next.TakeOver = true
	rec := f.mustClaim(t, next)
	require.True(t, rec.TakenOver)
	require.Greater(t, rec.Fence, fence)
	require.ErrorIs(t, f.Complete(t.Context(), c.Holder(), nil, fileKeep), ErrLost)
}

func TestWhatAHolderOfADeadProcessFindsOutIsStillTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	f := fileOpen(t, path)
	c := fileClaim(1, 1)
	f.mustClaim(t, c)
	f = fileOpen(t, fileCrash(t, path))
	require.NoError(t, f.Complete(t.Context(), c.Holder(), []byte("done"), fileKeep))
	rec, err := f.Lookup(t.Context(), c.ID)
	require.NoError(t, err)
	require.Equal(t, "done", string(rec.Result))
}

func TestAClockSetBackRevivesNothingAndProlongsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	outer := t // its directories outlive a bubble
	completed := func(t *testing.T, f *File, n byte, keep Keep) {
		c := fileClaim(n, n)
		f.mustClaim(t, c)
		require.NoError(t, f.Complete(t.Context(), c.Holder(), []byte{}, keep))
	}
	synctest.Test(t, func(t *testing.T) { // from midnight on
		f := fileOpen(t, path)
		completed(t, f, 1, Keep{Result: time.Minute, Key: time.Hour})
		completed(t, f, 2, Keep{Result: time.Minute, Key: time.Hour})
		completed(t, f, 3, Keep{Result: time.Minute, Key: time.Minute})
		completed(t, f, 4, Keep{Result: 2 * time.Hour, Key: 2 * time.Hour})
		time.Sleep(30 * time.Minute)
		require.Equal(t, Expired, f.state(t, ID{1})) // and now nobody may see its result
		path = fileCrash(outer, path)
		_, claimed, err := f.Claim(t.Context(), fileClaim(4, 9)) // sweeps the third
		require.NoError(t, err)
		require.False(t, claimed)
		require.Len(t, f.table.records, 3)
		require.Equal(t, Absent, f.state(t, ID{3}))
	})
	synctest.Test(t, func(t *testing.T) { // midnight again
		f := fileOpen(t, path)
		require.Equal(t, Expired, f.state(t, ID{1}))
		require.Equal(t, Expired, f.state(t, ID{2}))
		require.Equal(t, Absent, f.state(t, ID{3}))
		require.Equal(t, Completed, f.state(t, ID{4}))
		time.Sleep(time.Hour + 30*time.Minute - 1) // two hours in all
		require.Equal(t, Completed, f.state(t, ID{4}))
		require.Equal(t, Absent, f.state(t, ID{1}))
		time.Sleep(time.Nanosecond)
		require.Equal(t, Absent, f.state(t, ID{4}))
	})
}

func TestWhatARefusedClaimSweptAwayDoesNotComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	outer := t
	synctest.Test(t, func(t *testing.T) {
		f := fileOpen(t, path)
		c := fileClaim(1, 1)
		f.mustClaim(t, c)
		require.NoError(t, f.Complete(t.Context(), c.Holder(), nil, Keep{Key: time.Minute}))
		running := fileClaim(2, 2)
		running.Lease = time.Hour
		f.mustClaim(t, running)
		time.Sleep(2 * time.Minute)
		_, claimed, err := f.Claim(t.Context(), fileClaim(2, 3))
		require.NoError(t, err)
		require.False(t, claimed)
		require.Len(t, f.table.records, 1)
		require.Equal(t, Absent, f.state(t, ID{1}))
		path = fileCrash(outer, path)
	})
	synctest.Test(t, func(t *testing.T) {
		require.Equal(t, Absent, fileOpen(t, path).state(t, ID{1}))
	})
}

// A gate is a disk whose syncs wait to be let through, or fail.
type gate struct {
	mu    sync.Mutex
	shut  chan struct{}
	syncs int
	err   error
}

func (g *gate) sync(*os.File) error {
	g.mu.Lock()
	shut := g.shut
	g.syncs++
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// close shuts the gate until open is called.
func (g *gate) close() (open func(err error)) {
	shut := make(chan struct{})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	return func(err error) {
		g.mu.Lock()
		g.shut, g.err = nil, err
		g.mu.Unlock()
		close(shut)
	}
}

func fileOpenGated(t *testing.T, path string) (*File, *gate) {
	g := new(gate)
	f, err := loadFile(path, FileConfig{}, wal.Options{Kind: fileKind, Sync: g.sync})
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f, g
}

func TestNobodyLearnsOfAStateThatACrashCouldUndo(t *testing.T) {
	c := fileClaim(1, 1)
	complete := func(ctx context.Context, f *File) error {
		return f.Complete(ctx, c.Holder(), []byte("done"), fileKeep)
	}
	readers := map[string]func(ctx context.Context, f *File) error{
		"a lookup": func(ctx context.Context, f *File) error {
			_, err := f.Lookup(ctx, c.ID)
			return err
		},
		"a claim that is refused": func(ctx context.Context, f *File) error {
			_, _, err := f.Claim(ctx, fileClaim(1, 2))
			return err
		},
		"a holder that is refused": func(ctx context.Context, f *File) error {
			return f.Release(ctx, c.Holder())
		},
		"a completion repeated": complete,
	}
	for name, read := range readers {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys")
			synctest.Test(t, func(t *testing.T) {
				f, g := fileOpenGated(t, path)
				f.mustClaim(t, c)
				f.mustClaim(t, fileClaim(2, 2))
				open := g.close()
				go complete(t.Context(), f)
				synctest.Wait()

				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				require.ErrorIs(t, read(ctx, f), context.DeadlineExceeded)
				require.Equal(t, time.Second, time.Since(start))
				require.NotEqual(t, Absent, f.state(t, ID{2}), "other keys are not held up")
				require.Equal(t, time.Second, time.Since(start))

				open(nil)
				err := read(t.Context(), f)
				require.True(t, err == nil || errors.Is(err, ErrLost), "%v", err)
			})
		})
	}
}

func TestClaimsThatComeTogetherShareASync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	synctest.Test(t, func(t *testing.T) {
		f, g := fileOpenGated(t, path)
		open := g.close()
		before := g.syncs
		for n := range byte(100) {
			go func() {
				if _, claimed, err := f.Claim(t.Context(), fileClaim(n, n)); err != nil || !claimed {
					t.Error(claimed, err)
				}
			}()
		}
		synctest.Wait()
		open(nil)
		synctest.Wait()
		require.LessOrEqual(t, g.syncs-before, 2, "one for those who came first, one for all others")
		require.Positive(t, g.syncs-before)
	})
}

func TestAContextThatEndsLeavesItOpenAndTheRepetitionSucceeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	synctest.Test(t, func(t *testing.T) {
		f, g := fileOpenGated(t, path)
		open := g.close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := fileClaim(1, 1)
		_, claimed, err := f.Claim(ctx, c)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.False(t, claimed)
		open(nil)
		require.Equal(t, uint64(1), f.mustClaim(t, c).Fence)

		_, _, err = f.Claim(ctx, fileClaim(2, 2))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, Absent, f.state(t, ID{2}), "a context that has ended before claims nothing")
	})
}

func TestAnErrorOfTheDiskIsWhatEveryMethodReturnsFromThenOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	f, g := fileOpenGated(t, path)
	settled, c := fileClaim(1, 1), fileClaim(2, 2)
	f.mustClaim(t, settled)
	require.NoError(t, f.Complete(t.Context(), settled.Holder(), []byte("done"), fileKeep))
	f.mustClaim(t, c)
	g.close()(syscall.EIO)
	require.ErrorIs(t, f.Complete(t.Context(), c.Holder(), []byte("lost"), fileKeep), syscall.EIO)
	g.close()(nil) // it would work again

	ctx := t.Context()
	_, _, claim := f.Claim(ctx, fileClaim(3, 3))
	_, lookup := f.Lookup(ctx, settled.ID)
	for method, err := range map[string]error{
		"Claim": claim, "Lookup": lookup,
		"Renew":    f.Renew(ctx, c.Holder(), time.Minute, time.Hour),
		"Complete": f.Complete(ctx, settled.Holder(), nil, fileKeep),
		"Release":  f.Release(ctx, c.Holder()),
		"Abandon":  f.Abandon(ctx, c.Holder(), time.Hour),
		"Close":    f.Close(),
	} {
		require.ErrorIs(t, err, syscall.EIO, method)
		require.ErrorContains(t, err, "idempotency: ", method)
	}
	f = fileOpen(t, path)
	require.Equal(t, Completed, f.state(t, settled.ID))
}

func TestAFullFileRefusesNewKeysAndKeepsWhatHasBegun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenFile(path, FileConfig{MaxRecords: 2, MaxBytes: 100, NoSync: true})
		require.NoError(t, err)
		defer f.Close()
		one, two := fileClaim(1, 1), fileClaim(2, 2)
		f.mustClaim(t, one)
		f.mustClaim(t, two)
		_, claimed, err := f.Claim(t.Context(), fileClaim(3, 3))
		require.ErrorIs(t, err, ErrFull)
		require.False(t, claimed)
		require.NoError(t, f.Complete(t.Context(), one.Holder(), make([]byte, 200), fileKeep))
		require.NoError(t, f.Release(t.Context(), two.Holder()))
		_, _, err = f.Claim(t.Context(), two)
		require.ErrorIs(t, err, ErrFull, "200 bytes of 100")
		time.Sleep(fileKeep.Result)
		f.mustClaim(t, two)
	})
}

func TestAFileIsNotFullOfWhatIsDue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenFile(path, FileConfig{MaxBytes: 100, NoSync: true})
		require.NoError(t, err)
		defer f.Close()
		for n := range byte(10) { // a claim alone sweeps four
			c := fileClaim(n, n)
			f.mustClaim(t, c)
			result := make([]byte, 1+int(n)/9*100) // the last makes it full
			require.NoError(t, f.Complete(t.Context(), c.Holder(), result, Keep{Result: time.Duration(n+1) * time.Minute, Key: time.Hour}))
		}
		time.Sleep(10 * time.Minute)
		f.mustClaim(t, fileClaim(99, 99))
	})
}

func TestAFileDoesNotGrowByWhatIsPast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	f := fileOpen(t, path)
	f.enough = 1 << 12
	kept := fileClaim(1, 1)
	f.mustClaim(t, kept)
	require.NoError(t, f.Complete(t.Context(), kept.Holder(), []byte("kept"), fileKeep))
	result := bytes.Repeat([]byte("x"), 1<<10)
	for range 2000 {
		c := fileClaim(2, 2)
		f.mustClaim(t, c)
		require.NoError(t, f.Renew(t.Context(), c.Holder(), time.Minute, time.Hour))
		require.NoError(t, f.Release(t.Context(), c.Holder()))
	}
	f.work.Wait()
	f.mustClaim(t, fileClaim(2, 2)) // what came during the last compaction is past too
	f.work.Wait()
	require.NoError(t, f.failed)
	require.Less(t, f.log.Size(), int64(f.enough+3*filePut))

	last := fileClaim(3, 3)
	fence := f.mustClaim(t, last).Fence
	require.NoError(t, f.Complete(t.Context(), last.Holder(), result, fileKeep))
	require.NoError(t, f.Close())
	f = fileOpen(t, path)
	for id, want := range map[ID]string{kept.ID: "kept", last.ID: string(result)} {
		rec, err := f.Lookup(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, string(rec.Result))
	}
	require.Greater(t, f.mustClaim(t, fileClaim(4, 4)).Fence, fence)
}

func TestCompactionsThatFailAreToldAtTheEndAndHurtNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	f := fileOpen(t, path)
	f.enough = 1 << 10
	require.NoError(t, os.Mkdir(path+".new", 0o700))
	for n := range byte(50) {
		c := fileClaim(n, n)
		f.mustClaim(t, c)
		require.NoError(t, f.Release(t.Context(), c.Holder()))
	}
	f.work.Wait()
	require.Error(t, f.failed)
	require.Greater(t, f.again, f.log.Size(), "the disk may be full")
	f.mustClaim(t, fileClaim(1, 1))
	require.ErrorContains(t, f.Close(), path+".new")
}

func TestAFileThatCannotBeOpenedSaysWhichAndWhy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	for field, c := range map[string]FileConfig{"MaxRecords": {MaxRecords: -1}, "MaxBytes": {MaxBytes: -1}} {
		_, err := OpenFile(path, c)
		require.EqualError(t, err, "idempotency: FileConfig."+field+": -1 is negative")
	}
	f := fileOpen(t, path)
	_, err := OpenFile(path, FileConfig{})
	require.ErrorContains(t, err, path)
	require.NoError(t, f.Close())
	_, _, err = f.Claim(t.Context(), fileClaim(1, 1))
	require.ErrorIs(t, err, wal.ErrClosed)

	unknown := func(record string, kind string) {
		path := filepath.Join(t.TempDir(), "keys")
		l, err := wal.Open(path, wal.Options{Kind: kind}, nil)
		require.NoError(t, err)
		require.NoError(t, l.Append(t.Context(), []byte(record)))
		require.NoError(t, l.Close())
		_, err = OpenFile(path, FileConfig{})
		require.ErrorContains(t, err, path)
	}
	unknown("", "idempotency/2")
	unknown("", fileKind)
	unknown("\x03"+strings.Repeat("x", 300), fileKind)
	unknown("\x01"+strings.Repeat("x", 20), fileKind)
	unknown("\x02"+strings.Repeat("\xff", 300), fileKind)
}

func TestOnlyTheRecentPositionsOfKeysAreRemembered(t *testing.T) {
	var p positions
	for n := range 2_000 {
		p.put(ID{byte(n), byte(n >> 8)}, wal.Pos(n+1), wal.Pos(max(0, n-50)))
		require.Less(t, len(p.young)+len(p.old), 300)
		for back := range min(n, 50) {
			m := n - back
			require.Equal(t, wal.Pos(m+1), p.of(ID{byte(m), byte(m >> 8)}))
		}
	}
}

func FuzzFileRecord(f *testing.F) {
	full := change{op: put, at: 7, id: ID{1}, run: run{completed: true, takenOver: true, fence: 9, result: []byte("x")}}
	for _, ch := range []change{{at: 5}, {op: forget, id: ID{2}}, full} {
		f.Add(ch.appendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ch, err := readChange(b)
		if err == nil && !bytes.Equal(b, ch.appendTo(nil)) {
			t.Fatalf("%x is read as %+v, which is written as %x", b, ch, ch.appendTo(nil))
		}
	})
}
