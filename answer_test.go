package resilient

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func newAnswer(body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: 503, ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1, Body: body}
}

// slow is a body that brings one byte at a time, each after a pause, until it
// is closed.
type slow struct {
	left   int
	pause  time.Duration
	closed chan struct{}
	closes atomic.Int32
}

func newSlow(n int, pause time.Duration) *slow {
	return &slow{left: n, pause: pause, closed: make(chan struct{})}
}

func (s *slow) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(s.pause):
		s.left--
		p[0] = 'x'
		return 1, nil
	case <-s.closed:
		return 0, net.ErrClosed
	}
}

func (s *slow) Close() error {
	if s.closes.Add(1) == 1 {
		close(s.closed)
	}
	return nil
}

func TestAnAttemptEndsOnceWithTheEndOfItsAnswer(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, body io.ReadCloser, ended *int){
		"EOF": func(t *testing.T, body io.ReadCloser, ended *int) {
			_, err := io.ReadFull(body, make([]byte, 3))
			require.NoError(t, err)
			require.Zero(t, *ended, "the end has not been seen")
			_, err = body.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		},
		"Close": func(t *testing.T, body io.ReadCloser, ended *int) {
			_, err := body.Read(make([]byte, 1))
			require.NoError(t, err)
			require.Zero(t, *ended)
			require.NoError(t, body.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ended int
			c := &closing{Reader: strings.NewReader("abc")}
			resp := newAnswer(c)
			watch(resp, func() { ended++ }, 0, nil)
			use(t, resp.Body, &ended)
			require.Equal(t, 1, ended)
			resp.Body.Close()
			_, _ = resp.Body.Read(make([]byte, 1))
			require.Equal(t, 1, ended)
			require.NotZero(t, c.closes.Load())
		})
	}
	t.Run("a failed Read", func(t *testing.T) {
		var ended int
		resp := newAnswer(io.NopCloser(iotest.ErrReader(errCaller)))
		watch(resp, func() { ended++ }, 0, nil)
		_, err := resp.Body.Read(nil)
		require.Equal(t, errCaller, err)
		require.Equal(t, 1, ended)
	})
	t.Run("an answer without a body ends it at once", func(t *testing.T) {
		for _, body := range []io.ReadCloser{nil, http.NoBody} {
			var ended int
			resp := newAnswer(body)
			watch(resp, func() { ended++ }, time.Second, nil)
			require.Equal(t, 1, ended)
			require.True(t, resp.Body == body)
		}
	})
}

func TestABodyThatStallsFailsAsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(3, 9*time.Second)
		resp := newAnswer(s)
		watch(resp, func() {}, 10*time.Second, func() { s.Close() })
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err, "a byte every 9 s is no stall of 10 s")
		require.Equal(t, "xxx", string(got))

		s = newSlow(3, 11*time.Second)
		resp = newAnswer(s)
		var stalls int
		watch(resp, func() {}, 10*time.Second, func() { stalls++; s.Close() })
		start := time.Now()
		for range 2 {
			_, err = resp.Body.Read(make([]byte, 1))
			require.Equal(t, ErrStalled, err)
			var timeout interface{ Timeout() bool }
			require.ErrorAs(t, err, &timeout)
			require.True(t, timeout.Timeout())
		}
		require.Equal(t, 10*time.Second, time.Since(start))
		require.Equal(t, 1, stalls)
	})
}

func TestABodyThatEndsJustInTimeIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		resp := newAnswer(r)
		watch(resp, func() {}, time.Second, func() { w.Close() }) // the end comes with the time-out
		_, err := resp.Body.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	})
}

func TestASlowCallerIsNotAStalledServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp := newAnswer(newSlow(3, time.Second))
		watch(resp, func() {}, 2*time.Second, func() { t.Error("stalled") })
		for range 3 {
			_, err := resp.Body.Read(make([]byte, 1))
			require.NoError(t, err)
			time.Sleep(time.Hour)
		}
	})
}

func TestAGigabyteFlowsThroughInConstantMemory(t *testing.T) {
	const size = 1 << 30
	resp := newAnswer(io.NopCloser(io.LimitReader(endless{}, size)))
	watch(resp, func() {}, time.Hour, func() {})
	buf := make([]byte, 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10))
}

