//go:build unix

package endtoend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"
)

// bank is where the effects are. It lives in the test's process and survives what
// the services do not. It knows nothing of keys: each call counts. A fenced one
// refuses a run once a later run has shown itself.
type bank struct {
	fenced bool
	slow   time.Duration // at most so long between a call's arrival and its effect
	struck chan struct{} // hears of effects, for whoever wants to kill just then

	mu       sync.Mutex
	receipts map[string][]string // of the effects of each key
	fences   map[string][]uint64 // that they came with
	highest  map[string]uint64
	refused  int
	seen     map[string]map[string]int // the keys that a service was called with for an order
	total    int
}

func newBank(t testing.TB, fenced bool, slow time.Duration) (*bank, string) {
	b := &bank{
		fenced: fenced, slow: slow, struck: make(chan struct{}, 1),
		receipts: make(map[string][]string), fences: make(map[string][]uint64),
		highest: make(map[string]uint64), seen: make(map[string]map[string]int),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /effect", b.effect)
	mux.HandleFunc("GET /effect", b.find)
	mux.HandleFunc("POST /seen", b.see)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return b, server.URL
}

// effect is not bound to its caller: what has arrived is done, late perhaps.
func (b *bank) effect(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if b.slow > 0 {
		pause(context.WithoutCancel(r.Context()), b.slow)
	}
	key, fence := asked(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fenced && fence < b.highest[key] {
		b.refused++
		w.WriteHeader(http.StatusConflict)
		return
	}
	b.highest[key] = max(fence, b.highest[key])
	b.total++
	receipt := "receipt " + strconv.Itoa(b.total)
	b.receipts[key] = append(b.receipts[key], receipt)
	b.fences[key] = append(b.fences[key], fence)
	select {
	case b.struck <- struct{}{}:
	default:
	}
	_, _ = io.WriteString(w, receipt)
}

// find tells whether a key has had its effect; from then on no earlier run can
// have one.
func (b *bank) find(w http.ResponseWriter, r *http.Request) {
	key, fence := asked(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.highest[key] = max(fence, b.highest[key])
	if len(b.receipts[key]) == 0 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = io.WriteString(w, b.receipts[key][0])
}

func (b *bank) see(_ http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	who := q.Get("service") + " " + q.Get("order")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[who] == nil {
		b.seen[who] = make(map[string]int)
	}
	b.seen[who][q.Get("key")]++
}

func asked(r *http.Request) (key string, fence uint64) {
	q := r.URL.Query()
	fence, _ = strconv.ParseUint(q.Get("fence"), 10, 64)
	return q.Get("key"), fence
}

// done returns the receipts of these keys.
func (b *bank) done(keys ...string) (receipts []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range keys {
		receipts = append(receipts, b.receipts[k]...)
	}
	return receipts
}

// keys are those that a service was called with for an order, and how often it was.
func (b *bank) keys(service string, id int) (keys []string, times int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, n := range b.seen[service+" "+strconv.Itoa(id)] {
		keys = append(keys, k)
		times += n
	}
	return keys, times
}

// teller is a service's way to the bank.
type teller struct {
	url    string
	client *http.Client
}

func (t teller) ask(ctx context.Context, method, path string, q url.Values) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, t.url+path+"?"+q.Encode(), nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func entry(key string, fence uint64) url.Values {
	return url.Values{"key": {key}, "fence": {strconv.FormatUint(fence, 10)}}
}

// order is the body of a request: what the handler is to do with it.
type order struct {
	ID int
	Do behaviour
}

func (o order) String() string {
	text, _ := json.Marshal(o) // an int and a string: cannot fail
	return string(text)
}

// behaviour is what a handler does with an order.
type behaviour string

const (
	plain     behaviour = "plain"      // the effect, then 201
	slow      behaviour = "slow"       // the same, and takes its time before and after
	failAfter behaviour = "fail-after" // the effect, then 500
	refuse    behaviour = "refuse"     // 500 and no effect, and it says so
	fall      behaviour = "fall"       // the effect, then a panic
	hang      behaviour = "hang"       // the effect, then nothing until its context ends and its lease has lapsed
	stream    behaviour = "stream"     // the effect, then 201 in two parts
)

// anyOf draws a behaviour; most are plain.
func anyOf(some []behaviour) behaviour {
	if i := rand.N(4*len(some) + 1); i < len(some) {
		return some[i]
	}
	return plain
}

var everything = []behaviour{slow, failAfter, refuse, fall, hang, stream}

func (b *bank) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%d effects of %d keys, %d refused by their fence", b.total, len(b.receipts), b.refused)
}
