package resilient

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const testLimit = 1 << 20

// closing counts the closes of a body, and can fail.
type closing struct {
	io.Reader
	closes atomic.Int32
	err    error
}

func (c *closing) Close() error { c.closes.Add(1); return c.err }

func testBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func newPost(t testing.TB, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://example.com/", body)
	require.NoError(t, err)
	return req
}

func tempFile(t testing.TB, b []byte) *os.File {
	name := filepath.Join(t.TempDir(), "body")
	require.NoError(t, os.WriteFile(name, b, 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// drain reads an attempt's body as a Base does, and closes it.
func drain(t testing.TB, body io.ReadCloser) (sum [32]byte, n int64) {
	if body == nil {
		return sha256.Sum256(nil), 0
	}
	h := sha256.New()
	n, err := io.Copy(h, body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	return [32]byte(h.Sum(nil)), n
}

func TestEveryAttemptSendsTheSameBytes(t *testing.T) {
	data := testBytes(300_000)
	large := testBytes(testLimit + 100_000)
	for _, tt := range []struct {
		name  string
		make  func(t *testing.T) io.Reader
		want  []byte
		again bool
	}{
		{"no body", func(*testing.T) io.Reader { return nil }, nil, true},
		{"http.NoBody", func(*testing.T) io.Reader { return http.NoBody }, nil, true},
		{"a bytes.Reader", func(*testing.T) io.Reader { return bytes.NewReader(data) }, data, true},
		{"a bytes.Buffer", func(*testing.T) io.Reader { return bytes.NewBuffer(data) }, data, true},
		{"a strings.Reader", func(*testing.T) io.Reader { return strings.NewReader(string(data)) }, data, true},
		{"a bytes.Reader set by hand", func(*testing.T) io.Reader { return io.NopCloser(bytes.NewReader(data)) }, data, true},
		{"a bytes.Buffer set by hand", func(*testing.T) io.Reader { return io.NopCloser(bytes.NewBuffer(data)) }, data, true},
		{"a strings.Reader set by hand", func(*testing.T) io.Reader { return io.NopCloser(strings.NewReader(string(data))) }, data, true},
		{"a file", func(t *testing.T) io.Reader { return tempFile(t, data) }, data, true},
		{"a file larger than the limit", func(t *testing.T) io.Reader { return tempFile(t, large) }, large, true},
		{"a file from its middle", func(t *testing.T) io.Reader {
			f := tempFile(t, data)
			_, err := f.Seek(1000, io.SeekStart)
			require.NoError(t, err)
			return f
		}, data[1000:], true},
		{"a section", func(t *testing.T) io.Reader {
			return io.NewSectionReader(bytes.NewReader(data), 5, 70_000)
		}, data[5:70_005], true},
		{"a section of a file, partly read", func(t *testing.T) io.Reader {
			s := io.NewSectionReader(tempFile(t, data), 5, 70_000)
			_, err := io.CopyN(io.Discard, s, 10)
			require.NoError(t, err)
			return s
		}, data[15:70_005], true},
		{"a file without size", func(t *testing.T) io.Reader {
			f, err := os.Open("/proc/self/limits")
			if err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		}, nil, true},
		{"a bufio.Reader", func(*testing.T) io.Reader { return bufio.NewReader(bytes.NewReader(data)) }, data, true},
		{"a stream byte by byte", func(*testing.T) io.Reader { return iotest.OneByteReader(bytes.NewReader(data[:5000])) }, data[:5000], true},
		{"a stream whose last bytes bring EOF", func(*testing.T) io.Reader { return iotest.DataErrReader(bytes.NewReader(data)) }, data, true},
		{"a pipe", func(*testing.T) io.Reader { return piped(data) }, data, true},
		{"a stream of the limit", func(*testing.T) io.Reader { return bufio.NewReader(bytes.NewReader(large[:testLimit])) }, large[:testLimit], true},
		{"a stream over the limit", func(*testing.T) io.Reader { return bufio.NewReader(bytes.NewReader(large)) }, large, false},
	} {
		for _, declared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, length declared %v", tt.name, declared), func(t *testing.T) {
				req := newPost(t, tt.make(t))
				if declared && tt.want != nil {
					req.ContentLength = int64(len(tt.want))
				}
				var u upload
				u.begin(req, testLimit)
				first, err := u.next()
				require.NoError(t, err)
				sum, n := drain(t, first)
				if tt.want != nil {
					require.Equal(t, sha256.Sum256(tt.want), sum)
				}
				for range 2 {
					if !tt.again {
						require.ErrorIs(t, u.replayable(), ErrBody)
						_, err := u.next()
						require.ErrorIs(t, err, ErrBody)
						require.ErrorContains(t, err, "more than 1048576 bytes were streamed")
						break
					}
					require.NoError(t, u.replayable())
					again, err := u.next()
					require.NoError(t, err)
					sum2, n2 := drain(t, again)
					require.Equal(t, sum, sum2)
					require.Equal(t, n, n2)
				}
				u.finish(true)
				require.NoError(t, u.failure())
			})
		}
	}
}

func piped(data []byte) io.Reader {
	r, w := io.Pipe()
	go func() {
		_, err := w.Write(data)
		w.CloseWithError(err)
	}()
	return r
}

func TestAMultipartFormIsSentAgain(t *testing.T) {
	pr, pw := io.Pipe()
	form := multipart.NewWriter(pw)
	go func() {
		part, err := form.CreateFormFile("file", "a.bin")
		if err == nil {
			_, err = part.Write(testBytes(200_000))
		}
		form.Close()
		pw.CloseWithError(err)
	}()
	var u upload
	u.begin(newPost(t, pr), testLimit)
	for range 3 {
		body, err := u.next()
		require.NoError(t, err)
		part, err := multipart.NewReader(body, form.Boundary()).NextPart()
		require.NoError(t, err)
		got, err := io.ReadAll(part)
		require.NoError(t, err)
		require.Equal(t, testBytes(200_000), got)
		_, err = io.Copy(io.Discard, body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
	}
	u.finish(false)
}

func TestABodyInMemoryIsHandedOutAsItIs(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"bytes.Reader": bytes.NewReader([]byte("abc")), "bytes.Buffer": bytes.NewBufferString("abc"),
		"strings.Reader": strings.NewReader("abc"), "by hand": io.NopCloser(strings.NewReader("abc")),
	} {
		t.Run(name, func(t *testing.T) {
			req := newPost(t, body)
			var u upload
			u.begin(req, testLimit)
			first, err := u.next()
			require.NoError(t, err)
			require.True(t, first == req.Body, "attempt 1 must get the caller's own body")
			second, err := u.next()
			require.NoError(t, err)
			_, known := inMemory(unwrap(second))
			require.True(t, known, "net/http must know the type of attempt 2's body")
		})
	}
}

func TestNoBodyAndABodyInMemoryCostNoAllocation(t *testing.T) {
	for name, req := range map[string]*http.Request{
		"no body": newPost(t, nil), "in memory": newPost(t, strings.NewReader("abc")),
	} {
		t.Run(name, func(t *testing.T) {
			require.Zero(t, testing.AllocsPerRun(100, func() {
				var u upload
				u.begin(req, testLimit)
				_, _ = u.next()
				_ = u.replayable()
				u.finish(true)
			}))
		})
	}
}

// attempts says how Base treats a body before the operation ends.
var attempts = map[string]func(t *testing.T, u *upload){
	"no attempt was made": func(*testing.T, *upload) {},
	"never sent, Base closed it": func(t *testing.T, u *upload) {
		body, err := u.next()
		require.NoError(t, err)
		body.Close()
	},
	"read whole": func(t *testing.T, u *upload) {
		body, err := u.next()
		require.NoError(t, err)
		drain(t, body)
	},
	"read in part, Base closed it twice": func(t *testing.T, u *upload) {
		body, err := u.next()
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, body, 10)
		require.NoError(t, err)
		body.Close()
		body.Close()
	},
	"sent three times": func(t *testing.T, u *upload) {
		for range 3 {
			body, err := u.next()
			require.NoError(t, err)
			drain(t, body)
		}
	},
	"sent again while the first attempt is half read": func(t *testing.T, u *upload) {
		first, err := u.next()
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, first, 10)
		require.NoError(t, err)
		second, err := u.next()
		require.NoError(t, err)
		_, err = first.Read(make([]byte, 1))
		require.ErrorIs(t, err, errRevoked)
		drain(t, second)
		first.Close()
	},
}

