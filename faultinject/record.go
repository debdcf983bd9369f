package faultinject

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"
)

// A Delivery is the record of one exchange.
type Delivery struct {
	Exchange
	// Fault is what struck it.
	Fault Fault
	// Key is the Idempotency-Key as it was sent, quotes included.
	Key string
	// Time is when it arrived.
	Time time.Time
	// Length and Sum are the number of body bytes that arrived and their
	// SHA-256. Both are zero until a body has arrived, and stay so for a
	// request that was never sent.
	Length int
	Sum    [sha256.Size]byte
	// Runs counts how often the handler ran, or the RoundTripper below was
	// asked, for this exchange: 2 for [Duplicate], and at most 1 else. It may
	// still grow while a [Late] request is on its way.
	Runs int
}

// Reach returns how far the request has really got by now. It differs from the
// fault's [Fault.Truth] where the caller broke off its own request, withdrew it
// within a [Delay], or is not late enough yet for [Late].
func (d Delivery) Reach() Reach {
	truth := d.Fault.Truth()
	switch {
	case d.Runs > 0:
		return Applied
	case truth == NeverSent || d.Method == "": // a dial carries no request
		return NeverSent
	case d.Sum == [sha256.Size]byte{}: // even no bytes have a sum
		return MaybePartly
	}
	return min(truth, Delivered)
}

// String returns the record as a line, such as
// "k1#2 POST shop.test/charge: lose-response(rst), 8 bytes, handler ran 1 times".
func (d Delivery) String() string {
	what := d.Op
	if d.Method != "" {
		what = fmt.Sprintf("%s#%d %s %s%s", d.Op, d.Nth, d.Method, d.Host, d.Path)
	}
	return fmt.Sprintf("%s: %v, %d bytes, handler ran %d times", what, d.Fault, d.Length, d.Runs)
}

// ledger counts arrivals and keeps the record of them. Its zero value is
// ready.
type ledger struct {
	mu       sync.Mutex
	arrivals map[string]int
	log      []*Delivery // entries change under mu alone
}

// arrive enters an exchange and asks the plan, outside the lock, what becomes
// of it. A nil plan lets all pass.
func (l *ledger) arrive(plan Plan, x Exchange, key string) *Delivery {
	d := &Delivery{Exchange: x, Key: key, Time: time.Now()}
	l.mu.Lock()
	if l.arrivals == nil {
		l.arrivals = make(map[string]int)
	}
	l.arrivals[x.Op]++
	d.Nth = l.arrivals[x.Op]
	x.Nth = d.Nth
	l.log = append(l.log, d)
	l.mu.Unlock()

	if plan != nil {
		fault := plan.Decide(x)
		l.mu.Lock()
		d.Fault = fault
		l.mu.Unlock()
	}
	return d
}

func (l *ledger) noteBody(d *Delivery, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Length, d.Sum = len(body), sha256.Sum256(body)
}

func (l *ledger) noteRun(d *Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Runs++
}

// Deliveries returns the record of all exchanges so far, in the order of their
// arrival.
func (l *ledger) Deliveries() []Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Delivery, len(l.log))
	for i, d := range l.log {
		all[i] = *d
	}
	return all
}

// Effects returns how often the handler ran for each operation, by Op.
func (l *ledger) Effects() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	runs := make(map[string]int)
	for _, d := range l.log {
		if d.Runs > 0 {
			runs[d.Op] += d.Runs
		}
	}
	return runs
}
