package faultinject

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// body is the answer's body as the caller reads it: it ends when the caller
// gives up, and is struck where the fault says so.
type body struct {
	io.ReadCloser
	call   *call
	fault  Fault
	passed int // bytes read so far
	once   sync.Once
	closed chan struct{}
}

// strike puts the fault into the answer.
func (c *call) strike(resp *http.Response, f Fault) {
	empty := resp.Body == nil || resp.Body == http.NoBody
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	never := c.req.Method == http.MethodHead || !bodyAllowed(resp.StatusCode)
	switch f.kind {
	case cutBody, stallBody:
		if never {
			return
		}
		if resp.ContentLength >= 0 && int64(f.at) >= resp.ContentLength {
			resp.ContentLength = int64(f.at) + 1 // the promise that is not kept
			resp.Header.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
		}
	case malformedChunk:
		if never {
			return
		}
		resp.ContentLength, resp.TransferEncoding = -1, []string{"chunked"}
		resp.Header.Del("Content-Length")
	default:
		if empty {
			return
		}
	}
	resp.Body = &body{ReadCloser: resp.Body, call: c, fault: f, closed: make(chan struct{})}
}

func (b *body) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, errBodyClosed
	default:
	}
	if err := gone(b.call.req); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	switch b.fault.kind {
	case cutBody, stallBody:
		return b.limited(p)
	case malformedChunk:
		return 0, errBadChunk
	case trickleBody, bandwidth:
		return b.paced(p)
	}
	n, err := b.ReadCloser.Read(p)
	if at := b.fault.at - b.passed; b.fault.kind == corruptBody && at >= 0 && at < n {
		p[at] ^= 1
	}
	b.passed += n
	return n, err
}

// limited reads as far as the fault lets the body through.
func (b *body) limited(p []byte) (n int, err error) {
	if p = p[:max(min(b.fault.at-b.passed, len(p)), 0)]; len(p) > 0 {
		n, err = b.ReadCloser.Read(p)
	}
	b.passed += n
	switch {
	case n == 0 && (len(p) == 0 || err == io.EOF):
		return 0, b.end()
	case err == io.EOF:
		err = nil // the end is for the next Read
	}
	return n, err
}

// paced reads the next piece, and gives it out when its time has come.
func (b *body) paced(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(b.fault.piece(b.passed), len(p))])
	if n > 0 {
		timer := time.NewTimer(b.fault.pause(b.passed, n))
		defer timer.Stop()
		if err := b.wait(timer.C); err != nil {
			return 0, err
		}
	}
	b.passed += n
	return n, err
}

// end plays what follows the last byte let through.
func (b *body) end() error {
	if b.fault.kind == cutBody {
		return dead(b.fault.how, io.ErrUnexpectedEOF, address(b.call.addr))
	}
	return b.wait(nil)
}

// wait returns when it is time, or else why the caller reads no more.
func (b *body) wait(until <-chan time.Time) error {
	select {
	case <-until:
		return nil
	case <-b.closed:
		return errBodyClosed
	case <-b.call.req.Context().Done():
		return context.Cause(b.call.req.Context())
	case <-b.call.req.Cancel:
		return errCanceled
	}
}

func (b *body) Close() (err error) {
	b.once.Do(func() {
		close(b.closed)
		err = b.ReadCloser.Close()
	})
	return err
}
