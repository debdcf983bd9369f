package resilient

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// operation is one request of the caller while it is worked on, and its record
// afterwards. It is the context of its attempts: that is how a redirect hop, a
// nested transport and OperationOf find it.
type operation struct {
	context.Context // the caller's, or what Observer.Start made of it

	t    *Transport
	req  *http.Request // the caller's: never changed
	host *host
	base http.RoundTripper

	key    opKey
	wish   *keyWish        // where the key comes from, if by WithKey or WithStep
	said   *repeatableWish // by the caller, for this hop and the next
	upload upload
	scope  scope // what the context of an attempt says

	wire       bool     // Base speaks net/http: its trace is evidence
	repeatable bool     // sending it twice does no harm
	unvouched  bool     // it would be repeatable if its server were declared to honour keys
	acted      bool     // something before this hop can have acted
	onceSpent  bool     // the one repeat of a cause that is worth no more
	hurried    bool     // the one repeat that need not wait
	wary       bool     // the host loses requests of late
	refusedOn  net.Conn // which refused the last attempt's stream
	outcome    Outcome

	maxAttempts    int
	attemptTimeout time.Duration
	bufferResponse int64
	start          time.Time // of this hop
	began          time.Time // of the first
	deadline       time.Time // zero: none

	attempts  []Attempt // of all hops
	earlier   int       // how many of them are of earlier hops
	schedule  Schedule
	stop      error
	notBefore time.Time

	// What would else be allocations of their own.
	mark     outerAttempt
	keyLine  [1]string
	url      url.URL // the first attempt's, as are the next two
	evidence evidence
	room     [1]Attempt
}

type operationKey struct{}

// Value finds the operation itself, its mark, what observers ask for, or what the
// caller's context holds.
func (op *operation) Value(key any) any {
	switch key {
	case operationKey{}:
		return op
	case scopeKey{}:
		return &op.scope
	case loggedKey{}:
		return op.key.value
	case troubledKey{}:
		return trouble(op.attempts, op.stop)
	}
	return op.Context.Value(key)
}

// operationOf returns the operation that resp answered, nil if it kept no record.
func operationOf(resp *http.Response) *operation {
	if resp == nil || resp.Request == nil {
		return nil
	}
	op, _ := resp.Request.Context().Value(operationKey{}).(*operation)
	return op
}

// OperationOf returns the record of the operation that resp answered. False
// means that none was kept: one untroubled attempt of a safe request.
func OperationOf(resp *http.Response) (Operation, bool) {
	op := operationOf(resp)
	if op == nil {
		return Operation{}, false
	}
	return op.snapshot(), true
}

func (op *operation) snapshot() Operation {
	return Operation{
		Method: methodOf(op.req), URL: plainURL(op.req.URL),
		Key: op.key.value, FirstSent: op.key.firstSent,
		Outcome: op.outcome, Attempts: slices.Clone(op.attempts),
		Stop: op.stop, NotBefore: op.notBefore,
	}
}