func TestTheCallersBodyIsClosedExactlyOnce(t *testing.T) {
	data := testBytes(100_000)
	for name, attempt := range attempts {
		for _, getBody := range []bool{false, true} {
			for _, answered := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, GetBody %v, answered %v", name, getBody, answered), func(t *testing.T) {
					opened := []*closing{{Reader: bytes.NewReader(data)}}
					req := newPost(t, opened[0])
					if getBody {
						req.GetBody = func() (io.ReadCloser, error) {
							c := &closing{Reader: bytes.NewReader(data)}
							opened = append(opened, c)
							return c, nil
						}
					}
					var u upload
					u.begin(req, testLimit)
					attempt(t, &u)
					u.finish(answered)
					u.finish(answered)
					for i, c := range opened {
						require.EqualValues(t, 1, c.closes.Load(), "body %d of %d", i+1, len(opened))
					}
				})
			}
		}
	}
}

func TestAFileIsClosedWhenTheOperationEnds(t *testing.T) {
	for name, attempt := range attempts {
		t.Run(name, func(t *testing.T) {
			f := tempFile(t, testBytes(100_000))
			var u upload
			u.begin(newPost(t, f), testLimit)
			attempt(t, &u)
			_, err := f.Stat()
			require.NoError(t, err, "the file must stay open while it may be sent again")
			u.finish(true)
			_, err = f.Stat()
			require.ErrorIs(t, err, os.ErrClosed)
		})
	}
}

