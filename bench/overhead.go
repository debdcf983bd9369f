package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"time"
)

// stub answers at once: what is left is what a client costs.
type stub struct{ header http.Header }

// RoundTrip keeps to the contract of http.RoundTripper.
func (s stub) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	return &http.Response{StatusCode: http.StatusOK, Header: s.header, Body: http.NoBody, Request: req}, nil
}

// Cost is what one operation takes.
type Cost struct{ Nanoseconds, Allocs, Bytes float64 }

// Overhead is what a client costs above net/http with the same stub.
type Overhead struct {
	Time          Spread // nanoseconds
	Ratio         float64
	Allocs, Bytes float64
}

// The operations that are timed.
var (
	get  = Call{Method: http.MethodGet, Path: "/v1/items"}
	post = Call{Method: http.MethodPost, Path: "/v1/charges", Body: make([]byte, 1<<10)}
)

// overheads are those of all peers for one call. In each round every peer is
// measured beside net/http, so that a busy machine slows down both.
func overheads(peers []Peer, c Call, rounds, operations int) ([]Overhead, error) {
	env := Env{Base: stub{http.Header{}}, URL: "http://api.test", Honours: true}
	clients, err := all(peers, env)
	if err != nil {
		return nil, err
	}
	above, ratios := make([][]Cost, len(peers)), make([][]float64, len(peers))
	for round := range rounds + 1 {
		for i, client := range clients {
			floor, err := cost(clients[0], c, operations)
			if err != nil {
				return nil, err
			}
			its, err := cost(client, c, operations)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", peers[i].Name, err)
			}
			if round == 0 {
				continue // warms up
			}
			above[i] = append(above[i], Cost{its.Nanoseconds - floor.Nanoseconds, its.Allocs - floor.Allocs, its.Bytes - floor.Bytes})
			ratios[i] = append(ratios[i], its.Nanoseconds/floor.Nanoseconds)
		}
	}
	table := make([]Overhead, len(peers))
	for i := range peers {
		table[i] = Overhead{
			Time:   spread(each(above[i], func(c Cost) float64 { return c.Nanoseconds })),
			Ratio:  middle(ratios[i]),
			Allocs: middle(each(above[i], func(c Cost) float64 { return c.Allocs })),
			Bytes:  middle(each(above[i], func(c Cost) float64 { return c.Bytes })),
		}
	}
	return table, nil
}

func cost(client Client, c Call, operations int) (Cost, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for range operations {
		if err := succeed(context.Background(), client, c); err != nil {
			return Cost{}, err
		}
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	n := float64(operations)
	return Cost{float64(took) / n, float64(after.Mallocs-before.Mallocs) / n, float64(after.TotalAlloc-before.TotalAlloc) / n}, nil
}

func succeed(ctx context.Context, client Client, c Call) error {
	a, err := client.Send(ctx, c)
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d", c.Method, c.Path, a.Status)
	}
	return err
}

func all(peers []Peer, env Env) (clients []Client, err error) {
	for _, p := range peers {
		client, err := p.New(env)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		clients = append(clients, client)
	}
	return clients, nil
}
