package resilientotel

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/go-resilient/resilient"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// otherMethod and otherServer stand for whatever would be one value too many. No
// host's name begins with an underscore by itself.
const (
	otherMethod = "_OTHER"
	otherServer = "_OTHER"
)

func knownMethod(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "QUERY":
		return method
	}
	return otherMethod
}

// A server is whom an operation calls. A port of 0 is not known.
type server struct {
	address string
	port    int
}

// serverOf reads scheme://host[:port][/path]. What has no scheme is a name that
// resilient.Config.HostKey made up.
func serverOf(url string) server {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return server{address: url}
	}
	host, _, _ := strings.Cut(rest, "/")
	host = strings.ToLower(host)
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		name, port := host[:colon], host[colon+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			return server{strings.Trim(name, "[]"), int(n)}
		}
		host = name // "host:", which has none
	}
	host = strings.Trim(host, "[]")
	switch strings.ToLower(scheme) {
	case "http":
		return server{host, 80}
	case "https":
		return server{host, 443}
	}
	return server{address: host}
}

// servers keeps the number of labels down: the first max servers keep their names.
type servers struct {
	max   int
	mu    sync.RWMutex
	known map[server]server
}

func (s *servers) bound(called server) server {
	s.mu.RLock()
	known, ok := s.known[called]
	full := len(s.known) >= s.max
	s.mu.RUnlock()
	switch {
	case ok:
		return known
	case full:
		return server{address: otherServer}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok = s.known[called]; ok { // others were faster
		return known
	}
	if len(s.known) >= s.max {
		return server{address: otherServer}
	}
	if s.known == nil {
		s.known = make(map[server]server)
	}
	called.address = strings.Clone(called.address) // not to keep a long URL for its sake
	s.known[called] = called
	return called
}

// protocolVersion is the answer's version of HTTP, "" if there was no answer or
// it is none that is known.
func protocolVersion(a resilient.Attempt) string {
	switch major, minor := a.ProtoMajor, a.ProtoMinor; {
	case major == 1 && minor == 1:
		return "1.1"
	case major == 2:
		return "2"
	case major == 3:
		return "3"
	case major == 1 && minor == 0:
		return "1.0"
	}
	return ""
}

func outcomeName(o resilient.Outcome) string {
	switch o {
	case resilient.Answered:
		return "answered"
	case resilient.NotSent:
		return "not_sent"
	case resilient.Unknown:
	}
	return "unknown"
}

const stopCanceled = "canceled"

// stopName names why there was no further attempt; "" if the last was final.
func stopName(stop error) string {
	if stop == nil {
		return ""
	}
	for _, s := range [...]struct {
		err  error
		name string
	}{
		{resilient.ErrAttempts, "attempts"},
		{resilient.ErrBudget, "budget"},
		{resilient.ErrOpen, "circuit_open"},
		{resilient.ErrUnsafe, "unsafe"},
		{resilient.ErrBody, "body"},
		{resilient.ErrNoTime, "no_time"},
		{resilient.ErrKeyExpired, "key_expired"},
		{context.Canceled, stopCanceled},
		{context.DeadlineExceeded, "deadline"},
	} {
		if errors.Is(stop, s.err) {
			return s.name
		}
	}
	return "other"
}

// attemptFailure is the attempt's error.type, "" if it did not fail. That the
// caller left is no failure.
func attemptFailure(ctx context.Context, a resilient.Attempt) string {
	switch {
	case a.Err != nil && a.Verdict == resilient.Fatal && (errors.Is(a.Err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled)):
		return ""
	case a.Status >= 400:
		return strconv.Itoa(a.Status)
	case a.Err != nil:
		return errorType(a.Err)
	}
	return ""
}

// errorType is err in one of few words: why nothing was sent, a time-out, what
// the system said, or the Go type of its innermost cause.
func errorType(err error) string {
	if e, ok := errors.AsType[*resilient.Error](err); ok && len(e.Attempts) == 0 && e.Stop != nil {
		return stopName(e.Stop)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection_reset"
	}
	return semconv.ErrorType(innermost(err)).Value.AsString()
}

// innermost follows err to its cause, the last one where there are several.
func innermost(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // it walks the chain by itself
		case interface{ ErrorType() string }:
			return err
		case interface{ Unwrap() error }:
			if next := e.Unwrap(); next != nil {
				err = next
				continue
			}
		case interface{ Unwrap() []error }:
			if all := e.Unwrap(); len(all) > 0 && all[len(all)-1] != nil {
				err = all[len(all)-1]
				continue
			}
		}
		return err
	}
}
