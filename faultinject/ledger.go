package faultinject

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Ledger is the server's own record of what was really done. It stands behind
// a handler, which enters its effects by [Ledger.Effect] or [Ledger.Once], or it
// is the handler:
//
//	POST, PATCH  an effect, answered by a receipt such as "effect 1 of k1"
//	PUT, DELETE  an effect that sets or removes the state of the path
//	GET, HEAD    the state of the path, or else its latest receipt, or else 404
//
// PUT and DELETE heed If-Match and If-None-Match (RFC 9110, section 13.1) and
// answer 412 where they do not hold; every state has an ETag. The zero Ledger is
// ready to use. Safe for concurrent use.
type Ledger struct {
	// HonourKeys lets the ledger, where it is the handler, make one effect for
	// each Idempotency-Key and answer the same again. A key that comes back with
	// another request gets 422.
	HonourKeys bool

	mu       sync.Mutex
	entries  []Entry
	counts   map[string]int
	once     map[string]*doneOnce
	states   map[string][]byte
	receipts map[string][]byte // the latest, by path
}

// An Entry is one effect.
type Entry struct {
	// Op and Key name the operation, as in a [Delivery].
	Op, Key string
	// Method and Path are those of the request.
	Method, Path string
	// Nth counts the effects of Op, from 1.
	Nth int
	// Time is when it was made.
	Time time.Time
	// Sum is the SHA-256 of the request's body. It is zero unless the ledger
	// itself was the handler.
	Sum [sha256.Size]byte
}

// String returns the receipt of the effect, such as "effect 1 of k1".
func (e Entry) String() string { return fmt.Sprintf("effect %d of %s", e.Nth, e.Op) }

// doneOnce is what was done under one key.
type doneOnce struct {
	done   chan struct{} // closed when answer is there
	answer []byte
	same   string // what the request was
}

// Effect enters an effect for r. Call it where the effect is made.
func (l *Ledger) Effect(r *http.Request) Entry {
	return l.enter(r, [sha256.Size]byte{})
}

func (l *Ledger) enter(r *http.Request, sum [sha256.Size]byte) Entry {
	x, key := identify(r)
	e := Entry{Op: x.Op, Key: key, Method: x.Method, Path: x.Path, Time: time.Now(), Sum: sum}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts == nil {
		l.counts = make(map[string]int)
	}
	l.counts[e.Op]++
	e.Nth = l.counts[e.Op]
	l.entries = append(l.entries, e)
	return e
}

// Once runs do for the first request under each key, enters an effect and
// returns do's answer; later requests under that key get the same answer, and
// those that come while do runs wait for it. It returns nil to one that gave up
// waiting. Without a key every request runs do. If do panics, the next request
// may try.
func (l *Ledger) Once(r *http.Request, do func() []byte) []byte {
	_, key := identify(r)
	if key == "" {
		answer := do()
		l.Effect(r)
		return answer
	}
	for {
		k, mine := l.claim(key, "")
		if mine {
			return l.keep(key, k, func() []byte {
				answer := do()
				l.Effect(r)
				return answer
			})
		}
		select {
		case <-k.done:
			if k.answer != nil {
				return slices.Clone(k.answer)
			}
		case <-r.Context().Done():
			return nil
		}
	}
}

// claim returns what is known of a key, and whether it is the caller's to do.
func (l *Ledger) claim(key, same string) (k *doneOnce, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k = l.once[key]; k != nil {
		return k, false
	}
	if l.once == nil {
		l.once = make(map[string]*doneOnce)
	}
	k = &doneOnce{done: make(chan struct{}), same: same}
	l.once[key] = k
	return k, true
}

// keep does what was claimed. Without an answer the key is free again.
func (l *Ledger) keep(key string, k *doneOnce, do func() []byte) []byte {
	defer func() {
		if k.answer == nil {
			l.mu.Lock()
			delete(l.once, key)
			l.mu.Unlock()
		}
		close(k.done)
	}()
	answer := do()
	k.answer = append([]byte{}, answer...) // not nil, however empty
	return answer
}