func TestABodyStillBeingSentIsClosedWhenBaseClosesIt(t *testing.T) {
	data := testBytes(100_000)
	for _, kind := range []string{"stream", "GetBody", "file"} {
		t.Run(kind, func(t *testing.T) {
			c := &closing{Reader: bytes.NewReader(data)}
			req := newPost(t, c)
			isOpen := func() bool { return c.closes.Load() == 0 }
			switch kind {
			case "GetBody":
				req.GetBody = func() (io.ReadCloser, error) { return nil, nil }
			case "file":
				f := tempFile(t, data)
				req = newPost(t, f)
				isOpen = func() bool { _, err := f.Stat(); return err == nil }
			}
			var u upload
			u.begin(req, testLimit)
			body, err := u.next()
			require.NoError(t, err)
			head := make([]byte, 10)
			_, err = io.ReadFull(body, head)
			require.NoError(t, err)

			u.finish(true)
			u.finish(false)
			require.True(t, isOpen())
			rest, err := io.ReadAll(body)
			require.NoError(t, err)
			require.Equal(t, data, append(head, rest...))
			require.NoError(t, body.Close())
			require.False(t, isOpen())
			require.Nil(t, u.src.kept, "nothing will be sent again")
		})
	}
}

func TestAnUnreadStreamIsSentAfterAll(t *testing.T) {
	for _, limit := range []int64{0, testLimit} {
		c := &closing{Reader: strings.NewReader("abc")}
		var u upload
		u.begin(newPost(t, c), limit)
		for range 3 {
			body, err := u.next()
			require.NoError(t, err)
			require.NoError(t, body.Close())
			require.Zero(t, c.closes.Load())
		}
		body, err := u.next()
		require.NoError(t, err)
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, "abc", string(got))
		require.NoError(t, body.Close())
		u.finish(true)
		require.EqualValues(t, 1, c.closes.Load())
	}
}

func TestAStreamIsReadOnceWhereTheOperationIsNotRepeated(t *testing.T) {
	var u upload
	u.begin(newPost(t, &closing{Reader: strings.NewReader("abc")}), 0)
	body, err := u.next()
	require.NoError(t, err)
	require.NoError(t, u.replayable())
	_, err = body.Read(make([]byte, 1))
	require.NoError(t, err)
	require.ErrorIs(t, u.replayable(), ErrBody)
	require.ErrorContains(t, u.replayable(), "read once")
	require.Nil(t, u.src.kept)
}

func TestAStreamCutOffInTheMiddleGoesOnFromItsSource(t *testing.T) {
	data := testBytes(200_000)
	c := &closing{Reader: bytes.NewReader(data)}
	var u upload
	u.begin(newPost(t, c), testLimit)
	for _, n := range []int64{50_000, 10_000, 150_000} {
		body, err := u.next()
		require.NoError(t, err)
		got := new(bytes.Buffer)
		_, err = io.CopyN(got, body, n)
		require.NoError(t, err)
		require.Equal(t, data[:n], got.Bytes())
		body.Close()
		_, err = body.Read(make([]byte, 1))
		require.ErrorIs(t, err, errClosed)
	}
	body, err := u.next()
	require.NoError(t, err)
	sum, _ := drain(t, body)
	require.Equal(t, sha256.Sum256(data), sum)
	require.EqualValues(t, 1, c.closes.Load(), "the source is not needed after its end")
	body, err = u.next()
	require.NoError(t, err)
	sum, _ = drain(t, body)
	require.Equal(t, sha256.Sum256(data), sum)
	u.finish(false)
	require.EqualValues(t, 1, c.closes.Load())
}

