package resilient_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// nightly reports whether tests may take long, as .ci/nightly tells them.
func nightly() bool { return os.Getenv("RESILIENT_NIGHTLY") != "" }

// raced reports whether the race detector watches, under which all takes ten
// times as long.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// replayLimit is small, so that streams above it are cheap.
const replayLimit = 1 << 10

// bodyKind is one way in which a caller can hand over the same bytes.
type bodyKind struct {
	name string
	size int
	make func(t *testing.T, content []byte) io.Reader
}

// bodyKinds are all of them: what net/http knows and what it does not.
func bodyKinds() []bodyKind {
	stream := func(t *testing.T, content []byte) io.Reader {
		s := &stream{Reader: bytes.NewReader(content)}
		t.Cleanup(func() {
			synctest.Wait()
			require.EqualValues(t, 1, s.closed.Load(), "a caller's body is closed once, whatever happens")
		})
		return s
	}
	return []bodyKind{
		{"no body", 0, func(*testing.T, []byte) io.Reader { return nil }},
		{"bytes", 600, func(_ *testing.T, content []byte) io.Reader { return bytes.NewReader(content) }},
		{"stream", 600, stream},
		{"file", 600, openFile},
		{"stream above the replay limit", 4 * replayLimit, stream},
	}
}

// stream is a body that can be read once.
type stream struct {
	io.Reader
	closed atomic.Int32
}

func (s *stream) Close() error {
	s.closed.Add(1)
	return nil
}

func openFile(t *testing.T, content []byte) io.Reader {
	t.Helper()
	name := filepath.Join(t.TempDir(), "body")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// content is what all bodies of that size hold: no two stretches are alike.
func content(size int) []byte {
	all := make([]byte, 0, size+sha256.Size)
	for sum := sha256.Sum256(nil); len(all) < size; sum = sha256.Sum256(sum[:]) {
		all = append(all, sum[:]...)
	}
	return all[:size]
}

// shop is a server with effects to count: a POST charges, a PUT writes, a
// DELETE removes.
type shop struct {
	honours bool // a POST under a known key charges nothing

	mu      sync.Mutex
	charges int
	seen    map[string]bool
	item    string   // what stands there now
	bodies  []string // what each request brought
	keys    []string
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.Header.Get("Idempotency-Key")
	s.bodies, s.keys = append(s.bodies, string(body)), append(s.keys, key)
	switch r.Method {
	case http.MethodPut:
		s.item = string(body)
	case http.MethodDelete:
		s.item = ""
	case http.MethodPost:
		if !s.honours || key == "" || !s.seen[key] {
			s.charges++
		}
		if s.seen == nil {
			s.seen = make(map[string]bool)
		}
		s.seen[key] = true
	}
	_, _ = io.WriteString(w, "done")
}

// always strikes every arrival.
func always(f faultinject.Fault) faultinject.Plan {
	return faultinject.PlanFunc(func(faultinject.Exchange) faultinject.Fault { return f })
}

// roundTrip is a function as a Base.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answer is a response as a Base makes it.
func answer(req *http.Request, status int, header ...string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: io.NopCloser(strings.NewReader("text")), ContentLength: 4, Request: req,
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		resp.Header.Set(name, value)
	}
	return resp
}

func noKeys(cfg *resilient.Config) { cfg.NoKeys = true }

// site is a server on a network in memory that speaks one version of HTTP, and
// net/http's transport to it. It is to be made in the bubble.
type site struct {
	url  string
	base *http.Transport
}

// protocols are the versions of HTTP that a site can speak.
var protocols = []string{"http/1.1", "h2"}

func newSite(t *testing.T, protocol string, h http.Handler) site {
	t.Helper()
	network := faultinject.NewNetwork()
	listener, err := network.Listen("api.test:443")
	require.NoError(t, err)
	cert, pool := certificate(t, "api.test")
	server := &http.Server{
		Handler: h, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol}},
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	base := network.Transport()
	base.TLSClientConfig = &tls.Config{RootCAs: pool}
	base.ForceAttemptHTTP2 = protocol == "h2"
	t.Cleanup(func() {
		base.CloseIdleConnections()
		_ = server.Close()
		<-served
		require.NoError(t, network.Close())
		time.Sleep(time.Second) // net/http gives a client half of one to read its answer
	})
	return site{"https://api.test/charges", base}
}

// certificate is made in the bubble, so that it is valid there.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// request is one to the site.
func (s site) request(ctx context.Context, t *testing.T, method string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, s.url, body)
	require.NoError(t, err)
	return req
}

// overEach runs the test over each version of HTTP, in a bubble of its own.
func overEach(t *testing.T, run func(t *testing.T, protocol string)) {
	t.Helper()
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { run(t, protocol) })
		})
	}
}
