package idempotency

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// recorder is the ResponseWriter of a handler under a key. It keeps the answer
// until it is stored. One that is flushed or grows too long goes out as it is
// written, and only its status and header are kept: the key stays in progress
// meanwhile, so that no repetition runs whatever becomes of it.
type recorder struct {
	w     http.ResponseWriter
	limit int
	keeps func(name string) string
	bare  bool // the request is a HEAD: its answer has no body

	status    int     // 0 before WriteHeader
	announced int64   // the Content-Length that the handler set, negative if none
	header    []field // as of WriteHeader
	few       [3]field
	room      [48]byte // for the head, so that the first Write makes room for all
	stored    []byte   // the answer as a Store keeps it
	head      int      // where its body begins
	streaming bool
}

func (rec *recorder) Header() http.Header { return rec.w.Header() }

func (rec *recorder) WriteHeader(status int) {
	switch {
	case status < 200 || status > 999: // informational: goes out at once; net/http panics at the rest
		rec.w.WriteHeader(status)
	case rec.status == 0:
		rec.status, rec.announced, rec.header = status, -1, rec.few[:0]
		for name, values := range rec.w.Header() {
			rec.header = append(rec.header, field{name, rec.keeps(name), values})
			if name == "Content-Length" && len(values) > 0 {
				rec.announce(values[0])
			}
		}
		rec.stored = appendHead(rec.room[:0], status, rec.header)
		rec.head = len(rec.stored)
	}
}

func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	length := len(rec.stored) - rec.head + len(p)
	if !rec.streaming && rec.announced >= 0 && int64(length) > rec.announced {
		return 0, http.ErrContentLength // as net/http has it
	}
	if !rec.streaming && length > rec.limit {
		if err := rec.stream(); err != nil {
			return 0, err
		}
	}
	if rec.streaming {
		rec.loseBody(len(p))
		return rec.w.Write(p)
	}
	rec.stored = append(rec.stored, p...)
	return len(p), nil
}

// stream sends what is there, and from now on all at once.
func (rec *recorder) stream() error {
	rec.streaming = true
	err := rec.send()
	rec.loseBody(len(rec.stored) - rec.head)
	return err
}

// loseBody keeps of the answer only that it had a body, if there is any.
func (rec *recorder) loseBody(length int) {
	if length > 0 {
		rec.stored = rec.stored[:rec.head:rec.head]
		rec.stored[bodyLostAt] = 1
	}
}

// announce notes the length that the body is to have, where there can be one.
func (rec *recorder) announce(length string) {
	n, err := strconv.ParseInt(length, 10, 64)
	if err == nil && !rec.bare && rec.status != http.StatusNoContent && rec.status != http.StatusNotModified {
		rec.announced = n
	}
}

// send sends the answer, with the header as it was when WriteHeader was called.
// What was set since is a trailer, if that was announced (http.TrailerPrefix).
func (rec *recorder) send() error {
	live := rec.w.Header()
	late := make(http.Header)
	for name, values := range live {
		if strings.HasPrefix(name, http.TrailerPrefix) || rec.has("Trailer") {
			late[name] = values
		}
	}
	clear(live)
	for _, f := range rec.header {
		live[f.name] = f.values
	}
	rec.w.WriteHeader(rec.status)
	_, err := rec.w.Write(rec.stored[rec.head:])
	maps.Copy(live, late)
	return err
}

func (rec *recorder) has(name string) bool {
	for _, f := range rec.header {
		if f.name == name {
			return true
		}
	}
	return false
}

// FlushError is what http.ResponseController and Flush call.
func (rec *recorder) FlushError() error {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	if !rec.streaming {
		if err := rec.stream(); err != nil {
			return err
		}
	}
	return http.NewResponseController(rec.w).Flush()
}

// Flush is for handlers that ask for an http.Flusher.
func (rec *recorder) Flush() { _ = rec.FlushError() }

// The connection's deadlines are the handler's to set. Taking the connection
// over (Hijack) is not possible: there would be no answer to keep.

func (rec *recorder) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(rec.w).SetReadDeadline(t)
}

func (rec *recorder) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(rec.w).SetWriteDeadline(t)
}

func (rec *recorder) EnableFullDuplex() error {
	return http.NewResponseController(rec.w).EnableFullDuplex()
}

// answer is what the handler has written, with status 0 if nothing. A body that
// is shorter than announced is not kept: its caller sees that it breaks off, and
// a repetition would take it for the whole.
func (rec *recorder) answer() Answer {
	stored := rec.stored
	if int64(len(stored)-rec.head) < rec.announced {
		stored = stored[:rec.head]
		stored[bodyLostAt] = 1
	}
	return Answer{Status: rec.status, stored: stored}
}
