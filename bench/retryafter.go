package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Wish is a server's request for patience, made by its first answer.
type Wish struct {
	Name     string
	Status   int
	After    func(now time.Time) string
	Deadline time.Duration // of the caller; zero: none
	Asked    time.Duration // what the header means
}

const day = 24 * time.Hour

var wishes = []Wish{
	{Name: "429, `2`", Status: 429, After: text("2"), Asked: 2 * time.Second},
	{Name: "503, `2`", Status: 503, After: text("2"), Asked: 2 * time.Second},
	{Name: "503, a date in 4 s", Status: 503, After: date(http.TimeFormat), Asked: 4 * time.Second},
	{Name: "503, the same in the form of RFC 850", Status: 503, After: date("Monday, 02-Jan-06 15:04:05 GMT"), Asked: 4 * time.Second},
	{Name: "503, `86400`", Status: 503, After: text("86400"), Asked: day},
	{Name: "503, `30`, 5 s left", Status: 503, After: text("30"), Asked: 30 * time.Second, Deadline: 5 * time.Second},
}

func text(s string) func(time.Time) string { return func(time.Time) string { return s } }

func date(layout string) func(time.Time) string {
	return func(now time.Time) string { return now.Add(4 * time.Second).UTC().Format(layout) }
}

// Heed is what a client did about a wish.
type Heed struct {
	First, Last time.Duration // of the second attempts of several runs; zero: none was made
	Returned    time.Duration // when the last run was over
	Status      int           // what it had in hand then; zero: an error
}

// wished answers once with the wish, and then with 200.
type wished struct {
	wish  Wish
	start time.Time
	at    []time.Duration
}

// RoundTrip is not for two at once.
func (w *wished) RoundTrip(req *http.Request) (*http.Response, error) {
	if w.at = append(w.at, time.Since(w.start)); req.Context().Err() != nil {
		return nil, req.Context().Err()
	}
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if len(w.at) == 1 {
		now := time.Now()
		resp.StatusCode = w.wish.Status
		resp.Header.Set("Retry-After", w.wish.After(now))
		resp.Header.Set("Date", now.UTC().Format(http.TimeFormat))
	}
	return resp, nil
}

// heed is to be called in a bubble of testing/synctest.
func (w Wish) heed(p Peer, runs int) (h Heed, err error) {
	for range runs {
		server := &wished{wish: w, start: time.Now()}
		client, err := p.New(Env{Base: server, URL: "http://api.test"})
		if err != nil {
			return h, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		if w.Deadline > 0 {
			ctx, cancel = context.WithTimeout(context.Background(), w.Deadline)
		}
		a, err := client.Send(ctx, Call{Method: http.MethodGet, Path: "/v1/items"})
		cancel()
		h.Returned, h.Status = time.Since(server.start), a.Status
		if err != nil {
			h.Status = 0
		}
		if len(server.at) > 1 {
			second := server.at[1]
			if h.First == 0 || second < h.First {
				h.First = second
			}
			h.Last = max(h.Last, second)
		}
		<-time.After(time.Second - time.Duration(time.Now().Nanosecond())) // dates have whole seconds
	}
	return h, nil
}

// Tell says it in a cell of a table, in bold where it is as it should be.
func (w Wish) Tell(h Heed) string {
	var cell string
	well := false
	switch {
	case h.Last == 0 && h.Status == 0:
		cell = fmt.Sprintf("error after %s", seconds(h.Returned))
	case h.Last == 0 && h.Returned == 0:
		cell, well = "the answer, at once", w.Asked > time.Minute || w.Deadline > 0
	case h.Last == 0:
		cell = fmt.Sprintf("the answer, after %s", seconds(h.Returned))
	case seconds(h.First) == seconds(h.Last):
		cell, well = seconds(h.First), h.First >= w.Asked
	default:
		cell, well = seconds(h.First)+" to "+seconds(h.Last), h.First >= w.Asked
	}
	if well && !(w.Asked == day && h.Last > 0) {
		cell = "**" + cell + "**"
	}
	return cell
}

func seconds(d time.Duration) string {
	if d >= time.Hour {
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	s := strings.TrimSuffix(fmt.Sprintf("%.2f", d.Seconds()), "0")
	return strings.TrimSuffix(strings.TrimSuffix(s, "0"), ".") + " s"
}
