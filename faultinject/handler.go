package faultinject

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// received makes of the caller's request what a server would read from the wire.
func (c *call) received(ctx context.Context) *http.Request {
	x, _ := identify(c.req)
	r := &http.Request{
		Method: x.Method, Host: x.Host, RequestURI: c.req.URL.RequestURI(),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: wireHeader(c.req.Header), RemoteAddr: clientAddress.String(),
		Body: http.NoBody, ContentLength: int64(len(c.body)), Close: c.req.Close,
	}
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		r.URL = u
	} else {
		r.URL = &url.URL{Path: x.Path, RawQuery: c.req.URL.RawQuery}
	}
	c.frame(r)
	if c.req.Trailer != nil {
		r.Trailer = wireHeader(c.req.Trailer)
	}
	r.TLS = session(c.req)
	return r.WithContext(ctx)
}

// frame gives the request its body and says how it came (RFC 9112, section 6).
func (c *call) frame(r *http.Request) {
	if len(c.body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(c.body))
	}
	means := r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch
	switch {
	case len(c.body) == 0 && !means:
	case c.declared() < 0:
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	default:
		r.Header.Set("Content-Length", strconv.Itoa(len(c.body)))
	}
	if r.Close {
		r.Header.Set("Connection", "close")
	}
}

// session is what a TLS connection would show for the request, if it has one.
func session(req *http.Request) *tls.ConnectionState {
	if req.URL.Scheme != "https" {
		return nil
	}
	return &tls.ConnectionState{
		Version: tls.VersionTLS13, HandshakeComplete: true, ServerName: req.URL.Hostname(),
	}
}

// wireHeader is the header as it is after a journey: names canonical, values
// trimmed, entries without a value gone, and without the fields that net/http
// writes from elsewhere.
func wireHeader(h http.Header) http.Header {
	out := make(http.Header, len(h)+1)
	for _, name := range slices.Sorted(maps.Keys(h)) {
		switch textproto.CanonicalMIMEHeaderKey(name) {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		}
		for _, v := range h[name] {
			out.Add(name, strings.TrimSpace(v))
		}
	}
	return out
}

// A reply is a whole answer. It is also the ResponseWriter that gathers it.
type reply struct {
	header  http.Header // as the handler sees it
	sent    http.Header // as it was when the head was written
	status  int         // 0 until then
	body    []byte
	aborted bool // the handler panicked with http.ErrAbortHandler
}

// run lets the handler answer. A panic other than http.ErrAbortHandler is a
// fault of the handler's own and goes on.
func run(h http.Handler, r *http.Request) (a *reply) {
	a = &reply{header: make(http.Header)}
	defer func() {
		switch p := recover(); p {
		case nil:
			a.finish()
		case http.ErrAbortHandler:
			a.aborted = true
		default:
			panic(p) // not ours to hide
		}
	}()
	h.ServeHTTP(a, r)
	return a
}

// orDefault follows net/http, whose server takes nil for http.DefaultServeMux.
func orDefault(h http.Handler) http.Handler {
	if h == nil {
		return http.DefaultServeMux
	}
	return h
}

// instead is the answer of whoever stands in front of the handler.
func instead(f Fault) *reply {
	header := f.httpHeader(time.Now())
	if _, ok := header["Content-Type"]; !ok {
		header["Content-Type"] = []string{"text/plain; charset=utf-8"}
	}
	text := http.StatusText(f.status)
	if f.kind == invalid {
		text = f.text().Error()
	}
	a := &reply{header: header}
	a.WriteHeader(cmp.Or(f.status, http.StatusInternalServerError))
	io.WriteString(a, text+"\n")
	a.finish()
	return a
}

func (a *reply) Header() http.Header { return a.header }

func (a *reply) Flush() { a.WriteHeader(http.StatusOK) }

func (a *reply) WriteHeader(status int) {
	if a.status != 0 || status < 200 {
		return // a second head, or an interim one
	}
	a.status, a.sent = status, a.header.Clone()
}

func (a *reply) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if !bodyAllowed(a.status) {
		return 0, http.ErrBodyNotAllowed
	}
	a.body = append(a.body, p...)
	return len(p), nil
}

func bodyAllowed(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// finish fills in the fields that a server adds by itself.
func (a *reply) finish() {
	a.WriteHeader(http.StatusOK)
	if a.sent.Get("Date") == "" {
		a.sent.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	if !bodyAllowed(a.status) {
		a.sent.Del("Content-Length")
		if a.status == http.StatusNotModified {
			a.sent.Del("Content-Type") // as net/http does
		}
		return
	}
	if _, ok := a.sent["Content-Type"]; !ok && len(a.body) > 0 {
		a.sent.Set("Content-Type", http.DetectContentType(a.body))
	}
	a.sent.Set("Content-Length", strconv.Itoa(len(a.body)))
}

// hasBody reports whether the answer to a request of this method carries one.
func (a *reply) hasBody(method string) bool {
	return method != http.MethodHead && bodyAllowed(a.status)
}

// response is the answer as a client has it.
func (a *reply) response(req *http.Request) *http.Response {
	resp := &http.Response{
		Status: strconv.Itoa(a.status) + " " + http.StatusText(a.status), StatusCode: a.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.sent, Body: http.NoBody, ContentLength: int64(len(a.body)), Request: req,
	}
	resp.TLS = session(req)
	if a.hasBody(req.Method) && len(a.body) > 0 {
		resp.Body = io.NopCloser(bytes.NewReader(a.body))
	}
	return resp
}
