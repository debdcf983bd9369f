package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-resilient/resilient"
)

// verdict is what a till tells of an order.
type verdict string

const (
	paid    verdict = "paid"
	failed  verdict = "not charged"
	unknown verdict = "unknown"
)

// report is what a till tells of an order, and how to go on with it.
type report struct {
	says      verdict
	key       resilient.Key // the zero Key: there is none to go on with
	notBefore time.Time     // before this, there is no use in the next order either
}

// contestant is one way to charge an order.
type contestant struct {
	name   string
	passes int // how often the open ones are gone through
	open   func(*shop) (till, error)
}

type till interface {
	charge(ctx context.Context, order int, last report) report
	attempts() int64 // as the client reports them; 0 if it does not
}

var (
	plain = contestant{"net/http", 1, func(s *shop) (till, error) {
		return &plainTill{url: s.url, client: &http.Client{Transport: s.transport()}, tries: 1}, nil
	}}
	loop = contestant{"net/http in a loop", 1, func(s *shop) (till, error) {
		return &plainTill{url: s.url, client: &http.Client{Transport: s.transport()}, tries: 4}, nil
	}}
	ours = contestant{"resilient", 20, openResilient}
)

func request(ctx context.Context, url string, order int) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodPost,
		fmt.Sprintf("%s/orders/%d/charge", url, order), strings.NewReader(`{"amount":4200}`))
}

// plainTill charges as most programs do: what is not a success is a failure.
type plainTill struct {
	url    string
	client *http.Client
	tries  int
}

func (t *plainTill) attempts() int64 { return 0 }

func (t *plainTill) charge(ctx context.Context, order int, _ report) report {
	for range t.tries {
		if t.once(ctx, order) == nil {
			return report{says: paid}
		}
	}
	return report{says: failed}
}

func (t *plainTill) once(ctx context.Context, order int) error {
	req, err := request(ctx, t.url, order)
	if err != nil {
		return err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return errors.New(resp.Status)
	}
	_, err = io.ReadAll(resp.Body)
	return err
}

// resilientTill charges through resilient. What is left open is gone on with
// under the key that the client reported, so that it cannot be charged again.
type resilientTill struct {
	url    string
	client *http.Client
	made   atomic.Int64
}

func openResilient(s *shop) (till, error) {
	t := &resilientTill{url: s.url}
	var err error
	t.client, err = resilient.NewClient(resilient.Config{
		Base:           s.transport(),
		HonorsKeys:     resilient.Hosts(s.url),
		BufferResponse: 64 << 10, // a receipt cut short is the attempt's failure
		Observer: resilient.Observer{End: func(_ context.Context, op resilient.Operation, _ error) {
			t.made.Add(int64(len(op.Attempts)))
		}},
	})
	return t, err
}

func (t *resilientTill) attempts() int64 { return t.made.Load() }

func (t *resilientTill) charge(ctx context.Context, order int, last report) report {
	if last.key.Value != "" {
		ctx = resilient.WithKey(ctx, last.key)
	}
	req, err := request(ctx, t.url, order)
	if err != nil {
		return report{says: failed}
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return leftOpen(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode == http.StatusCreated {
		return report{says: paid}
	}
	// A refusal, after attempts that may have gone further than it did.
	op, _ := resilient.OperationOf(resp)
	return report{says: unknown, key: resilient.Key{Value: op.Key, FirstSent: op.FirstSent}}
}

// leftOpen reads the error: what can have happened, and the key to go on with.
func leftOpen(err error) report {
	e, ok := errors.AsType[*resilient.Error](err)
	if !ok {
		return report{says: unknown}
	}
	r := report{says: unknown, key: resilient.Key{Value: e.Key, FirstSent: e.FirstSent}}
	if e.Outcome == resilient.NotSent {
		r.says = failed
	}
	if errors.Is(err, resilient.ErrOpen) {
		r.notBefore = e.NotBefore
	}
	return r
}