// exchange sends a GET under an attempt's context, watches the answer and
// reports whether its connection had been used before.
func exchange(t *testing.T, c *http.Client, url string) (resp *http.Response, end func(), reused bool) {
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
	}), "GET", url, nil)
	require.NoError(t, err)
	resp, err = c.Transport.RoundTrip(req)
	require.NoError(t, err)
	watch(resp, cancel, 0, nil)
	return resp, cancel, reused
}

func serve(t *testing.T, h2 bool, handler http.HandlerFunc) *httptest.Server {
	srv := httptest.NewUnstartedServer(handler)
	srv.EnableHTTP2 = h2
	if h2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

func TestTheConnectionOfADiscardedAnswerIsUsedAgain(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, size := range []int{0, 100, 64 << 10, 200 << 10, 1 << 20} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("HTTP/2 %v, %d bytes, chunked %v", h2, size, chunked), func(t *testing.T) {
					srv := serve(t, h2, func(w http.ResponseWriter, _ *http.Request) {
						if !chunked {
							w.Header().Set("Content-Length", fmt.Sprint(size))
						}
						w.WriteHeader(503)
						if chunked {
							w.(http.Flusher).Flush()
						}
						_, _ = w.Write(make([]byte, size))
					})
					resp, end, _ := exchange(t, srv.Client(), srv.URL)
					discard(resp, end)
					resp, end, reused := exchange(t, srv.Client(), srv.URL)
					discard(resp, end)
					require.Equal(t, h2 || size <= drainBytes, reused)
				})
			}
		}
	}
}

func TestADribblingAnswerIsDiscardedIn50Milliseconds(t *testing.T) {
	for _, byContext := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlow(1000, time.Second)
			cancels := 0
			cancel := func() { cancels++; close(s.closed) }
			if !byContext {
				cancel = nil
			} else {
				s.closes.Add(1) // Close does not unblock it
			}
			start := time.Now()
			discard(newAnswer(s), cancel)
			require.Equal(t, 50*time.Millisecond, time.Since(start))
			require.Equal(t, byContext, cancels == 1)
			require.GreaterOrEqual(t, s.closes.Load(), int32(1))
		})
	}
}

func TestWhatIsNotWorthDrainingIsOnlyClosed(t *testing.T) {
	for name, change := range map[string]func(*http.Response){
		"HTTP/2":            func(r *http.Response) { r.ProtoMajor = 2 },
		"101":               func(r *http.Response) { r.StatusCode = 101 },
		"Connection: close": func(r *http.Response) { r.Close = true },
		"a long one":        func(r *http.Response) { r.ContentLength = drainBytes + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := &closing{Reader: iotest.ErrReader(errors.New("must not be read"))}
			in := &counting{Reader: c}
			resp := newAnswer(struct {
				io.Reader
				io.Closer
			}{in, c})
			change(resp)
			discard(resp, func() { t.Error("cancelled") })
			require.Zero(t, in.reads)
			require.EqualValues(t, 1, c.closes.Load())
		})
	}
	t.Run("no more than 256 KiB is drained", func(t *testing.T) {
		in := &counting{Reader: endless{}}
		discard(newAnswer(io.NopCloser(in)), func() {})
		require.EqualValues(t, drainBytes+1, in.bytes)
	})
	t.Run("no body", func(*testing.T) { discard(newAnswer(nil), nil) })
}

type counting struct {
	io.Reader
	reads int
	bytes int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.reads++
	c.bytes += int64(n)
	return n, err
}

func TestAnAnswerSetAsideGivesItsConnectionBackAndIsStillWhole(t *testing.T) {
	for _, size := range []int{1, 100, 64 << 10, 64<<10 + 1, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, chunked %v", size, chunked), func(t *testing.T) {
				srv := serve(t, false, func(w http.ResponseWriter, _ *http.Request) {
					if chunked {
						w.(http.Flusher).Flush()
					} else {
						w.Header().Set("Content-Length", fmt.Sprint(size))
					}
					_, _ = w.Write(testBytes(size))
				})
				first, _, _ := exchange(t, srv.Client(), srv.URL)
				setAside(first, time.Second)
				second, end, reused := exchange(t, srv.Client(), srv.URL)
				discard(second, end)
				require.Equal(t, size <= asideBytes, reused)
				got, err := io.ReadAll(first.Body)
				require.NoError(t, err)
				require.Equal(t, testBytes(size), got)
				require.NoError(t, first.Body.Close())
			})
		}
	}
}