var errCaller = errors.New("the caller's own")

func TestTheCallersOwnErrorsAreKnown(t *testing.T) {
	network := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	for _, cause := range []error{errCaller, network, io.ErrUnexpectedEOF, context.DeadlineExceeded} {
		for _, getBody := range []bool{false, true} {
			t.Run(fmt.Sprintf("Read: %v, GetBody %v", cause, getBody), func(t *testing.T) {
				c := &closing{Reader: io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(cause))}
				req := newPost(t, c)
				if getBody {
					req.GetBody = func() (io.ReadCloser, error) { return c, nil }
				}
				var u upload
				u.begin(req, testLimit)
				body, err := u.next()
				require.NoError(t, err)
				got, err := io.ReadAll(body)
				require.Equal(t, "abc", string(got))
				require.True(t, err == cause, "the error must reach Base as it is")
				body.Close()
				require.True(t, u.failure() == cause)
				if !getBody {
					require.ErrorIs(t, u.replayable(), ErrBody)
				}
				u.finish(false)
				require.EqualValues(t, 1, c.closes.Load())
			})
		}
	}
	t.Run("Close", func(t *testing.T) {
		c := &closing{Reader: strings.NewReader("abc"), err: errCaller}
		var u upload
		u.begin(newPost(t, c), testLimit)
		body, err := u.next()
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, body)
		require.NoError(t, err)
		require.Equal(t, errCaller, body.Close())
		require.Equal(t, errCaller, u.failure())
	})
	t.Run("Close of a body that Base gave up is not a failure", func(t *testing.T) {
		c := &closing{Reader: strings.NewReader("abc"), err: errCaller}
		req := newPost(t, c)
		req.GetBody = func() (io.ReadCloser, error) { return nil, errCaller }
		var u upload
		u.begin(req, testLimit)
		body, err := u.next()
		require.NoError(t, err)
		require.Equal(t, errCaller, body.Close())
		require.NoError(t, u.failure())
	})
	t.Run("GetBody", func(t *testing.T) {
		for _, body := range []io.Reader{strings.NewReader("abc"), &closing{Reader: strings.NewReader("abc")}} {
			req := newPost(t, body)
			req.GetBody = func() (io.ReadCloser, error) { return nil, errCaller }
			var u upload
			u.begin(req, testLimit)
			_, err := u.next()
			require.NoError(t, err)
			_, err = u.next()
			require.ErrorIs(t, err, ErrBody)
			require.ErrorIs(t, err, errCaller)
			require.Equal(t, errCaller, u.failure())
		}
	})
	t.Run("GetBody that returns nothing", func(t *testing.T) {
		req := newPost(t, strings.NewReader("abc"))
		req.GetBody = func() (io.ReadCloser, error) { return nil, nil }
		var u upload
		u.begin(req, testLimit)
		_, _ = u.next()
		_, err := u.next()
		require.ErrorIs(t, err, ErrBody)
	})
}

func TestABodyThatLiesAboutItsLengthIsNotSentAsWhole(t *testing.T) {
	data := testBytes(1000)
	bodies := map[string]func(t *testing.T) io.Reader{
		"in memory": func(*testing.T) io.Reader { return bytes.NewReader(data) },
		"stream":    func(*testing.T) io.Reader { return bufio.NewReader(bytes.NewReader(data)) },
		"file":      func(t *testing.T) io.Reader { return tempFile(t, data) },
		"section":   func(*testing.T) io.Reader { return io.NewSectionReader(bytes.NewReader(data), 0, 1000) },
	}
	for name, body := range bodies {
		for length, text := range map[int64]string{
			1001: "ended after 1000 bytes, Content-Length is 1001",
			999:  "longer than its Content-Length 999",
		} {
			t.Run(fmt.Sprintf("%s of 1000 bytes, Content-Length %d", name, length), func(t *testing.T) {
				req := newPost(t, body(t))
				req.ContentLength = length
				var u upload
				u.begin(req, testLimit)
				r, err := u.next()
				require.NoError(t, err)
				require.NotImplements(t, (*syscall.Conn)(nil), r, "the kernel would not count")
				got, err := io.ReadAll(r)
				require.ErrorContains(t, err, text)
				require.Equal(t, data[:min(length, 1000)], got)
				require.Equal(t, err, u.failure())
				u.finish(false)
			})
		}
	}
}

