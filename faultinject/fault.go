package faultinject

import (
	"math"
	"math/bits"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/go-resilient/resilient/internal/httptoken"
)

// How says in which way a connection ends.
type How uint8

const (
	FIN How = iota // closed in order: the reader meets io.EOF
	RST            // reset: the reader meets "connection reset by peer"
)

// String returns "fin" or "rst".
func (h How) String() string {
	if h == RST {
		return "rst"
	}
	return "fin"
}

// Reach says how far a request got. It is what the injector knows and the
// client can only guess; the order is that of growing effect.
type Reach uint8

const (
	NeverSent   Reach = iota // no byte of it reached the server
	MaybePartly              // cut on its way: the server has part of it at most
	Delivered                // arrived whole, and the handler did not run
	Applied                  // the handler ran, or will (see [Late])
)

// String returns the name in lower case, such as "never-sent".
func (r Reach) String() string {
	names := [...]string{"never-sent", "maybe-partly", "delivered", "applied"}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown"
}

// Place says where a fault strikes: a [Transport] meets all of them in one
// exchange, while a real connection is dialled, accepted and used one after the
// other, and each of these asks the plan.
type Place uint8

const (
	Anywhere  Place = iota // nothing happens at all: [Pass]
	AtDial                 // before there is a connection
	AtAccept               // on a new connection, before a request
	AtRequest              // when a request has come
)

// A CertFlaw is what is wrong with a server's certificate.
type CertFlaw uint8

const (
	Untrusted CertFlaw = iota // issued by nobody whom the client knows
	Expired                   // valid until an hour ago
	WrongHost                 // valid for another name
)

// String returns the name as it stands in the text of a fault, such as
// "wrong-host".
func (w CertFlaw) String() string {
	names := [...]string{"untrusted", "expired", "wrong-host"}
	return names[min(w, WrongHost)]
}

// A Fault is what happens to one exchange. It is a value: faults compare with
// ==, print as text and are read back by [ParseFault]. The zero Fault is
// [Pass]. Faults come from the constructors of this package.
type Fault struct {
	kind   kind
	how    How
	at     int
	status int
	wait   time.Duration
	header string // canonical lines, parted by \n, so that Fault compares
}

// Pass leaves the exchange alone.
func Pass() Fault { return Fault{} }

// RefuseDial answers the dial with "connection refused".
func RefuseDial() Fault { return Fault{kind: refuseDial} }

// NXDomain lets the look-up of the host find nothing.
func NXDomain() Fault { return Fault{kind: nxDomain} }

// DNSTimeout lets the look-up of the host fail at once with a temporary
// time-out.
func DNSTimeout() Fault { return Fault{kind: dnsTimeout} }

// Blackhole lets the dial hang until the caller gives up.
func Blackhole() Fault { return Fault{kind: blackhole} }

// SlowDial lets the dial take d longer.
func SlowDial(d time.Duration) Fault { return Fault{kind: slowDial, wait: max(d, 0)} }

// HangUp ends a new connection as soon as its first bytes come, which the
// server does not look at. (One that ends before is told by net/http in five
// ways, as the race goes.)
func HangUp(how How) Fault { return Fault{kind: hangUp, how: how} }

// BadCert lets the server show a certificate that a client must refuse. Without
// TLS there is none, and the connection passes.
func BadCert(flaw CertFlaw) Fault { return Fault{kind: badCert, at: int(min(flaw, WrongHost))} }

// StallHandshake lets the server say nothing to a TLS handshake, until the
// caller gives up. Without TLS the connection passes.
func StallHandshake() Fault { return Fault{kind: stallHandshake} }

// CutHandshake ends the connection in the middle of its TLS handshake. Without
// TLS the connection passes.
func CutHandshake(how How) Fault { return Fault{kind: cutHandshake, how: how} }

// CloseIdle ends a reused connection while the request is being written on it:
// the server has left and reads none of it. net/http replays such a request on a
// new connection if it is idempotent or bears a key; [Transport], which has no
// connections, reports what net/http reports when it may not.
func CloseIdle(how How) Fault { return Fault{kind: closeIdle, how: how} }

// CutRequest ends the connection when half of the request body is through, or
// the head alone if the length of the body is zero or not declared. A client
// that is still writing then may see its Write fail in place of this end.
func CutRequest(how How) Fault { return Fault{kind: cutRequest, how: how} }

// DropBefore ends the connection when the request has arrived whole, before
// the handler runs.
func DropBefore(how How) Fault { return Fault{kind: dropBefore, how: how} }

