package idempotency

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// An Answer is what a run left: the answer to a request, or with Body alone the
// result of [Engine.Do].
type Answer struct {
	// Status is the HTTP status; 0 in Do.
	Status int
	// Header holds the fields that are kept; see Config.KeepHeaders.
	Header http.Header
	// Body is the content.
	Body []byte

	bodyLost bool   // it was too long to be kept
	stored   []byte // all of it as a Store keeps it, where that is there already
}

const (
	// answerVersion begins every stored answer. Another version is refused: what
	// this program does not understand it must not pass for an answer.
	answerVersion = 1
	bodyLostAt    = 1
)

// encode is the answer as a Store keeps it.
func (a Answer) encode(keeps func(name string) string) []byte {
	if a.stored != nil {
		return a.stored
	}
	header := make([]field, 0, len(a.Header))
	for name, values := range a.Header {
		header = append(header, field{name, keeps(name), values})
	}
	return append(appendHead(make([]byte, 0, 512+len(a.Body)), a.Status, header), a.Body...)
}

// field is one field of a header.
type field struct {
	name   string
	kept   string // under which name; empty: it is not
	values []string
}

// appendHead begins an answer as a Store keeps it: the version, whether the body
// was lost, the status, and the fields that are kept. The rest is the body.
func appendHead(b []byte, status int, header []field) []byte {
	kept := 0
	for _, f := range header {
		if f.kept != "" {
			kept += len(f.values)
		}
	}
	b = append(b, answerVersion, 0)
	b = binary.AppendUvarint(b, uint64(status))
	b = binary.AppendUvarint(b, uint64(kept))
	for _, f := range header {
		if f.kept == "" {
			continue
		}
		for _, v := range f.values {
			b = appendString(appendString(b, f.kept), v)
		}
	}
	return b
}

// decodeAnswer reads what encode wrote. The Body is part of b.
func decodeAnswer(b []byte) (Answer, error) {
	var a Answer
	if len(b) < 2 || b[0] != answerVersion {
		return a, errors.New("idempotency: a stored answer is of a version that this program does not know")
	}
	a.bodyLost = b[bodyLostAt] == 1
	r := reader{rest: b[2:]}
	a.Status = int(r.number(1000))
	fields := r.number(uint64(len(b)))
	if fields > 0 {
		a.Header = make(http.Header)
	}
	for range fields {
		name, value := r.text(), r.text()
		a.Header[name] = append(a.Header[name], value)
	}
	if r.bad {
		return Answer{}, errors.New("idempotency: a stored answer is damaged")
	}
	a.Body = r.rest
	return a, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes numbers and strings off the front of rest, until one is not there.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number(most uint64) uint64 {
	n, size := binary.Uvarint(r.rest)
	if r.bad = r.bad || size <= 0 || n > most; r.bad {
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text() string {
	n := r.number(uint64(len(r.rest)))
	if r.bad = r.bad || n > uint64(len(r.rest)); r.bad {
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// checkHTTP refuses an answer that no client could be given.
func (a Answer) checkHTTP() error {
	if a.Status < 200 || a.Status > 999 {
		return fmt.Errorf("idempotency: Answer.Status: %d is not that of a final answer", a.Status)
	}
	return nil
}

// usuallyKept are the header fields that an answer means the same with later.
var usuallyKept = []string{
	"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition", "Cache-Control",
	"Etag", "Last-Modified", "Link", "Location", "Retry-After", "Www-Authenticate", "X-Content-Type-Options",
}

// neverKept are fields that belong to one answer or one connection (RFC 9110,
// section 7.6.1), and those whose repetition would hand a session to whoever
// repeats the request.
func neverKept(name string) bool {
	switch name {
	case "Set-Cookie", "Set-Cookie2", "Authorization", "Proxy-Authorization", "Proxy-Authenticate", "Date",
		"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length":
		return true
	}
	return false
}

// keeper returns what tells of a header's name under which one it is kept: "" if
// it is not.
func keeper(more []string) func(name string) string {
	kept := make(map[string]bool)
	for _, name := range slices.Concat(usuallyKept, more) {
		kept[http.CanonicalHeaderKey(name)] = true
	}
	return func(name string) string {
		if kept[name] {
			return name
		}
		if name = http.CanonicalHeaderKey(name); kept[name] {
			return name
		}
		return ""
	}
}
