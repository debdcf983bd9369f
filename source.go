package resilient

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

var (
	errRevoked = errors.New("resilient: request body read by an earlier attempt")
	errClosed  = errors.New("resilient: request body read after Close")
)

// inner is one body of the caller's: the request's own, or one from GetBody. It
// is closed once, and only Base may have it closed under a Read (net/http does,
// to unblock the Read when its context ends).
type inner struct {
	io.ReadCloser
	busy   int // Reads in flight
	closed bool
	doomed bool // to be closed when no Read is in flight
}

// claim reports whether the body is now to be closed by whoever asked.
func (in *inner) claim(force bool) bool {
	if in.closed || in.busy > 0 && !force {
		in.doomed = true
		return false
	}
	in.closed = true
	return true
}

// How a watched body is sent again.
type kind uint8

const (
	stream   kind = iota // from what was kept of it
	opened               // by GetBody
	sections             // by reading the file, or section, at its offset
)

// source is what the attempts of one operation share of a body that needs
// watching: one that may fail, block, lie about its length, or be read once.
// mu guards every field below it, and those of the readers; no code of the
// caller's runs under it.
type source struct {
	kind    kind
	length  int64 // declared; -1 if it is not
	limit   int64
	getBody func() (io.ReadCloser, error)
	section section

	mu      sync.Mutex
	own     inner   // the request's own body
	current *reader // the last attempt's
	failed  error
	over    bool // the operation ended: nothing will be sent again

	// Of a stream:
	kept    kept
	n       int64 // bytes taken from the caller's reader
	end     error // how it ended: io.EOF, or the error
	dropped bool  // bytes were let go
}

func newSource(body io.ReadCloser, in io.Reader, getBody func() (io.ReadCloser, error), length, limit int64) *source {
	s := &source{length: length, limit: limit, getBody: getBody, own: inner{ReadCloser: body}}
	if s.section.of(in) {
		s.kind = sections
	}
	if getBody != nil {
		s.kind = opened
	}
	return s
}

func (s *source) next() (io.ReadCloser, error) {
	r := &reader{src: s, in: &s.own}
	var body io.ReadCloser = r
	file := s.section.whole(s.length)
	switch first := s.current == nil; {
	case first && file != nil:
		r.from, body = file, &fileReader{reader: r, file: file}
	case s.kind == sections:
		if err := s.replayable(); err != nil {
			return nil, err
		}
		r.from = s.section.open()
	case first, s.kind == stream:
		r.from = s.own.ReadCloser
	default:
		again, err := reopen(s.getBody)
		if err != nil {
			s.fail(err)
			return nil, fmt.Errorf("%w: GetBody: %w", ErrBody, err)
		}
		r.from, r.in = again, &inner{ReadCloser: again}
	}
	if err := s.hand(r); err != nil {
		return nil, err
	}
	return body, nil
}

// hand makes r the current attempt's reader, and so revokes the one before.
func (s *source) hand(r *reader) error {
	s.mu.Lock()
	old := s.current
	if err := s.spent(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.current, s.failed = r, nil
	closing := old != nil && s.kind == opened && old.in.claim(false)
	s.mu.Unlock()
	if closing {
		old.in.Close()
	}
	return nil
}

func (s *source) replayable() error {
	if s.kind == sections && s.current != nil {
		return s.section.changed()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spent()
}

// spent says why a stream cannot be sent (again), nil if it can. It never waits
// for a Read: a blocked one may block for ever.
func (s *source) spent() error {
	switch {
	case s.kind != stream || s.current == nil:
		return nil
	case s.dropped && s.limit == 0:
		return fmt.Errorf("%w: a stream is read once", ErrBody)
	case s.dropped:
		return fmt.Errorf("%w: more than %d bytes were streamed", ErrBody, s.limit)
	case s.complete():
		return nil
	case s.own.closed:
		return fmt.Errorf("%w: closed before its end", ErrBody)
	case s.end != nil:
		return fmt.Errorf("%w: %w", ErrBody, s.end)
	case s.own.busy > 0:
		return fmt.Errorf("%w: a Read is still blocked", ErrBody)
	}
	return nil
}

// complete reports whether the caller's reader has given all it announced.
func (s *source) complete() bool {
	return s.end == io.EOF || s.end == nil && s.n == s.length
}

// take adds what a Read brought to what is kept. Above the limit all of it is
// let go, and nothing at all is kept of a body that is announced to be longer.
func (s *source) take(p []byte, err error) {
	s.n += int64(len(p))
	s.end = err
	switch {
	case len(p) == 0 || s.dropped:
	case s.over || s.n > s.limit || s.length > s.limit:
		s.kept, s.dropped = nil, true
	default:
		s.kept.add(p)
	}
}

func (s *source) fail(err error) {
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
}

func (s *source) finish(answered bool) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over = true
	in, closing := &s.own, false
	if r := s.current; r != nil {
		in = r.in
		if r.n == s.n {
			s.kept = nil // nobody will read it
		}
	}
	if !answered || s.current == nil || s.current.closed {
		closing = in.claim(false)
	}
	s.mu.Unlock()
	if closing {
		in.Close()
	}
}

// reader is the body of one attempt. Its own fields are guarded by src.mu.
type reader struct {
	src  *source
	from io.Reader
	in   *inner

	n      int64 // bytes handed out
	ended  bool  // all of them, and cleanly
	closed bool
	blind  bool // the kernel reads the file itself: n is not known
}

func (r *reader) Read(p []byte) (int, error) {
	if n, err, served := r.serve(p); served {
		return n, err
	}
	n, err := r.from.Read(p)
	return r.receive(p, n, err)
}

// serve answers a Read without the caller's reader where it can, and otherwise
// marks that one busy.
func (r *reader) serve(p []byte) (n int, err error, served bool) {
	s := r.src
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.current != r:
		return 0, errRevoked, true
	case r.closed:
		return 0, errClosed, true
	case s.kind == stream && r.n < s.n:
		n = s.kept.copyAt(p, r.n)
		r.n += int64(n)
		return n, nil, true
	case s.kind == stream && s.end != nil:
		r.ended = s.end == io.EOF
		return 0, s.end, true
	case s.kind == stream && s.complete() && (s.own.closed || s.own.busy > 0):
		// An earlier attempt took all that was announced, and went on to look
		// for more, or closed the source.
		r.ended = true
		return 0, io.EOF, true
	case r.in.closed:
		return 0, errClosed, true
	}
	r.in.busy++
	return 0, nil, false
}