func TestASlowAnswerIsSetAsideFor50MillisecondsAndStaysReadable(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlow(10, 20*time.Millisecond)
			resp := newAnswer(s)
			start := time.Now()
			setAside(resp, time.Second)
			require.Equal(t, 50*time.Millisecond, time.Since(start))
			if time.Sleep(wait); wait > 0 {
				synctest.Wait()
				require.Equal(t, 7, s.left, "only the Read under way may go on")
			}
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "xxxxxxxxxx", string(got))
			require.NoError(t, resp.Body.Close())
		})
	}
}

func TestASilentAnswerSetAsideCanBeClosedAndDiscarded(t *testing.T) {
	for name, drop := range map[string]func(*http.Response){
		"closed":    func(r *http.Response) { r.Body.Close() },
		"discarded": func(r *http.Response) { discard(r, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
				s := newSlow(10, 1000*time.Hour)
				resp := newAnswer(s)
				setAside(resp, time.Second)
				start := time.Now()
				drop(resp)
				synctest.Wait()
				require.LessOrEqual(t, time.Since(start), 50*time.Millisecond)
				require.NotZero(t, s.closes.Load())
			})
		})
	}
}

func TestAnAnswerCutShortIsStillCutShortAfterSettingAside(t *testing.T) {
	resp := newAnswer(io.NopCloser(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF))))
	setAside(resp, time.Second)
	got, err := io.ReadAll(resp.Body)
	require.Equal(t, "abc", string(got))
	require.Equal(t, io.ErrUnexpectedEOF, err)
}

func TestSetAsideLeavesAloneWhatItCannotHelp(t *testing.T) {
	for name, change := range map[string]func(*http.Response){
		"HTTP/2":     func(r *http.Response) { r.ProtoMajor = 2 },
		"101":        func(r *http.Response) { r.StatusCode = 101 },
		"a long one": func(r *http.Response) { r.ContentLength = asideBytes + 1 },
		"no body":    func(r *http.Response) { r.Body = http.NoBody },
		"nil body":   func(r *http.Response) { r.Body = nil },
	} {
		t.Run(name, func(t *testing.T) {
			resp := newAnswer(io.NopCloser(strings.NewReader("abc")))
			change(resp)
			body := resp.Body
			setAside(resp, time.Second)
			require.True(t, resp.Body == body)
		})
	}
}

