package idempotencytest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxAnswer = 1 << 20 // of an answer is read, its header included
	excerpt   = 80      // bytes of a body that are shown
)

// A probe speaks to the service, over bare connections: net/http's client would
// repeat a keyed request by itself, and follow redirects.
type probe struct {
	Target
	url  *url.URL
	addr string

	// What earlier cases taught.
	unreachable error
	hopeless    string        // why no further case can teach anything
	took        time.Duration // to do what it is asked
	marks       bool          // it marks a replayed answer
	distinct    bool          // it answers two operations differently
	blind       bool          // Effects does not count what the answers tell of
}

func newProbe(t Target) (*probe, error) {
	u, err := t.complete()
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	p := &probe{Target: t, url: u, addr: net.JoinHostPort(u.Hostname(), port)}
	if p.OtherBody == nil {
		p.OtherBody = other(p.Body)
	}
	one, two := p.NewKey(), p.NewKey()
	if one == "" || one == two {
		return nil, fmt.Errorf("idempotencytest: Target.NewKey: it made %q and then %q", one, two)
	}
	if _, err := p.wire(one, p.Body); err != nil {
		return nil, fmt.Errorf("idempotencytest: Target: no request can be made of it: %w", err)
	}
	return p, nil
}

// shown is the URL without what may be secret.
func (p *probe) shown() string {
	return (&url.URL{Scheme: p.url.Scheme, Host: p.url.Host, Path: p.url.Path, RawPath: p.url.RawPath}).String()
}

func randomKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// wire is a request as it is written. An empty key sends none.
func (p *probe) wire(key string, body []byte) ([]byte, error) {
	req, err := http.NewRequest(p.Method, p.URL, bytes.NewReader(body)) //nolint:noctx // it is written by hand
	if err != nil {
		return nil, err
	}
	for name, values := range p.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Del(p.KeyHeader)
	if key != "" {
		req.Header.Set(p.KeyHeader, key)
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host // net/http takes it from nowhere else
	}
	if user := p.url.User; user != nil && req.Header.Get("Authorization") == "" {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	req.Close = true
	var b bytes.Buffer
	err = req.Write(&b)
	return b.Bytes(), err
}

// dial connects, until the probe's patience or ctx ends.
func (p *probe) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	dial := p.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", p.addr)
	switch {
	case err != nil:
		return nil, &UnreachableError{err}
	case p.url.Scheme == "http":
		return conn, nil
	}
	cfg := &tls.Config{}
	if p.TLS != nil {
		cfg = p.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = p.url.Hostname()
	}
	cfg.NextProtos = []string{"http/1.1"}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, &UnreachableError{err}
	}
	return secure, nil
}

// An answer is what came of one request.
type answer struct {
	status     int
	body       []byte
	replayed   string // the header that says so
	retryAfter string
	err        error // nothing that is an answer came
}

func (a answer) accepted() bool { return a.err == nil && a.status < http.StatusBadRequest }

// busy reports whether the answer asks to come back later: the statuses that
// services use for a request that is still running, or too many of them.
func (a answer) busy() bool {
	switch a.status {
	case http.StatusConflict, http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return a.err == nil && a.replayed == ""
	}
	return false
}

func (a answer) same(b answer) bool {
	return a.err == nil && b.err == nil && a.status == b.status && bytes.Equal(a.body, b.body)
}

func (a answer) String() string {
	if a.err != nil {
		return "no answer (" + a.err.Error() + ")"
	}
	text := strconv.Itoa(a.status)
	if len(a.body) > 0 {
		text += fmt.Sprintf(" %+q", a.body[:min(len(a.body), excerpt)]) // whatever it is, a terminal can show it
	}
	if a.replayed != "" {
		text += ", marked " + a.replayed
	}
	return text
}

// markers are the headers by which services say that an answer is a stored one.
var markers = []string{
	"Idempotent-Replayed", "Idempotency-Replayed", "Idempotent-Replay", "Idempotency-Replay",
	"X-Idempotent-Replayed", "X-Idempotency-Replayed", "X-Idempotent-Replay", "X-Idempotency-Replay",
	"Request-Idempotency",
}

// marker is the header that calls an answer a stored one.
func marker(h http.Header) string {
	for _, name := range markers {
		if v := h.Get(name); strings.EqualFold(v, "true") || v == "1" {
			return name
		}
	}
	if name := "X-GCS-Idempotence-Request-Timestamp"; h.Get(name) != "" {
		return name // it is sent with stored answers alone
	}
	return ""
}