// receive books what the caller's reader brought.
func (r *reader) receive(p []byte, n int, err error) (int, error) {
	s := r.src
	s.mu.Lock()
	r.in.busy--
	n, err = r.count(n, err)
	if s.current == r {
		if s.kind == stream {
			s.take(p[:n], err)
		}
		// A Read that Base broke off by closing the body is not the caller's failure.
		if err != nil && err != io.EOF && !r.closed {
			s.failed = err
		}
	}
	closing := r.in.doomed && r.in.claim(false)
	s.mu.Unlock()
	if closing {
		r.in.Close()
	}
	return n, err
}

// count holds the body to its declared length: HTTP/2 would send a short one as
// if it were whole, and net/http would read a long one to its end.
func (r *reader) count(n int, err error) (int, error) {
	length := r.src.length
	r.n += int64(n)
	switch {
	case length < 0 || r.blind:
	case r.n > length:
		n -= int(r.n - length)
		r.n, err = length, fmt.Errorf("resilient: request body longer than its Content-Length %d", length)
	case err == io.EOF && r.n < length:
		err = fmt.Errorf("resilient: request body ended after %d bytes, Content-Length is %d", r.n, length)
	}
	r.ended = err == io.EOF || err == nil && r.n == length
	return n, err
}

// Close is Base's. It is passed on unless the body could still be sent again.
func (r *reader) Close() error {
	s := r.src
	s.mu.Lock()
	first := !r.closed
	r.closed = true
	closing := first && r.passes() && r.in.claim(true)
	clean := r.ended && s.current == r
	s.mu.Unlock()
	if !closing {
		return nil
	}
	err := r.in.Close()
	// After a body that was cut off, net/http disregards what Close says.
	if err != nil && clean {
		s.fail(err)
	}
	return err
}

// passes reports whether Base's Close reaches the caller's body. An unread
// stream stays open, so that another attempt can send it after all.
func (r *reader) passes() bool {
	s := r.src
	switch {
	case s.kind == opened:
		return true
	case s.current != r:
		return false
	case s.kind == stream:
		return s.over || s.own.busy > 0 || s.dropped || s.end != nil || s.complete()
	}
	return s.over
}

// fileReader is the caller's file, for a first attempt. By SyscallConn package
// net has the kernel send it.
type fileReader struct {
	*reader
	file *os.File
}

func (r *fileReader) SyscallConn() (syscall.RawConn, error) {
	r.src.mu.Lock()
	r.blind = true
	r.src.mu.Unlock()
	return r.file.SyscallConn()
}

// reopen calls the caller's GetBody.
func reopen(getBody func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	body, err := getBody()
	if err == nil && body == nil {
		return nil, errors.New("no body")
	}
	return body, err
}

const keptChunk = 32 << 10

// kept is the part of a stream that has been read, in chunks, so that it never
// holds much more than was read.
type kept [][]byte

func (k *kept) add(p []byte) {
	for len(p) > 0 {
		last := len(*k) - 1
		if last < 0 || len((*k)[last]) == keptChunk {
			var chunk []byte // the first one grows: most streams are short
			if last >= 0 {
				chunk = make([]byte, 0, keptChunk)
			}
			*k, last = append(*k, chunk), last+1
		}
		n := min(len(p), keptChunk-len((*k)[last]))
		(*k)[last] = append((*k)[last], p[:n]...)
		p = p[n:]
	}
}

func (k kept) copyAt(p []byte, off int64) int {
	return copy(p, k[off/keptChunk][off%keptChunk:])
}
