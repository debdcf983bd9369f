//go:build unix

package privateserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// A PrometheusServer is a prometheus that keeps what it scrapes in the test's
// directory.
type PrometheusServer struct{ url string }

// Prometheus starts a prometheus with that configuration, as its file has it,
// relative paths in which are relative to dir. Without the program the test is
// skipped.
func Prometheus(tb testing.TB, dir, config string) *PrometheusServer {
	tb.Helper()
	program := binary(tb, "prometheus", "apt-get install prometheus")
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", freePort(tb))
	p := newProcess(tb, program, "--config.file", file, "--storage.tsdb.path", filepath.Join(tb.TempDir(), "data"),
		"--web.listen-address", addr, "--log.level", "warn")
	s := &PrometheusServer{url: "http://" + addr}
	if err := p.start(s.ready); err != nil {
		tb.Fatal(err)
	}
	return s
}

// URL is where its API and its pages are, without a slash at the end.
func (s *PrometheusServer) URL() string { return s.url }

func (s *PrometheusServer) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/-/ready", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("it answers " + resp.Status)
	}
	return nil
}
