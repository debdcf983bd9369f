package wal

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// reopen opens a log and returns what is in it.
func reopen(tb testing.TB, path string, o Options) (*Log, []string) {
	tb.Helper()
	var got []string
	l, err := Open(path, o, func(record []byte) error {
		got = append(got, string(record))
		return nil
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { l.Close() })
	return l, got
}

func contents(tb testing.TB, path string) []string {
	tb.Helper()
	l, got := reopen(tb, path, Options{})
	require.NoError(tb, l.Close())
	return got
}

// written makes a log of records that each have a frame, and returns the file
// and where the frames end.
func written(tb testing.TB, records ...string) (path string, file []byte, ends []int64) {
	path = filepath.Join(tb.TempDir(), "log")
	l, _ := reopen(tb, path, Options{})
	ends = []int64{l.Size()}
	for _, r := range records {
		require.NoError(tb, l.Append(tb.Context(), []byte(r)))
		ends = append(ends, l.Size())
	}
	require.NoError(tb, l.Close())
	file, err := os.ReadFile(path)
	require.NoError(tb, err)
	return path, file, ends
}

func nothing([]byte) error { return nil }

func TestRecordsComeBackInTheirOrder(t *testing.T) {
	path, file, ends := written(t, "one", "", "three")
	require.Equal(t, []string{"one", "", "three"}, contents(t, path))
	require.Equal(t, int64(len(file)), ends[3])
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestAFileCutAnywhereLosesOnlyTheTornRecord(t *testing.T) {
	records := []string{"first", strings.Repeat("second ", 100), "third"}
	path, file, ends := written(t, records...)
	for cut := range file {
		require.NoError(t, os.WriteFile(path, file[:cut], 0o600))
		if cut < headSize {
			_, err := Open(path, Options{}, nothing)
			var damage *CorruptError
			require.ErrorAs(t, err, &damage)
			continue
		}
		whole := 0
		for whole < len(records) && ends[whole+1] <= int64(cut) {
			whole++
		}
		l, got := reopen(t, path, Options{})
		require.Equal(t, records[:whole], append([]string{}, got...), "cut at %d", cut)
		require.NoError(t, l.Append(t.Context(), []byte("next")))
		require.NoError(t, l.Close())
		require.Equal(t, append(records[:whole:whole], "next"), contents(t, path), "cut at %d", cut)
	}
}

func TestAnyByteThatFlippedIsFoundWithItsFrame(t *testing.T) {
	path, file, ends := written(t, "first", strings.Repeat("second ", 100), "third")
	for at := range file {
		frame := int64(0)
		for _, end := range ends {
			if end <= int64(at) {
				frame = end
			}
		}
		for _, mask := range []byte{0xff, 1} {
			file[at] ^= mask
			require.NoError(t, os.WriteFile(path, file, 0o600))
			file[at] ^= mask
			_, err := Open(path, Options{}, nothing)
			var damage *CorruptError
			require.ErrorAs(t, err, &damage, "byte %d", at)
			require.Equal(t, frame, damage.Offset, "byte %d", at)
			require.Contains(t, err.Error(), path)
		}
	}
}

func TestASectorThatNeverReachedTheDiskIsATornEndUnlessMoreFollows(t *testing.T) {
	long := strings.Repeat("x", 3*sectorSize)
	hole := func(file []byte, from, to int64) []byte {
		file = bytes.Clone(file)
		clear(file[from:to])
		return file
	}
	path, file, ends := written(t, "first", long)
	for name, torn := range map[string][]byte{
		"the frame's beginning": hole(file, ends[1], sectorSize),
		"a sector of the body":  hole(file, sectorSize, 2*sectorSize),
		"the last sector":       hole(file, ends[2]/sectorSize*sectorSize, ends[2]),
		"all of it":             hole(file, ends[1], ends[2]),
	} {
		require.NoError(t, os.WriteFile(path, torn, 0o600))
		require.Equal(t, []string{"first"}, contents(t, path), name)
	}

	path, file, ends = written(t, "first", long, "third")
	for name, damaged := range map[string][]byte{
		"the frame's beginning": hole(file, ends[1], sectorSize),
		"a sector of the body":  hole(file, sectorSize, 2*sectorSize),
		"all of it":             hole(file, ends[1], ends[2]),
	} {
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		_, err := Open(path, Options{}, nothing)
		var damage *CorruptError
		require.ErrorAs(t, err, &damage, name)
	}
}

func TestARecordThatLooksLikeALogIsNotTakenForOneWhenItIsTorn(t *testing.T) {
	_, other, _ := written(t, "a", "b", "c")
	path, file, ends := written(t, "first", strings.Repeat("x", 600)+string(other))
	clear(file[ends[1]:sectorSize])
	require.NoError(t, os.WriteFile(path, file, 0o600))
	require.Equal(t, []string{"first"}, contents(t, path))
}

func TestAFileThatIsNoLogOrAnotherOneIsRefused(t *testing.T) {
	path, file, _ := written(t, "one")
	refused := func(file []byte, o Options, want string) {
		require.NoError(t, os.WriteFile(path, file, 0o600))
		_, err := Open(path, o, nothing)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
	refused(file, Options{Kind: "journal/1"}, `holds "", not "journal/1"`)
	refused([]byte(strings.Repeat("hello ", 20)), Options{}, "no log begins like this")
	refused(nil, Options{}, "ends within its header")

	next := header{salt: [8]byte{1}}.encode()
	next[8] = version + 1
	putSum(next)
	refused(next, Options{}, "has version 2, and this program knows 1")

	_, err := Open(t.TempDir(), Options{}, nothing)
	require.Error(t, err)
	_, err = Open(path, Options{Kind: strings.Repeat("k", 17)}, nothing)
	require.ErrorContains(t, err, "Options.Kind")
}

func TestAnErrorOfReplayEndsTheOpeningAndFreesTheFile(t *testing.T) {
	path, _, ends := written(t, "one", "two")
	_, err := Open(path, Options{}, func(r []byte) error {
		if string(r) == "two" {
			return fmt.Errorf("unheard of")
		}
		return nil
	})
	require.ErrorContains(t, err, fmt.Sprintf("%s: the frame at offset %d: unheard of", path, ends[1]))
	require.Len(t, contents(t, path), 2)
}

// hold keeps the log from writing until the returned function is called.
func hold(l *Log) (release func()) {
	l.mu.Lock()
	l.held = true
	l.mu.Unlock()
	return l.release
}

func TestRecordsThatComeDuringASyncShareTheNextOne(t *testing.T) {
	l, _ := reopen(t, filepath.Join(t.TempDir(), "log"), Options{})
	release := hold(l)
	var last Pos
	for range 64 {
		var err error
		last, err = l.Add([]byte("record"))
		require.NoError(t, err)
	}
	release()
	require.NoError(t, l.Wait(t.Context(), last))
	require.Equal(t, int64(headSize+frameSize+64*7), l.Size())
}

func TestManyAppendersAtOnceLoseNothing(t *testing.T) {
	for _, o := range []Options{{}, {Sync: NoSync}} {
		path := filepath.Join(t.TempDir(), "log")
		l, _ := reopen(t, path, o)
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := range 20 {
					if err := l.Append(t.Context(), fmt.Appendf(nil, "%d/%d", w, i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, l.Close())
		next := make(map[string]int)
		for _, r := range contents(t, path) {
			writer, n, _ := strings.Cut(r, "/")
			require.Equal(t, fmt.Sprint(next[writer]), n)
			next[writer]++
		}
		require.Len(t, next, 16)
		for _, n := range next {
			require.Equal(t, 20, n)
		}
	}
}

func TestAContextThatEndsDoesNotWaitForTheDiskAndTheRecordIsWrittenAllTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _ := reopen(t, path, Options{})
	release := hold(l)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.Append(ctx, []byte("one")), context.Canceled)
	release()
	require.NoError(t, l.Close())
	require.Equal(t, []string{"one"}, contents(t, path))
}

func TestADiskThatDoesNotAnswerDoesNotFillTheMemory(t *testing.T) {
	l, _ := reopen(t, filepath.Join(t.TempDir(), "log"), Options{Sync: NoSync})
	release := hold(l)
	big := make([]byte, maxBacklog/4)
	var err error
	for n := 0; err == nil; n++ {
		require.Less(t, n, 6)
		_, err = l.Add(big)
	}
	require.ErrorIs(t, err, ErrBacklog)
	release()
	require.NoError(t, l.Close())
	_, err = l.Add(make([]byte, MaxRecord+1))
	require.ErrorContains(t, err, "longer than")
}

// A device stands in for the file: it fails as the kernel says a disk does.
func broken(t *testing.T, l *Log, device string) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	sound := l.file
	l.file = f
	t.Cleanup(func() { sound.Close() })
}

func TestAnErrorOfTheDiskEndsTheLogForAll(t *testing.T) {
	for device, want := range map[string]error{
		"/dev/full": syscall.ENOSPC, // by write
		"/dev/null": syscall.EINVAL, // by fsync
	} {
		path := filepath.Join(t.TempDir(), "log")
		l, _ := reopen(t, path, Options{})
		require.NoError(t, l.Append(t.Context(), []byte("before")))
		sound := l.file
		broken(t, l, device)
		release := hold(l)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := l.Append(t.Context(), []byte("lost")); err == nil {
					t.Error("a record that is not on disk was acknowledged")
				}
			})
		}
		release()
		wg.Wait()
		require.ErrorIs(t, l.Append(t.Context(), []byte("x")), want)
		l.file = sound // it would work again, and nobody may rely on it
		require.ErrorIs(t, l.Append(t.Context(), []byte("after")), want)
		require.ErrorIs(t, l.Err(), want)
		require.NoError(t, l.Wait(t.Context(), 1), "what was durable stays so")
		require.ErrorIs(t, l.Close(), want)
		require.Equal(t, []string{"before"}, contents(t, path))
	}
}