// blocked is a body whose Read blocks until release; Close may release it.
type blocked struct {
	closing
	entered chan struct{}
	release chan struct{}
	deaf    bool // Close does not unblock Read, and is not seen by it
	err     error
}

func newBlocked(deaf bool) *blocked {
	b := &blocked{entered: make(chan struct{}, 1), release: make(chan struct{}), deaf: deaf}
	if !deaf {
		b.err = io.ErrClosedPipe
	}
	return b
}

func (b *blocked) Read([]byte) (int, error) {
	b.entered <- struct{}{}
	<-b.release
	return 0, b.err
}

func (b *blocked) Close() error {
	if b.closing.Close(); !b.deaf {
		close(b.release)
	}
	return nil
}

func TestABlockedReadBlocksNothing(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		for _, getBody := range []bool{false, true} {
			t.Run(fmt.Sprintf("deaf to Close %v, GetBody %v", deaf, getBody), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBlocked(deaf)
					req := newPost(t, b)
					if getBody {
						req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }
					}
					var u upload
					u.begin(req, testLimit)
					body, err := u.next()
					require.NoError(t, err)
					done := make(chan error)
					go func() { _, err := body.Read(make([]byte, 1)); done <- err }()
					<-b.entered

					require.NoError(t, u.failure())
					if getBody {
						again, err := u.next()
						require.NoError(t, err)
						drain(t, again)
					} else {
						require.ErrorIs(t, u.replayable(), ErrBody)
						require.ErrorContains(t, u.replayable(), "a Read is still blocked")
						_, err = u.next()
						require.ErrorIs(t, err, ErrBody)
					}
					require.Zero(t, b.closes.Load())
					require.NoError(t, body.Close())
					require.EqualValues(t, 1, b.closes.Load(), "Close must reach a blocked Read at once")
					u.finish(false)
					if deaf {
						close(b.release)
					}
					require.ErrorIs(t, <-done, b.err)
					if !getBody {
						require.ErrorContains(t, u.replayable(), "closed before its end")
					}
					require.NoError(t, u.failure(), "a Read that Base broke off is not the caller's failure")
					require.EqualValues(t, 1, b.closes.Load())
				})
			})
		}
	}
}

func TestTheEndOfAnOperationDoesNotCloseABodyUnderARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBlocked(true)
		var u upload
		u.begin(newPost(t, b), testLimit)
		body, err := u.next()
		require.NoError(t, err)
		go body.Read(make([]byte, 1))
		<-b.entered
		u.finish(false)
		require.Zero(t, b.closes.Load())
		close(b.release)
		synctest.Wait()
		require.EqualValues(t, 1, b.closes.Load())
		body.Close()
		require.EqualValues(t, 1, b.closes.Load())
	})
}

func TestAWholeStreamIsSentAgainThoughItsWriterNeverClosesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go w.Write([]byte("abc"))
		req := newPost(t, r)
		req.ContentLength = 3
		var u upload
		u.begin(req, testLimit)
		first, err := u.next()
		require.NoError(t, err)
		_, err = io.ReadFull(first, make([]byte, 3))
		require.NoError(t, err)
		go first.Read(make([]byte, 1)) // net/http looks for more
		synctest.Wait()

		second, err := u.next()
		require.NoError(t, err)
		got, err := io.ReadAll(second)
		require.NoError(t, err)
		require.Equal(t, "abc", string(got))
		u.finish(true)
		second.Close()
		_, err = w.Write([]byte("x"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
	})
}

func TestAStreamReadToItsDeclaredLengthIsWhole(t *testing.T) {
	c := &closing{Reader: strings.NewReader("abc")}
	req := newPost(t, c)
	req.ContentLength = 3
	var u upload
	u.begin(req, testLimit)
	body, err := u.next()
	require.NoError(t, err)
	_, err = io.ReadFull(body, make([]byte, 3))
	require.NoError(t, err)
	require.NoError(t, body.Close())
	require.EqualValues(t, 1, c.closes.Load())
	body, err = u.next()
	require.NoError(t, err)
	got, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, "abc", string(got))
}

