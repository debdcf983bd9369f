package resilient_test

// Traps that retry libraries have fallen into, each with the test that shows it.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// Trap 1: the method is read from the response, and there is none.
func TestAnUnsafeRequestWithoutAnAnswerIsNotSentTwice(t *testing.T) {
	reset := func(w http.ResponseWriter, _ *http.Request) { kill(w, true) }
	for name, fail := range map[string]http.HandlerFunc{
		"reset once it is read":           reset,
		"end of file once it is executed": func(w http.ResponseWriter, _ *http.Request) { kill(w, false) },
		"a time-out of the attempt":       hang,
		"the caller gives up":             hang,
	} {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			t.Run(name+", "+method, func(t *testing.T) {
				overEach(t, func(t *testing.T, protocol string) {
					var executed atomic.Int32
					s := newSite(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						_, _ = io.Copy(io.Discard, r.Body)
						executed.Add(1)
						fail(w, r)
					}))
					limit := 10 * time.Second
					if strings.HasPrefix(name, "the caller") {
						limit = 100 * time.Millisecond
					}
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					client := newClient(t, s.base, func(c *resilient.Config) { c.AttemptTimeout = time.Second })
					got := do(t, client, s.request(ctx, t, method, strings.NewReader("amount=1")))
					require.Error(t, got.err)
					require.Equal(t, resilient.Unknown, got.outcome)
					require.Equal(t, 1, got.attempts)
					require.EqualValues(t, 1, executed.Load())
				})
			})
		}
	}
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler) // an answer might still be read
}

// kill ends the connection, or the stream, under w.
func kill(w http.ResponseWriter, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2
	}
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok && reset {
		conn = secure.NetConn()
	}
	if c, ok := conn.(interface{ SetLinger(int) error }); ok && reset {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}

// Trap 2: the winner's context is cancelled before its body is read. Small
// bodies pass with the bug.
func TestAnAttemptTimeoutCutsNoBodyThatFlows(t *testing.T) {
	const size = 512 << 10
	overEach(t, func(t *testing.T, protocol string) {
		var calls atomic.Int32
		s := newSite(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if calls.Add(1) == 1 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(3 * time.Second)
			_, _ = w.Write(make([]byte, size))
		}))
		var last context.Context
		client := newClient(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			last = req.Context()
			return s.base.RoundTrip(req)
		}), func(c *resilient.Config) { c.AttemptTimeout = time.Second })
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			resp, err := client.Do(s.request(t.Context(), t, method, nil))
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			all, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Len(t, all, size)
			require.NoError(t, resp.Body.Close())
			require.Error(t, last.Err(), "or the attempt's context is never let go")
		}
		require.EqualValues(t, 3, calls.Load())
	})
}

// Trap 3: the attempt's own deadline is taken for the caller's, or his for it.
func TestOnlyTheCallerCanCancelAnOperation(t *testing.T) {
	hangOnce := func(calls *atomic.Int32) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1) == 1 {
				hang(w, r)
			}
		})
	}
	t.Run("a hanging attempt is followed by another", func(t *testing.T) {
		overEach(t, func(t *testing.T, protocol string) {
			var calls atomic.Int32
			s := newSite(t, protocol, hangOnce(&calls))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			got := do(t, newClient(t, s.base, func(c *resilient.Config) { c.AttemptTimeout = 50 * time.Millisecond }), s.request(ctx, t, http.MethodGet, nil))
			require.Equal(t, 200, got.status)
			require.Equal(t, 2, got.attempts)
			require.ErrorIs(t, got.record.Attempts[0].Err, context.DeadlineExceeded)
		})
	})
	t.Run("a caller who leaves ends it, and nobody pays", func(t *testing.T) {
		overEach(t, func(t *testing.T, protocol string) {
			var hanging atomic.Bool
			s := newSite(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if hanging.Load() {
					hang(w, r)
				}
				w.WriteHeader(http.StatusServiceUnavailable)
			}))
			client := newClient(t, s.base, func(c *resilient.Config) { c.FailFast = true })
			hanging.Store(true)
			for range 100 {
				ctx, cancel := context.WithCancel(t.Context())
				go func() { synctest.Wait(); cancel() }()
				got := do(t, client, s.request(ctx, t, http.MethodGet, nil))
				require.ErrorIs(t, got.err, context.Canceled, "%+v", got)
				require.Equal(t, 1, got.attempts)
			}
			hanging.Store(false)
			require.Equal(t, 4, do(t, client, s.request(t.Context(), t, http.MethodGet, nil)).attempts, "the breaker is closed")
			require.Equal(t, 4, do(t, client, s.request(t.Context(), t, http.MethodGet, nil)).attempts, "the budget is full")
		})
	})
	t.Run("http.Client.Timeout is the caller", func(t *testing.T) {
		overEach(t, func(t *testing.T, protocol string) {
			var calls atomic.Int32
			s := newSite(t, protocol, hangOnce(&calls))
			client := newClient(t, s.base)
			client.Timeout = 2 * time.Second
			_, err := client.Do(s.request(t.Context(), t, http.MethodGet, nil))
			timeout, ok := errors.AsType[net.Error](err)
			require.True(t, ok && timeout.Timeout(), "%v", err)
			require.EqualValues(t, 1, calls.Load())
		})
	})
}

