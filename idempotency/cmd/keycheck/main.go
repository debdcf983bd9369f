// Keycheck tells whether an HTTP service, in whatever language, honours
// idempotency keys: it repeats, doubles, mixes and breaks off real requests and
// says of each promise whether it was kept.
//
//	keycheck -url http://127.0.0.1:8080/charge -body '{"amount":1}'
//
// It exits with 0 if the promises were kept, 1 if one was broken, 2 if it was
// used wrongly or the service cannot be reached, and 3 if what was seen proves
// neither.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-resilient/resilient/idempotency/idempotencytest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the status to exit with.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "keycheck:", err)
		return 2
	}
	fmt.Fprintf(stderr, "keycheck: about forty requests to %s, with real effects\n", o.host)
	report, err := idempotencytest.Check(ctx, o.target)
	if err != nil {
		fmt.Fprintln(stderr, "keycheck:", strings.TrimPrefix(err.Error(), "idempotencytest: "))
	}
	if len(report.Findings) > 0 {
		if werr := o.print(stdout, report); werr != nil {
			fmt.Fprintln(stderr, "keycheck:", werr)
			return 2
		}
	}
	switch {
	case report.Verdict == idempotencytest.Broken: // also where it could not go on
		return 1
	case err != nil:
		return 2
	case report.Verdict == idempotencytest.Kept:
		return 0
	}
	return 3
}

type options struct {
	target idempotencytest.Target
	host   string
	json   bool
}

func (o options) print(w io.Writer, r idempotencytest.Report) error {
	if !o.json {
		_, err := io.WriteString(w, r.String())
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func parseOptions(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("keycheck", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	t := &o.target
	t.Header = http.Header{}
	flags.StringVar(&t.URL, "url", "", "the `URL` of the operation, such as http://127.0.0.1:8080/charge (needed)")
	flags.StringVar(&t.Method, "method", http.MethodPost, "the operation's `method`")
	flags.Func("body", "a `payload` that is accepted again and again, or @ and the name of a file", payload(&t.Body))
	flags.Func("other", "another `payload` that is accepted (default: the first with one value changed, if it is JSON)", payload(&t.OtherBody))
	flags.Func("failing", "a `payload` that fails", payload(&t.FailingBody))
	flags.Func("header", "a `line` such as 'Authorization: Bearer …'; may be repeated", func(line string) error {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return errors.New("it has no colon") // it may be a secret: it is not shown
		}
		t.Header.Add(name, strings.TrimSpace(value))
		return nil
	})
	flags.StringVar(&t.KeyHeader, "key-header", "Idempotency-Key", "the `name` of the header that carries the key")
	counter := flags.String("effects", "", "a `URL` that answers with the number of effects so far, and nothing else")
	flags.DurationVar(&t.Patience, "timeout", 10*time.Second, "for how `long` one answer may take, waiting through 409 included")
	flags.BoolVar(&o.json, "json", false, "write the report as JSON")
	yes := flags.Bool("yes", false, "have real effects on a host that is not this one")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			flags.Usage()
		}
		return o, told(err)
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	return o, o.complete(*counter, *yes)
}

// told leaves out of an error about a header the line, which may be a secret.
func told(err error) error {
	if text := err.Error(); strings.Contains(text, "for flag -header:") {
		return errors.New("-header: it has no colon, as in 'Authorization: Bearer …'")
	}
	return err
}

// complete looks at what the flags say together.
func (o *options) complete(counter string, yes bool) error {
	t := &o.target
	if t.URL == "" {
		return errors.New("-url is needed, such as -url http://127.0.0.1:8080/charge")
	}
	u, err := url.Parse(t.URL)
	if err != nil || u.Host == "" {
		return errors.New("-url is not a URL with a host")
	}
	if o.host = u.Host; !yes && !loopback(u.Hostname()) {
		return fmt.Errorf("this sends %s about forty requests that have real effects: say -yes if it may", u.Host)
	}
	if t.Patience <= 0 {
		return fmt.Errorf("-timeout: %v is not positive", t.Patience)
	}
	if len(t.Header["Content-Type"]) == 0 && json.Valid(t.Body) {
		t.Header.Set("Content-Type", "application/json")
	}
	if counter != "" {
		if c, err := url.Parse(counter); err != nil || c.Host == "" {
			return errors.New("-effects is not a URL with a host")
		}
		t.Effects = count(counter)
	}
	return nil
}

// loopback reports whether host is this machine, by its name alone: what a
// server of names says may change before it is dialled.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// payload reads a flag that is a text or names a file.
func payload(body *[]byte) func(string) error {
	return func(text string) error {
		name, file := strings.CutPrefix(text, "@")
		if !file {
			*body = []byte(text)
			return nil
		}
		read, err := os.ReadFile(name)
		*body = read
		return err
	}
}

// count asks a URL for the number of effects.
func count(counter string) func(context.Context) (int, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, counter, nil)
		if err != nil {
			return 0, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 64))
		if err != nil {
			return 0, err
		}
		if resp.StatusCode != http.StatusOK {
			return 0, errors.New(resp.Status)
		}
		return strconv.Atoi(strings.TrimSpace(string(text)))
	}
}
