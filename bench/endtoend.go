package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

// Whole is a client's exchanges with a server on loopback, in those of net/http.
type Whole struct {
	Get, Post Spread // the median of one caller's times
	Slowest   Spread // the 99th percentile of them, GET
	Rate      Spread // GETs a second of sixteen callers
}

const callers = 16

// wholes are those of all peers over one protocol.
func wholes(peers []Peer, http2 bool, rounds, operations int) ([]Whole, error) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	server.EnableHTTP2 = http2
	if http2 {
		server.StartTLS()
	} else {
		server.Start()
	}
	defer server.Close()
	clients := make([]Client, len(peers))
	for i, p := range peers {
		base := baseOf(server)
		defer base.CloseIdleConnections()
		var err error
		if clients[i], err = p.New(Env{Base: base, URL: server.URL, Honours: true}); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	figures := make([]struct{ get, post, slowest, rate []float64 }, len(peers))
	for round := range rounds + 1 {
		for i := range clients {
			floor, err := exchange(clients[0], operations)
			if err != nil {
				return nil, err
			}
			its, err := exchange(clients[i], operations)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", peers[i].Name, err)
			}
			if f := &figures[i]; round > 0 {
				f.get = append(f.get, its.get/floor.get)
				f.post = append(f.post, its.post/floor.post)
				f.slowest = append(f.slowest, its.slowest/floor.slowest)
				f.rate = append(f.rate, its.rate/floor.rate)
			}
		}
	}
	table := make([]Whole, len(peers))
	for i, f := range figures {
		table[i] = Whole{spread(f.get), spread(f.post), spread(f.slowest), spread(f.rate)}
	}
	return table, nil
}

// baseOf is one transport for each client, with room for all callers.
func baseOf(server *httptest.Server) *http.Transport {
	base := &http.Transport{MaxIdleConnsPerHost: 2 * callers}
	if own, ok := server.Client().Transport.(*http.Transport); ok && own.TLSClientConfig != nil {
		base.TLSClientConfig, base.ForceAttemptHTTP2 = own.TLSClientConfig.Clone(), true
	}
	return base
}

// exchanged is one round of one client.
type exchanged struct{ get, post, slowest, rate float64 }

func exchange(client Client, operations int) (x exchanged, err error) {
	gets, err1 := times(client, get, operations)
	posts, err2 := times(client, post, operations)
	rate, err3 := rate(client, operations)
	if err := errors.Join(err1, err2, err3); err != nil {
		return exchanged{}, err
	}
	return exchanged{middle(gets), middle(posts), quantile(gets, 99, 100), rate}, nil
}

// times are one caller's, in order.
func times(client Client, c Call, operations int) ([]float64, error) {
	took := make([]float64, operations)
	for i := range took {
		start := time.Now()
		if err := succeed(context.Background(), client, c); err != nil {
			return nil, err
		}
		took[i] = float64(time.Since(start))
	}
	slices.Sort(took)
	return took, nil
}

func rate(client Client, operations int) (float64, error) {
	var running sync.WaitGroup
	errs := make([]error, callers)
	start := time.Now()
	for caller := range callers {
		running.Go(func() {
			for range operations / 4 {
				if err := succeed(context.Background(), client, get); err != nil {
					errs[caller] = err
					return
				}
			}
		})
	}
	running.Wait()
	return float64(callers*(operations/4)) / time.Since(start).Seconds(), errors.Join(errs...)
}
