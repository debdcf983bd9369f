package idempotency

import (
	"context"
	"errors"
	"sync"
	"time"
)

// An operation is what is done under a key, from the claim to the end.
type operation struct {
	engine *Engine
	claim  Claim
	// scope, key and method are for those who are asked or told about it.
	scope, key, method string
	http               bool // its answer is one to a request
	fence              uint64

	ctx                runContext
	lease              lease
	claiming, settling storeContext // of the first call of each

	mu    sync.Mutex
	said  ending
	joint bool // the answer may have been stored by a transaction of the handler's
}

// lease is the hold that an operation has on its key while it runs. It is renewed
// three times as often as needed.
type lease struct {
	mu      sync.Mutex
	timer   *time.Timer
	began   time.Time
	renewed time.Time // when it was last known to begin
	stopped bool
}

// ending is what a run says of itself.
type ending uint8

const (
	finished   ending = iota // the answer says what came of it
	notApplied               // nothing was done
	uncertain                // the handler does not know
)

func operationOf(ctx context.Context) *operation {
	o, _ := ctx.Value(operationKey{}).(*operation)
	return o
}

// covers reports whether p is the same under the same key, as where a middleware
// stands twice before a handler: it would be in its own way.
func (o *operation) covers(p *operation) bool {
	return o.claim.ID == p.claim.ID && o.claim.Fingerprint == p.claim.Fingerprint && o.engine.cfg.Store == p.engine.cfg.Store
}

// NotApplied says that the handler whose context this is has done nothing, so
// that its answer is not kept and the key may be used again: for a request that
// does not validate, a 429, a 503 before anything began. It does nothing where
// ctx is not that of a run. In a run that [Reexecute] began anew it says nothing of
// the run before: the key stays unknown, and is run again.
func NotApplied(ctx context.Context) { operationOf(ctx).say(notApplied) }

// OutcomeUnknown says that the handler does not know what it has done: a call of
// its own got no answer. Its answer goes to the caller and is not kept; what
// becomes of the key is up to Config.OnUnknown. It does nothing where ctx is not
// that of a run.
func OutcomeUnknown(ctx context.Context) { operationOf(ctx).say(uncertain) }

// Key returns the scope and the key that the handler runs under; ok is false
// where ctx is not that of a run.
func Key(ctx context.Context) (scope, key string, ok bool) {
	if o := operationOf(ctx); o != nil {
		return o.scope, o.key, true
	}
	return "", "", false
}

// Fence returns a number that is higher than that of every earlier run under the
// same key. What the handler writes to can keep it and refuse a lower one, which
// comes from a run that has lost its lease. It is 0 where ctx is not that of a run.
func Fence(ctx context.Context) uint64 {
	if o := operationOf(ctx); o != nil {
		return o.fence
	}
	return 0
}

func (o *operation) say(e ending) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said = e
}

// unsay forgets what has been heard.
func (o *operation) unsay() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said, o.joint = finished, false
}

// heard is what the handler has said, and whether it handed its answer to a
// transaction.
func (o *operation) heard() (said ending, joint bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.said, o.joint
}

// alone is what of the operation can still ask the store, without the request
// that it is part of: that must not be held in memory until a store is back.
func (o *operation) alone() *operation {
	return &operation{engine: o.engine, claim: o.claim, method: o.method, fence: o.fence, ctx: runContext{caller: o.ctx.caller}}
}

// tell tells the observer.
func (o *operation) tell(ctx context.Context, e Event) {
	if tell := o.engine.cfg.Observer.Event; tell != nil {
		e.ID, e.Method, e.Fence = o.claim.ID.String()[:16], o.method, o.fence
		tell(ctx, e)
	}
}

// A Completion is what a transaction must store to settle a run.
type Completion struct {
	// Holder is the run, Result its answer, and Keep says how long it lives.
	Holder Holder
	Result []byte
	Keep   Keep
}

// Join is for a [Store] that can settle a run inside a transaction of the
// handler's: it returns what to store there, as [Store].Complete would. When the
// handler has returned, the key is looked up: if it is settled the transaction
// was committed, and the answer is given; if not, nothing was done. It returns
// an error where ctx is not that of a run, or of one whose keys are kept
// elsewhere than in s.
func Join(ctx context.Context, s Store, answer Answer) (Completion, error) {
	o := operationOf(ctx)
	if o == nil {
		return Completion{}, errors.New("idempotency: the context is not that of a run under a key")
	}
	if o.engine.cfg.Store != s {
		return Completion{}, errors.New("idempotency: the run's keys are kept in another store")
	}
	if o.http {
		if err := answer.checkHTTP(); err != nil {
			return Completion{}, err
		}
	}
	o.mu.Lock()
	o.joint = true
	o.mu.Unlock()
	return Completion{o.claim.Holder(), answer.encode(o.engine.keeps), o.engine.cfg.keep()}, nil
}