func methodOf(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// begin makes the operation of req, which began at start. The error is the
// caller's mistake; then the operation still ends as any other does.
func (t *Transport) begin(req *http.Request, h *host, start time.Duration) (*operation, error) {
	op := &operation{Context: req.Context(), t: t, req: req, host: h, start: t.epoch.Add(start)}
	op.attempts = op.room[:0]
	prior, said := operationOf(req.Response), scopeOf(req.Context())
	if said == nil {
		said = &scope{}
	}
	nested := said.outer.same(req)

	var fixed bool
	if op.base, fixed = t.base(req.URL.Scheme); !fixed && said.outer != nil && said.outer.transport == t {
		op.base = t.standard() // http.DefaultTransport led back to us
	}
	op.wire = t.isWire(op.base)
	op.wary = h.loses(start)
	op.acted = unsafeHop(req.Response)
	op.began = op.start
	if prior != nil {
		op.follow(prior)
	}
	op.limits(said, nested)
	err := op.takeKey(prior, said)
	op.acted = op.acted || op.key.resumed
	op.keyLine[0] = op.key.value
	op.takeRepeatable(prior, said, nested)
	op.mark = outerAttempt{transport: t, method: req.Method, url: req.URL, repeatable: op.repeatable}
	if op.key.source == mintedKey {
		op.mark.mintedKey = op.key.value
	}
	op.scope.outer = &op.mark
	op.upload.begin(req, op.keepLimit())
	if o := &t.cfg.Observer; o.Start != nil {
		op.Context = o.start(op.Context, Operation{Method: methodOf(req), URL: plainURL(req.URL), Key: op.key.value})
	}
	return op, err
}

// limits takes the numbers that a context may overrule.
func (op *operation) limits(said *scope, nested bool) {
	cfg := &op.t.cfg
	op.maxAttempts = orDefault(said.maxAttempts, cfg.MaxAttempts)
	op.attemptTimeout = orDefault(said.attemptTimeout, cfg.AttemptTimeout)
	op.bufferResponse = orDefault(said.bufferResponse, cfg.BufferResponse)
	if nested {
		op.maxAttempts = 1 // or two layers would multiply
	}
	if d, ok := op.req.Context().Deadline(); ok {
		op.deadline = d
	}
	if cfg.Timeout > 0 {
		if d := op.began.Add(cfg.Timeout); op.deadline.IsZero() || d.Before(op.deadline) {
			op.deadline = d
		}
	}
}

// follow makes op a further hop of prior, which a redirect ended.
func (op *operation) follow(prior *operation) {
	op.attempts = slices.Clone(prior.attempts)
	op.earlier = len(op.attempts)
	op.began = prior.began
	op.acted = op.acted || prior.acted || !isSafe(prior.req.Method) ||
		slices.ContainsFunc(prior.attempts, func(a Attempt) bool { return a.Outcome == Unknown })
}

// unsafeHop reports whether a hop before this one can have acted. The requests
// tell it even where somebody above us hid our record by putting his own
// request into the answer.
func unsafeHop(resp *http.Response) bool {
	for ; resp != nil && resp.Request != nil; resp = resp.Request.Response {
		if !isSafe(resp.Request.Method) {
			return true
		}
	}
	return false
}

// takeKey finds the operation's key or mints it. An operation that has begun is
// never given another one.
func (op *operation) takeKey(prior *operation, said *scope) (err error) {
	cfg := &op.t.cfg
	op.key, err = cfg.Keys.callerKey(op.req.Header)
	switch {
	case err != nil:
		return err
	case op.key.source == headerKey && prior != nil:
		if prior.key.value == op.key.value {
			op.key.firstSent, op.key.resumed = prior.key.firstSent, prior.key.resumed
		}
		return nil
	case op.key.source == headerKey:
		if said.key != nil && said.key.key.Value != op.key.value {
			return errors.New("resilient: WithKey: the request's header map holds another idempotency key")
		}
		if said.key != nil {
			op.wish = said.key
			op.key.resume(said.key.firstSent())
		}
		return nil
	case op.req.Response != nil:
		// A key is for one server, and for the request it was made for.
		if prior != nil && prior.key.added() && prior.req.Method == op.req.Method && hostKeyOf(prior.req.URL) == hostKeyOf(op.req.URL) {
			op.key = prior.key
		}
		return nil
	case said.key != nil:
		op.wish = said.key
		op.key, err = said.key.take(op.req)
		return err
	case !mintsFor(op.req.Method) || cfg.NoKeys:
	case said.parent != nil:
		if op.key, op.wish, err = said.parent.take(op.req, said.step); err == nil {
			op.key.value = cfg.Keys.format(op.key.value)
		}
	default:
		op.key.source = mintedKey
		op.key.value, err = cfg.Keys.mint()
	}
	return err
}

// takeRepeatable decides whether sending the request twice does no harm.
func (op *operation) takeRepeatable(prior *operation, said *scope, nested bool) {
	switch {
	case prior != nil:
		op.said = prior.said
	case said.repeatable != nil && said.repeatable.owner.take(op.req):
		op.said = said.repeatable
	}
	handed := said.outer.minted(op.key)
	switch honors := op.t.cfg.HonorsKeys; {
	case op.said != nil:
		op.repeatable = op.said.yes
	case nested:
		op.repeatable = said.outer.repeatable
	case isIdempotent(op.req.Method), op.key.callers() && !handed:
		op.repeatable = true
	case op.key.source != mintedKey && !handed:
	case honors != nil && honors(op.req):
		op.repeatable = true
	default:
		op.unvouched = true
	}
}

// keepLimit is how much of a one-shot body is worth keeping.
func (op *operation) keepLimit() int64 {
	if op.maxAttempts > 1 && (op.repeatable || op.t.cfg.TrustRefusal != nil) {
		return op.t.cfg.MaxReplayBytes
	}
	return 0
}

// bareKey reports whether the key must travel under a name that net/http does
// not know as licence to send the request again: a bodyless request that may
// not be repeated. (With a body, withholding GetBody does it.) Over HTTP/1.1
// and HTTP/2 the header arrives as ever, since names have no case there.
func (op *operation) bareKey() bool { return !op.repeatable && !hasBody(op.req) }

// headers makes the header map of one attempt. Value slices are shared with the
// caller's but cannot grow into them.
func (op *operation) headers() http.Header {
	h := make(http.Header, len(op.req.Header)+2)
	bare := op.bareKey()
	for name, values := range op.req.Header {
		if bare && (name == defaultKeyHeader || name == otherKeyHeader) {
			name = strings.ToLower(name)
		}
		h[name] = values[:len(values):len(values)]
	}
	keys := &op.t.cfg.Keys
	if op.key.added() {
		name := keys.Header
		if bare {
			name = strings.ToLower(name)
		}
		h[name] = op.keyLine[:]
	}
	if op.key.value != "" && keys.SendFirstSent {
		h[firstSentHeader] = []string{op.key.firstSent.UTC().Format(http.TimeFormat)}
	}
	return h
}

// gone is why the caller no longer waits, nil while he does. Only he decides
// that: http.Client.Timeout speaks through both his context and Request.Cancel,
// either of which may be heard first.
func gone(req *http.Request) error {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !isClosed(req.Cancel) {
		return nil
	}
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// KeyMismatch reports whether resp says that its idempotency key was used
// before with another payload: 422 to a request that carried a key
// (draft-ietf-httpapi-idempotency-key-header, section 2.7). Servers answer 422
// to other faults as well; the body tells.
func KeyMismatch(resp *http.Response) bool {
	if resp == nil || resp.StatusCode != http.StatusUnprocessableEntity || resp.Request == nil {
		return false
	}
	for _, name := range [...]string{defaultKeyHeader, otherKeyHeader} {
		if len(resp.Request.Header[name]) > 0 || len(resp.Request.Header[strings.ToLower(name)]) > 0 {
			return true
		}
	}
	op, ok := OperationOf(resp)
	return ok && op.Key != ""
}