func TestAStreamOverTheLimitIsClosedWithItsAttempt(t *testing.T) {
	c := &closing{Reader: strings.NewReader("abc")}
	var u upload
	u.begin(newPost(t, c), 2)
	body, err := u.next()
	require.NoError(t, err)
	_, err = io.ReadFull(body, make([]byte, 3))
	require.NoError(t, err)
	require.Zero(t, c.closes.Load())
	require.NoError(t, body.Close())
	require.EqualValues(t, 1, c.closes.Load())
	u.finish(true)
	require.EqualValues(t, 1, c.closes.Load())
}

func TestTheBodyOfAnAbandonedAttemptIsClosedByTheNext(t *testing.T) {
	c := &closing{Reader: strings.NewReader("abc")}
	req := newPost(t, c)
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }
	var u upload
	u.begin(req, testLimit)
	_, err := u.next()
	require.NoError(t, err)
	_, err = u.next()
	require.NoError(t, err)
	require.EqualValues(t, 1, c.closes.Load())
	u.finish(false)
}

func TestAnEarlierAttemptsFailureIsNotTheLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, name := range []string{"Close", "Read"} {
			b := newBlocked(true)
			var c io.ReadCloser = b
			if b.err = errCaller; name == "Close" {
				c = &closing{Reader: strings.NewReader("abc"), err: errCaller}
			}
			req := newPost(t, c)
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }
			var u upload
			u.begin(req, testLimit)
			first, err := u.next()
			require.NoError(t, err)
			go func() {
				_, _ = io.Copy(io.Discard, first)
				first.Close()
			}()
			synctest.Wait()
			_, err = u.next()
			require.NoError(t, err)
			close(b.release)
			synctest.Wait()
			require.NoError(t, u.failure(), name)
			u.finish(false)
		}
	})
}

func TestAFileThatChangedIsNotSentAgain(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string){
		"grown": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteString("more")
			require.NoError(t, err)
			require.NoError(t, f.Close())
		},
		"grown, with its old time": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, 2000))
			require.NoError(t, os.Chtimes(path, time.Time{}, info.ModTime()))
		},
		"cut":       func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 10)) },
		"rewritten": func(t *testing.T, path string) { require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(1, 0))) },
	} {
		for _, section := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, section %v", name, section), func(t *testing.T) {
				f := tempFile(t, testBytes(1000))
				var body io.Reader = f
				if section {
					body = io.NewSectionReader(f, 0, 500)
				}
				var u upload
				u.begin(newPost(t, body), testLimit)
				r, err := u.next()
				require.NoError(t, err)
				drain(t, r)
				require.NoError(t, u.replayable())
				change(t, f.Name())
				require.ErrorIs(t, u.replayable(), ErrBody)
				_, err = u.next()
				require.ErrorIs(t, err, ErrBody)
				require.ErrorContains(t, err, "the file has changed")
				u.finish(true)
			})
		}
	}
}

func TestAnAttemptCannotDisturbTheFileOfTheNext(t *testing.T) {
	data := testBytes(100_000)
	var u upload
	u.begin(newPost(t, tempFile(t, data)), testLimit)
	first, err := u.next()
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, first, 1000)
	require.NoError(t, err)
	second, err := u.next()
	require.NoError(t, err)
	head := make([]byte, 5000)
	_, err = io.ReadFull(second, head)
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, first.(*fileReader).file, 20_000) // as the kernel does
	require.NoError(t, err)
	rest, err := io.ReadAll(second)
	require.NoError(t, err)
	require.Equal(t, data, append(head, rest...))
}

func TestTheKernelSendsAFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("sendfile is looked at on Linux")
	}
	data := testBytes(3 << 20)
	var got [32]byte
	srv := serve(t, false, func(_ http.ResponseWriter, r *http.Request) { got, _ = drain(t, r.Body) })
	for _, getBody := range []bool{false, true} {
		f := tempFile(t, data)
		req := newPost(t, f)
		req.ContentLength = int64(len(data))
		if getBody {
			req.GetBody = func() (io.ReadCloser, error) { return os.Open(f.Name()) }
		}
		var u upload
		u.begin(req, testLimit)
		for attempt := 1; attempt <= 2; attempt++ {
			body, err := u.next()
			require.NoError(t, err)
			out, err := http.NewRequest("POST", srv.URL, body)
			require.NoError(t, err)
			out.ContentLength = req.ContentLength
			resp, err := http.DefaultTransport.RoundTrip(out)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, sha256.Sum256(data), got)
			if attempt == 1 {
				f := body.(*fileReader)
				require.True(t, f.blind)
				require.Zero(t, f.n, "bytes that passed through Read")
			}
		}
		u.finish(true)
		require.NoError(t, u.failure())
		_, err := f.Stat()
		require.ErrorIs(t, err, os.ErrClosed)
	}
}

