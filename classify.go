package resilient

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// judgement is what one attempt means, in all its consequences.
type judgement struct {
	verdict Verdict
	outcome Outcome
	report  report        // what the breaker is told
	once    bool          // a cause that is worth at most one repeat
	asked   bool          // the server asked to be left alone
	rest    time.Duration // for how long
}

// judgeAnswer judges a response. pending says that the request is keyed and an
// earlier attempt ended unknown: then a 409 is that attempt, still running.
func judgeAnswer(resp *http.Response, s sight, pending bool) judgement {
	j := judgement{verdict: Done, outcome: Answered, report: success}
	if resp.StatusCode < http.StatusBadRequest || isReplayed(resp.Header) {
		return j // of a replayed answer, repeating brings the same bytes back
	}
	j.rest, j.asked = retryAfter(resp.Header, time.Now())
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		j.verdict, j.report = Transient, failure
	case http.StatusServiceUnavailable:
		j.verdict, j.report = Transient, failure
		if j.asked {
			j.verdict = Throttled
		}
	case http.StatusTooManyRequests:
		j.verdict, j.report = Throttled, neutral
	case http.StatusMisdirectedRequest, http.StatusTooEarly:
		// RFC 9110, section 15.5.20, and RFC 8470, section 5.2: not acted on.
		j.verdict, j.outcome, j.report, j.once = Unsent, NotSent, neutral, true
	case http.StatusConflict:
		if pending {
			j.verdict = Transient
		}
	}
	j.heed(resp.Header)
	if s.replays > 0 && j.verdict != Done {
		// The answer is the last copy's. What became of the first is not known.
		j.outcome = Unknown
		if j.verdict == Unsent {
			j.verdict = Transient
		}
	}
	return j
}

// isReplayed reports whether the answer is the stored one of an earlier attempt.
func isReplayed(h http.Header) bool {
	return strings.EqualFold(h.Get("Idempotent-Replayed"), "true") || strings.EqualFold(h.Get("Idempotency-Replayed"), "true")
}

// heed follows a server that says itself whether to repeat.
func (j *judgement) heed(h http.Header) {
	for _, name := range [...]string{"Stripe-Should-Retry", "X-Should-Retry"} {
		switch v := h.Get(name); {
		case strings.EqualFold(v, "false"):
			j.verdict, j.outcome = Done, Answered
			return
		case strings.EqualFold(v, "true") && j.verdict == Done:
			j.verdict = Transient
			return
		}
	}
}

// judgeError judges an attempt without an answer. The caller's own end and his
// own body have been looked at before. believed says that Base speaks net/http
// and s its truth; without it every error is Unknown.
func judgeError(err error, s sight, believed bool) judgement {
	j := judgement{verdict: Transient, outcome: Unknown, report: failure}
	malformed := hasPrefix(err, permanentTexts)
	if believed && s.replays == 0 && (s.neverSent() || provesUnsent(err, s) || malformed && s.neverAsked()) {
		j.verdict, j.outcome = Unsent, NotSent
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		// One repeat for a resolver that flaps; the host itself is not ill.
		j.once, j.report = true, neutral
	case isPermanent(err):
		j.verdict, j.report = Fatal, neutral
	case streamCode(err) == enhanceYourCalm && j.verdict != Unsent:
		j.verdict, j.report = Throttled, neutral
	}
	return j
}

// isPermanent recognises by type what no repeat can mend.
func isPermanent(err error) bool {
	var (
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		address *net.AddrError
	)
	if errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &address) {
		return true
	}
	if errors.Is(err, http.ErrSchemeMismatch) || isRemoteAlert(err) {
		return true
	}
	switch streamCode(err) {
	case http11Required, inadequateSecurity:
		return true
	}
	return hasPrefix(err, permanentTexts)
}

// brokeUpload reports whether a request body could not be written: often the
// mark of an early 4xx whose answer was lost behind it, so worth one repeat.
func brokeUpload(req *http.Request, err error, s sight) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return hasBody(req) && (s.broke || ok && op.Op == "write")
}

// provesUnsent recognises the errors by which net/http itself says that the
// server cannot have acted, although headers were written to its buffer.
func provesUnsent(err error, s sight) bool {
	if isRefusedStream(err) || !s.reused && isRemoteAlert(err) {
		return true
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if t := reflect.TypeOf(e); t.PkgPath() == "net/http" && t.Name() == "nothingWrittenError" {
			return true
		}
	}
	return hasPrefix(err, unsentTexts) ||
		cannotRetry(err, "graceful shutdown GOAWAY")
}

// isRefusedStream: RFC 9113, section 8.7.
func isRefusedStream(err error) bool {
	return streamCode(err) == refusedStream || cannotRetry(err, "; REFUSED_STREAM;")
}

// cannotRetry reports whether net/http would have sent the request again after
// this failure, of which it leaves the text alone, if it could.
func cannotRetry(err error, after string) bool {
	text, ok := strings.CutPrefix(err.Error(), "http2: Transport: cannot retry err [")
	return ok && strings.Contains(text, after)
}

// Where net/http has no type for what it says, its text is all there is. Each of
// these is provoked by a test; one that changes falls back to Transient, Unknown.
var (
	unsentTexts = []string{
		"http: server closed idle connection",
		"readLoopPeekFailLocked: ",
		"http2: client conn could not be established",
		"http2: client conn not usable",
		"http2: Transport received GOAWAY from server ErrCode:",
		"net/http: cannot rewind body after connection loss",
	}
	permanentTexts = []string{
		"unsupported protocol scheme",
		"http: no Host in request URL",
		"http: Request.ContentLength=",
		"net/http: invalid ",
		"invalid Trailer key",
		"net/http: can't write control character in Request.URL",
		"net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded",
		"http2: request header list larger than peer's advertised limit",
		"http2: invalid ",
	}
)

func hasPrefix(err error, prefixes []string) bool {
	text := err.Error()
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(text, p) })
}

// HTTP/2 error codes (RFC 9113, section 7).
const (
	refusedStream      = 0x7
	enhanceYourCalm    = 0xb
	inadequateSecurity = 0xc
	http11Required     = 0xd
)

// streamError has the shape by which net/http hands out its bundled
// http2.StreamError without an import (see http2StreamError.As).
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "stream error" }

// streamCode is the code of an HTTP/2 stream error, 0 if err is none.
func streamCode(err error) uint32 {
	if e, ok := errors.AsType[streamError](err); ok {
		return e.Code
	}
	return 0
}

// isRemoteAlert reports whether the peer refused our TLS handshake, which under
// TLS 1.3 it may do after the request was written. tls.alert is not exported and
// tls.AlertError does not match it, so the texts of the alerts are compared.
func isRemoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" || op.Err == nil {
		return false
	}
	// The alerts of a handshake that cannot succeed (RFC 8446, section 6.2).
	for _, alert := range [...]tls.AlertError{40, 42, 43, 44, 45, 46, 48, 49, 70, 71, 112, 116, 120} {
		if op.Err.Error() == alert.Error() {
			return true
		}
	}
	return false
}
