package resilient

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"net/url"
	"sync"
)

var errSentAgain = errors.New("net/http was about to send it again")

// evidence gathers what net/http's trace tells of one attempt, to answer two
// questions: can the server have seen it, and how many times was it sent?
//
// Only what did not happen proves anything. No connection was got, or no header
// was written while the attempt could still go on: then nothing left. The
// opposite signals fire before a byte is flushed. Neither the error's text nor
// its Op will do: net/http sends requests again by itself, and reports the fate
// of the last copy.
//
// Hooks run on net/http's goroutines and may come late, so evidence is never
// reused and each attempt has its own.
type evidence struct {
	trace httptrace.ClientTrace

	// cut ends the attempt. It is nil where net/http's own sending again is
	// harmless or impossible, and not used once a dialler's own requests, which
	// the same hooks see, make what looks like it a guess.
	cut func(cause error)
	// most bounds net/http's sendings over HTTP/2. once: there must be no second
	// one on another HTTP/2 connection.
	most int32
	once bool

	url   *url.URL // where the attempt goes
	http1 bool     // without TLS, HTTP/1.1 is spoken and nothing else

	mu      sync.Mutex
	asked   bool     // GetConn
	address string   // it named first: the host's, or a proxy's
	foreign bool     // it named others: requests of a dialler's own (a resolver over HTTP)
	got     bool     // GotConn
	head    bool     // WroteHeaders, on any connection
	current bool     // WroteHeaders, on the connection got last
	reused  bool     // the connection got last had served before
	idle    bool     // and had rested since
	alone   bool     // nobody else was on it
	broke   bool     // WroteRequest with an error
	sent    int32    // requests on the wire before the connection got last
	handed  int32    // of them, on connections that had not rested
	conn    net.Conn // got last
}

// watch makes the trace. With upload, it looks for a body that could not be
// written to its end, which only a large one shows: a small one is in the
// kernel's buffers before anything can go wrong.
func (e *evidence) watch(upload bool) *httptrace.ClientTrace {
	e.trace.GetConn = e.getConn
	e.trace.GotConn = e.gotConn
	e.trace.WroteHeaders = e.wroteHeaders
	if upload {
		e.trace.WroteRequest = e.wroteRequest
	}
	return &e.trace
}

func (e *evidence) getConn(address string) {
	e.mu.Lock()
	switch {
	case !e.asked:
		e.asked, e.address = true, address
	case address != e.address && !e.leadsTo(address):
		e.foreign = true
	}
	e.mu.Unlock()
}

// leadsTo reports whether address is the URL's own. HTTP/2 asks for that one
// even behind a proxy.
func (e *evidence) leadsTo(address string) bool {
	host, port, err := net.SplitHostPort(address)
	own := e.url.Port()
	return err == nil && host == e.url.Hostname() && (port == own || own == "" && (port == "443" || port == "80"))
}

func (e *evidence) gotConn(info httptrace.GotConnInfo) {
	e.mu.Lock()
	again := e.current
	if again {
		e.sent++
		if e.reused && !e.idle {
			e.handed++
		}
	}
	stop := again && e.cut != nil && !e.foreign && e.tooOften(info.Conn)
	if stop && isHTTP2(info.Conn) {
		// There the context is looked at before HEADERS are written: the copy
		// cut here does not leave. The attempt stands for the one before it.
		e.sent--
	}
	e.got, e.current, e.reused, e.idle, e.conn = true, false, info.Reused, info.WasIdle, info.Conn
	e.alone = info.WasIdle || e.http1 && !isHTTP2(info.Conn)
	e.mu.Unlock()
	if stop {
		e.cut(errSentAgain)
	}
}

func (e *evidence) wroteHeaders() {
	e.mu.Lock()
	e.head, e.current = true, true
	e.mu.Unlock()
}

func (e *evidence) wroteRequest(info httptrace.WroteRequestInfo) {
	e.mu.Lock()
	e.broke = info.Err != nil
	e.mu.Unlock()
}

// mostHanded bounds what net/http sends again over HTTP/1.1 on connections that
// had not rested. There is one copy for each that had, at most. But a new one, whose
// dialler has got another meanwhile, is handed on and passes for used; if the
// server ends it at once, its next owner dials again, and hands on his. So a few
// callers can send without end, two hundred requests each and more.
const mostHanded = 4

// tooOften reports whether next is got for one copy too many.
func (e *evidence) tooOften(next net.Conn) bool {
	if e.overHTTP2(next) {
		return e.sent >= e.most || e.once && e.conn != next
	}
	return e.handed >= mostHanded
}

// overHTTP2 reports whether the copy sent last was, as next is got for another.
// Cleartext shows no protocol, but over HTTP/1.1 net/http sends again only what
// went out on a connection that had served before, and never on that one.
func (e *evidence) overHTTP2(next net.Conn) bool {
	return isHTTP2(e.conn) || !e.reused || e.conn == next
}

func isHTTP2(conn net.Conn) bool {
	c, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	return ok && c.ConnectionState().NegotiatedProtocol == "h2"
}

// sight is what was seen of an attempt when Base returned. The zero sight has
// seen nothing and proves nothing.
type sight struct {
	watched          bool // somebody looked
	asked, got, head bool
	reused, alone    bool
	broke            bool     // the request could not be written to its end
	replays          int      // sendings by net/http itself, before the last
	open             bool     // the attempt could still go on: its context and Request.Cancel
	conn             net.Conn // got last
}

func (e *evidence) sight(open bool) sight {
	if e == nil {
		return sight{}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return sight{watched: true, asked: e.asked, got: e.got, head: e.head, reused: e.reused, alone: e.alone, broke: e.broke, replays: int(e.sent), open: open, conn: e.conn}
}

// neverAsked reports whether net/http did not even look for a connection. That
// alone proves nothing: another protocol may be registered with it.
func (s sight) neverAsked() bool { return s.watched && !s.asked }

// neverSent reports whether nothing can have left this host. With the context
// ended, an HTTP/2 request may be on the wire before its WroteHeaders fires.
func (s sight) neverSent() bool {
	return s.asked && (!s.got || !s.head && s.open)
}
