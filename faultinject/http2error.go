package faultinject

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
)

// lost is what a caller learns of a connection or stream that ended in place of
// the answer.
func (c *call) lost(f Fault) error {
	if err := c.http2Error(f); err != nil {
		return err
	}
	return dead(f.overHTTP1().how, io.EOF, address(c.addr))
}

// http2Error is what net/http reports over HTTP/2 of a request struck by f, if it
// was the first on its connection; nil if that is no matter of HTTP/2, or the
// request had no TLS to negotiate it.
func (c *call) http2Error(f Fault) error {
	if c.req.URL.Scheme != "https" {
		return nil
	}
	code := Code(f.at)
	switch f.kind {
	case goAwayAfter:
		return fmt.Errorf("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=%v, debug=%q", codeText(code), "")
	case goAway:
		if code != NoError {
			return fmt.Errorf("http2: Transport received GOAWAY from server ErrCode:%v", codeText(code))
		}
		return c.withoutReplay(errGracefulShutdown)
	case resetStream:
		err := streamError{StreamID: 1, Code: code, Cause: errFromPeer}
		if code == RefusedStream || code == ProtocolError {
			return c.withoutReplay(err)
		}
		return err
	}
	return nil
}

// Errors that net/http gives as text alone.
var (
	errGracefulShutdown = errors.New("http2: Transport received Server's graceful shutdown GOAWAY")
	errFromPeer         = errors.New("received from peer")
)

// withoutReplay is what becomes of an error after which net/http sends a request
// again by itself: a Transport of ours does not, and so reports it as net/http does
// when it gives up, or when it cannot have the body a second time.
func (c *call) withoutReplay(err error) error {
	if c.req.Body == nil || c.req.Body == http.NoBody || c.req.GetBody != nil {
		return err
	}
	return fmt.Errorf("http2: Transport: cannot retry err [%v] after Request.Body was written; "+ // net/http hides the cause so
		"define Request.GetBody to avoid this error", err)
}

// codeText is a code as net/http writes it.
func codeText(c Code) string {
	if int64(c) < int64(len(codes)) {
		return codes[c]
	}
	return fmt.Sprintf("unknown error code 0x%x", uint32(c))
}

// streamError is what net/http reports of an RST_STREAM. Its own type is not
// exported; its fields are those of StreamError in golang.org/x/net/http2, and so
// errors.As fills that one in, as it does from net/http's.
type streamError struct {
	StreamID uint32
	Code     Code
	Cause    error
}

func (e streamError) Error() string {
	return fmt.Sprintf("stream error: stream ID %d; %v; %v", e.StreamID, codeText(e.Code), e.Cause)
}

// As fills in a struct of the same fields.
func (e streamError) As(target any) bool {
	from, to := reflect.ValueOf(e), reflect.ValueOf(target).Elem()
	if to.Kind() != reflect.Struct || to.NumField() != from.NumField() {
		return false
	}
	for i := range from.NumField() {
		have, want := from.Type().Field(i), to.Type().Field(i)
		if have.Name != want.Name || !have.Type.ConvertibleTo(want.Type) {
			return false
		}
	}
	for i := range from.NumField() {
		to.Field(i).Set(from.Field(i).Convert(to.Field(i).Type()))
	}
	return true
}
