package faultinject

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"testing"
	"testing/synctest"
	"time"
)

func TestADialerStrikesAsANetworkDoes(t *testing.T) {
	for _, f := range []Fault{RefuseDial(), NXDomain(), DNSTimeout(), Blackhole()} {
		bubble(t, f.String(), func(t *testing.T) {
			try := func(dial func(context.Context, string, string) (net.Conn, error)) (err, trace string, took time.Duration) {
				start := time.Now()
				var e events
				ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(t.Context(), e.hooks()), time.Second)
				defer cancel()
				c, failed := dial(ctx, "tcp", "shop.test:80")
				if c != nil || failed == nil {
					t.Error("connected")
				}
				return profile(failed), e.String(), time.Since(start)
			}
			n := NewNetwork()
			defer n.Close()
			n.Plan = Script(f)
			d := &Dialer{Plan: Script(f), Base: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("the base was asked")
			}}
			err, trace, took := try(d.DialContext)
			wantErr, wantTrace, wantTook := try(n.DialContext)
			if err != wantErr || trace != wantTrace || took != wantTook {
				t.Error(err, trace, took, "want", wantErr, wantTrace, wantTook)
			}
			if got := d.Dials()[0]; got.Fault != f || got.Op != "dial shop.test:80" || got.Reach() != NeverSent {
				t.Error(got)
			}
		})
	}
}

func TestADialThatPassesIsTheBases(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		defer n.Close()
		n.Listen("shop.test:80")
		d := &Dialer{Plan: Script(SlowDial(time.Minute), LoseResponse(RST)), Base: n.DialContext}
		for _, want := range []time.Duration{time.Minute, 0, 0} {
			start := time.Now()
			if _, err := d.DialContext(t.Context(), "tcp", "shop.test:80"); err != nil || time.Since(start) != want {
				t.Error(err, time.Since(start))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d = &Dialer{Plan: Script(SlowDial(time.Minute)), Base: n.DialContext}
		if _, err := d.DialContext(ctx, "tcp", "shop.test:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		synctest.Wait()
	})
}

func TestTheZeroDialerDialsTCP(t *testing.T) {
	s := NewServer(t, echo, nil)
	tr := s.Transport()
	tr.DialContext = new(Dialer).DialContext
	warm(t, tr, s.URL)
}
