//go:build unix

package endtoend

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// process is a service that runs, or has been killed.
type process struct {
	t    testing.TB
	spec spec

	mu   sync.Mutex
	cmd  *exec.Cmd
	stay io.Closer // its end is the service's
	died atomic.Int32
}

func start(t testing.TB, s spec) *process {
	p := &process{t: t, spec: s}
	p.start()
	t.Cleanup(p.kill)
	return p
}

// start starts the service and returns once it listens.
func (p *process) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, err := json.Marshal(p.spec)
	require.NoError(p.t, err)
	cmd := exec.CommandContext(context.WithoutCancel(p.t.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), specVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	p.stay, err = cmd.StdinPipe()
	require.NoError(p.t, err)
	ready, err := cmd.StdoutPipe()
	require.NoError(p.t, err)
	require.NoError(p.t, cmd.Start())
	p.cmd = cmd
	line, _ := bufio.NewReader(ready).ReadString('\n')
	require.Equal(p.t, "ready\n", line, "%s did not start", p.spec.Name)
}

// kill ends the service by SIGKILL.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stay.Close()
	p.cmd = nil
	p.died.Add(1)
}

// freeAddr is an address of the loopback for a service that comes and goes. Its
// port is below those that the system gives to whoever connects, or one of them
// would take it while the service is down.
func freeAddr(t testing.TB) string {
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(15000+rand.N(15000)))
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err == nil {
			require.NoError(t, l.Close())
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// proxy is one address for several services: each connection goes to the next
// one, and ends if nobody listens there. It repeats nothing.
func proxy(t testing.TB, backends ...string) string {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go relay(context.WithoutCancel(t.Context()), conn, backends[n%len(backends)])
		}
	}()
	return l.Addr().String()
}

func relay(ctx context.Context, conn net.Conn, backend string) {
	defer func() { _ = conn.Close() }()
	behind, err := (&net.Dialer{}).DialContext(ctx, "tcp", backend)
	if err != nil {
		return
	}
	defer func() { _ = behind.Close() }()
	ends := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, behind}, {behind, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			ends <- struct{}{}
		}()
	}
	<-ends
}
