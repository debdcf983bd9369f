package resilient_test

// A server that is not ours: nginx as Debian packages it, on loopback and in
// real time. Nothing is timed; requests are counted.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// nginxConfig lets one request a second through to the upstream at /busy and
// /full, and all at /charge.
const nginxConfig = `
daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	limit_req_zone $server_name zone=busy:64k rate=1r/s;
	limit_req_zone $server_name zone=full:64k rate=1r/s;
	server {
		listen %[2]s;
		server_name api;
		add_header Retry-After 1 always;
		location /busy { limit_req zone=busy; limit_req_status 429; proxy_pass http://%[3]s; }
		location /full { limit_req zone=full; limit_req_status 503; proxy_pass http://%[3]s; }
		location / { proxy_pass http://%[3]s; }
	}
}
`

// nginx is one instance, with a directory of its own.
type nginx struct {
	binary, prefix, addr string

	mu  sync.Mutex
	cmd *exec.Cmd // nil while it is down
}

func newNginx(t *testing.T, upstream http.Handler) *nginx {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		binary = "/usr/sbin/nginx" // Debian keeps it there, outside most paths
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("no nginx here: apt-get install nginx-light")
	}
	behind := httptest.NewServer(upstream)
	t.Cleanup(behind.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &nginx{binary: binary, prefix: t.TempDir(), addr: l.Addr().String()}
	require.NoError(t, l.Close())
	config := fmt.Sprintf(nginxConfig, n.prefix, n.addr, behind.Listener.Addr())
	require.NoError(t, os.WriteFile(filepath.Join(n.prefix, "nginx.conf"), []byte(config), 0o600))
	t.Cleanup(n.kill)
	require.NoError(t, n.start())
	return n
}

// start returns when it answers.
func (n *nginx) start() error {
	cmd := exec.Command(n.binary, "-p", n.prefix, "-c", filepath.Join(n.prefix, "nginx.conf"), "-e", filepath.Join(n.prefix, "error.log"))
	if err := cmd.Start(); err != nil {
		return err
	}
	n.mu.Lock()
	n.cmd = cmd
	n.mu.Unlock()
	for range 500 {
		if conn, err := net.Dial("tcp", n.addr); err == nil {
			return conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(n.prefix, "error.log"))
	return fmt.Errorf("nginx does not answer: %s", log)
}

// kill ends it as a crash does.
func (n *nginx) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
		n.cmd = nil
	}
}

func (n *nginx) url(path string) string { return "http://" + n.addr + path }

// nginxClient returns the default client, on connections of its own.
func nginxClient(t *testing.T, change ...func(*resilient.Config)) *http.Client {
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return newClient(t, base, append(change, func(c *resilient.Config) { c.BaseIsWire = false })...)
}

func nginxGet(t *testing.T, client *http.Client, url string) told {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	return do(t, client, req)
}

func TestNginxThatLimitsIsGivenTheTimeItAsksFor(t *testing.T) {
	n := newNginx(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") }))
	for path, status := range map[string]int{"/busy": 429, "/full": 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			client := nginxClient(t)
			require.Equal(t, 200, nginxGet(t, client, n.url(path)).status)
			got := nginxGet(t, client, n.url(path))
			require.Equal(t, 200, got.status)
			require.GreaterOrEqual(t, got.attempts, 2, "it was not limited")
			for _, a := range got.record.Attempts[:got.attempts-1] {
				require.Equal(t, status, a.Status)
				require.Equal(t, resilient.Throttled, a.Verdict)
				require.GreaterOrEqual(t, a.Wait, time.Second)
			}
		})
	}
}

// crashing is a shop whose requests can be the end of nginx: the charge is made,
// and the answer has nowhere to go.
type crashing struct {
	shop
	after func(n int) // the n-th request has been handled, and not been answered
	count atomic.Int64
}

func (c *crashing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := c.count.Add(1)
	c.shop.ServeHTTP(w, r)
	c.after(int(n))
}

