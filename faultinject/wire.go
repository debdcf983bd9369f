package faultinject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"os"
	"syscall"
	"time"
)

// Errors that net/http gives as text alone.
var (
	errCanceled       = errors.New("net/http: request canceled")
	errCanceledInPool = errors.New("net/http: request canceled while waiting for connection")
	errBodyClosed     = errors.New("http: read on closed response body")

	errMalformed = transportBroken(fmt.Errorf("malformed HTTP response %q", notHTTP))
	errBadChunk  = errors.New("invalid byte in chunk length")
	errOversized = transportBroken(errors.New("net/http: server response headers exceeded 10485760 bytes; aborted"))
)

// notHTTP is what a server struck by [MalformedStatus] or [MalformedChunk] says.
const notHTTP = "garbage"

// transportBroken is how net/http reports what broke a connection of HTTP/1.
func transportBroken(err error) error {
	return fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", err)
}

// address is a "host:port" of the in-memory world.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// clientAddress stands for the caller's end of a connection (RFC 5737).
const clientAddress address = "192.0.2.1:49152"

// netError is the error of package net for op on the connection between local
// and remote.
func netError(op string, local, remote net.Addr, err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		call, ok := map[string]string{"dial": "connect", "listen": "bind"}[op]
		if !ok {
			call = op
		}
		err = os.NewSyscallError(call, no)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: local, Addr: remote, Err: err}
}

// dead is what a reader meets on a connection that ended in this way. early
// is the error of an orderly end at this point.
func dead(how How, early error, remote net.Addr) error {
	if how == RST {
		return netError("read", clientAddress, remote, syscall.ECONNRESET)
	}
	return early
}

// text is the error of a fault that could not be read.
func (f Fault) text() error { return errors.New("faultinject: " + f.header) }

// dialError is what package net makes of a dial struck by f, Blackhole apart.
func dialError(f Fault, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	switch f.kind {
	case invalid:
		return netError("dial", nil, address(addr), f.text())
	case refuseDial:
		return netError("dial", nil, address(addr), syscall.ECONNREFUSED)
	case nxDomain:
		return netError("dial", nil, nil,
			&net.DNSError{Err: "no such host", Name: host, IsNotFound: true})
	case dnsTimeout:
		return netError("dial", nil, nil, &net.DNSError{
			UnwrapErr: context.DeadlineExceeded, Err: "i/o timeout", Name: host,
			IsTimeout: true, IsTemporary: true,
		})
	}
	return nil
}

// traceDial fires the hooks that package net would fire before the failure of
// a dial struck by f; the returned function fires the rest.
func traceDial(trace *httptrace.ClientTrace, f Fault, addr string) (done func(error)) {
	if trace == nil {
		return func(error) {}
	}
	if f.kind == nxDomain || f.kind == dnsTimeout {
		host, _, _ := net.SplitHostPort(addr)
		if trace.DNSStart != nil {
			trace.DNSStart(httptrace.DNSStartInfo{Host: host})
		}
		return func(err error) {
			if trace.DNSDone != nil {
				trace.DNSDone(httptrace.DNSDoneInfo{Err: errors.Unwrap(err)})
			}
		}
	}
	if trace.ConnectStart != nil {
		trace.ConnectStart("tcp", addr)
	}
	return func(err error) {
		if trace.ConnectDone != nil {
			trace.ConnectDone("tcp", addr, err)
		}
	}
}

// inert is the connection that [Transport] shows to httptrace: it has
// addresses, and an identity, and carries nothing.
type inert struct{ remote address }

func (*inert) Read([]byte) (int, error)         { return 0, io.EOF }
func (*inert) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (*inert) Close() error                     { return nil }
func (*inert) LocalAddr() net.Addr              { return clientAddress }
func (c *inert) RemoteAddr() net.Addr           { return c.remote }
func (*inert) SetDeadline(time.Time) error      { return nil }
func (*inert) SetReadDeadline(time.Time) error  { return nil }
func (*inert) SetWriteDeadline(time.Time) error { return nil }

// untraced is a context that hides its httptrace, for a request of which the
// events have been fired already.
type untraced struct{ context.Context }

func (u untraced) Value(key any) any {
	v := u.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}
