package resilient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Key is an idempotency key of the caller's: one he made, or one he kept from
// an earlier process to carry its operation on.
type Key struct {
	// Value is sent as it stands: 1 to 255 bytes without control characters.
	Value string
	// FirstSent is when the key was first sent, by whichever process; zero
	// means with this operation.
	FirstSent time.Time
}

// WithKey gives the operation that comes next under ctx its idempotency key.
// It is the caller's word that the server honours the key, so the request may
// be repeated whatever its method.
//
// The key names one operation: the first request under the context takes it,
// with its redirect hops and any exact repetition (the same method and URL),
// whose KeyConfig.TTL goes on from the first sending. A different request under
// the same context is an error before anything is sent.
func WithKey(ctx context.Context, key Key) context.Context {
	s := wishesOf(ctx)
	s.key = &keyWish{key: key}
	return context.WithValue(ctx, scopeKey{}, &s)
}

// WithParentKey makes the operations under ctx steps of one whose key is parent,
// such as the Idempotency-Key that a handler was called with, so that its own
// calls bear the same keys when it runs again. A POST or PATCH that would be
// given a random key gets [DeriveKey] of parent.Value and its step instead:
// method, scheme, host and path, without the query, and how many such calls came
// before it under ctx. Calls to one URL whose order may change, or that are made
// at the same time, need [WithStep]; so does one that the handler itself repeats.
//
// A zero parent.FirstSent means that the work under parent runs for the first
// time. Otherwise the derived keys count as sent then: KeyConfig.TTL goes on
// from there, and a 409 is waited for. In all else they are as the keys we make:
// licence to repeat only where Config.HonorsKeys says so.
//
// It is called once for each run, since each call begins to count anew, except
// below one with the same key, which stands. An empty parent.Value is an error
// before the request is sent; it may be as long as you like.
func WithParentKey(ctx context.Context, parent Key) context.Context {
	s := wishesOf(ctx)
	if s.parent == nil || s.parent.key.Value != parent.Value {
		s.parent = &parentWish{key: parent}
	}
	s.step = nil
	return context.WithValue(ctx, scopeKey{}, &s)
}

// WithStep names the step that the next POST or PATCH under ctx is: its key is
// [DeriveKey] of the parent's and this name, wherever it stands among the calls.
// Without [WithParentKey] above it does nothing.
//
// The name is for one operation of the parent's, as the key of [WithKey] is: the
// first request takes it, and any exact repetition under this or another
// WithStep of the same name goes on with it. A different request under the name
// is an error before anything is sent, and so is an empty name.
func WithStep(ctx context.Context, name string) context.Context {
	s := wishesOf(ctx)
	s.step = &name
	return context.WithValue(ctx, scopeKey{}, &s)
}

// WithRepeatable says of the operation that comes next under ctx whether
// sending it twice does no harm; it overrules method, key and
// Config.HonorsKeys. The first request under the context takes it, with its
// redirect hops; a different one is judged as if nothing had been said.
func WithRepeatable(ctx context.Context, repeatable bool) context.Context {
	s := wishesOf(ctx)
	s.repeatable = &repeatableWish{yes: repeatable}
	return context.WithValue(ctx, scopeKey{}, &s)
}

// WithMaxAttempts overrules Config.MaxAttempts for every request under ctx: 1
// means no retry. Less than 1 leaves the Config's.
func WithMaxAttempts(ctx context.Context, n int) context.Context {
	s := wishesOf(ctx)
	s.maxAttempts = max(n, 0)
	return context.WithValue(ctx, scopeKey{}, &s)
}

// WithAttemptTimeout overrules Config.AttemptTimeout for every request under
// ctx. Zero or less leaves the Config's.
func WithAttemptTimeout(ctx context.Context, d time.Duration) context.Context {
	s := wishesOf(ctx)
	s.attemptTimeout = max(d, 0)
	return context.WithValue(ctx, scopeKey{}, &s)
}

// WithBufferedResponse overrules Config.BufferResponse for every request under
// ctx: an answer of at most maxBytes is read inside its attempt, so that one
// cut short is a failure of the attempt. Zero or less leaves the Config's.
func WithBufferedResponse(ctx context.Context, maxBytes int64) context.Context {
	s := wishesOf(ctx)
	s.bufferResponse = max(maxBytes, 0)
	return context.WithValue(ctx, scopeKey{}, &s)
}

// scope is what a context says of the requests under it: the caller's wishes,
// and, inside a Base, whose attempt this is.
type scope struct {
	key            *keyWish
	parent         *parentWish
	step           *string // of parent's; nil: by its place
	repeatable     *repeatableWish
	maxAttempts    int
	attemptTimeout time.Duration
	bufferResponse int64

	outer *outerAttempt // nil outside a Base
}

