package idempotency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/go-resilient/resilient/internal/httptoken"
)

const (
	defaultHeader       = "Idempotency-Key"
	defaultRetention    = 24 * time.Hour
	defaultLease        = 30 * time.Second
	defaultStoreTimeout = 5 * time.Second
	defaultMaxBody      = 32 << 20
	defaultMaxAnswer    = 1 << 20
	minLease            = 10 * time.Millisecond
	// maxDuration is less than a third of what a time.Duration can hold, since
	// three of them are added.
	maxDuration = 50 * 365 * 24 * time.Hour
)

// Config says how keys are honoured. Scope must be given to [New]; the zero
// value of every other field suits most services. No duration may be more than
// 50 years.
type Config struct {
	// Store keeps the records. Nil means a [Memory] of its own, which does for
	// one process and forgets when it ends.
	Store Store
	// Retention is how long an answer is kept from when it was given, and
	// advertised. Zero means 24 hours.
	Retention time.Duration
	// Tombstone is how long a key is still known once its answer is gone, so
	// that a late repetition is refused and not executed. Zero means as long
	// again as Retention, negative not at all.
	Tombstone time.Duration
	// Lease is how long a key stays in progress when the process that runs it
	// dies. It is renewed while the handler runs. Zero means 30 seconds, the
	// least is 10 milliseconds.
	Lease time.Duration
	// RunLimit is how long a lease is renewed: then the handler's context ends
	// with [ErrRunLimit], and after one more lease the outcome is unknown. Zero
	// means ten leases, negative no limit.
	RunLimit time.Duration
	// Wait is how long a request waits for the answer to an earlier one under
	// its key that is still running, before it is told so. Zero means not at all.
	Wait time.Duration
	// OnUnknown says what becomes of a key whose outcome is unknown. The zero
	// Policy is [Block].
	OnUnknown Policy
	// StoreTimeout bounds each call of Store; a renewal, a third of Lease does
	// too. Zero means 5 seconds.
	StoreTimeout time.Duration
	// Secret makes the IDs of records an HMAC (RFC 2104), so that whoever reads
	// the store cannot test guesses of a key. Every process that shares the store
	// must have the same; a new secret forgets all keys. Empty means a plain hash.
	Secret []byte
	// Observer is told what is decided.
	Observer Observer
	// KeepHeaders are headers of an answer that are kept besides the usual ones:
	// Content-Type, Content-Encoding, Content-Language, Content-Disposition,
	// Cache-Control, ETag, Last-Modified, Link, Location, Retry-After,
	// WWW-Authenticate and X-Content-Type-Options. Set-Cookie, Date and whatever belongs to the connection
	// are never kept.
	KeepHeaders []string

	// The rest is about requests; NewEngine refuses it.

	// Scope says whose key it is: the tenant, account or user as the service has
	// authenticated it. Keys of different scopes never meet. A request with the
	// scope "" is refused. For a service with one caller there is [OneScope].
	Scope func(*http.Request) string
	// Methods are those whose keys are honoured; requests of others pass
	// untouched. Nil means POST and PATCH.
	Methods []string
	// KeyRequired refuses requests of these methods without a key. False lets
	// them pass unprotected.
	KeyRequired bool
	// Header carries the key. Empty means Idempotency-Key.
	Header string
	// MaxBody bounds a request's body, in bytes; more is refused before anything
	// is done. What exceeds 1 MiB is kept in a temporary file meanwhile. Zero
	// means 32 MiB.
	MaxBody int64
	// MaxAnswer bounds the body of an answer that is kept, in bytes. A longer
	// one goes out as it is written, and a repetition is told its status and
	// headers. Zero means 1 MiB.
	MaxAnswer int
}

// OneScope is the Scope of a service with one caller: every key is his.
func OneScope(*http.Request) string { return "*" }

// A Policy says what becomes of a key whose outcome is unknown: its process
// died, its handler panicked, or its lease lapsed. Make it by [Block],
// [Reexecute] or [Recover].
type Policy struct {
	reexecute, recovers bool
	recover             RecoverFunc
}

// Block refuses the key until whoever ran it reports late, or an operator
// settles it by [Engine.Settle]. Nothing is ever done twice.
func Block() Policy { return Policy{} }

// Reexecute runs the handler again. It declares that the handler may begin anew
// at any point without harm: because it is idempotent, or because its effects
// are the requests that it sends under derived keys.
func Reexecute() Policy { return Policy{reexecute: true} }

// Recover asks find what became of the run.
func Recover(find RecoverFunc) Policy { return Policy{recovers: true, recover: find} }

// takesOver reports whether an unknown outcome is somebody's to settle.
func (p Policy) takesOver() bool { return p.reexecute || p.recover != nil }

// A RecoverFunc finds out what an earlier run has done: it returns the answer to
// give for it, or [ErrNotApplied] if it did nothing, and then the handler runs.
// After any other error the outcome stays unknown, and the next repetition asks
// again. It runs under a lease of its own, one at a time for each key.
//
// The run it asks about may have died with a call of its own still on the way.
// Where the effect is kept, the asking should leave its Fence, and a call with a
// lower one should be refused.
type RecoverFunc func(ctx context.Context, u Unresolved) (Answer, error)

