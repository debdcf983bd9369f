package faultinject

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A Delivery is the record of one exchange.
type Delivery struct {
	Exchange
	// Seq counts the exchanges of the record, from 1.
	Seq int
	// Fault is what struck it.
	Fault Fault
	// Key is the Idempotency-Key as it was sent, quotes included.
	Key string
	// Time is when it arrived.
	Time time.Time
	// Length and Sum are the number of body bytes that arrived and their
	// SHA-256. Both are zero until a body has arrived, and stay so for a
	// request that was never sent.
	//
	// What passes a [Server] or [Wrap] untouched is counted while it streams:
	// Length is what has been read by now, and Sum stays zero until the end of the
	// body has been read, for ever if the handler leaves it unread. [Wrap] with a
	// nil plan does not look at bodies at all.
	Length int
	Sum    [sha256.Size]byte
	// Runs counts how often the handler ran, or the RoundTripper below was
	// asked, for this exchange: 2 for [Duplicate], and at most 1 else. It may
	// still grow while a [Late] request is on its way. A [Proxy] takes back a run
	// for which no connection to the upstream could be had.
	Runs int
	// Status is what the upstream of a [Proxy] answered, whatever then became of
	// the answer; 0 before that, and for any other handler.
	Status int
}

// Reach returns how far the request has really got by now. It differs from the
// fault's [Fault.Truth] where the caller broke off its own request, withdrew it
// within a [Delay], or is not late enough yet for [Late].
func (d Delivery) Reach() Reach {
	truth := d.Fault.Truth()
	switch {
	case d.Runs > 0:
		return Applied
	case truth == NeverSent || !d.isRequest():
		return NeverSent
	case d.Fault.kind == slowDial && d.Length == 0 && d.Sum == [sha256.Size]byte{}: // given up while dialling
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
	if d.isRequest() {
		what = fmt.Sprintf("%s#%d %s %s%s", d.Op, d.Nth, d.Method, d.Host, d.Path)
	}
	return fmt.Sprintf("%s: %v, %d bytes, handler ran %d times", what, d.Fault, d.Length, d.Runs)
}

// journal counts arrivals and keeps the record of them.
type journal struct {
	born time.Time // what [Exchange.Since] is counted from

	mu       sync.Mutex
	arrivals map[string]int
	older    map[string]int // arrivals of operations not seen for long
	keep     int            // 0 for all
	seq      int
	log      []*Delivery // entries change under mu alone
}

// remembered is of how many operations the arrivals are counted, at least,
// where the record has a bound.
const remembered = 1 << 16

// Keep limits the record to the last n exchanges, for whoever runs for long: 0
// or less means all, as at first. Effects too are those of the exchanges kept. An
// operation that does not arrive among some 65,000 others may be forgotten, and
// is then counted from 1 again.
func (l *journal) Keep(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep = max(n, 0)
	l.trimLocked()
}

func (l *journal) trimLocked() {
	if l.keep > 0 && len(l.log) > l.keep {
		l.log = slices.Delete(l.log, 0, len(l.log)-l.keep)
	}
}

func (l *journal) countLocked(op string) int {
	nth := 1 + max(l.arrivals[op], l.older[op])
	if l.arrivals == nil || l.keep > 0 && len(l.arrivals) >= remembered {
		l.arrivals, l.older = make(map[string]int), l.arrivals
	}
	l.arrivals[op] = nth
	return nth
}

// arrive enters an exchange and asks the plan, outside the lock, what becomes
// of it. A nil plan lets all pass.
func (l *journal) arrive(plan Plan, x Exchange, key string) *Delivery {
	d := &Delivery{Exchange: x, Key: key, Time: time.Now()}
	d.Since = d.Time.Sub(l.born)
	l.mu.Lock()
	l.seq++
	d.Seq, d.Nth = l.seq, l.countLocked(x.Op)
	x = d.Exchange
	l.log = append(l.log, d)
	l.trimLocked()
	l.mu.Unlock()

	if plan != nil {
		fault := plan.Decide(x)
		l.mu.Lock()
		d.Fault = fault
		l.mu.Unlock()
	}
	return d
}

// stream returns body, to be counted and summed while somebody reads it.
func (l *journal) stream(d *Delivery, body io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody {
		l.noteBody(d, nil)
		return body
	}
	return &meter{ReadCloser: body, journal: l, delivery: d, sum: sha256.New()}
}

func (l *journal) noteRead(m *meter, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.delivery.Length, m.delivery.Sum = m.length, [sha256.Size]byte{}
	if end {
		m.sum.Sum(m.delivery.Sum[:0])
	}
}

func (l *journal) noteBody(d *Delivery, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Length, d.Sum = len(body), sha256.Sum256(body)
}

func (l *journal) noteRun(d *Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Runs++
}

func (l *journal) noteStatus(d *Delivery, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Status = status
}

// unrun takes back a run that turned out to be none.
func (l *journal) unrun(d *Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Runs--
}

// Deliveries returns the record of all exchanges so far, in the order of their
// arrival.
func (l *journal) Deliveries() []Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Delivery, len(l.log))
	for i, d := range l.log {
		all[i] = *d
	}
	return all
}

// Effects returns how often the handler ran for each operation, by Op.
func (l *journal) Effects() map[string]int {
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

// meter enters a body into the record as it is read.
type meter struct {
	io.ReadCloser
	journal  *journal
	delivery *Delivery
	length   int
	sum      hash.Hash
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.length += n
	m.sum.Write(p[:n])
	m.journal.noteRead(m, err == io.EOF)
	return n, err
}