// What the caller's body does wrong comes back from net/http as an error of the
// connection; failure tells them apart, and no server takes a short body as whole.
func TestTheCallersFailureIsToldFromTheNetworks(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"a Read that fails like the network": io.MultiReader(bytes.NewReader(testBytes(100_000)), iotest.ErrReader(syscall.ECONNRESET)),
		"a short body":                       bytes.NewReader(testBytes(100)),
		"a long body":                        endless{},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", name, h2), func(t *testing.T) {
				var whole atomic.Int32
				srv := serve(t, h2, func(_ http.ResponseWriter, r *http.Request) {
					if n, err := io.Copy(io.Discard, r.Body); err == nil && n < 200_000 {
						whole.Add(1)
					}
					time.Sleep(time.Millisecond) // let the end of a long body be looked for
				})
				c := &closing{Reader: body}
				req := newPost(t, c)
				req.ContentLength = 200_000
				var u upload
				u.begin(req, testLimit)
				r, err := u.next()
				require.NoError(t, err)
				out, err := http.NewRequest("POST", srv.URL, nil)
				require.NoError(t, err)
				out.Body, out.ContentLength = r, req.ContentLength
				resp, err := srv.Client().Transport.RoundTrip(out)
				if err == nil {
					resp.Body.Close() // a long body: the server had all it was promised
					require.Equal(t, "a long body", name)
				} else {
					require.Error(t, u.failure())
				}
				u.finish(err == nil)
				srv.Close()
				require.Zero(t, whole.Load())
				require.EqualValues(t, 1, c.closes.Load())
			})
		}
	}
	t.Run("a network error is not the caller's", func(t *testing.T) {
		c := &closing{Reader: endless{}}
		var u upload
		u.begin(newPost(t, c), testLimit)
		srv := serve(t, false, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		r, err := u.next()
		require.NoError(t, err)
		out, err := http.NewRequest("POST", srv.URL, r)
		require.NoError(t, err)
		_, err = http.DefaultTransport.RoundTrip(out)
		require.Error(t, err)
		require.NoError(t, u.failure())
		u.finish(false)
		require.EqualValues(t, 1, c.closes.Load())
	})
}

func TestAStreamOverTheLimitTakesNoMemory(t *testing.T) {
	const size = 64 << 20
	for _, declared := range []bool{false, true} {
		t.Run(fmt.Sprintf("length declared %v", declared), func(t *testing.T) {
			req := newPost(t, io.LimitReader(endless{}, size))
			limit := uint64(testLimit)
			if declared {
				req.ContentLength, limit = size, 0
			}
			var u upload
			u.begin(req, testLimit)
			body, err := u.next()
			require.NoError(t, err)
			buf := make([]byte, 32<<10)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, buf)
			runtime.ReadMemStats(&after)
			require.NoError(t, err)
			require.EqualValues(t, size, n)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, limit+64<<10)
			require.Nil(t, u.src.kept)
			u.finish(true)
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A server that answers 503 to a half-sent upload, again and again.
func TestAnAttemptStillSendingSharesNothingWithTheNext(t *testing.T) {
	data := testBytes(8 << 20)
	kinds := map[string]func(t *testing.T) io.Reader{
		"in memory": func(*testing.T) io.Reader { return bytes.NewReader(data) },
		"file":      func(t *testing.T) io.Reader { return tempFile(t, data) },
		"stream":    func(*testing.T) io.Reader { return struct{ io.Reader }{bytes.NewReader(data)} },
		"GetBody":   nil,
	}
	for name, kind := range kinds {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", name, h2), func(t *testing.T) {
				var arrivals atomic.Int32
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if arrivals.Add(1)%3 != 0 {
						_, _ = io.CopyN(io.Discard, r.Body, 1<<10)
						w.WriteHeader(http.StatusServiceUnavailable)
						return
					}
					h := sha256.New()
					_, _ = io.Copy(h, r.Body)
					_, _ = w.Write(h.Sum(nil))
				}))
				srv.EnableHTTP2 = h2
				srv.StartTLS()
				defer srv.Close()
				for range 2 {
					var c *closing
					var req *http.Request
					if kind == nil {
						c = &closing{Reader: bytes.NewReader(data)}
						req = newPost(t, c)
						req.GetBody = func() (io.ReadCloser, error) { return &closing{Reader: bytes.NewReader(data)}, nil }
					} else {
						req = newPost(t, kind(t))
					}
					upTo3(t, srv, req, sha256.Sum256(data))
					if c != nil {
						require.EqualValues(t, 1, c.closes.Load())
					}
				}
			})
		}
	}
}

