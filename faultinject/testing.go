package faultinject

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

// TB is what the constructors for tests need of a *testing.T, *testing.B or
// *testing.F. They clean up when the test ends, also inside a bubble of
// testing/synctest, and when it has failed they log what happened, one line for
// each connection struck and each request. Programs, which have no TB, use [Serve]
// and [Network.Serve].
type TB interface {
	// These are the methods of package testing's own TB.
	Helper()
	Name() string
	Failed() bool
	Log(args ...any)
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
}

// NewServer serves h over TCP, on a free port of this machine, until the test ends.
// A nil plan lets all pass. Dials are not the server's: a [Dialer] strikes them.
// Real sockets hang a bubble of testing/synctest: there use [Network.NewServer].
func NewServer(t TB, h http.Handler, plan Plan) *Server {
	t.Helper()
	return onLoopback(t, newServer(h, plan), "http")
}

// NewTLSServer is [NewServer] with TLS, by a certificate that [Server.Client]
// trusts.
func NewTLSServer(t TB, h http.Handler, plan Plan) *Server {
	t.Helper()
	s := newServer(h, plan)
	s.identity = &identity{authority: NewAuthority(), hosts: []string{"127.0.0.1", "::1", "localhost"}}
	return onLoopback(t, s, "https")
}

func onLoopback(t TB, s *Server, scheme string) *Server {
	t.Helper()
	var listen net.ListenConfig
	l, err := listen.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		l, err = listen.Listen(context.Background(), "tcp", "[::1]:0")
	}
	if err != nil {
		t.Fatalf("faultinject: no port to listen on: %v", err)
		return nil
	}
	s.URL = scheme + "://" + l.Addr().String()
	s.start(l)
	s.cleanUp(t)
	return s
}

// NewServer is [Network.Serve] until the test ends, and fails the test at a bad
// URL.
func (n *Network) NewServer(t TB, url string, h http.Handler, plan Plan) *Server {
	t.Helper()
	s, err := n.Serve(url, h, plan)
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	s.cleanUp(t)
	return s
}

func (s *Server) cleanUp(t TB) {
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			for _, line := range s.timeline() {
				t.Log(line)
			}
		}
	})
}

// timeline is what happened at the server, in order.
func (s *Server) timeline() []string {
	all := s.Deliveries()
	for _, d := range s.Accepts() {
		if d.Fault != Pass() {
			all = append(all, d)
		}
	}
	slices.SortStableFunc(all, func(a, b Delivery) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Conn, b.Conn))
	})
	lines := make([]string, len(all))
	for i, d := range all {
		lines[i] = timelineEntry(d)
	}
	return lines
}

// timelineEntry is a line such as
// "+1.5s  k1#2  POST /charge  lose-response(rst)  handler ran 1 times".
func timelineEntry(d Delivery) string {
	text := fmt.Sprintf("+%v  %s#%d  ", d.Since.Round(time.Microsecond), d.Op, d.Nth)
	if !d.isRequest() {
		return text + d.Fault.String()
	}
	return text + fmt.Sprintf("%s %s  %v  handler ran %d times", d.Method, d.Path, d.Fault, d.Runs)
}
