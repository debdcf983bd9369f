package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/go-resilient/resilient"
	"github.com/sony/gobreaker/v2"
)

var plain = Peer{
	Name:  bare,
	Setup: `&http.Client{Transport: base}`,
	Why:   "the floor: it repeats only what its own transport replays",
	New:   func(e Env) (Client, error) { return standard{e, &http.Client{Transport: e.Base}}, nil },
}

var oursShipped = Peer{
	Name:  ours,
	Setup: `resilient.NewClient(resilient.Config{Base: base, BaseIsWire: true, HonorsKeys: resilient.AnyHost})`,
	Why:   "README.md; HonorsKeys where the server does and for the costs, BaseIsWire because a stub is no *http.Transport; all else is its default",
	New:   func(e Env) (Client, error) { return newOurs(e, resilient.Config{}) },
}

var oursUnbounded = Peer{
	Name:  unbounded,
	Setup: `resilient.NewClient(resilient.Config{Base: base, BaseIsWire: true, HonorsKeys: resilient.AnyHost, NoBudget: true, NoBreaker: true})`,
	Why:   "not recommended: it promises a server in trouble as little as most of the others do, and is here to be compared with them",
	New:   func(e Env) (Client, error) { return newOurs(e, resilient.Config{NoBudget: true, NoBreaker: true}) },
}

// oursCarried is in the crowds of payments alone.
var oursCarried = Peer{
	Name:  ours + ", carried on",
	Setup: `resilient.NewClient(resilient.Config{Base: base, BaseIsWire: true, HonorsKeys: resilient.AnyHost}), resilient.WithKey`,
	Why:   "docs/outcomes.md: its caller sends again each second what is NotSent, or, under WithKey, what has not succeeded and the server honours keys for",
	New: func(e Env) (Client, error) {
		client, err := newOurs(e, resilient.Config{})
		return carried{client, e.Honours}, err
	},
}

// carried goes on with an operation under the key of its first go.
type carried struct {
	Client
	honours bool
}

// Send ends with the context, or with an answer, or where nobody can know.
func (c carried) Send(ctx context.Context, call Call) (Answer, error) {
	var key resilient.Key
	for {
		again := ctx
		if key.Value != "" {
			again = resilient.WithKey(ctx, key)
		}
		a, err := c.Client.Send(again, call)
		e, failed := errors.AsType[*resilient.Error](err)
		switch {
		case failed:
			key = resilient.Key{Value: e.Key, FirstSent: e.FirstSent}
		case err == nil && a.Status >= 300:
			key = a.Key
		default:
			return a, err
		}
		if ctx.Err() != nil || !c.honours && !(failed && e.Outcome == resilient.NotSent) {
			return a, err
		}
		if !c.honours {
			key = resilient.Key{}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return a, err
		}
	}
}

type our struct {
	env    Env
	client *http.Client
}

func newOurs(e Env, cfg resilient.Config) (Client, error) {
	cfg.Base, cfg.BaseIsWire = e.Base, true // whatever a row measures with sends an attempt once
	if e.Honours {
		cfg.HonorsKeys = resilient.AnyHost
	}
	client, err := resilient.NewClient(cfg)
	return our{e, client}, err
}

// Send also looks at the record of an answer, as docs/outcomes.md says.
func (o our) Send(ctx context.Context, c Call) (Answer, error) {
	req, err := o.env.request(ctx, c)
	if err != nil {
		return Answer{}, err
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	answer, err := read(resp)
	if op, ok := resilient.OperationOf(resp); ok {
		answer.Unsure = op.EarlierUnknown()
		answer.Key = resilient.Key{Value: op.Key, FirstSent: op.FirstSent}
	}
	return answer, err
}

var handWritten = Peer{
	Name:   "by hand: backoff, gobreaker",
	Module: "github.com/sony/gobreaker/v2",
	Beside: "github.com/cenkalti/backoff/v4",
	Setup: `backoff.Retry(breaker.Execute(client.Do), backoff.WithContext(backoff.WithMaxRetries(backoff.NewExponentialBackOff(), 3), ctx)); ` +
		`gobreaker.Settings{Interval: 10*time.Second, Timeout: time.Second, ReadyToTrip: n.Requests >= 10 && n.TotalFailures/n.Requests >= 0.6}`,
	Why: "the loop found in most code bases: errors, 429 and 5xx are failures, and an open breaker ends it; " +
		"the breaker's ratio is that of gobreaker's README, its open time shorter than the default minute",
	New: newByHand,
}

type byHand struct {
	env     Env
	client  *http.Client
	breaker *gobreaker.CircuitBreaker[Answer]
}

var errStatus = errors.New("status")

func newByHand(e Env) (Client, error) {
	return &byHand{e, &http.Client{Transport: e.Base}, gobreaker.NewCircuitBreaker[Answer](gobreaker.Settings{
		Interval: 10 * time.Second, Timeout: time.Second,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return n.Requests >= 10 && float64(n.TotalFailures)/float64(n.Requests) >= 0.6
		},
	})}, nil
}

// Send repeats whatever failed, POST included, and gives up at an open breaker.
func (b *byHand) Send(ctx context.Context, c Call) (answer Answer, err error) {
	attempt := func() error {
		answer, err = b.breaker.Execute(func() (Answer, error) {
			req, err := b.env.request(ctx, c)
			if err != nil {
				return Answer{}, backoff.Permanent(err)
			}
			resp, err := b.client.Do(req)
			if err != nil {
				return Answer{}, err
			}
			a, err := read(resp)
			if err == nil && (a.Status == http.StatusTooManyRequests || a.Status >= 500) {
				err = errStatus
			}
			return a, err
		})
		if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
			return backoff.Permanent(err)
		}
		return err
	}
	err = backoff.Retry(attempt, backoff.WithContext(backoff.WithMaxRetries(backoff.NewExponentialBackOff(), 3), ctx))
	if errors.Is(err, errStatus) {
		err = nil
	}
	return answer, err
}