// Entries returns all effects so far, in their order.
func (l *Ledger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// number is how many effects there are so far.
func (l *Ledger) number() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// Effects returns the number of effects of each operation, by Op.
func (l *Ledger) Effects() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
}

// Doubled returns, sorted, the operations that had more than one effect. PUT
// and DELETE may: repeating them changes nothing (RFC 9110, section 9.2.2).
func (l *Ledger) Doubled() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var doubled []string
	for _, e := range l.entries {
		if e.Nth == 2 && !idempotent(e.Method) {
			doubled = append(doubled, e.Op)
		}
	}
	slices.Sort(doubled)
	return doubled
}

func idempotent(method string) bool { return method == http.MethodPut || method == http.MethodDelete }

// State returns what was last put at a path, and whether it is there.
func (l *Ledger) State(path string) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state, found := l.states[path]
	return slices.Clone(state), found
}

// Receipts returns the text of all effects, in their order: the answers that
// the ledger gave as a handler.
func (l *Ledger) Receipts() []string {
	var all []string
	for _, e := range l.Entries() {
		all = append(all, e.String())
	}
	return all
}

// ServeHTTP is the server that the type's comment describes.
func (l *Ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the caller has left
	}
	x, key := identify(r)
	switch {
	case x.Method == http.MethodGet || x.Method == http.MethodHead:
		l.read(w, x.Path)
	case !l.HonourKeys || key == "":
		l.answer(w, r, body)
	default:
		l.underKey(w, r, key, body)
	}
}

func (l *Ledger) underKey(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	same := fmt.Sprintf("%s %s %x", r.Method, r.URL.RequestURI(), sha256.Sum256(body))
	k, mine := l.claim(key, same)
	if mine {
		l.keep(key, k, func() []byte { return l.answer(w, r, body) })
		return
	}
	<-k.done // soon: nothing in answer waits
	switch {
	case k.same != same:
		http.Error(w, "this key belongs to another request", http.StatusUnprocessableEntity)
	case k.answer == nil:
		l.underKey(w, r, key, body) // the first one failed
	default:
		w.Write(k.answer)
	}
}

// answer makes the effect. It returns nil where there is none.
func (l *Ledger) answer(w http.ResponseWriter, r *http.Request, body []byte) []byte {
	x, _ := identify(r)
	if idempotent(x.Method) && !l.change(r, x, body) {
		http.Error(w, "changed meanwhile", http.StatusPreconditionFailed)
		return nil
	}
	receipt := []byte(l.enter(r, sha256.Sum256(body)).String())
	if x.Method == http.MethodPut {
		w.Header().Set("ETag", etag(body))
	}
	l.mu.Lock()
	if l.receipts == nil {
		l.receipts = make(map[string][]byte)
	}
	l.receipts[x.Path] = receipt
	l.mu.Unlock()
	w.Write(receipt)
	return receipt
}

// change reports false if a precondition does not hold.
func (l *Ledger) change(r *http.Request, x Exchange, body []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	state, found := l.states[x.Path]
	if want := r.Header.Get("If-Match"); want != "" && !matchesTag(want, state, found) {
		return false
	}
	if not := r.Header.Get("If-None-Match"); not != "" && matchesTag(not, state, found) {
		return false
	}
	if l.states == nil {
		l.states = make(map[string][]byte)
	}
	l.states[x.Path] = body
	if x.Method == http.MethodDelete {
		delete(l.states, x.Path)
	}
	return true
}

func matchesTag(list string, state []byte, found bool) bool {
	for tag := range strings.SplitSeq(list, ",") {
		if tag = strings.TrimSpace(tag); found && (tag == "*" || tag == etag(state)) {
			return true
		}
	}
	return false
}

func etag(state []byte) string {
	sum := sha256.Sum256(state)
	return fmt.Sprintf(`"%x"`, sum[:8])
}

func (l *Ledger) read(w http.ResponseWriter, path string) {
	state, found := l.State(path)
	l.mu.Lock()
	receipt := l.receipts[path]
	l.mu.Unlock()
	switch {
	case found:
		w.Header().Set("ETag", etag(state))
		w.Write(state)
	case receipt != nil:
		w.Write(receipt)
	default:
		http.Error(w, "nothing here", http.StatusNotFound)
	}
}