// Respond answers in place of the handler, which does not run. A header is
// written as on the wire, "Retry-After: 2"; one that is not is left out. A
// status outside 200 to 599 becomes 503.
//
// In a header's value {now+2s} stands for the HTTP-date (RFC 9110, section
// 5.6.7) two seconds after the answer, and {unix+2s} for that time in seconds since
// 1970, both in whole seconds, rounded down. Any duration that [time.ParseDuration]
// reads will do, of either sign, or none; other braces stay as they are:
//
//	Respond(503, "Retry-After: {now+1m30s}")
//	Respond(429, "RateLimit-Reset: {unix+500ms}")
//	Respond(503, "Retry-After: {now-1h}") // a date that has passed
func Respond(status int, header ...string) Fault {
	return Fault{kind: respond, status: final(status, 503), header: joinHeader(header)}
}

// GoAway refuses the request as HTTP/2 does it for a whole connection: GOAWAY
// with a last stream below its own (RFC 9113, section 6.8), so that the handler
// does not run; the connection ends with its last answer. Where a later stream is
// at work, which such a GOAWAY would deny, the request is refused by
// [RefusedStream] and the GOAWAY covers both. HTTP/1.1 knows no such thing: there
// it is [DropBefore](FIN).
func GoAway(code Code) Fault { return Fault{kind: goAway, at: int(code)} }

// ResetStream runs the handler and resets the HTTP/2 stream in place of its
// answer (RFC 9113, section 6.4). With [RefusedStream], which promises the
// contrary, the handler does not run. Over HTTP/1.1 it is [LoseResponse](RST), or
// [DropBefore](RST).
func ResetStream(code Code) Fault { return Fault{kind: resetStream, at: int(code)} }

// GoAwayAfter runs the handler, sends a GOAWAY that covers the request's stream
// and ends the connection in place of the answer, when other streams have had
// theirs. Over HTTP/1.1 it is [LoseResponse](FIN).
func GoAwayAfter(code Code) Fault { return Fault{kind: goAwayAfter, at: int(code)} }

// LoseResponse runs the handler and ends the connection in place of its
// answer.
func LoseResponse(how How) Fault { return Fault{kind: loseResponse, how: how} }

// MaskResponse runs the handler, whose answer a gateway then replaces by a
// status of its own. A status outside 200 to 599 becomes 502.
func MaskResponse(status int) Fault {
	return Fault{kind: maskResponse, status: final(status, 502)}
}

// MalformedStatus runs the handler and sends, in place of its answer, a line
// that is not HTTP.
func MalformedStatus() Fault { return Fault{kind: malformedStatus} }

// OversizedHeader runs the handler and answers with a header that goes on until
// the client has had enough, or 16 MiB.
func OversizedHeader() Fault { return Fault{kind: oversizedHeader} }

// Interim sends an interim answer (1xx) before the handler's own, with headers
// as for [Respond]. A status outside 102 to 199 becomes 103: 100 and 101 are not
// a server's to choose. HTTP/1.0 knows none (RFC 9110, section 15.2), and an
// exchange that speaks it passes.
func Interim(status int, header ...string) Fault {
	return Fault{kind: interim, status: informational(status, 103), header: joinHeader(header)}
}

// Late leaves the caller without an answer until it gives up, and runs the
// handler d after that: the effect comes when nobody waits for it any more.
func Late(d time.Duration) Fault { return Fault{kind: late, wait: max(d, 0)} }

// Delay adds d before the handler runs. A caller that gives up within d has
// withdrawn its request.
func Delay(d time.Duration) Fault { return Fault{kind: delay, wait: max(d, 0)} }

// Stall runs the handler and holds its whole answer back until the caller
// gives up.
func Stall() Fault { return Fault{kind: stall} }

// CutBody lets n bytes of the answer's body through and then ends the
// connection. The head promises more than arrives, even if n exceeds the body.
// An answer that can have no body passes unharmed.
func CutBody(n int, how How) Fault { return Fault{kind: cutBody, at: count(n, 0), how: how} }

// StallBody lets n bytes of the answer's body through and then nothing until
// the caller gives up.
func StallBody(n int) Fault { return Fault{kind: stallBody, at: count(n, 0)} }

// CorruptBody flips a bit of byte n of the answer's body, counted from 0. A
// shorter body passes unharmed.
func CorruptBody(n int) Fault { return Fault{kind: corruptBody, at: count(n, 0)} }

