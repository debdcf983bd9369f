package faultinject

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// A route is one of those on which a request meets a fault.
type route struct {
	name  string
	proto string // h1, h2 (over TLS), h2c (without), or empty: no connection
	url   string
	tcp   bool
}

func routes() []route {
	return []route{
		{"handler", "", "https://shop.test", false},
		{"wrapped", "", "https://shop.test", false},
		{"HTTP/1.1 over TLS in memory", "h1", "https://shop.test", false},
		{"HTTP/2 over TLS in memory", "h2", "https://shop.test", false},
		{"HTTP/2 in memory", "h2c", "http://shop.test", false},
		{"HTTP/1.1 in memory", "h1", "http://shop.test", false},
		{"HTTP/1.1 over TLS over TCP", "h1", "https", true},
		{"HTTP/2 over TLS over TCP", "h2", "https", true},
		{"HTTP/2 over TCP", "h2c", "http", true},
	}
}

// speakOnly lets a transport speak one protocol alone.
func speakOnly(tr *http.Transport, proto string) {
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP1(proto == "h1")
	tr.Protocols.SetHTTP2(proto == "h2")
	tr.Protocols.SetUnencryptedHTTP2(proto == "h2c")
}

// netStreamError is made as StreamError of golang.org/x/net/http2 is.
type netStreamError struct {
	StreamID uint32
	Code     netErrCode
	Cause    error
}

type netErrCode uint32

func (netStreamError) Error() string { return "" }

// once is a RoundTripper that net/http may not replay through. It knows what TLS
// and HTTP/2 have to say.
type once struct {
	http.RoundTripper
	events events
	err    string
	tls    string // the events until RoundTrip returned
}

func (o *once) RoundTrip(req *http.Request) (*http.Response, error) {
	trace := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		TLSHandshakeStart: func() { o.events.add("tls") },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			o.events.add(fmt.Sprint("secured=", err == nil))
		},
	})
	req = req.WithContext(trace)
	req.GetBody = nil
	resp, err := o.RoundTripper.RoundTrip(req)
	o.err, o.tls = secureProfile(err), o.events.String()
	return resp, err
}

func secureProfile(err error) string {
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if len(e.UnverifiedCertificates) != 1 {
			return "without its certificate"
		}
		what := fmt.Sprintf("certificate: %T", e.Err)
		if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
			what += fmt.Sprint(e.Reason)
		}
		return what
	}
	if e, ok := errors.AsType[netStreamError](err); ok {
		return fmt.Sprintf("stream %d, code %d, %v: %v", e.StreamID, e.Code, e.Cause, err)
	}
	return profile(err)
}

// meet makes one exchange struck by f.
func (r route) meet(t *testing.T, f Fault) (got face) {
	t.Helper()
	if r.tcp {
		return r.overTCP(t, f)
	}
	synctest.Test(t, func(t *testing.T) {
		switch r.name {
		case "handler":
			got = r.without(t, Handler(echo, only(f)))
		case "wrapped":
			got = r.without(t, Wrap(Handler(echo, nil), only(f)))
		default:
			n := NewNetwork()
			n.Plan = only(f)
			s := n.NewServer(t, r.url, echo, only(f))
			got = r.over(t, s, f, n.Dials)
			n.Close()
		}
	})
	return got
}

func (r route) without(t *testing.T, rt *Transport) face {
	o := &once{RoundTripper: rt}
	got := exchange(t.Context(), o, r.url, func() []Delivery { rt.Settle(); return rt.Deliveries() })
	return o.complete(got)
}

func (r route) overTCP(t *testing.T, f Fault) face {
	serve := NewServer
	if r.url == "https" {
		serve = NewTLSServer
	}
	s := serve(t, echo, only(f))
	r.url = s.URL
	return r.over(t, s, f, func() []Delivery { return nil })
}

func (r route) over(t *testing.T, s *Server, f Fault, dials func() []Delivery) face {
	tr := s.Transport()
	speakOnly(tr, r.proto)
	if f.Name() == "close-idle" {
		warm(t, tr, r.url)
	}
	o := &once{RoundTripper: tr}
	got := exchange(t.Context(), o, r.url, func() []Delivery {
		tr.CloseIdleConnections() // and hanging dials
		s.Settle()
		return slices.Concat(s.Deliveries(), dials(), s.Accepts())
	})
	tr.CloseIdleConnections()
	s.Close()
	return o.complete(got)
}

func (o *once) complete(got face) face {
	if o.err != "" {
		got.err = o.err
	}
	if o.tls != "" {
		got.trace += "; " + o.tls
	}
	return got
}

