package resilient_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// The benchmarks set an attempt that costs nothing ("base") beside the same one
// below a Transport with its budget, breaker and an idle observer: the
// difference is what we cost where nothing fails. docs/performance.md has the
// results and how to have them again.

// stub is a Base that answers at once.
type stub struct{ header http.Header }

func (s stub) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	return &http.Response{StatusCode: http.StatusOK, Header: s.header, Body: http.NoBody, Request: req}, nil
}

// benchRows are the stub alone, and below a Transport.
func benchRows(b *testing.B, cfg resilient.Config) map[string]http.RoundTripper {
	b.Helper()
	base := stub{http.Header{}}
	cfg.Base, cfg.BaseIsWire = base, true
	rt, err := resilient.NewTransport(cfg)
	require.NoError(b, err)
	return map[string]http.RoundTripper{"base": base, "resilient": rt}
}

func benchRequest(b *testing.B, method string, body io.Reader) *http.Request {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, "https://api.test/charges", body)
	require.NoError(b, err)
	req.Header.Set("Content-Type", "application/json")
	return req
}

func benchSend(b *testing.B, rt http.RoundTripper, req *http.Request) {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		b.Fatal(err)
	}
	_ = resp.Body.Close()
}

func BenchmarkGet(b *testing.B) {
	for name, rt := range benchRows(b, resilient.Config{}) {
		b.Run(name, func(b *testing.B) {
			req := benchRequest(b, http.MethodGet, nil)
			b.ReportAllocs()
			for b.Loop() {
				benchSend(b, rt, req)
			}
		})
	}
}

func BenchmarkGetParallel(b *testing.B) {
	for name, rt := range benchRows(b, resilient.Config{}) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				req := benchRequest(b, http.MethodGet, nil)
				for pb.Next() {
					benchSend(b, rt, req)
				}
			})
		})
	}
}

// BenchmarkGetManyHosts goes round 10,000 hosts.
func BenchmarkGetManyHosts(b *testing.B) {
	reqs := make([]*http.Request, 10_000)
	for i := range reqs {
		reqs[i] = benchRequest(b, http.MethodGet, nil)
		reqs[i].URL.Host = fmt.Sprintf("host%d.test", i)
	}
	for name, rt := range benchRows(b, resilient.Config{}) {
		for _, req := range reqs {
			benchSend(b, rt, req)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				benchSend(b, rt, reqs[i%len(reqs)])
			}
		})
	}
}

func BenchmarkPost(b *testing.B) {
	honours := resilient.Config{HonorsKeys: resilient.AnyHost}
	for _, size := range []int{0, 1 << 10, 1 << 20} {
		for name, rt := range benchRows(b, honours) {
			b.Run(fmt.Sprintf("%dB/%s", size, name), func(b *testing.B) {
				data := make([]byte, size)
				body := bytes.NewReader(data)
				req := benchRequest(b, http.MethodPost, body)
				b.ReportAllocs()
				for b.Loop() {
					body.Reset(data)
					benchSend(b, rt, req)
				}
			})
		}
	}
}

// BenchmarkPostStream sends 1 MiB that can be read only once.
func BenchmarkPostStream(b *testing.B) {
	for name, rt := range benchRows(b, resilient.Config{}) {
		b.Run(name, func(b *testing.B) {
			data := make([]byte, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				req := benchRequest(b, http.MethodPost, io.LimitReader(bytes.NewReader(data), 1<<20))
				benchSend(b, rt, req)
			}
		})
	}
}

func BenchmarkPostParallel(b *testing.B) {
	for name, rt := range benchRows(b, resilient.Config{HonorsKeys: resilient.AnyHost}) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				data := make([]byte, 1<<10)
				body := bytes.NewReader(data)
				req := benchRequest(b, http.MethodPost, body)
				for pb.Next() {
					body.Reset(data)
					benchSend(b, rt, req)
				}
			})
		})
	}
}

// BenchmarkAttemptTimeout is what the limit on an attempt adds to a POST of 1 KiB.
func BenchmarkAttemptTimeout(b *testing.B) {
	rt := benchRows(b, resilient.Config{HonorsKeys: resilient.AnyHost, AttemptTimeout: time.Minute})["resilient"]
	data := make([]byte, 1<<10)
	body := bytes.NewReader(data)
	req := benchRequest(b, http.MethodPost, body)
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(data)
		benchSend(b, rt, req)
	}
}

// BenchmarkObserver is what an observer with every hook set adds to a GET.
func BenchmarkObserver(b *testing.B) {
	var n atomic.Int64
	rt := benchRows(b, resilient.Config{Observer: resilient.Observer{
		Attempt: func(context.Context, resilient.Attempt) { n.Add(1) },
		End:     func(context.Context, resilient.Operation, error) { n.Add(1) },
	}})["resilient"]
	req := benchRequest(b, http.MethodGet, nil)
	b.ReportAllocs()
	for b.Loop() {
		benchSend(b, rt, req)
	}
}

// BenchmarkLoopback is a whole exchange with a server on loopback: the measure
// against which the others are small.
func BenchmarkLoopback(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	b.Cleanup(srv.Close)
	base := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(base.CloseIdleConnections)
	rt, err := resilient.NewTransport(resilient.Config{Base: base, HonorsKeys: resilient.AnyHost})
	require.NoError(b, err)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for name, rt := range map[string]http.RoundTripper{"base": base, "resilient": rt} {
			b.Run(method+"/"+name, func(b *testing.B) {
				client := &http.Client{Transport: rt}
				data := make([]byte, 1<<10)
				b.ReportAllocs()
				for b.Loop() {
					var body io.Reader
					if method == http.MethodPost {
						body = bytes.NewReader(data)
					}
					req, err := http.NewRequestWithContext(b.Context(), method, srv.URL, body)
					if err != nil {
						b.Fatal(err)
					}
					resp, err := client.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		}
	}
}