// MalformedChunk answers with a body whose chunks are not HTTP from the first on.
// An answer that can have no body passes unharmed.
func MalformedChunk() Fault { return Fault{kind: malformedChunk} }

// TrickleBody lets the answer's body through n bytes at a time, at least 1,
// with a pause of d before each time.
func TrickleBody(n int, d time.Duration) Fault {
	return Fault{kind: trickleBody, at: count(n, 1), wait: max(d, 0)}
}

// Bandwidth lets the answer's body through at n bytes a second, at least 1, in
// pieces of a tenth of that.
func Bandwidth(n int) Fault { return Fault{kind: bandwidth, at: count(n, 1)} }

// Duplicate delivers the request twice; the caller has the second answer.
func Duplicate() Fault { return Fault{kind: duplicate} }

// Name returns the fault's name without its arguments, such as
// "lose-response".
func (f Fault) Name() string { return kinds[f.kind].name }

// Truth returns how far a request struck by f gets, if its caller waits for it;
// [Delivery.Reach] has what became of one exchange.
func (f Fault) Truth() Reach {
	if f == ResetStream(RefusedStream) {
		return Delivered
	}
	return kinds[f.kind].reach
}

// Strikes returns where f strikes.
func (f Fault) Strikes() Place {
	switch f.kind {
	case pass, invalid:
		return Anywhere
	case refuseDial, nxDomain, dnsTimeout, blackhole, slowDial:
		return AtDial
	case hangUp, badCert, stallHandshake, cutHandshake:
		return AtAccept
	}
	return AtRequest
}

// bodily reports whether f strikes the body of the answer.
func (f Fault) bodily() bool {
	switch f.kind {
	case cutBody, stallBody, corruptBody, malformedChunk, trickleBody, bandwidth:
		return true
	}
	return false
}

// piece is how many bytes a slow body lets through at once, after those that
// passed.
func (f Fault) piece(passed int) int {
	if f.kind == trickleBody {
		return f.at - passed%f.at
	}
	return max(f.at/10, 1) // a tenth of a second's worth
}

// pause is how long a slow body holds back the next n bytes, after those that
// passed.
func (f Fault) pause(passed, n int) time.Duration {
	if f.kind == trickleBody {
		if passed%f.at > 0 {
			return 0 // the rest of a piece
		}
		return f.wait
	}
	return f.due(passed+n) - f.due(passed)
}

// due is when byte n is through: from the beginning, so that no rounding adds
// up.
func (f Fault) due(n int) time.Duration {
	hi, lo := bits.Mul64(uint64(n%f.at), uint64(time.Second))
	rest, _ := bits.Div64(hi, lo, uint64(f.at))
	return time.Duration(n/f.at)*time.Second + time.Duration(rest)
}

// overHTTP1 is the face of f where there are no HTTP/2 frames.
func (f Fault) overHTTP1() Fault {
	switch f.kind {
	case goAway:
		return DropBefore(FIN)
	case goAwayAfter:
		return LoseResponse(FIN)
	case resetStream:
		if f.Truth() == Delivered {
			return DropBefore(RST)
		}
		return LoseResponse(RST)
	}
	return f
}

// least is the smallest count that f can have.
func (f Fault) least() int {
	if f.kind == trickleBody || f.kind == bandwidth {
		return 1
	}
	return 0
}

// count keeps a number of bytes in range. There must be room for one byte more,
// which an answer promises and does not send.
func count(n, least int) int { return min(max(n, least), math.MaxInt-1) }

// unreadable is a fault that fails with a text, for what was asked for in a way
// that cannot be meant.
func unreadable(why string) Fault { return Fault{kind: invalid, header: why} }

func informational(status, otherwise int) int {
	if status < 102 || status > 199 {
		return otherwise
	}
	return status
}

func final(status, otherwise int) int {
	if status < 200 || status > 599 {
		return otherwise
	}
	return status
}

// joinHeader keeps the lines that a server could send, in canonical form.
func joinHeader(lines []string) string {
	var kept []string
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if ok && httptoken.Valid(name) && !strings.ContainsFunc(value, isControl) {
			kept = append(kept, textproto.CanonicalMIMEHeaderKey(name)+": "+value)
		}
	}
	return strings.Join(kept, "\n")
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// lines gives the header back as its lines.
func (f Fault) lines() []string {
	if f.header == "" {
		return nil
	}
	return slices.Collect(strings.SplitSeq(f.header, "\n"))
}