// expected is what a fault shows on this route, if it shows base to a Transport that
// plays https: the same, save for what is told here.
func (r route) expected(t *testing.T, f Fault, base face) face {
	secure, http2 := strings.HasPrefix(r.url, "https"), strings.HasPrefix(r.proto, "h2")
	if r.proto == "" {
		return base
	}
	switch {
	case !secure && f.Strikes() == AtAccept && f.Name() != "hang-up": // there is no handshake to strike
		base = routes()[0].meet(t, Pass())
	case !http2 && f.overHTTP1() != f: // HTTP/1.1 does what it can
		base = routes()[0].meet(t, f.overHTTP1())
		base.fault, base.truth = f, f.Truth()
	}
	if http2 && slices.Contains([]kind{malformedStatus, oversizedHeader, malformedChunk}, f.kind) {
		// There are no lines to write in place of frames.
		base = routes()[0].meet(t, ResetStream(InternalError))
		base.fault, base.truth = f, f.Truth()
	}
	if !secure {
		base.trace, _, _ = strings.Cut(base.trace, "; tls")
		if f.Name() == "hang-up" { // it strikes the request then, not the handshake
			base.trace += " GOT(false) WH WR"
		}
	}
	// To HTTP/2 no end of a connection is in order while a stream is open.
	if handshake := secure && f.Strikes() == AtAccept; http2 && !handshake && base.err == "EOF" {
		base.err = "unexpected EOF"
	}
	// net/http looks for a connection twice where it knows HTTP/2 from the start.
	if r.proto == "h2c" && f.Name() == "close-idle" {
		base.trace = strings.Replace(base.trace, "get", "get get", 1)
	}
	return base
}

// alike forgives what chance decides.
func (r route) alike(got, want face, f Fault) bool {
	if r.tcp {
		got.took, want.took = 0, 0
	}
	// Over HTTP/2 one goroutine writes, and says so, while another reads.
	if strings.HasPrefix(r.proto, "h2") {
		written := strings.NewReplacer(" WH", "", " WR", "")
		got.trace, want.trace = written.Replace(got.trace), written.Replace(want.trace)
	}
	// net/http may begin to dial before it finds the connection that it has.
	if r.proto == "h2c" && f.Name() == "close-idle" {
		got.trace = strings.Replace(got.trace, "conn connected ", "", 1)
	}
	// A reset is told once, to whoever asks first, and over HTTP/2 both halves of
	// a client do: if the writing one was the first, the reading one meets the end.
	if r.tcp && strings.HasPrefix(r.proto, "h2") && f.how == RST && got.err == "unexpected EOF" {
		got.err = want.err
	}
	return got == want
}

func TestAFaultShowsTheSameFaceOverTLSAndHTTP2(t *testing.T) {
	faults := append(append(TLSFaults(), HTTP2Faults()...), ResetStream(77), GoAway(77), HangUp(FIN), HangUp(RST), Pass())
	for _, f := range append(faults, Catalogue()...) {
		t.Run(f.String(), func(t *testing.T) {
			base := routes()[0].meet(t, f)
			if base.fault != f || base.truth != f.Truth() {
				t.Errorf("%+v", base)
			}
			for _, r := range routes() {
				switch {
				case r.tcp && (f.Strikes() == AtDial || base.took > 0):
					continue // nothing to dial, or time to spend
				case r.proto == "h2c" && f.Name() == "hang-up":
					continue // without TLS a client says hello before it has a request: see below
				case r.tcp && f.how == RST:
					onlyLinux(t)
				}
				got, want := r.meet(t, f), r.expected(t, f, base)
				if want.fault == Pass() {
					want.truth = Applied
				}
				if !r.alike(got, want, f) {
					t.Errorf("%s\n%+v\nwant\n%+v", r.name, got, want)
				}
			}
		})
	}
}

func TestAnHTTP2ConnectionHungUpOnReachesNoHandler(t *testing.T) {
	for _, how := range []How{FIN, RST} {
		for _, r := range routes() {
			if r.proto == "h2c" {
				if got := r.meet(t, HangUp(how)); got.err == "" || got.runs != 0 || got.fault != HangUp(how) {
					t.Errorf("%s: %+v", r.name, got)
				}
			}
		}
	}
}

// What the comments of TLSFaults and HTTP2Faults promise.
func TestTheTablesOfTLSAndHTTP2TellWhatAClientSees(t *testing.T) {
	says := map[string]string{
		"x509.UnknownAuthorityError":     "certificate: x509.UnknownAuthorityError",
		"x509.CertificateInvalidError":   fmt.Sprint("certificate: x509.CertificateInvalidError", x509.Expired),
		"x509.HostnameError":             "certificate: x509.HostnameError",
		"its own deadline":               "deadline, timeout",
		"EOF":                            "EOF",
		"read: connection reset by peer": "op=read net=tcp source=true addr=true, reset, syscall=read",
		"a GOAWAY below its stream":      "GOAWAY",
		"a GOAWAY, then the end":         "http2: server sent GOAWAY and closed the connection",
		"RST_STREAM":                     "received from peer",
	}
	rows := make(map[string]string)
	for _, file := range []string{"tls.go", "http2.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(source)) {
			if row, ok := strings.CutPrefix(line, "//\t"); ok && len(row) > 46 {
				rows[strings.TrimSpace(row[:32])] = strings.TrimSpace(row[32:46]) + " " + strings.TrimSpace(row[46:])
			}
		}
	}
	for _, f := range append(TLSFaults(), HTTP2Faults()...) {
		row := cmp.Or(rows[f.String()], rows[f.Name()+"(...)"])
		truth, saw, _ := strings.Cut(row, " ")
		got := routes()[0].meet(t, f)
		if truth != f.Truth().String() || saw == "" || !strings.Contains(got.err, says[saw]) {
			t.Errorf("%v: the table says %q, the client saw %q", f, row, got.err)
		}
	}
}