// Trap 4: a consumed body is sent again as an empty one.
func TestEveryAttemptSendsTheSameBytesOrThereIsOnlyOne(t *testing.T) {
	const size = 48 << 10
	body := content(size)
	bodies := map[string]func(*testing.T) io.Reader{
		"nil":                  func(*testing.T) io.Reader { return nil },
		"NoBody":               func(*testing.T) io.Reader { return http.NoBody },
		"bytes.Reader":         func(*testing.T) io.Reader { return bytes.NewReader(body) },
		"os.File":              func(t *testing.T) io.Reader { return openFile(t, body) },
		"bufio.Reader":         func(*testing.T) io.Reader { return bufio.NewReader(bytes.NewReader(body)) },
		"pipe":                 func(*testing.T) io.Reader { return piped(func(w io.Writer) { _, _ = w.Write(body) }) },
		"multipart":            func(*testing.T) io.Reader { return piped(writeForm) },
		"above MaxReplayBytes": func(*testing.T) io.Reader { return struct{ io.Reader }{bytes.NewReader(content(2 * size))} },
	}
	for name, open := range bodies {
		for _, limit := range []time.Duration{0, time.Second} {
			for _, status := range []int{http.StatusServiceUnavailable, http.StatusTeapot} {
				t.Run(fmt.Sprintf("%s, AttemptTimeout %v, status %d", name, limit, status), func(t *testing.T) {
					overEach(t, func(t *testing.T, protocol string) { sameBytes(t, protocol, open(t), limit, status, name) })
				})
			}
		}
	}
}

func sameBytes(t *testing.T, protocol string, body io.Reader, limit time.Duration, status int, name string) {
	var sums []string // of each request: length announced, and what came
	s := newSite(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		_, err := io.Copy(h, r.Body)
		sums = append(sums, fmt.Sprintf("%d %x %v", r.ContentLength, h.Sum(nil), err))
		if len(sums) == 1 {
			w.WriteHeader(status)
		}
	}))
	got := do(t, newClient(t, s.base, func(c *resilient.Config) {
		c.AttemptTimeout, c.MaxReplayBytes = limit, 64<<10
		c.Classify = func(_ *http.Request, resp *http.Response, _ error, v resilient.Verdict) resilient.Verdict {
			if resp != nil && resp.StatusCode == http.StatusTeapot {
				return resilient.Transient
			}
			return v
		}
	}), s.request(t.Context(), t, http.MethodPut, body))
	if name == "above MaxReplayBytes" {
		require.Equal(t, status, got.status, "the first answer")
		require.ErrorIs(t, got.stop, resilient.ErrBody)
		require.Len(t, sums, 1)
		return
	}
	require.Equal(t, 200, got.status)
	require.Len(t, sums, 2)
	require.Equal(t, sums[0], sums[1])
	require.True(t, strings.HasSuffix(sums[0], "<nil>"))
}

// piped is a body that somebody writes while it is read.
func piped(write func(io.Writer)) io.Reader {
	r, w := io.Pipe()
	go func() {
		write(w)
		_ = w.Close()
	}()
	return r
}

func writeForm(w io.Writer) {
	form := multipart.NewWriter(w)
	part, _ := form.CreateFormFile("photo", "a.jpg")
	_, _ = part.Write(content(40 << 10))
	_ = form.Close()
}

