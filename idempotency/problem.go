package idempotency

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// problemBase is where each type of problem is explained.
const problemBase = "https://github.com/go-resilient/resilient/blob/main/docs/idempotency.md#"

// Types of the problems (RFC 9457) that the middleware answers with, so that no
// client takes a refusal for an answer of the service. Status and type are part
// of the interface; title and detail are for people.
const (
	ProblemKeyMissing         = problemBase + "key-missing"          // 400
	ProblemKeyMalformed       = problemBase + "key-malformed"        // 400
	ProblemFirstSentMalformed = problemBase + "first-sent-malformed" // 400
	ProblemScopeMissing       = problemBase + "scope-missing"        // 400
	ProblemBodyUnreadable     = problemBase + "body-unreadable"      // 400, or 503 where there is no room for it
	ProblemInProgress         = problemBase + "in-progress"          // 409, with Retry-After
	ProblemOutcomeUnknown     = problemBase + "outcome-unknown"      // 409, or 503 where the store failed after the run
	ProblemResultExpired      = problemBase + "result-expired"       // 410
	ProblemKeyExpired         = problemBase + "key-expired"          // 412
	ProblemBodyTooLarge       = problemBase + "body-too-large"       // 413
	ProblemKeyReused          = problemBase + "key-reused"           // 422
	ProblemNotApplied         = problemBase + "not-applied"          // 500
	ProblemStoreUnavailable   = problemBase + "store-unavailable"    // 503, with Retry-After
	ProblemAnswerNotKept      = problemBase + "answer-not-kept"      // the status of the answer that was not kept
)

// problem is one type with what is always said of it.
type problem struct {
	uri, title string
	status     int
}

var (
	problemKeyMissing         = problem{ProblemKeyMissing, "An idempotency key is required", http.StatusBadRequest}
	problemKeyMalformed       = problem{ProblemKeyMalformed, "The idempotency key is malformed", http.StatusBadRequest}
	problemFirstSentMalformed = problem{ProblemFirstSentMalformed, "The time of the first sending is malformed", http.StatusBadRequest}
	problemScopeMissing       = problem{ProblemScopeMissing, "It cannot be told whose idempotency key this is", http.StatusBadRequest}
	problemBodyUnreadable     = problem{ProblemBodyUnreadable, "The request's body ended early", http.StatusBadRequest}
	problemInProgress         = problem{ProblemInProgress, "A request with this idempotency key is in progress", http.StatusConflict}
	problemOutcomeUnknown     = problem{ProblemOutcomeUnknown, "The outcome of the request with this idempotency key is unknown", http.StatusConflict}
	problemResultExpired      = problem{ProblemResultExpired, "The answer to this idempotency key is no longer kept", http.StatusGone}
	problemKeyExpired         = problem{ProblemKeyExpired, "The idempotency key is older than keys are kept", http.StatusPreconditionFailed}
	problemBodyTooLarge       = problem{ProblemBodyTooLarge, "The request's body is too large", http.StatusRequestEntityTooLarge}
	problemKeyReused          = problem{ProblemKeyReused, "The idempotency key was used for another request", http.StatusUnprocessableEntity}
	problemNotApplied         = problem{ProblemNotApplied, "Nothing was done", http.StatusInternalServerError}
	problemStoreUnavailable   = problem{ProblemStoreUnavailable, "The store of idempotency keys failed; this request was not executed", http.StatusServiceUnavailable}
	problemAnswerNotKept      = problem{ProblemAnswerNotKept, "It was done; the body of the answer was not kept", http.StatusOK}
)

// problemAnswer is p as an answer of its usual status.
func problemAnswer(p problem, detail string) Answer {
	body, _ := json.Marshal(struct { // strings and a number: cannot fail
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{p.uri, p.title, p.status, detail})
	return Answer{
		Status: p.status,
		Header: http.Header{"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"}},
		Body:   body,
	}
}

// refusals are the problems of an [Error], by its reason.
var refusals = map[error]struct {
	problem
	detail string
}{
	ErrInProgress:     {problemInProgress, "Its answer will be given to a repetition once there is one."},
	ErrReused:         {problemKeyReused, "Method, target, content type and body must be those of the first request; a new request needs a new key."},
	ErrResultExpired:  {problemResultExpired, "The request was executed earlier, once."},
	ErrOutcomeUnknown: {problemOutcomeUnknown, "It is not executed again, since it may have been."},
	ErrStore:          {problemStoreUnavailable, ""},
}

// refusal is the answer to a request whose key was refused.
func (e *Error) refusal() Answer {
	p := refusals[e.Reason]
	if e.Cause != nil { // it is not the key but the store, or who was to find out
		p.status = http.StatusServiceUnavailable
	}
	a := problemAnswer(p.problem, p.detail)
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		a.Header.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	} else {
		// For clients that would repeat any 409.
		a.Header.Set("X-Should-Retry", "false")
	}
	return a
}
