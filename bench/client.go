package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/go-resilient/resilient"
)

// Client is a client under comparison, used as its own documentation shows.
type Client interface {
	// Send makes one operation, and has read and closed what was answered.
	Send(context.Context, Call) (Answer, error)
}

// Call is one operation.
type Call struct {
	Method, Path string
	Body         []byte // nil for none
	Key          string // the caller's idempotency key; "" for none
}

// Answer is what a caller has in hand where there is no error.
type Answer struct {
	Status int
	// Unsure: the client says that an earlier attempt may have acted.
	Unsure bool
	Key    resilient.Key // to go on with
}

// Env is what a client is made for.
type Env struct {
	Base    http.RoundTripper // makes the attempts
	URL     string            // of the server, without a path
	Honours bool              // the server honours idempotency keys, and says so in its documentation
}

// Said is what a caller has been told.
type Said uint8

const (
	Failed  Said = iota // an error that says nothing of what the server did
	Done                // an answer of 2xx
	Refused             // an answer with an error status: the server's word
	NotSent             // an error that says that the server cannot have acted
	Unknown             // an error, or a remark, that says that it may have
)

// said reads what Send returned as its caller does.
func said(a Answer, err error) Said {
	e, ours := errors.AsType[*resilient.Error](err)
	switch {
	case err == nil && a.Status < 300:
		return Done
	case err == nil && a.Unsure:
		return Unknown
	case err == nil:
		return Refused
	case ours && e.Outcome == resilient.NotSent:
		return NotSent
	case ours:
		return Unknown
	}
	return Failed
}

// standard is a client that is, or gives, an *http.Client.
type standard struct {
	env    Env
	client interface {
		Do(*http.Request) (*http.Response, error)
	}
}

// Send is how anybody uses an *http.Client.
func (s standard) Send(ctx context.Context, c Call) (Answer, error) {
	req, err := s.env.request(ctx, c)
	if err != nil {
		return Answer{}, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	return read(resp)
}

func read(resp *http.Response) (Answer, error) {
	defer resp.Body.Close()
	_, err := io.Copy(io.Discard, resp.Body)
	return Answer{Status: resp.StatusCode}, err
}

func (e Env) request(ctx context.Context, c Call) (*http.Request, error) {
	var body io.Reader
	if c.Body != nil {
		body = bytes.NewReader(c.Body)
	}
	req, err := http.NewRequestWithContext(ctx, c.Method, e.URL+c.Path, body)
	if err != nil {
		return nil, err
	}
	for name, value := range c.header() {
		req.Header.Set(name, value)
	}
	return req, nil
}

func (c Call) header() map[string]string {
	h := make(map[string]string, 2)
	if c.Body != nil {
		h["Content-Type"] = "application/json"
	}
	if c.Key != "" {
		h["Idempotency-Key"] = c.Key
	}
	return h
}

// attemptTimeout is given to those clients that are documented with one.
const attemptTimeout = 10 * time.Second
