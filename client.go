package resilient

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	defaultMaxAttempts    = 4
	defaultMaxReplayBytes = 1 << 20
	defaultMaxRetryAfter  = time.Minute
	defaultMaxHosts       = 10_000
	hold                  = 300 * time.Millisecond // see the gate
)

// Config configures a client. The zero Config is complete and safe. It is
// copied: changing it later changes nothing.
type Config struct {
	// Base makes each attempt. Nil means a clone of http.DefaultTransport with
	// room for more idle connections per host and HTTP/2 health checks, beside
	// the protocols other than http and https that were registered with it; if a
	// program has replaced http.DefaultTransport, whatever stands there when a
	// request is made.
	Base http.RoundTripper
	// BaseIsWire says that Base sends each attempt at most once, over net/http
	// and under the request's context, and nothing else under that context: as a
	// Base that only adds headers or spans does. Then what net/http's trace shows is believed, and more failures are
	// told as NotSent. An *http.Transport needs no such word.
	BaseIsWire bool

	// MaxAttempts bounds the attempts of one operation, the first included.
	// Zero means 4, 1 means no retry.
	MaxAttempts int
	// Timeout bounds an operation up to its response headers, waits and redirects
	// included. Zero means none. The context's deadline holds in any case.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt up to its response headers; it never
	// cuts a body that flows. Zero means none. Against servers that hang it is
	// what lets the breaker see them: set it where there is an upper bound.
	AttemptTimeout time.Duration
	// BodyIdleTimeout ends a response body that brings no byte for so long with
	// ErrStalled. Zero means none.
	BodyIdleTimeout time.Duration

	// HonorsKeys declares the servers that honour idempotency keys; see [Hosts]
	// and [AnyHost]. A POST or PATCH to them is repeated under its key. Nil
	// declares none: such a request is sent once, unless it cannot have arrived
	// or the caller himself gave it a key. Called with the caller's request,
	// which it must not change.
	HonorsKeys func(*http.Request) bool
	// Keys says how keys are made and sent.
	Keys KeyConfig
	// NoKeys: mint no keys. Keys of the caller's are still his word.
	NoKeys bool

	// Backoff makes the row of pauses of one operation. Nil means full jitter,
	// uniform between 0 and 100ms, 200ms, 400ms and so on up to 10s; so does a
	// nil Schedule.
	Backoff func() Schedule
	// MaxRetryAfter is the longest wait a server may ask for. Asked for more,
	// the operation stops at once and tells the time in NotBefore. Zero means
	// 60s.
	MaxRetryAfter time.Duration
	// CoolFirst makes first attempts, too, respect the time that a server asked
	// for by Retry-After; otherwise only retries do, since a 429 is often one
	// tenant's or one route's affair.
	CoolFirst bool

	// MaxReplayBytes is how much of a one-shot request body is kept while it
	// streams, so that it can be sent again. Zero means 1 MiB; bodies with
	// GetBody, files and sections need no keeping.
	MaxReplayBytes int64
	// BufferResponse reads answers of at most so many bytes inside the attempt,
	// so that one cut short is a failure of the attempt and not of its reader.
	// The reading is bounded by BodyIdleTimeout and the context alone. Zero means
	// that answers stream, as event streams always do.
	BufferResponse int64

	// Prepare is run on our own copy of the request before each attempt and
	// after the wait: to sign, to set a token or a trace header. An error ends
	// the operation.
	Prepare func(*http.Request) error
	// Classify may change the verdict on an attempt, but not to Unsent. It is
	// given the caller's request and either a response, whose body it must leave
	// readable, or an error. Nil changes nothing.
	Classify func(*http.Request, *http.Response, error, Verdict) Verdict
	// TrustRefusal says of a 429, or a 503 with Retry-After, that the server has
	// surely not acted, so that any request may be repeated. Nil trusts none.
	TrustRefusal func(*http.Response) bool

	// NoBudget lifts the limit on retries: per host at most 10, plus one per ten
	// operations, plus one each ten seconds; and none for an operation that begins
	// after a second in which the host has only failed. What net/http would have
	// sent again by itself, had we not kept the body from it, is not charged.
	NoBudget bool
	// NoBreaker sends to a host however it fails.
	NoBreaker bool
	// FailFast refuses an operation at an open breaker at once. Otherwise it may
	// wait there, 300ms at most in all, for its host to come back.
	FailFast bool
	// HostKey groups requests that share a budget and a breaker. Nil means by
	// scheme, host and port.
	HostKey func(*http.Request) string
	// MaxHosts bounds the hosts whose state is kept. Zero means 10,000. When all
	// are in use or in trouble, new ones share one budget and have no breaker.
	MaxHosts int

	// CountReplays watches the first attempts of safe requests too, so that
	// their records count net/http's own replays and tell NotSent. Without it they
	// are watched for ten seconds after an attempt at their host ended without an
	// answer. Unsafe requests are always watched. Watched, a request that a server
	// refuses again and again is not sent by net/http without end.
	CountReplays bool
	// Observer is told what happens. The zero Observer is silent.
	Observer Observer
}

