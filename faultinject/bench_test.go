package faultinject

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// What it costs to make one exchange, per level.
func BenchmarkExchange(b *testing.B) {
	b.Run("handler", func(b *testing.B) {
		benchmark(b, Handler(echo, nil))
	})
	b.Run("network", func(b *testing.B) {
		n := NewNetwork()
		defer n.Close()
		l, _ := n.Listen("shop.test:80")
		defer Serve(l, echo, nil).Close()
		benchmark(b, n.Transport())
	})
	b.Run("tcp", func(b *testing.B) {
		s := NewServer(b, echo, nil)
		dialer := Dialer{Base: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(s.URL, "http://"))
		}}
		transport := s.Transport()
		transport.DialContext = dialer.DialContext
		benchmark(b, transport)
	})
}

func benchmark(b *testing.B, rt http.RoundTripper) {
	b.ReportAllocs()
	for b.Loop() {
		resp, err := rt.RoundTrip(post(b.Context(), strings.NewReader("12345678"), 8))
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// What a Transport adds to the RoundTripper below where nothing is to strike. A
// body that is summed costs what SHA-256 does.
func BenchmarkTransportWithoutAPlan(b *testing.B) {
	stub := roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
	})
	for name, rt := range map[string]http.RoundTripper{
		"alone": stub, "wrapped": Wrap(stub, nil), "wrapped with a plan": Wrap(stub, Script()),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			req := post(b.Context(), nil, 0)
			for b.Loop() {
				if _, err := rt.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