func TestAClosedLogSaysSo(t *testing.T) {
	l, _ := reopen(t, filepath.Join(t.TempDir(), "log"), Options{})
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Append(t.Context(), nil), ErrClosed)
	require.ErrorIs(t, l.Compact(nil), ErrClosed)
	require.ErrorIs(t, l.Close(), ErrClosed)
}

func TestTheSecondOpenerIsToldWhichFileIsTaken(t *testing.T) {
	if path := os.Getenv("WAL_TEST_OPEN"); path != "" {
		_, err := Open(path, Options{}, nothing)
		fmt.Println("child:", err)
		return
	}
	path := filepath.Join(t.TempDir(), "log")
	l, _ := reopen(t, path, Options{})
	_, err := Open(path, Options{}, nothing)
	require.EqualError(t, err, "wal: lock "+path+": somebody else has it open")

	child := func() string {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "WAL_TEST_OPEN="+path)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Contains(t, child(), "child: wal: lock "+path+": somebody else has it open")
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	_, err = Open(link, Options{}, nothing)
	require.ErrorContains(t, err, path)
	require.NoError(t, l.Close())
	require.Contains(t, child(), "child: <nil>")
}

func BenchmarkAppend(b *testing.B) {
	for _, sync := range []bool{true, false} {
		for _, writers := range []int{1, 64, 128} {
			b.Run(fmt.Sprintf("sync=%t/writers=%d", sync, writers), func(b *testing.B) {
				o := Options{}
				if !sync {
					o.Sync = NoSync
				}
				l, _ := reopen(b, filepath.Join(b.TempDir(), "log"), o)
				record := make([]byte, 1024)
				b.SetBytes(1024)
				b.ReportAllocs()
				if writers == 1 {
					for b.Loop() {
						require.NoError(b, l.Append(b.Context(), record))
					}
					return
				}
				appendAll(b, l, record, writers)
			})
		}
	}
}