// exchange makes one request.
func (p *probe) exchange(ctx context.Context, key string, body []byte) answer {
	return p.gather(ctx, key, body, 1)[0]
}

// gather makes the same request n times: the last byte of each is held back
// until all others are on their way.
func (p *probe) gather(ctx context.Context, key string, body []byte, n int) []answer {
	var (
		all     = make([]answer, n)
		ready   sync.WaitGroup
		done    sync.WaitGroup
		text, _ = p.wire(key, body) // newProbe has made one like it
	)
	ready.Add(n)
	for i := range all {
		done.Go(func() {
			all[i] = p.speak(ctx, text, func() {
				ready.Done()
				ready.Wait()
			})
		})
	}
	done.Wait()
	return all
}

// speak writes a request, all but its last byte before the others are ready,
// and reads the answer.
func (p *probe) speak(ctx context.Context, text []byte, ready func()) answer {
	conn, err := p.dial(ctx)
	if err != nil {
		ready()
		return answer{err: err}
	}
	defer conn.Close()
	defer p.limit(ctx, conn)()
	var writing sync.WaitGroup
	defer writing.Wait()
	defer conn.Close()
	writing.Go(func() { // a service may answer before it has read all
		_, err := conn.Write(text[:len(text)-1])
		ready()
		if err == nil {
			_, _ = conn.Write(text[len(text)-1:])
		}
	})
	return p.read(conn)
}

// limit ends whatever is done with conn when the probe's patience or ctx ends.
func (p *probe) limit(ctx context.Context, conn net.Conn) (lift func()) {
	_ = conn.SetDeadline(time.Now().Add(p.Patience))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// read reads one answer, however much of it there is.
func (p *probe) read(conn io.Reader) answer {
	limited := &io.LimitedReader{R: conn, N: maxAnswer}
	r := bufio.NewReader(limited)
	for range 10 { // interim answers
		resp, err := http.ReadResponse(r, &http.Request{Method: p.Method})
		if err != nil {
			switch {
			case limited.N <= 0:
				err = fmt.Errorf("its header is longer than %d bytes", maxAnswer)
			case errors.Is(err, os.ErrDeadlineExceeded):
				err = fmt.Errorf("none within %v", p.Patience)
			}
			return answer{err: err}
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		a := answer{status: resp.StatusCode, replayed: marker(resp.Header), retryAfter: resp.Header.Get("Retry-After")}
		a.body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil && limited.N > 0 { // of a long one, what was read will do
			a.err = fmt.Errorf("its body broke off: %w", err)
		}
		return a
	}
	return answer{err: errors.New("interim answers without end")}
}

// settle makes the request and, while it is told to wait, makes it again.
func (p *probe) settle(ctx context.Context, key string, body []byte) answer {
	end := time.Now().Add(p.Patience)
	for least := 100 * time.Millisecond; ; least = min(2*least, 2*time.Second) {
		a := p.exchange(ctx, key, body)
		wait := max(least, after(a.retryAfter))
		if !a.busy() || time.Now().Add(wait).After(end) || !pause(ctx, wait) {
			return a
		}
	}
}

// pause reports false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// after is how long a Retry-After asks to wait, zero if it cannot be read.
func after(text string) time.Duration {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}

// abandon makes the request and cuts the connection, at the first line of the
// answer, of which it returns the status, or as soon as the request is written.
func (p *probe) abandon(ctx context.Context, key string, body []byte, atAnswer bool) (status int, err error) {
	text, err := p.wire(key, body)
	if err != nil {
		return 0, err
	}
	conn, err := p.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer p.limit(ctx, conn)()
	if _, err := conn.Write(text); err != nil || !atAnswer {
		return 0, err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 1<<10)).ReadString('\n')
	if err != nil {
		return 0, err
	}
	reset(conn)
	if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[0], "HTTP/1.") {
		if status, err = strconv.Atoi(fields[1]); err == nil {
			return status, nil
		}
	}
	return 0, fmt.Errorf("not HTTP: %+q", line[:min(len(line), excerpt)])
}

// reset makes the close of conn a reset, where it can.
func reset(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}

// count begins to count effects; what it returns tells how many there were
// since, and whether that is known.
func (p *probe) count(ctx context.Context) func() (int, bool) {
	before, ok := p.effects(ctx)
	return func() (int, bool) {
		now, known := p.effects(ctx)
		return now - before, ok && known
	}
}

func (p *probe) effects(ctx context.Context) (int, bool) {
	if p.Effects == nil || p.blind {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	n, err := p.Effects(ctx)
	return n, err == nil
}

func headerNames(h http.Header) []string { return slices.Sorted(maps.Keys(h)) }
