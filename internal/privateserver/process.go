//go:build unix

// Package privateserver starts real servers for tests: each test gets its own,
// on loopback, with its data in the test's directory, and may stop, kill and
// start it as it likes.
package privateserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is for a server that does not come up or go down: far more than any
// needs, and less than the limit of go test.
const patience = time.Minute

// A process is one server. Its methods may be called from any goroutine.
type process struct {
	tb      testing.TB
	command []string
	attr    *syscall.SysProcAttr // nil: as the test itself
	log     string               // the file that takes what it prints

	mu     sync.Mutex
	cmd    *exec.Cmd // nil while it is down
	guard  *exec.Cmd
	exited chan struct{}
}

// newProcess prepares a server that is down. When the test ends the server is
// killed, and what it printed is shown if the test failed.
func newProcess(tb testing.TB, command ...string) *process {
	tb.Helper()
	p := &process{tb: tb, command: command, log: filepath.Join(tb.TempDir(), "log")}
	tb.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if tb.Failed() {
			tb.Logf("%s printed:\n%s", command[0], p.printed())
		}
	})
	return p
}

// start runs the server and returns once ready does not fail any more. It does
// nothing while the server runs.
func (p *process) start(ready func(context.Context) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs() {
		return nil
	}
	p.endLocked(syscall.SIGKILL) // one that has ended by itself
	if err := p.run(); err != nil {
		return err
	}
	err := p.await(ready)
	if err != nil {
		p.endLocked(syscall.SIGKILL)
	}
	return err
}

func (p *process) runs() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) run() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server has its own handle
	ctx := context.WithoutCancel(p.tb.Context())
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, p.attr
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	p.cmd, p.exited = cmd, exited
	return p.watch(ctx)
}

// watch has a shell kill the server should the test process die without its
// clean-ups, as it does at go test's time limit: then the pipe ends.
func (p *process) watch(ctx context.Context) error {
	p.guard = exec.CommandContext(ctx, "/bin/sh", "-c", `read -r _; kill -9 "$1"`, "sh", strconv.Itoa(p.cmd.Process.Pid))
	_, err := p.guard.StdinPipe()
	if err == nil {
		err = p.guard.Start()
	}
	if err != nil {
		p.guard = nil
		p.endLocked(syscall.SIGKILL)
	}
	return err
}

func (p *process) await(ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.tb.Context()), patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-p.exited:
			return fmt.Errorf("%s ended before it was ready:\n%s", p.command[0], p.printed())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.command[0], err, p.printed())
		}
	}
}

// end sends a signal that ends the server, and waits until it is gone. It does
// nothing while the server is down.
func (p *process) end(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(sig)
}

func (p *process) endLocked(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)             // an error means that it has gone by itself
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // one that is paused heeds nothing but SIGKILL
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.tb.Errorf("%s does not end by %v", p.command[0], sig)
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	if p.guard != nil {
		_ = p.guard.Process.Kill()
		_ = p.guard.Wait()
	}
	p.cmd, p.guard = nil, nil
}

// signal sends what does not end the server.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(sig)
	}
}

// printed is the end of what the server has printed.
func (p *process) printed() string {
	log, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = log.Close() }()
	const most = 8 << 10
	if info, err := log.Stat(); err == nil && info.Size() > most {
		_, _ = log.Seek(-most, io.SeekEnd)
	}
	text, _ := io.ReadAll(log)
	return string(text)
}

// binary finds a program in the path or in one of the directories, which may be
// patterns. Where it is missing the test is skipped; install says what helps.
func binary(tb testing.TB, name, install string, dirs ...string) string {
	tb.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range dirs {
		if found, _ := filepath.Glob(filepath.Join(dir, name)); len(found) > 0 {
			return found[len(found)-1] // the newest version sorts last
		}
	}
	tb.Skipf("no %s here: %s", name, install)
	return ""
}

// freePort is a port of the loopback that nobody listens on.
func freePort(tb testing.TB) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	return port
}