func upTo3(t *testing.T, srv *httptest.Server, req *http.Request, want [32]byte) {
	var u upload
	u.begin(req, 16<<20)
	for range 3 {
		body, err := u.next()
		if errors.Is(err, ErrBody) { // a Read was under way: allowed, for a stream
			break
		}
		require.NoError(t, err)
		out, err := http.NewRequest("POST", srv.URL, nil)
		require.NoError(t, err)
		out.Body, out.ContentLength = body, req.ContentLength
		resp, err := srv.Client().Transport.RoundTrip(out)
		if err != nil {
			require.NoError(t, u.failure())
			continue
		}
		answer, _ := io.ReadAll(resp.Body)
		if resp.StatusCode == 200 {
			require.Equal(t, want[:], answer)
		}
		discard(resp, nil)
	}
	u.finish(false)
	require.NoError(t, u.failure())
}

// Whatever Base does with a stream, each attempt reads the source from its
// beginning, and the source is closed once.
func TestAStreamUnderAnyInterleaving(t *testing.T) {
	data := testBytes(120_000)
	for seed := range uint64(300) {
		interleave(t, seed, data)
	}
}

func FuzzAStreamUnderAnyInterleaving(f *testing.F) {
	data := testBytes(120_000)
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { interleave(t, seed, data) })
}

func interleave(t *testing.T, seed uint64, data []byte) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	src := &watchful{t: t, closing: closing{Reader: bytes.NewReader(data)}}
	req := newPost(t, src)
	if rnd.IntN(2) == 0 {
		req.ContentLength = int64(len(data))
	}
	var u upload
	u.begin(req, []int64{0, 10_000, 60_000, 1 << 20}[rnd.IntN(4)])
	var bases sync.WaitGroup
	for range 1 + rnd.IntN(5) {
		body, err := u.next()
		if err != nil {
			require.ErrorIs(t, err, ErrBody, "seed %d", seed)
			break
		}
		local := rand.New(rand.NewPCG(seed, rnd.Uint64()))
		base := func() { send(t, local, body, data) }
		if rnd.IntN(2) == 0 {
			bases.Go(base) // Base goes on after RoundTrip returned
			runtime.Gosched()
		} else {
			base()
		}
		_ = u.replayable()
	}
	u.finish(rnd.IntN(2) == 0)
	bases.Wait()
	require.NoError(t, u.failure())
	require.EqualValues(t, 1, src.closes.Load(), "seed %d", seed)
}

// send reads some of the body and closes it, as a Base must.
func send(t *testing.T, rnd *rand.Rand, body io.ReadCloser, data []byte) {
	stop := rnd.IntN(2 * len(data))
	var got []byte
	for len(got) < stop {
		p := make([]byte, 1+rnd.IntN(40_000))
		n, err := body.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			if !bytes.Equal(got, data) {
				t.Error("a short body was sent as whole")
			}
			break
		}
		if err != nil {
			break
		}
	}
	if !bytes.HasPrefix(data, got) {
		t.Error("an attempt's bytes are not the source's")
	}
	body.Close()
}

// watchful is a source that must not be read twice at once, nor after Close.
type watchful struct {
	closing
	t    *testing.T
	busy atomic.Bool
}

func (w *watchful) Read(p []byte) (int, error) {
	if w.busy.Swap(true) {
		w.t.Error("two Reads at once")
	}
	defer w.busy.Store(false)
	if w.closes.Load() > 0 {
		w.t.Error("Read after Close")
	}
	return w.Reader.Read(p)
}
