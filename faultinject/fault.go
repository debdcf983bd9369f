package faultinject

import (
	"net/textproto"
	"slices"
	"strings"
	"time"
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

// CloseIdle ends a reused connection while the request is being written on it:
// the server has left and reads none of it. net/http replays such a request on a
// new connection if it is idempotent or bears a key; [Transport], which has no
// connections, reports what net/http reports when it may not.
func CloseIdle(how How) Fault { return Fault{kind: closeIdle, how: how} }

// CutRequest resets the connection when half of the request body is through,
// or the head alone if the length of the body is zero or not declared.
func CutRequest() Fault { return Fault{kind: cutRequest} }

// DropBefore ends the connection when the request has arrived whole, before
// the handler runs.
func DropBefore(how How) Fault { return Fault{kind: dropBefore, how: how} }

// Respond answers in place of the handler, which does not run. A header is
// written as on the wire, "Retry-After: 2"; one that is not is left out. A
// status outside 200 to 599 becomes 503.
func Respond(status int, header ...string) Fault {
	return Fault{kind: respond, status: final(status, 503), header: joinHeader(header)}
}

// LoseResponse runs the handler and ends the connection in place of its
// answer.
func LoseResponse(how How) Fault { return Fault{kind: loseResponse, how: how} }

// MaskResponse runs the handler, whose answer a gateway then replaces by a
// status of its own. A status outside 200 to 599 becomes 502.
func MaskResponse(status int) Fault {
	return Fault{kind: maskResponse, status: final(status, 502)}
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
func CutBody(n int, how How) Fault { return Fault{kind: cutBody, at: max(n, 0), how: how} }

// StallBody lets n bytes of the answer's body through and then nothing until
// the caller gives up.
func StallBody(n int) Fault { return Fault{kind: stallBody, at: max(n, 0)} }

// CorruptBody flips a bit of byte n of the answer's body, counted from 0. A
// shorter body passes unharmed.
func CorruptBody(n int) Fault { return Fault{kind: corruptBody, at: max(n, 0)} }

// Duplicate delivers the request twice; the caller has the second answer.
func Duplicate() Fault { return Fault{kind: duplicate} }

// Name returns the fault's name without its arguments, such as
// "lose-response".
func (f Fault) Name() string { return kinds[f.kind].name }

// Truth returns how far a request struck by f gets, if its caller waits for it;
// [Delivery.Reach] has what became of one exchange.
func (f Fault) Truth() Reach { return kinds[f.kind].reach }

// dials reports whether f strikes before there is a connection.
func (f Fault) dials() bool {
	switch f.kind {
	case refuseDial, nxDomain, dnsTimeout, blackhole:
		return true
	}
	return false
}

// bodily reports whether f strikes the body of the answer.
func (f Fault) bodily() bool {
	return f.kind == cutBody || f.kind == stallBody || f.kind == corruptBody
}

// Essential returns ten faults, one for each pair of how far the request got
// and what its caller sees: enough for a quick search. [Pass] is not among
// them.
func Essential() []Fault {
	return []Fault{
		RefuseDial(),      // never sent, dial error
		Blackhole(),       // never sent, time-out
		CloseIdle(FIN),    // never sent, connection error
		CutRequest(),      // maybe partly, connection error
		DropBefore(RST),   // delivered, connection error
		Respond(503),      // delivered, refusal
		LoseResponse(RST), // applied, connection error
		MaskResponse(504), // applied, refusal
		Late(time.Second), // applied in the end, time-out
		CutBody(1, FIN),   // applied, broken body
	}
}

// Catalogue returns every kind of fault once in each of its faces, [Pass] left
// out. A POST without a key, which net/http does not send again, meets:
//
//	fault                           truth         what the client sees
//	refuse-dial                     never-sent    dial: connection refused
//	nxdomain                        never-sent    dial: no such host
//	dns-timeout                     never-sent    dial: i/o timeout
//	blackhole                       never-sent    its own deadline
//	close-idle(fin)                 never-sent    EOF
//	close-idle(rst)                 never-sent    read: connection reset by peer
//	cut-request                     maybe-partly  read: connection reset by peer
//	drop-before(fin)                delivered     EOF
//	drop-before(rst)                delivered     read: connection reset by peer
//	respond(503)                    delivered     503
//	respond(429,"Retry-After: 1")   delivered     429
//	lose-response(fin)              applied       EOF
//	lose-response(rst)              applied       read: connection reset by peer
//	mask-response(504)              applied       504
//	late(1s)                        applied       its own deadline
//	delay(1s)                       applied       200
//	stall                           applied       its own deadline
//	cut-body(1,fin)                 applied       200, then unexpected EOF
//	cut-body(1,rst)                 applied       200, then read: connection reset by peer
//	stall-body(1)                   applied       200, then its own deadline
//	corrupt-body(0)                 applied       200
//	duplicate                       applied       200
//
// The same holds in front of a handler, in front of another RoundTripper, on a
// [Network] and over TCP.
func Catalogue() []Fault {
	return []Fault{
		RefuseDial(), NXDomain(), DNSTimeout(), Blackhole(),
		CloseIdle(FIN), CloseIdle(RST), CutRequest(),
		DropBefore(FIN), DropBefore(RST),
		Respond(503), Respond(429, "Retry-After: 1"),
		LoseResponse(FIN), LoseResponse(RST), MaskResponse(504),
		Late(time.Second), Delay(time.Second), Stall(),
		CutBody(1, FIN), CutBody(1, RST), StallBody(1), CorruptBody(0),
		Duplicate(),
	}
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
		if ok && isToken(name) && !strings.ContainsFunc(value, isControl) {
			kept = append(kept, textproto.CanonicalMIMEHeaderKey(name)+": "+value)
		}
	}
	return strings.Join(kept, "\n")
}

// isToken follows RFC 9110, section 5.6.2.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		letter := 'a' <= r|0x20 && r|0x20 <= 'z' && r < 0x80
		return !letter && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// lines gives the header back as its lines.
func (f Fault) lines() []string {
	if f.header == "" {
		return nil
	}
	return slices.Collect(strings.SplitSeq(f.header, "\n"))
}
