//go:build unix

package privateserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// A PostgresServer is a PostgreSQL server with a data directory of its own and
// the settings it comes with, fsync among them. Its methods may be called from
// any goroutine, but for Start.
type PostgresServer struct {
	tb        testing.TB
	process   *process
	dir, data string
}

// Postgres starts a PostgreSQL server, with further settings as "name=value". It
// takes about a second. Without the program the test is skipped.
func Postgres(tb testing.TB, settings ...string) *PostgresServer {
	tb.Helper()
	program := binary(tb, "postgres", "apt-get install postgresql", "/usr/lib/postgresql/*/bin")
	attr := unprivileged(tb)
	p := &PostgresServer{tb: tb, dir: directory(tb, attr)}
	p.data = filepath.Join(p.dir, "data")

	initdb := exec.CommandContext(tb.Context(), filepath.Join(filepath.Dir(program), "initdb"),
		"-D", p.data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = p.dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		tb.Fatalf("initdb: %v\n%s", err, out)
	}
	command := []string{program, "-D", p.data, "-k", p.dir, "-c", "listen_addresses="}
	for _, s := range settings {
		command = append(command, "-c", s)
	}
	tb.Cleanup(p.killAll) // after the process's own clean-up, before the directory's
	p.process = newProcess(tb, command...)
	p.process.attr = attr
	p.Start()
	return p
}

// unprivileged is how to run as somebody else than root, whom PostgreSQL refuses.
func unprivileged(tb testing.TB) *syscall.SysProcAttr {
	tb.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		tb.Skipf("root cannot run PostgreSQL: %v", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		tb.Fatalf("the user postgres has the numbers %q and %q", u.Uid, u.Gid)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// directory is one that the server's user owns: root's tb.TempDir is closed to
// others. Its name is short, as that of a socket must be.
func directory(tb testing.TB, attr *syscall.SysProcAttr) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "pg") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	if attr != nil {
		if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// DSN is what to connect with, as its superuser and over its socket. It stays
// the same over a Stop, Kill and Start.
func (p *PostgresServer) DSN() string {
	return fmt.Sprintf("host=%s user=postgres dbname=postgres", p.dir)
}

// Start starts the server again, on the data it left, and returns when it
// answers. It does nothing while the server runs.
func (p *PostgresServer) Start() {
	p.tb.Helper()
	if err := p.process.start(p.ready); err != nil {
		p.tb.Fatal(err)
	}
}

// Stop ends all connections and the server, in order, and waits for it.
func (p *PostgresServer) Stop() {
	p.Resume()
	p.process.end(syscall.SIGINT)
}

// Kill ends every process of the server as a crash does.
func (p *PostgresServer) Kill() {
	p.process.end(syscall.SIGKILL)
	p.killAll() // it does not start again while one of them lives
}

// Pause lets the server stand still: its connections stay open and nobody answers.
func (p *PostgresServer) Pause() {
	// One may be born while the others are being stopped, until its parent is.
	for before, now := -1, 0; before != now; {
		before, now = now, p.signal(syscall.SIGSTOP)
	}
}

// Resume ends a Pause. What came in meanwhile is answered now.
func (p *PostgresServer) Resume() { p.signal(syscall.SIGCONT) }

// ready asks for a connection as PostgreSQL's protocol begins it: a message of
// type R says that the server is up, an E that it is still recovering.
func (p *PostgresServer) ready(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.dir, ".s.PGSQL.5432"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	const hello = "\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00"
	if _, err := conn.Write(slices.Concat([]byte{0, 0, 0, byte(len(hello) + 4)}, []byte(hello))); err != nil {
		return err
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	if err == nil && answer[0] != 'R' {
		err = fmt.Errorf("it answers %q", answer[:n])
	}
	return err
}

// killAll kills what the first process leaves behind, and returns when it is gone.
func (p *PostgresServer) killAll() {
	for p.signal(syscall.SIGKILL) > 0 {
	}
}

// signal reaches every process of the server and tells how many there are. They
// are known by their working directory, which is the server's data.
func (p *PostgresServer) signal(sig syscall.Signal) (reached int) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if dir, err := os.Readlink(link); err != nil || dir != p.data {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			_ = syscall.Kill(pid, sig) // an error means that it has gone by itself
			reached++
		}
	}
	return reached
}
