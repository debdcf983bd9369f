package main

import (
	"context"
	"net/http"
	"time"

	"github.com/go-resilient/resilient/internal/storm"
)

// The storms are those of internal/storm, with more time to recover in: some
// breakers stay open for long.
func storms() []storm.Situation {
	outage := storm.Situation{
		Name: "connections are refused", Clients: 20, Rate: 400,
		Before: 5 * time.Second, During: 10 * time.Second, After: 30 * time.Second, Deadline: 10 * time.Second,
		Server:  storm.Server{Workers: 10, Service: 20 * time.Millisecond, Queue: 100},
		Trouble: storm.Trouble{Refused: true},
	}
	unavailable, slow := outage, outage
	unavailable.Name, unavailable.Trouble = "every answer is 503", storm.Trouble{Status: http.StatusServiceUnavailable}
	slow.Name, slow.Trouble = "the server is slowed down to three tenths", storm.Trouble{Slower: 10. / 3}
	return []storm.Situation{outage, unavailable, slow}
}

// policy puts a peer into a storm.
func (p *Peer) policy() storm.Policy {
	return storm.Policy{Name: p.Name, New: func(base http.RoundTripper) (storm.Client, error) {
		client, err := p.New(Env{Base: base, URL: "http://api.test"})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, path string) (ok, refused bool) {
			a, err := client.Send(ctx, Call{Method: http.MethodGet, Path: get.Path + path})
			return err == nil && a.Status == http.StatusOK, false // the tables do not say who refused
		}, nil
	}}
}