// Trap 5: a reader is shared with an attempt that is still writing.
func TestNoTwoAttemptsReadOneBody(t *testing.T) {
	const size, operations = 8 << 20, 100
	overEach(t, func(t *testing.T, protocol string) {
		s := newSite(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<10)
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		client := newClient(t, s.base, func(c *resilient.Config) { c.NoBudget, c.NoBreaker = true, true })
		var wrong atomic.Int32
		var all sync.WaitGroup
		for range operations {
			all.Go(func() {
				req := s.request(t.Context(), t, http.MethodPut, &lent{left: size, wrong: &wrong})
				req.ContentLength = size
				req.GetBody = func() (io.ReadCloser, error) { return &lent{left: size, wrong: &wrong}, nil }
				resp, err := client.Do(req)
				if err != nil {
					return // the answer was lost behind the upload, as TCP may lose it
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			})
		}
		all.Wait()
		require.Zero(t, wrong.Load(), "a Read after Close, or two Reads at once")
	})
}

// lent is a body whose buffer goes back to its owner with Close.
type lent struct {
	left   int
	busy   atomic.Bool
	closed atomic.Bool
	late   atomic.Int32 // Reads after Close: one may have been on its way when Close came
	plain  int          // written by Read without a lock, for the race detector
	wrong  *atomic.Int32
}

func (l *lent) Read(p []byte) (int, error) {
	switch {
	case l.closed.Load():
		if l.late.Add(1) > 1 {
			l.wrong.Add(1)
		}
		return 0, io.ErrClosedPipe
	case !l.busy.CompareAndSwap(false, true):
		l.wrong.Add(1)
		return 0, io.ErrClosedPipe
	}
	defer l.busy.Store(false)
	if l.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), l.left)
	l.left -= n
	l.plain++
	return n, nil
}

func (l *lent) Close() error {
	if l.closed.Swap(true) {
		l.wrong.Add(1)
	}
	return nil
}

// Trap 6: the arithmetic of Retry-After.
func TestNobodyComesBackEarlierThanAsked(t *testing.T) {
	const forever = 1 << 62
	for _, tt := range []struct {
		header []string
		asked  time.Duration
	}{
		{[]string{"Retry-After: -5"}, 0},
		{[]string{"Retry-After: 0"}, 0},
		{[]string{"Retry-After: 1.5"}, 0}, // no number of RFC 9110, section 10.2.3, and no harm in 1.5 s
		{[]string{"Retry-After: 20"}, 20 * time.Second},
		{[]string{"Retry-After: 60"}, time.Minute},
		{[]string{"Retry-After: 61"}, 61 * time.Second},
		{[]string{"Retry-After: 9223372037"}, forever},
		{[]string{"Retry-After: 18446744074"}, forever},
		{[]string{"Retry-After: 18446744073709551616"}, forever},
		{[]string{"Retry-After: 18446744073709551616x"}, 0},
		{[]string{"Retry-After: Fri, 31 Dec 1999 23:59:00 GMT"}, 0},
		{[]string{"Retry-After: Sat, 01 Jan 2000 00:00:30 GMT"}, 30 * time.Second},
		{[]string{"Retry-After: Saturday, 01-Jan-00 00:00:30 GMT"}, 30 * time.Second},
		{[]string{"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"}, forever},
		{[]string{"Retry-After: 5", "Retry-After: 25"}, 25 * time.Second},
		{[]string{"Retry-After: 3", "Retry-After-Ms: 40"}, 3 * time.Second},
	} {
		t.Run(strings.Join(tt.header, ", "), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				got := do(t, newClient(t, script(faultinject.Respond(503, tt.header...)), func(c *resilient.Config) { c.CountReplays = true }), newRequest(t, http.MethodGet, ""))
				took := time.Since(start)
				if tt.asked > time.Minute {
					require.Equal(t, 503, got.status)
					require.ErrorIs(t, got.stop, resilient.ErrNoTime)
					require.Zero(t, took, "no wait, if it is in vain")
					require.False(t, got.record.NotBefore.Before(start.Add(61*time.Second)))
					return
				}
				require.Equal(t, 200, got.status)
				require.GreaterOrEqual(t, took, tt.asked)
				require.LessOrEqual(t, took, tt.asked+tt.asked/10+200*time.Millisecond)
			})
		})
	}
}
