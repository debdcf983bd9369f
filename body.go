package resilient

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// upload is the request body of one operation: it decides whether the body can
// be sent again, and hands each attempt a reader of its own. The zero upload is
// no body. Its methods belong to the operation's goroutine; the readers it
// hands out may be read and closed by another one, as Base likes.
//
// A body in memory is handed out as it is. Anything around it would cost
// net/http a second write, and turn the end of an idle connection from a
// failure it can replay into one it cannot. All others are watched by a source.
type upload struct {
	body    io.ReadCloser                 // nil, NoBody, or in memory
	getBody func() (io.ReadCloser, error) // of one in memory
	begun   bool
	failed  error
	src     *source
}

// begin looks at the caller's request. limit is how much of a stream may be
// kept for a repeat; zero keeps nothing.
func (u *upload) begin(req *http.Request, limit int64) {
	*u = upload{body: req.Body}
	if !hasBody(req) {
		return
	}
	length, getBody := declaredLength(req), req.GetBody
	in := unwrap(req.Body)
	left, known := inMemory(in)
	if known && getBody == nil {
		getBody = snapshot(in)
	}
	if known && (length < 0 || left == length) {
		u.getBody = getBody
		return
	}
	u.src = newSource(req.Body, in, getBody, length, limit)
}

// next returns the body for the next attempt, nil if the request has none.
// Earlier attempts' readers share nothing with it: one of a body in memory goes
// on by itself, any other only returns errors from then on.
func (u *upload) next() (io.ReadCloser, error) {
	if u.src != nil {
		return u.src.next()
	}
	if !u.begun || u.getBody == nil {
		u.begun = true
		return u.body, nil
	}
	body, err := reopen(u.getBody)
	if err != nil {
		u.failed = err
		return nil, fmt.Errorf("%w: GetBody: %w", ErrBody, err)
	}
	return body, nil
}

// replayable reports, without consuming anything, whether next would succeed
// now. The error says why not.
func (u *upload) replayable() error {
	if u.src == nil {
		return nil
	}
	return u.src.replayable()
}

// failure is the error of the caller's own Read, Close or GetBody in the last
// attempt, or his body's lie about its length; nil if there was none. Base
// returns it among, and often dressed as, the network's own. It explains an
// attempt that failed: of one that was answered it says nothing.
func (u *upload) failure() error {
	if u.src == nil {
		return u.failed
	}
	u.src.mu.Lock()
	defer u.src.mu.Unlock()
	return u.src.failed
}

// finish ends the operation. The caller's body is closed now, or, where the
// answer came while Base is still sending it, when Base closes its reader.
func (u *upload) finish(answered bool) {
	if u.src != nil {
		u.src.finish(answered)
	}
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// isLarge reports whether req's body may be more than a kernel takes at once.
func isLarge(req *http.Request) bool {
	return hasBody(req) && (req.ContentLength <= 0 || req.ContentLength > 64<<10)
}

// declaredLength is what net/http will announce; -1 for a chunked body.
func declaredLength(req *http.Request) int64 {
	chunked := len(req.TransferEncoding) > 0 && req.TransferEncoding[0] == "chunked"
	if chunked || req.ContentLength <= 0 {
		return -1
	}
	return req.ContentLength
}

var (
	nopCloser         = reflect.TypeOf(io.NopCloser(nil))
	nopCloserWriterTo = reflect.TypeOf(io.NopCloser(new(bytes.Buffer)))
)

// unwrap takes off io.NopCloser, as net/http does before it looks at a type.
func unwrap(body io.ReadCloser) io.Reader {
	if t := reflect.TypeOf(body); t == nopCloser || t == nopCloserWriterTo {
		r, _ := reflect.ValueOf(body).Field(0).Interface().(io.Reader)
		return r
	}
	return body
}

// inMemory reports whether r is a reader that net/http knows to be in memory,
// and how much is left in it.
func inMemory(r io.Reader) (left int64, ok bool) {
	switch r := r.(type) {
	case *bytes.Reader:
		return int64(r.Len()), true
	case *bytes.Buffer:
		return int64(r.Len()), true
	case *strings.Reader:
		return int64(r.Len()), true
	}
	return 0, false
}

// snapshot is the GetBody that http.NewRequest makes for a reader in memory,
// for requests whose Body was set by hand; nil for any other reader.
func snapshot(r io.Reader) func() (io.ReadCloser, error) {
	switch r := r.(type) {
	case *bytes.Reader:
		at := *r
		return func() (io.ReadCloser, error) { c := at; return io.NopCloser(&c), nil }
	case *bytes.Buffer:
		b := r.Bytes()
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	case *strings.Reader:
		at := *r
		return func() (io.ReadCloser, error) { c := at; return io.NopCloser(&c), nil }
	}
	return nil
}