// complete fills in the defaults, or names the field that cannot be.
func (c *Config) complete() error {
	for _, f := range [...]struct {
		name  string
		value int64
	}{
		{"MaxAttempts", int64(c.MaxAttempts)}, {"MaxHosts", int64(c.MaxHosts)},
		{"MaxReplayBytes", c.MaxReplayBytes}, {"BufferResponse", c.BufferResponse},
		{"Timeout", int64(c.Timeout)}, {"AttemptTimeout", int64(c.AttemptTimeout)},
		{"BodyIdleTimeout", int64(c.BodyIdleTimeout)}, {"MaxRetryAfter", int64(c.MaxRetryAfter)},
	} {
		if f.value < 0 {
			return fmt.Errorf("resilient: Config.%s: %d is negative", f.name, f.value)
		}
	}
	if c.Timeout > 0 && c.AttemptTimeout > c.Timeout {
		return fmt.Errorf("resilient: Config.AttemptTimeout: %v is longer than Timeout, %v", c.AttemptTimeout, c.Timeout)
	}
	if c.BaseIsWire && c.Base == nil {
		return errors.New("resilient: Config.BaseIsWire: there is no Base")
	}
	c.MaxAttempts = orDefault(c.MaxAttempts, defaultMaxAttempts)
	c.MaxHosts = orDefault(c.MaxHosts, defaultMaxHosts)
	c.MaxReplayBytes = orDefault(c.MaxReplayBytes, defaultMaxReplayBytes)
	c.MaxRetryAfter = orDefault(c.MaxRetryAfter, defaultMaxRetryAfter)
	if c.Backoff == nil {
		c.Backoff = newSchedule
	}
	return c.Keys.complete()
}

func orDefault[T int | int64 | time.Duration](value, other T) T {
	if value == 0 {
		return other
	}
	return value
}

// Transport is an [http.RoundTripper] that repeats requests where repeating is
// harmless. Make it by [NewTransport]: the zero Transport is of no use. It is safe
// for concurrent use; share one, since its budgets and breakers protect a server
// only from the requests they see.
//
// A safe request (GET, HEAD, OPTIONS, TRACE) without a body is first handed to
// Base as it is, unless the Config or the context asks for more. All others, and
// every retry, are copies with a header map and URL of their own. The caller's
// request is never changed.
type Transport struct {
	cfg    Config // complete, and never changed after NewTransport
	epoch  time.Time
	hosts  *hosts
	chance *jitter
	plain  bool // nothing in cfg needs a copy of a safe request

	// standard is what stands for a nil Base: made at its first use, so that
	// it belongs to the same bubble as a test's first request.
	standard func() *http.Transport
}

// NewClient returns a client on a new [Transport]. An error names the field of
// cfg that cannot be.
func NewClient(cfg Config) (*http.Client, error) {
	t, err := NewTransport(cfg)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: t}, nil
}

// NewTransport returns a Transport. An error names the field of cfg that cannot
// be.
func NewTransport(cfg Config) (*Transport, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	t := &Transport{
		cfg:      cfg,
		epoch:    time.Now(),
		chance:   newJitter(),
		standard: sync.OnceValue(newStandard),
		plain: cfg.Timeout == 0 && cfg.AttemptTimeout == 0 && cfg.BodyIdleTimeout == 0 && cfg.BufferResponse == 0 &&
			cfg.Prepare == nil && !cfg.CountReplays && !cfg.CoolFirst && cfg.Observer.calm(),
	}
	t.hosts = newHosts(cfg.MaxHosts, t.newGate, t.epoch)
	return t, nil
}

func (t *Transport) newGate() *gate {
	if t.cfg.NoBreaker {
		return nil
	}
	if t.cfg.FailFast {
		return newGate(0, t.cfg.AttemptTimeout, t.chance)
	}
	return newGate(hold, t.cfg.AttemptTimeout, t.chance)
}

func (t *Transport) now() time.Duration { return time.Since(t.epoch) }

// hostOf is whose budget and breaker req is under.
func (t *Transport) hostOf(req *http.Request) hostKey {
	if t.cfg.HostKey != nil {
		return hostKey{host: t.cfg.HostKey(req)}
	}
	return hostKeyOf(req.URL)
}

// CloseIdleConnections closes the idle connections of Base, if Base can.
func (t *Transport) CloseIdleConnections() {
	base, _ := t.base("http")
	if c, ok := base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// programDefault is the http.DefaultTransport that the program started with.
var programDefault = http.DefaultTransport

// base is who makes an attempt now, by the URL's scheme. fixed says that it
// cannot lead back to us: a replaced http.DefaultTransport may.
func (t *Transport) base(scheme string) (base http.RoundTripper, fixed bool) {
	switch {
	case t.cfg.Base != nil:
		return t.cfg.Base, true
	case http.DefaultTransport == programDefault, http.DefaultTransport == http.RoundTripper(t), http.DefaultTransport == nil:
		if scheme != "http" && scheme != "https" {
			return programDefault, true // a clone knows no protocols that the program registered
		}
		return t.standard(), true
	}
	return http.DefaultTransport, false
}

// isWire reports whether base speaks net/http, so that the trace of an attempt
// is evidence.
func (t *Transport) isWire(base http.RoundTripper) bool {
	_, ok := base.(*http.Transport)
	return ok || t.cfg.BaseIsWire
}

// isHTTP1 reports whether base is known to speak nothing else without TLS.
func isHTTP1(base http.RoundTripper) bool {
	t, ok := base.(*http.Transport)
	return ok && (t.Protocols == nil || !t.Protocols.UnencryptedHTTP2())
}

// newStandard clones the program's own default transport. Two idle connections
// per host, its limit, make every burst dial anew; without health checks a dead
// HTTP/2 connection takes all requests down with it for minutes (golang/go#36026).
func newStandard() *http.Transport {
	std, ok := programDefault.(*http.Transport)
	if !ok {
		std = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	std = std.Clone()
	std.MaxIdleConnsPerHost = 64
	if std.HTTP2 == nil {
		std.HTTP2 = &http.HTTP2Config{}
	}
	std.HTTP2.SendPingTimeout = 15 * time.Second
	std.HTTP2.PingTimeout = 15 * time.Second
	return std
}
