package idempotency

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const fileVictim = "IDEMPOTENCY_TEST_FILE" // of the child, which is killed

// TestAKillAtAnyInstantLosesNothingThatWasAcknowledged kills the process that
// writes a file, thirty times. The process tells of each thing done after the
// store has told it, so that whatever arrives here must be in the file.
func TestAKillAtAnyInstantLosesNothingThatWasAcknowledged(t *testing.T) {
	if path := os.Getenv(fileVictim); path != "" {
		fileLiveUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "keys")
	told := make(map[string][]string) // what each key's process told of it last
	fences := make(map[string]bool)
	newest := uint64(0)
	for life := range 30 {
		before := newest
		for _, line := range fileKill(t, path, life, rand.IntN(400)) {
			words := strings.Fields(line)
			if len(words) != 3 || words[0] == "error" {
				t.Fatal(line)
			}
			told[words[1]] = words
			if words[0] == "claimed" {
				var fence uint64
				_, err := fmt.Sscan(words[2], &fence)
				require.NoError(t, err)
				require.False(t, fences[words[2]], "fence %d twice", fence)
				require.Greater(t, fence, before, "a fence of an earlier life")
				fences[words[2]], newest = true, max(newest, fence)
			}
		}
		fileCheckTold(t, path, told)
	}
	require.NotEmpty(t, fences)
}

// fileKill lets a process live until it has told of so many things, and returns
// all that it told.
func fileKill(t *testing.T, path string, life, things int) (lines []string) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), fileVictim+"="+path, fmt.Sprintf("LIFE=%d", life))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for in := bufio.NewScanner(out); in.Scan(); {
		lines = append(lines, in.Text())
		if len(lines) == things+1 {
			require.NoError(t, cmd.Process.Kill())
		}
	}
	require.Error(t, cmd.Wait(), "it ended by itself: %s", lines)
	return lines
}

func fileCheckTold(t *testing.T, path string, told map[string][]string) {
	f, err := OpenFile(path, FileConfig{})
	require.NoError(t, err)
	defer f.Close()
	may := map[string][]State{
		"claimed":   {Unknown, Completed, Absent}, // what came next was not told of
		"completed": {Completed},
		"released":  {Absent},
		"abandoned": {Unknown},
	}
	for key, words := range told {
		rec, err := f.Lookup(t.Context(), fileKey(key).ID)
		require.NoError(t, err)
		require.Contains(t, may[words[0]], rec.State, words)
		if rec.State == Completed {
			require.Equal(t, fileResultOf(key), string(rec.Result))
		}
	}
}

func fileKey(key string) Claim {
	c := fileClaim(0, 0)
	copy(c.ID[:], key)
	copy(c.Token[:], key)
	return c
}

func fileResultOf(key string) string { return strings.Repeat(key+" ", 50) }

func fileLiveUntilKilled(t *testing.T, path string) {
	f, err := OpenFile(path, FileConfig{})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	f.enough = 1 << 14 // killed in compactions too
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				if err := fileLive(t.Context(), f, fmt.Sprintf("%s/%d/%d", os.Getenv("LIFE"), worker, n), n); err != nil {
					fmt.Println("error", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// fileLive does one thing to one key and tells each step once it is done.
func fileLive(ctx context.Context, f *File, key string, n int) error {
	c := fileKey(key)
	rec, claimed, err := f.Claim(ctx, c)
	if err != nil || !claimed {
		return fmt.Errorf("claimed %t: %w", claimed, err)
	}
	fmt.Println("claimed", key, rec.Fence)
	what := "completed"
	switch n % 4 {
	case 0, 1:
		what, err = "released", f.Release(ctx, c.Holder())
	case 2:
		err = f.Complete(ctx, c.Holder(), []byte(fileResultOf(key)), fileKeep)
	case 3:
		what, err = "abandoned", f.Abandon(ctx, c.Holder(), c.Keep)
	}
	if err == nil {
		fmt.Println(what, key, "x")
	}
	return err
}
