// Payments-server is a small service that takes charges under idempotency keys:
//
//	go run ./examples/payments-server
//
// Keys and charges are kept in files, so that a charge is taken once even if the
// process is killed in the middle of it. README.md shows that with curl, and how
// the keys are kept in PostgreSQL or Redis instead.
package main

import (
	"context"
	"expvar"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

type settings struct {
	addr        string        // where to listen
	debug       int           // the port of /debug/vars
	store, data string        // where keys and charges are kept
	slow        time.Duration // between a charge and its answer
}

func main() {
	var s settings
	flag.StringVar(&s.addr, "addr", "127.0.0.1:8080", "`address` of the service")
	flag.IntVar(&s.debug, "debug", 8081, "`port` of /debug/vars, on loopback")
	flag.StringVar(&s.store, "store", "", "keep keys and charges in postgres://…, or the keys in redis://…; files if empty")
	flag.StringVar(&s.data, "data", filepath.Join(os.TempDir(), "payments-server"), "`directory` of the files")
	flag.DurationVar(&s.slow, "slow", 0, "`pause` between a charge and its answer, long enough to kill the process in it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var counts idempotency.Counts
	expvar.Publish("idempotency", &counts)
	if err := run(ctx, s, &counts); err != nil {
		fmt.Fprintln(os.Stderr, "payments-server:", err)
		os.Exit(1)
	}
}

// run is the program.
func run(ctx context.Context, s settings, counts *idempotency.Counts) error {
	storage, err := openStorage(ctx, s)
	if err != nil {
		return err
	}
	defer storage.close()
	handler, err := newHandler(storage, s.slow, idempotency.Observers(counts.Observer(), idempotency.LogTo(slog.Default())))
	if err != nil {
		return err
	}
	debug, err := listen(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.debug)))
	if err != nil {
		return err
	}
	defer debug.Close()
	mux := http.NewServeMux()
	mux.Handle("GET /debug/vars", expvar.Handler())
	go newServer(mux).Serve(debug) // until it is closed

	l, err := listen(ctx, s.addr)
	if err != nil {
		return err
	}
	slog.Info("serving", "charges", "http://"+l.Addr().String()+"/charges", "counts", "http://"+debug.Addr().String()+"/debug/vars")
	return serve(ctx, l, handler)
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", addr)
}

// serve answers until ctx ends. What has begun by then is answered too.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := newServer(h)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	slog.Info("shutting down")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), runLimit+lease)
	defer cancel()
	return server.Shutdown(ctx)
}

// A run under a key is cancelled before the server gives up its answer.
const (
	lease        = 10 * time.Second
	runLimit     = 20 * time.Second
	writeTimeout = 35 * time.Second // reading and waiting included
)

func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       time.Minute,
	}
}
