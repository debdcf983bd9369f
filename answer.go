package resilient

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	drainBytes = 256 << 10
	asideBytes = 64 << 10
	readAhead  = 50 * time.Millisecond
)

// ErrStalled is the error of a Read of an answer's body that brought nothing for
// the time allowed. It is a timeout.
var ErrStalled error = stalledError{}

type stalledError struct{}

func (stalledError) Error() string { return "resilient: response body stalled" }
func (stalledError) Timeout() bool { return true }

// watch makes the answer's body call end, once, at its end: EOF, a failed Read
// or Close, and never before. With idle, a Read that brings nothing for that
// long calls stall, which is to break it, and fails with ErrStalled. Reads are
// passed on as they are; a body that can be written to (101) stays one.
func watch(resp *http.Response, end func(), idle time.Duration, stall func()) {
	if resp.Body == nil || resp.Body == http.NoBody {
		end()
		return
	}
	b := &watched{ReadCloser: resp.Body, end: end, idle: idle, stall: stall}
	resp.Body = b
	if w, ok := b.ReadCloser.(io.Writer); ok {
		resp.Body = &watchedConn{watched: b, Writer: w}
	}
}

type watched struct {
	io.ReadCloser
	ended   sync.Once
	end     func()
	idle    time.Duration // zero: no limit
	stall   func()
	timer   *time.Timer // of the Read under way
	stalled atomic.Bool
}

func (b *watched) Read(p []byte) (n int, err error) {
	if b.idle > 0 {
		n, err = b.timed(p)
	} else {
		n, err = b.ReadCloser.Read(p)
	}
	if err != nil {
		b.ended.Do(b.end)
	}
	return n, err
}

// timed counts only the time spent in Read: a slow caller is not a slow server.
func (b *watched) timed(p []byte) (int, error) {
	if b.timer == nil {
		b.timer = time.AfterFunc(b.idle, b.expire)
	} else {
		b.timer.Reset(b.idle)
	}
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && b.stalled.Load() {
		err = ErrStalled
	}
	return n, err
}

func (b *watched) expire() {
	b.stalled.Store(true)
	b.stall()
}

func (b *watched) Close() error {
	err := b.ReadCloser.Close()
	b.ended.Do(b.end)
	return err
}

// watchedConn is the body of a 101: httputil.ReverseProxy asks for both methods.
type watchedConn struct {
	*watched
	io.Writer
}

func (c *watchedConn) CloseWrite() error {
	if w, ok := c.Writer.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return http.ErrNotSupported
}

// setAside reads a small answer into memory, so that its connection is free
// while the operation waits, and the answer is still whole if it turns out to
// be the last. What does not fit, or does not come in 50 ms of the wait, stays to
// be read after it. An HTTP/2 stream costs nothing and is left alone. It returns
// what is left of the wait.
func setAside(resp *http.Response, wait time.Duration) time.Duration {
	if wait <= 0 || !plain(resp) || resp.ContentLength > asideBytes {
		return wait
	}
	begun := time.Now()
	b := &ahead{ReadCloser: resp.Body, done: make(chan struct{})}
	go b.fill(asideBytes, resp.ContentLength)
	timer := time.NewTimer(min(readAhead, wait))
	defer timer.Stop()
	select {
	case <-b.done:
	case <-timer.C:
		b.enough.Store(true)
	}
	resp.Body = b
	return wait - time.Since(begun)
}

// ahead is a body of which a goroutine has read the beginning. A Read cannot be
// called back without destroying the answer, so the last one may still be under
// way: it ends when its bytes come, or with the body.
type ahead struct {
	io.ReadCloser
	enough atomic.Bool
	done   chan struct{} // closed when the goroutine has ended, and left:
	head   bytes.Reader
	err    error
}

// fill reads at most one byte more than limit: at the limit, the end may still
// have to be seen. The length is a stranger's word, and reserves little.
func (b *ahead) fill(limit, length int64) {
	defer close(b.done)
	buf := make([]byte, 0, min(max(512, length+1), asideBytes))
	for b.err == nil && int64(len(buf)) <= limit && !b.enough.Load() {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		free := buf[len(buf):cap(buf)]
		if left := limit - int64(len(buf)); left < int64(len(free)) {
			free = free[:left+1]
		}
		var n int
		n, b.err = b.ReadCloser.Read(free)
		buf = buf[:len(buf)+n]
	}
	b.head.Reset(buf)
}

func (b *ahead) Read(p []byte) (int, error) {
	<-b.done
	if b.head.Len() > 0 {
		return b.head.Read(p)
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.ReadCloser.Read(p)
}

// discard ends an answer nobody will read. An HTTP/1.1 connection is used again
// only if the end of the body was seen: worth 256 KiB and 50 ms, after which the
// attempt ends, by cancelEnd if it is not nil, and the body is closed: not every
// Base looks at the context while its body is read.
func discard(resp *http.Response, cancelEnd func()) {
	if resp.Body == nil {
		return
	}
	once := sync.OnceFunc(func() { resp.Body.Close() })
	defer once()
	if !plain(resp) || resp.Close || resp.ContentLength > drainBytes {
		return
	}
	timer := time.AfterFunc(readAhead, func() {
		if cancelEnd != nil {
			cancelEnd()
		}
		once()
	})
	defer timer.Stop()
	io.CopyN(io.Discard, resp.Body, drainBytes+1)
}

// plain reports whether the answer is one whose connection can be had back by
// reading it to its end.
func plain(resp *http.Response) bool {
	return resp.Body != nil && resp.Body != http.NoBody &&
		resp.ProtoMajor < 2 && resp.StatusCode != http.StatusSwitchingProtocols
}

// buffer reads the answer's body into memory. If it is cut short, that error is
// returned, and found again by whoever reads the body. One that is longer than
// max stays a stream from its first byte.
func buffer(resp *http.Response, max int64) error {
	if resp.Body == nil || resp.Body == http.NoBody || resp.ContentLength > max ||
		resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	b := &ahead{ReadCloser: resp.Body, done: make(chan struct{})}
	b.fill(max, resp.ContentLength)
	resp.Body = b
	if b.err == nil || b.err == io.EOF {
		return nil
	}
	return b.err
}