// An Unresolved run is one of which nobody knows what it did.
type Unresolved struct {
	// Scope and Key are what it ran under.
	Scope, Key string
	// Fence is that of the recovery: higher than the run's.
	Fence uint64
	// Age is the time since the key was first claimed.
	Age time.Duration
	// Request is the repetition that asks, its body at the beginning; nil in Do.
	Request *http.Request
}

// completeDurations checks them and fills in their defaults.
func (c *Config) completeDurations() error {
	durations := []struct {
		name     string
		value    *time.Duration
		zero     time.Duration
		negative bool // means something
	}{
		{"Retention", &c.Retention, defaultRetention, false},
		{"Lease", &c.Lease, defaultLease, false},
		{"Wait", &c.Wait, 0, false},
		{"StoreTimeout", &c.StoreTimeout, defaultStoreTimeout, false},
		{"Tombstone", &c.Tombstone, 0, true},
		{"RunLimit", &c.RunLimit, 0, true},
	}
	for _, d := range durations {
		if *d.value < 0 && !d.negative {
			return fmt.Errorf("idempotency: Config.%s: %v is negative", d.name, *d.value)
		}
		if *d.value > maxDuration {
			return fmt.Errorf("idempotency: Config.%s: %v is more than %v (50 years)", d.name, *d.value, maxDuration)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if c.Lease < minLease {
		return fmt.Errorf("idempotency: Config.Lease: %v is less than %v", c.Lease, minLease)
	}
	switch {
	case c.Tombstone == 0:
		c.Tombstone = c.Retention
	case c.Tombstone < 0:
		c.Tombstone = 0
	}
	if c.RunLimit == 0 {
		c.RunLimit = 10 * c.Lease
	}
	return nil
}

// complete checks what an Engine needs and fills in the defaults.
func (c *Config) complete() error {
	if err := c.completeDurations(); err != nil {
		return err
	}
	for _, h := range c.KeepHeaders {
		if !httptoken.Valid(h) {
			return fmt.Errorf("idempotency: Config.KeepHeaders: %q is not a header name", h)
		}
		if neverKept(http.CanonicalHeaderKey(h)) {
			return fmt.Errorf("idempotency: Config.KeepHeaders: %s is never kept", http.CanonicalHeaderKey(h))
		}
	}
	c.Secret = bytes.Clone(c.Secret) // the caller may clear it
	if c.OnUnknown.recovers && c.OnUnknown.recover == nil {
		return errors.New("idempotency: Config.OnUnknown: Recover(nil) asks nobody")
	}
	if c.Store == nil {
		store, err := NewMemory(MemoryConfig{})
		if err != nil {
			return err
		}
		c.Store = store
	}
	return nil
}

// completeHTTP checks what the middleware needs besides.
func (c *Config) completeHTTP() error {
	if c.Scope == nil {
		return errors.New("idempotency: Config.Scope: nil; it must say whose key a request carries (OneScope if there is one caller)")
	}
	if c.MaxBody < 0 {
		return fmt.Errorf("idempotency: Config.MaxBody: %d is negative", c.MaxBody)
	}
	if c.MaxAnswer < 0 {
		return fmt.Errorf("idempotency: Config.MaxAnswer: %d is negative", c.MaxAnswer)
	}
	if c.Header == "" {
		c.Header = defaultHeader
	}
	if !httptoken.Valid(c.Header) {
		return fmt.Errorf("idempotency: Config.Header: %q is not a header name", c.Header)
	}
	c.Header = http.CanonicalHeaderKey(c.Header)
	if c.MaxBody == 0 {
		c.MaxBody = defaultMaxBody
	}
	if c.MaxAnswer == 0 {
		c.MaxAnswer = defaultMaxAnswer
	}
	c.MaxBody = min(c.MaxBody, math.MaxInt64-1) // one more byte is looked for
	if c.Methods == nil {
		c.Methods = []string{http.MethodPost, http.MethodPatch}
	}
	c.Methods = slices.Clone(c.Methods)
	for _, m := range c.Methods {
		if !httptoken.Valid(m) {
			return fmt.Errorf("idempotency: Config.Methods: %q is not a method", m)
		}
	}
	return nil
}

// refuseHTTP names the first field that only the middleware has a use for.
func (c *Config) refuseHTTP() error {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Scope", c.Scope != nil}, {"Methods", c.Methods != nil}, {"KeyRequired", c.KeyRequired},
		{"Header", c.Header != ""}, {"MaxBody", c.MaxBody != 0}, {"MaxAnswer", c.MaxAnswer != 0},
	} {
		if f.set {
			return fmt.Errorf("idempotency: Config.%s: an Engine has no requests; only New uses it", f.name)
		}
	}
	return nil
}

// keep is how long a completed record lives.
func (c *Config) keep() Keep {
	return Keep{Result: c.Retention, Key: c.Retention + c.Tombstone}
}

func (c *Config) covers(method string) bool { return slices.Contains(c.Methods, method) }
