package resilient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// The reasons why an operation had no further attempt, found in
// [Operation].Stop and by errors.Is in an [*Error]. All are decisions of this
// client, not of a server.
var (
	// ErrAttempts: Config.MaxAttempts were made.
	ErrAttempts = errors.New("attempts exhausted")
	// ErrBudget: the host's retry budget is spent, or closed to this operation,
	// because the host had only failed for a second or more when it began. The
	// text says which.
	ErrBudget = errors.New("no retry in the budget (client side)")
	// ErrUnsafe: the server may have acted, and nothing says that acting twice
	// does no harm.
	ErrUnsafe = errors.New("not safe to repeat")
	// ErrBody: the request's body cannot be sent again.
	ErrBody = errors.New("body not replayable")
	// ErrNoTime: the deadline, or Config.MaxRetryAfter, ends before the next
	// attempt would be due.
	ErrNoTime = errors.New("no time for another attempt")
	// ErrKeyExpired: the idempotency key is older than the server is trusted
	// to remember it.
	ErrKeyExpired = errors.New("idempotency key expired")
)

// errDoubt is ErrBudget where the budget is closed and not spent.
var errDoubt = fmt.Errorf("%w: the host has only failed of late", ErrBudget)

// An Error reports an operation that ended without an answer. Outcome is
// NotSent or Unknown. It unwraps to the Stop reason and to the last failure, so
// errors.Is and errors.As find both.
type Error struct {
	Operation
	cause error
}

// Error says what was asked, what can have happened and why it ended. The text
// holds no query, user or header value.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("resilient: " + e.Method + " " + e.URL + ": " + e.Outcome.String())
	switch n := len(e.Attempts); n {
	case 0:
	case 1:
		b.WriteString(" after 1 attempt")
	default:
		b.WriteString(" after " + strconv.Itoa(n) + " attempts")
	}
	if e.Stop != nil {
		b.WriteString(": " + e.Stop.Error())
	}
	switch {
	case e.cause != nil && (e.Stop == nil || e.cause.Error() != e.Stop.Error()):
		b.WriteString(": " + e.cause.Error())
	case e.lastStatus() != 0:
		b.WriteString(": last answer " + strconv.Itoa(e.lastStatus()))
	}
	return b.String()
}

func (e *Error) lastStatus() int {
	if n := len(e.Attempts); n > 0 {
		return e.Attempts[n-1].Status
	}
	return 0
}

// Unwrap returns the Stop reason and the last failure.
func (e *Error) Unwrap() []error {
	var all []error
	if e.Stop != nil {
		all = append(all, e.Stop)
	}
	if e.cause != nil {
		all = append(all, e.cause)
	}
	// http.Client turns exactly this error into ErrSchemeMismatch, but only
	// where nobody wrapped it.
	if head, ok := errors.AsType[tls.RecordHeaderError](e.cause); ok && string(head.RecordHeader[:]) == "HTTP/" {
		all = append(all, http.ErrSchemeMismatch)
	}
	return all
}

// Timeout reports whether the operation ended because time ran out. [url.Error]
// asks its direct child, so the *url.Error of http.Client tells the same.
func (e *Error) Timeout() bool {
	return isTimeout(e.Stop) || isTimeout(e.cause) && !errors.Is(e.Stop, ErrOpen)
}

// Temporary is there for callers of net.Error's method of that name, which is
// deprecated and says true of timeouts, as a rule. They are told what net/http
// would have told them.
func (e *Error) Temporary() bool {
	return isTemporary(e.Stop) || isTemporary(e.cause)
}

func isTemporary(err error) bool {
	temporary, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && temporary.Temporary()
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}