func TestABufferedAnswer(t *testing.T) {
	data := testBytes(100_000)
	read := func(t *testing.T, resp *http.Response) []byte {
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return got
	}
	for _, max := range []int64{100_000, 100_001, math.MaxInt64} {
		for _, length := range []int64{-1, 100_000} {
			t.Run(fmt.Sprintf("is whole at once, at most %d bytes, Content-Length %d", max, length), func(t *testing.T) {
				in := &counting{Reader: bytes.NewReader(data)}
				resp := newAnswer(io.NopCloser(in))
				resp.ContentLength = length
				require.NoError(t, buffer(resp, max))
				require.EqualValues(t, len(data), in.bytes)
				in.Reader = iotest.ErrReader(errCaller)
				require.Equal(t, data, read(t, resp))
			})
		}
	}
	t.Run("cut short is an error, and says so to its reader", func(t *testing.T) {
		resp := newAnswer(io.NopCloser(io.MultiReader(bytes.NewReader(data), iotest.ErrReader(io.ErrUnexpectedEOF))))
		require.Equal(t, io.ErrUnexpectedEOF, buffer(resp, math.MaxInt64))
		got, err := io.ReadAll(resp.Body)
		require.Equal(t, data, got)
		require.Equal(t, io.ErrUnexpectedEOF, err)
	})
	t.Run("longer than allowed stays a stream", func(t *testing.T) {
		in := &counting{Reader: bytes.NewReader(data)}
		resp := newAnswer(io.NopCloser(in))
		require.NoError(t, buffer(resp, 99_999))
		require.EqualValues(t, 100_000, in.bytes, "one byte more than allowed shows it")
		require.Equal(t, data, read(t, resp))
	})
	t.Run("announced longer than allowed is not read", func(t *testing.T) {
		in := &counting{Reader: bytes.NewReader(data)}
		resp := newAnswer(io.NopCloser(in))
		resp.ContentLength = 100_000
		require.NoError(t, buffer(resp, 99_999))
		require.Zero(t, in.reads)
	})
	t.Run("a stranger's Content-Length reserves nothing", func(t *testing.T) {
		resp := newAnswer(io.NopCloser(strings.NewReader("abc")))
		resp.ContentLength = 1 << 50
		require.NoError(t, buffer(resp, math.MaxInt64))
		require.Equal(t, "abc", string(read(t, resp)))
	})
	t.Run("a 101 and no body are let through", func(t *testing.T) {
		resp := newAnswer(http.NoBody)
		require.NoError(t, buffer(resp, 10))
		resp = newAnswer(io.NopCloser(iotest.ErrReader(errCaller)))
		resp.StatusCode = 101
		require.NoError(t, buffer(resp, 10))
	})
}

func TestTrailersArrive(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, aside := range []bool{false, true} {
			t.Run(fmt.Sprintf("HTTP/2 %v, set aside %v", h2, aside), func(t *testing.T) {
				srv := serve(t, h2, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Trailer", "X-Sum")
					_, _ = io.WriteString(w, "abc")
					w.(http.Flusher).Flush()
					w.Header().Set("X-Sum", "6")
				})
				resp, _, _ := exchange(t, srv.Client(), srv.URL)
				if aside {
					setAside(resp, time.Second)
				}
				_, err := io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				require.Equal(t, "6", resp.Trailer.Get("X-Sum"))
				require.NoError(t, resp.Body.Close())
			})
		}
	}
}

func TestEventsArriveAsTheyAreFlushed(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", h2), func(t *testing.T) {
			next := make(chan struct{})
			srv := serve(t, h2, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range 5 {
					fmt.Fprintf(w, "data: %d\n", i)
					w.(http.Flusher).Flush()
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			})
			resp, _, _ := exchange(t, srv.Client(), srv.URL)
			lines := bufio.NewScanner(resp.Body)
			for i := range 5 {
				require.True(t, lines.Scan())
				require.Equal(t, fmt.Sprintf("data: %d", i), lines.Text())
				next <- struct{}{} // the server goes on only after the event was seen
			}
			require.NoError(t, resp.Body.Close())
		})
	}
}

// A large answer survives on both protocols, because its attempt's context ends
// after the body and not before.
func TestTheEndOfAnAttemptDoesNotCutItsAnswer(t *testing.T) {
	data := testBytes(512 << 10)
	for _, h2 := range []bool{false, true} {
		srv := serve(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(data)
		})
		for range 10 {
			resp, _, _ := exchange(t, srv.Client(), srv.URL)
			ctx := resp.Request.Context()
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, data, got)
			require.Error(t, ctx.Err(), "the attempt must end with its body")
			require.NoError(t, resp.Body.Close())
		}
	}
}

// watching is a RoundTripper that watches each answer as the loop does.
type watching struct{ http.RoundTripper }

func (w watching) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := w.RoundTripper.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	watch(resp, cancel, time.Minute, cancel)
	setAside(resp, time.Second)
	return resp, nil
}

func TestAnUpgradePassesThroughAReverseProxy(t *testing.T) {
	backend := serve(t, false, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
		_, _ = io.Copy(conn, rw) // until the client half-closes
		_, _ = conn.Write([]byte("bye"))
	})
	to, err := url.Parse(backend.URL)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = watching{http.DefaultTransport}
	front := serve(t, false, proxy.ServeHTTP)

	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	_, err = io.WriteString(conn, "hello")
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "hellobye", string(got))
}
