// Faultproxy stands in front of an HTTP service and makes exchanges with it
// fail: by a plan, by hand on a page, and by JSON. It tells of each how far the
// request really got.
//
//	faultproxy -upstream http://127.0.0.1:8080 -plan 'POST /charge: lose-response(rst)'
//
// The plan is the text that faultinject.ParsePlan reads; @name reads it from a
// file. The page has an address of its own, since / belongs to the service.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run serves until ctx ends. It returns the status to exit with: 2 for what was
// asked for wrongly, 1 for what did not work.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "faultproxy:", err)
		return 2
	}
	if err := serve(ctx, o, stdout); err != nil {
		fmt.Fprintln(stderr, "faultproxy:", err)
		return 1
	}
	return 0
}

type options struct {
	upstream, listen, admin string
	board                   *board
}

func parseOptions(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("faultproxy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	plan := ""
	flags.StringVar(&o.upstream, "upstream", "", "the `URL` of the service, such as http://127.0.0.1:8080 (needed)")
	flags.StringVar(&plan, "plan", "", "what strikes: a `plan`, or @ and the name of a file with one")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8474", "the `address` to serve on")
	flags.StringVar(&o.admin, "admin", "127.0.0.1:8475", "the `address` of the page; empty for no page")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			flags.Usage()
		}
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if o.upstream == "" {
		return o, errors.New("-upstream is needed, such as -upstream http://127.0.0.1:8080")
	}
	probe, err := faultinject.Proxy(nil, o.upstream, nil)
	if err != nil {
		return o, fmt.Errorf("-upstream: %w", err)
	}
	probe.Close()
	if name, file := strings.CutPrefix(plan, "@"); file {
		text, err := os.ReadFile(name)
		if err != nil {
			return o, fmt.Errorf("-plan: %w", err)
		}
		plan = string(text)
	}
	o.board = &board{}
	return o, pointed(plan, o.board.setPlan(plan))
}

// pointed adds to an error of a plan the line it means, and points at the column.
func pointed(text string, err error) error {
	var at *faultinject.PlanError
	if !errors.As(err, &at) {
		return err
	}
	line := strings.Split(text, "\n")[at.Line-1]
	space := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string([]rune(line)[:at.Column-1]))
	return fmt.Errorf("-plan: %w\n\t%s\n\t%s^", err, line, space)
}

func serve(ctx context.Context, o options, stdout io.Writer) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	var page net.Listener
	if o.admin != "" {
		if page, err = listen.Listen(ctx, "tcp", o.admin); err != nil {
			return err
		}
		defer page.Close()
	}
	proxy, err := faultinject.Proxy(l, o.upstream, o.board)
	if err != nil {
		return err
	}
	defer proxy.Close()
	proxy.Keep(recent)
	fmt.Fprintf(stdout, "proxy  %s -> %s\n", proxy.URL, o.upstream)
	failed := make(chan error, 1)
	if page != nil {
		fmt.Fprintf(stdout, "page   http://%s/\n", page.Addr())
		admin := &http.Server{Handler: newAdmin(proxy, o, page.Addr()), ReadHeaderTimeout: 10 * time.Second}
		defer admin.Close()
		go func() { failed <- admin.Serve(page) }()
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
		fmt.Fprintln(stdout, "ended")
	}
	return err
}