type scopeKey struct{}

// scopeOf returns nil where nothing was said: one look-up on the hot path.
func scopeOf(ctx context.Context) *scope {
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s
}

func wishesOf(ctx context.Context) scope {
	if s := scopeOf(ctx); s != nil {
		return *s
	}
	return scope{}
}

// outerAttempt is the mark that an operation leaves in the context of its
// attempts, for a transport of ours below it. Wishes stop there: a token fetched
// inside a Base is another operation.
type outerAttempt struct {
	transport  any // the *Transport
	method     string
	url        *url.URL
	mintedKey  string
	repeatable bool
}

// same reports whether req is the very request of the outer attempt, so that
// retrying it is the outer transport's affair. The query is left out: Prepare
// may have signed it.
func (o *outerAttempt) same(req *http.Request) bool {
	return o != nil && o.method == req.Method &&
		o.url.Scheme == req.URL.Scheme && o.url.Host == req.URL.Host && o.url.Path == req.URL.Path
}

// minted reports whether the key in the header map of a request below was put
// there by us. A Base that sends the request on to another server hands it down,
// and it is still nobody's word.
func (o *outerAttempt) minted(k opKey) bool {
	return o != nil && o.mintedKey != "" && o.mintedKey == k.value
}

type keyWish struct {
	key   Key
	owner owner
	sent  atomic.Pointer[time.Time] // the first time that was not NotSent
}

// take returns the key that the context holds for req.
func (w *keyWish) take(req *http.Request) (opKey, error) {
	if w.key.Value == "" {
		return opKey{}, errors.New("resilient: WithKey: empty key")
	}
	if err := checkKey(w.key.Value); err != nil {
		return opKey{}, fmt.Errorf("resilient: WithKey: %w", err)
	}
	if !w.owner.take(req) {
		return opKey{}, errors.New("resilient: WithKey: the key belongs to another request under this context")
	}
	key := opKey{value: w.key.Value, source: wishedKey}
	key.resume(w.firstSent())
	return key, nil
}

// firstSent is since when a server may know the key, zero if none can.
func (w *keyWish) firstSent() time.Time {
	if sent := w.sent.Load(); sent != nil && w.key.FirstSent.IsZero() {
		return *sent
	}
	return w.key.FirstSent
}

// arrived notes for a repetition under the same context since when a server may
// know the key.
func (w *keyWish) arrived(since time.Time) {
	w.sent.CompareAndSwap(nil, &since)
}

// parentWish is the operation that those under a context are steps of.
type parentWish struct {
	key Key

	mu    sync.Mutex
	calls map[string]int      // by method and URL
	steps map[string]*keyWish // by name
}

// take returns the key of the step that req is, and, where it has a name, what
// remembers it for a repetition.
func (p *parentWish) take(req *http.Request, name *string) (key opKey, step *keyWish, err error) {
	key.source = mintedKey
	switch {
	case p.key.Value == "":
		return key, nil, errors.New("resilient: WithParentKey: empty key")
	case name == nil:
		key.value = DeriveKey(p.key.Value, p.place(req))
		key.resume(p.key.FirstSent)
		return key, nil, nil
	case *name == "":
		return key, nil, errors.New("resilient: WithStep: empty name")
	}
	step = p.step(*name)
	if !step.owner.take(req) {
		return key, nil, fmt.Errorf("resilient: WithStep: %q is another request under this parent key", *name)
	}
	key.value = step.key.Value
	key.resume(step.firstSent())
	return key, step, nil
}

// place is the step of a call without a name: a change of it would give a
// handler that runs again after an upgrade other keys.
func (p *parentWish) place(req *http.Request) string {
	server := hostKeyOf(req.URL)
	call := req.Method + " " + server.scheme + "://" + server.host + req.URL.EscapedPath()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == nil {
		p.calls = make(map[string]int)
	}
	p.calls[call]++
	return call + " " + strconv.Itoa(p.calls[call])
}

func (p *parentWish) step(name string) *keyWish {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.steps == nil {
		p.steps = make(map[string]*keyWish)
	}
	if p.steps[name] == nil {
		p.steps[name] = &keyWish{key: Key{Value: DeriveKey(p.key.Value, name), FirstSent: p.key.FirstSent}}
	}
	return p.steps[name]
}

type repeatableWish struct {
	yes   bool
	owner owner
}

// owner is the operation that took a wish: the first to ask.
type owner struct{ id atomic.Pointer[string] }

func (o *owner) take(req *http.Request) bool {
	id := req.Method + " " + req.URL.String()
	return o.id.CompareAndSwap(nil, &id) || *o.id.Load() == id
}