// tally tells how often each body arrived, and how often was charged.
func (c *crashing) tally() (arrivals map[string]int, charges int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	arrivals = make(map[string]int)
	for _, body := range c.bodies {
		arrivals[body]++
	}
	return arrivals, c.charges
}

func nginxCharge(t *testing.T, client *http.Client, url string, i int) told {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(fmt.Sprint("amount=", i)))
	if err != nil {
		return told{err: err}
	}
	resp, err := client.Do(req)
	if e, ok := errors.AsType[*resilient.Error](err); ok {
		return told{outcome: e.Outcome, attempts: len(e.Attempts), err: err}
	} else if err != nil {
		return told{err: err}
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	op, _ := resilient.OperationOf(resp)
	return told{status: resp.StatusCode, outcome: op.Outcome, attempts: len(op.Attempts), err: err}
}

func TestWhatNginxCarriedWhenItWasKilledIsCarriedThroughOnce(t *testing.T) {
	const operations = 200
	behind, dead := &crashing{shop: shop{honours: true}}, make(chan struct{})
	n := newNginx(t, behind)
	behind.after = func(i int) {
		if i == operations/2 {
			n.kill()
			close(dead)
		}
	}
	client := nginxClient(t, honoured, func(c *resilient.Config) {
		c.MaxAttempts, c.AttemptTimeout = 12, 5*time.Second
		c.NoBudget, c.NoBreaker = true, true // every operation is to be carried through
	})
	var (
		wg      sync.WaitGroup
		all     [operations]told
		jobs    = make(chan int)
		started error
	)
	for range 4 {
		wg.Go(func() {
			for i := range jobs {
				all[i] = nginxCharge(t, client, n.url("/charge"), i)
			}
		})
	}
	wg.Go(func() {
		<-dead
		time.Sleep(100 * time.Millisecond) // of refused connections
		started = n.start()
	})
	for i := range operations {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	require.NoError(t, started)
	attempts := 0
	for _, got := range all {
		require.NoError(t, got.err)
		require.Equal(t, 200, got.status)
		attempts += got.attempts
	}
	arrivals, charges := behind.tally()
	t.Logf("%d operations, %d attempts, %d requests behind nginx, %d charges", operations, attempts, behind.count.Load(), charges)
	require.Len(t, arrivals, operations)
	require.Equal(t, operations, charges)
	require.Greater(t, int(behind.count.Load()), operations, "nothing was under way when it was killed")
	require.GreaterOrEqual(t, attempts, int(behind.count.Load()))
}

func TestAPostThroughADyingNginxIsNeverDoubledAndToldTruly(t *testing.T) {
	const operations, back, down = 40, 10, 20 // it is back at once, or stays down for a while
	behind := &crashing{}
	n := newNginx(t, behind)
	restarted := make(chan error, 1)
	behind.after = func(i int) {
		if i == back || i == down {
			n.kill()
		}
		if i == back {
			restarted <- n.start()
		}
	}
	client := nginxClient(t, func(c *resilient.Config) { c.NoBudget, c.NoBreaker, c.AttemptTimeout = true, true, 5*time.Second })
	told, notSent := make(map[string]int), []string(nil)
	for i := range operations {
		if i == down+3 {
			require.NoError(t, n.start())
		}
		got := nginxCharge(t, client, n.url("/charge"), i)
		told[got.outcome.String()]++
		if got.outcome == resilient.NotSent {
			notSent = append(notSent, fmt.Sprint("amount=", i))
		}
	}
	require.NoError(t, <-restarted)
	arrivals, charges := behind.tally()
	t.Logf("told %v, %d charges", told, charges)
	// A dying process closes its connections before it stops to listen, or
	// after: whoever comes in between cannot know either.
	require.Equal(t, operations-5, told["answered"])
	require.GreaterOrEqual(t, told["outcome unknown"], 2)
	require.Positive(t, told["not sent"])
	require.Equal(t, operations-3, charges)
	for _, body := range notSent {
		require.Zero(t, arrivals[body], body)
	}
	for body, times := range arrivals {
		require.Equal(t, 1, times, body)
	}
}
