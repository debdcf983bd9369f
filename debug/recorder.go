package debug

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-resilient/resilient"
)

const (
	defaultOperations = 200
	mostOperations    = 10_000

	// What is kept of one operation: 12 KiB at most, less than one as a rule.
	mostAttempts = 20
	longestURL   = 500
	longestText  = 200
)

// Config configures a [Recorder]. The zero Config is complete.
type Config struct {
	// Operations is how many of the last troubled operations are kept. Zero means
	// 200, the most is 10,000. One takes less than 1 KiB as a rule, and never
	// more than 12.
	Operations int
}

// A Recorder keeps the last operations that were in trouble: those with an
// attempt that brought no final answer, and those that ended in an error. An
// operation answered at the first attempt costs it no memory. The zero Recorder
// is that of the zero Config. It is safe for concurrent use, and one may serve
// several clients.
type Recorder struct {
	mu       sync.Mutex
	troubled uint64    // ever
	ring     []*record // record n is at (n-1) % len; what is in it never changes
}

// New returns an empty Recorder. An error names the field of cfg that cannot be.
func New(cfg Config) (*Recorder, error) {
	switch {
	case cfg.Operations < 0:
		return nil, fmt.Errorf("debug: Config.Operations: %d is negative", cfg.Operations)
	case cfg.Operations > mostOperations:
		return nil, fmt.Errorf("debug: Config.Operations: %d is more than %d", cfg.Operations, mostOperations)
	case cfg.Operations == 0:
		cfg.Operations = defaultOperations
	}
	return &Recorder{ring: make([]*record, cfg.Operations)}, nil
}

// Observer returns what tells the Recorder of a client's operations: it is to be
// the client's Config.Observer, or to be joined to another by
// [resilient.Observers]. That of a nil Recorder records nothing.
func (r *Recorder) Observer() resilient.Observer {
	if r == nil {
		return resilient.Observer{}
	}
	return resilient.Observer{TroubleOnly: true, End: func(_ context.Context, op resilient.Operation, err error) {
		if err != nil || slices.ContainsFunc(op.Attempts, inTrouble) {
			r.keep(newRecord(op, err))
		}
	}}
}

func inTrouble(a resilient.Attempt) bool { return a.Verdict != resilient.Done }

func (r *Recorder) keep(rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil {
		r.ring = make([]*record, defaultOperations)
	}
	rec.ID = r.troubled + 1
	r.ring[r.troubled%uint64(len(r.ring))] = rec
	r.troubled++
}

// since returns what was recorded after the first n, the newest first, and how
// many were recorded ever.
func (r *Recorder) since(n uint64) (newest []*record, troubled uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := uint64(len(r.ring))
	for i := r.troubled; i > n && i+size > r.troubled; i-- {
		newest = append(newest, r.ring[(i-1)%size])
	}
	return newest, r.troubled
}

// record is what may be seen of an operation: no body, no query, no header
// value, and of the key a short hash.
type record struct {
	ID       uint64          `json:"id"`
	Start    time.Time       `json:"start"`
	Took     float64         `json:"took_ms"`
	Method   string          `json:"method"`
	URL      string          `json:"url"`
	KeyHash  string          `json:"key_hash,omitempty"`
	Outcome  string          `json:"outcome"`
	Status   int             `json:"status,omitempty"`
	Stop     string          `json:"stop,omitempty"`
	Err      string          `json:"error,omitempty"`
	Attempts []attemptRecord `json:"attempts"`
	Left     int             `json:"attempts_left_out,omitempty"` // from the middle
}

// attemptRecord is one bar. At is when it begins, and Took how long it is, in
// milliseconds of the operation.
type attemptRecord struct {
	N       int     `json:"n"`
	Host    string  `json:"host"`
	At      float64 `json:"at_ms"`
	Took    float64 `json:"took_ms"`
	Wait    float64 `json:"wait_ms,omitempty"`
	Status  int     `json:"status,omitempty"`
	Verdict string  `json:"verdict"`
	Outcome string  `json:"outcome"`
	Err     string  `json:"error,omitempty"`
	Replay  bool    `json:"replay,omitempty"`
}

// newRecord is told of the end now. An operation that was never sent began, as
// far as anybody knows, when it ended.
func newRecord(op resilient.Operation, err error) *record {
	now := time.Now()
	r := &record{
		Start: now, Method: clip(op.Method, longestText), URL: clip(op.URL, longestURL),
		Outcome: op.Outcome.String(), KeyHash: hashKey(op.Key), Stop: text(op.Stop),
	}
	if err == nil && len(op.Attempts) > 0 {
		r.Status = op.Attempts[len(op.Attempts)-1].Status
	}
	if len(op.Attempts) > 0 {
		r.Start = op.Attempts[0].Start
	} else if err != nil {
		r.Err = text(err) // otherwise the last attempt has it
	}
	r.Took = milliseconds(now.Sub(r.Start))
	kept := op.Attempts
	if r.Left = max(0, len(kept)-mostAttempts); r.Left > 0 {
		kept = slices.Concat(kept[:mostAttempts/2], kept[len(kept)-mostAttempts/2:])
	}
	r.Attempts = make([]attemptRecord, len(kept))
	for i, a := range kept {
		r.Attempts[i] = attemptRecord{
			N: a.N, Host: clip(a.Host, longestText), At: milliseconds(a.Start.Sub(r.Start)), Took: milliseconds(a.Duration),
			Wait: milliseconds(a.Wait), Status: a.Status, Verdict: a.Verdict.String(), Outcome: a.Outcome.String(),
			Err: text(a.Err), Replay: a.Replay,
		}
	}
	return r
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return clip(err.Error(), longestText)
}

// clip copies what is kept of s, so that the rest of it can go.
func clip(s string, most int) string {
	if len(s) <= most {
		return strings.Clone(s)
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// hashKey is how [resilient.LogTo] names a key: enough to match two lines, too
// little to use.
func hashKey(key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:4])
}
