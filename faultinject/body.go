package faultinject

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
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
	switch f.kind {
	case cutBody, stallBody:
		if c.req.Method == http.MethodHead || !bodyAllowed(resp.StatusCode) {
			return
		}
		if resp.ContentLength >= 0 && int64(f.at) >= resp.ContentLength {
			resp.ContentLength = int64(f.at) + 1 // the promise that is not kept
			if resp.Header == nil {
				resp.Header = make(http.Header)
			}
			resp.Header.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
		}
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
	if err := b.call.gone(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	limited := b.fault.kind == cutBody || b.fault.kind == stallBody
	if left := b.fault.at - b.passed; limited && left < len(p) {
		p = p[:max(left, 0)]
	}
	n, err := 0, error(nil)
	if len(p) > 0 {
		n, err = b.ReadCloser.Read(p)
	}
	if at := b.fault.at - b.passed; b.fault.kind == corruptBody && at >= 0 && at < n {
		p[at] ^= 1
	}
	b.passed += n
	if limited && n == 0 && (len(p) == 0 || err == io.EOF) {
		return 0, b.end()
	}
	if limited && err == io.EOF {
		err = nil // the end is for the next Read
	}
	return n, err
}

// end plays what follows the last byte let through.
func (b *body) end() error {
	if b.fault.kind == cutBody {
		return dead(b.fault.how, io.ErrUnexpectedEOF, address(b.call.addr))
	}
	select {
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
