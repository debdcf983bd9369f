package faultinject

import "time"

// Essential returns ten faults, one for each pair of how far the request got
// and what its caller sees: enough for a quick search. They are refuse-dial,
// blackhole, close-idle(fin), cut-request(rst), drop-before(rst), respond(503),
// lose-response(rst), mask-response(504), late(1s) and cut-body(1,fin).
func Essential() []Fault {
	return []Fault{
		RefuseDial(),      // never sent, dial error
		Blackhole(),       // never sent, time-out
		CloseIdle(FIN),    // never sent, connection error
		CutRequest(RST),   // maybe partly, connection error
		DropBefore(RST),   // delivered, connection error
		Respond(503),      // delivered, refusal
		LoseResponse(RST), // applied, connection error
		MaskResponse(504), // applied, refusal
		Late(time.Second), // applied in the end, time-out
		CutBody(1, FIN),   // applied, broken body
	}
}

// Catalogue returns every kind of fault that strikes plain HTTP/1.1, once in
// each of its faces and in the order in which an exchange would meet them,
// [Pass] left out. A POST without a key, which net/http does not send again,
// meets:
//
//	fault                           truth         what the client sees
//	refuse-dial                     never-sent    dial: connection refused
//	nxdomain                        never-sent    dial: no such host
//	dns-timeout                     never-sent    dial: i/o timeout
//	blackhole                       never-sent    its own deadline
//	slow-dial(1s)                   applied       200
//	hang-up(fin)                    never-sent    EOF
//	hang-up(rst)                    never-sent    read: connection reset by peer
//	close-idle(fin)                 never-sent    EOF
//	close-idle(rst)                 never-sent    read: connection reset by peer
//	cut-request(fin)                maybe-partly  EOF
//	cut-request(rst)                maybe-partly  read: connection reset by peer
//	drop-before(fin)                delivered     EOF
//	drop-before(rst)                delivered     read: connection reset by peer
//	respond(503)                    delivered     503
//	respond(429,"Retry-After: 1")   delivered     429
//	lose-response(fin)              applied       EOF
//	lose-response(rst)              applied       read: connection reset by peer
//	mask-response(504)              applied       504
//	malformed-status                applied       malformed HTTP response
//	oversized-header                applied       server response headers exceeded
//	interim(103)                    applied       103, then 200
//	late(1s)                        applied       its own deadline
//	delay(1s)                       applied       200
//	stall                           applied       its own deadline
//	cut-body(1,fin)                 applied       200, then unexpected EOF
//	cut-body(1,rst)                 applied       200, then read: connection reset by peer
//	stall-body(1)                   applied       200, then its own deadline
//	corrupt-body(0)                 applied       200
//	malformed-chunk                 applied       200, then invalid byte in chunk length
//	trickle-body(1,100ms)           applied       200
//	bandwidth(100)                  applied       200
//	duplicate                       applied       200
//
// The same holds in front of a handler, in front of another RoundTripper, on a
// [Network] and over TCP. Where there is no HTTP/2, [GoAway], [ResetStream] and
// [GoAwayAfter] have the face of another fault and do not stand here.
//
// Those who come from other tools find there:
//
//	WireMock EMPTY_RESPONSE             drop-before(fin), or lose-response(fin) if it is to have an effect
//	WireMock CONNECTION_RESET_BY_PEER   drop-before(rst), or lose-response(rst)
//	WireMock RANDOM_DATA_THEN_CLOSE     malformed-status
//	WireMock MALFORMED_RESPONSE_CHUNK   malformed-chunk
//	WireMock fixedDelay                 delay
//	WireMock chunkedDribbleDelay        trickle-body
//	toxiproxy latency                   Network.Up and Network.Down, delay for one exchange
//	toxiproxy bandwidth                 bandwidth, of the answer's body alone
//	toxiproxy slow_close                none: a connection that closes late harms no HTTP client
//	toxiproxy timeout                   stall, or blackhole if it is the dial
//	toxiproxy reset_peer                cut-request(rst), drop-before(rst), lose-response(rst)
//	toxiproxy slicer                    trickle-body
//	toxiproxy limit_data                cut-body
func Catalogue() []Fault {
	return []Fault{
		RefuseDial(), NXDomain(), DNSTimeout(), Blackhole(), SlowDial(time.Second),
		HangUp(FIN), HangUp(RST), CloseIdle(FIN), CloseIdle(RST),
		CutRequest(FIN), CutRequest(RST), DropBefore(FIN), DropBefore(RST),
		Respond(503), Respond(429, "Retry-After: 1"),
		LoseResponse(FIN), LoseResponse(RST), MaskResponse(504),
		MalformedStatus(), OversizedHeader(), Interim(103),
		Late(time.Second), Delay(time.Second), Stall(),
		CutBody(1, FIN), CutBody(1, RST), StallBody(1), CorruptBody(0),
		MalformedChunk(), TrickleBody(1, 100*time.Millisecond), Bandwidth(100),
		Duplicate(),
	}
}
