//go:build unix

package privateserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A RedisServer is a redis-server that writes every command to its disk before
// it answers, so that what it acknowledged is there after a kill. Its methods
// may be called from any goroutine, but for Start.
type RedisServer struct {
	tb      testing.TB
	process *process
	addr    string
	cluster bool
}

// Redis starts a redis-server, with further settings as its command line takes
// them ("--maxmemory", "100mb"). Without the program the test is skipped.
func Redis(tb testing.TB, settings ...string) *RedisServer {
	tb.Helper()
	return newRedis(tb, false, settings)
}

// RedisCluster starts a Redis Cluster of one node that serves every slot. It
// takes two seconds: so long no node joins its cluster again after a start.
func RedisCluster(tb testing.TB, settings ...string) *RedisServer {
	tb.Helper()
	return newRedis(tb, true, slices.Concat([]string{
		"--cluster-enabled", "yes", "--cluster-port", freePort(tb), "--cluster-announce-ip", "127.0.0.1",
	}, settings))
}

func newRedis(tb testing.TB, cluster bool, settings []string) *RedisServer {
	tb.Helper()
	program := binary(tb, "redis-server", "apt-get install redis-server")
	port := freePort(tb)
	command := slices.Concat([]string{
		program, "--bind", "127.0.0.1", "--port", port, "--dir", tb.TempDir(), "--daemonize", "no", "--loglevel", "warning",
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction",
	}, settings)
	r := &RedisServer{
		tb:      tb,
		process: newProcess(tb, command...),
		addr:    net.JoinHostPort("127.0.0.1", port),
		cluster: cluster,
	}
	r.Start()
	return r
}

// Addr is the server's host and port. It stays the same over a Stop, Kill and Start.
func (r *RedisServer) Addr() string { return r.addr }

// Start starts the server again, on the data it left, and returns when it
// answers. It does nothing while the server runs.
func (r *RedisServer) Start() {
	r.tb.Helper()
	if err := r.process.start(r.ready); err != nil {
		r.tb.Fatal(err)
	}
}

// Stop asks the server to end and waits for it.
func (r *RedisServer) Stop() { r.process.end(syscall.SIGTERM) }

// Kill ends the server as a crash does.
func (r *RedisServer) Kill() { r.process.end(syscall.SIGKILL) }

// Pause lets the server stand still: its connections stay open and nobody answers.
func (r *RedisServer) Pause() { r.process.signal(syscall.SIGSTOP) }

// Resume ends a Pause. What came in meanwhile is answered now.
func (r *RedisServer) Resume() { r.process.signal(syscall.SIGCONT) }

func (r *RedisServer) ready(ctx context.Context) error {
	pong, err := r.ask(ctx, "PING")
	if err != nil || !r.cluster {
		return expect(pong, "PONG", err)
	}
	if _, err := r.ask(ctx, "CLUSTER ADDSLOTSRANGE 0 16383"); err != nil && !strings.Contains(err.Error(), "busy") {
		return err // busy: it has had them since an earlier start
	}
	info, err := r.ask(ctx, "CLUSTER INFO")
	return expect(info, "cluster_state:ok", err)
}

func expect(answer, want string, err error) error {
	if err == nil && !strings.Contains(answer, want) {
		return fmt.Errorf("it answers %q", answer)
	}
	return err
}

// ask speaks as much of Redis' protocol as it needs to see that a server is there.
func (r *RedisServer) ask(ctx context.Context, command string) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	answer := bufio.NewReader(conn)
	line, err := answer.ReadString('\n')
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(line[1:])
	switch line[0] {
	case '-':
		return "", errors.New(text)
	case '$':
		n, err := strconv.Atoi(text)
		if err != nil {
			return "", err
		}
		bulk := make([]byte, max(0, n))
		_, err = io.ReadFull(answer, bulk)
		return string(bulk), err
	}
	return text, nil
}
