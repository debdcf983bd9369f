package idempotency

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// An Observer is told what is decided about keys. Nil functions are skipped.
// They are called by many goroutines, outside locks, and should return soon.
type Observer struct {
	// Event follows each decision. The context is the request's or the run's.
	Event func(context.Context, Event)
}

// An Event is one decision about a key. It holds neither key nor scope, nor
// anything of the request but its method.
type Event struct {
	// Kind is what was decided.
	Kind Kind
	// ID names the key's record: the first 16 digits of its hash. Empty where
	// there was no usable key.
	ID string
	// Method is the request's; empty in Do.
	Method string
	// Status is that of the answer, 0 if there is none yet or in Do.
	Status int
	// Fence is the run's; 0 where none was begun.
	Fence uint64
	// Age is the time since the key was first claimed; 0 if it just was.
	Age time.Duration
	// Err is why the store or a recovery failed, or why a request was refused.
	Err error
}

// Kind is what was decided.
type Kind uint8

const (
	RunBegan      Kind = iota // the key was claimed, and the handler begins
	RunTakenOver              // the same for a key whose outcome was unknown
	RunCompleted              // an answer was stored
	RunRecovered              // what an earlier run did was found out, and stored
	NothingDone               // the handler said NotApplied, and the key is free again
	OutcomeLost               // the run ended without telling what it did
	Replayed                  // the stored answer was given
	InProgress                // refused: a run under the key has not ended
	Mismatched                // refused: the key was used for something else
	UnknownHeld               // refused: the outcome of an earlier run is unknown
	ResultExpired             // refused: the answer is no longer kept
	Refused                   // refused for what the request says: no key, a bad one, an old one
	LeaseLost                 // a run lost its key to another
	StoreFailed               // the store failed
	kinds
)

var kindNames = [kinds]string{
	RunBegan: "run-began", RunTakenOver: "run-taken-over", RunCompleted: "run-completed", RunRecovered: "run-recovered",
	NothingDone: "nothing-done", OutcomeLost: "outcome-lost", Replayed: "replayed", InProgress: "in-progress",
	Mismatched: "mismatched", UnknownHeld: "unknown-held", ResultExpired: "result-expired", Refused: "refused",
	LeaseLost: "lease-lost", StoreFailed: "store-failed",
}

// String is the kind in words, as LogTo writes it.
func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// level is how loud a log line about k should be.
func (k Kind) level() slog.Level {
	switch k {
	case OutcomeLost, LeaseLost, StoreFailed:
		return slog.LevelError
	case Mismatched, UnknownHeld, ResultExpired, RunTakenOver:
		return slog.LevelWarn
	case RunBegan, RunCompleted:
		return slog.LevelDebug
	default:
		return slog.LevelInfo
	}
}

// Observers joins observers into one; each hears every event, in the order given.
func Observers(all ...Observer) Observer {
	return Observer{Event: func(ctx context.Context, e Event) {
		for _, o := range all {
			if o.Event != nil {
				o.Event(ctx, e)
			}
		}
	}}
}

// LogTo writes a line for each decision: an error where an outcome, a lease or
// the store was lost, a warning where a caller or an operator has something to
// look into, the runs themselves at the debug level. Errors are written as text.
// It is silent if log is nil.
func LogTo(log *slog.Logger) Observer {
	if log == nil {
		return Observer{}
	}
	return Observer{Event: func(ctx context.Context, e Event) {
		level := e.Kind.level()
		if !log.Enabled(ctx, level) {
			return
		}
		attrs := make([]slog.Attr, 0, 7)
		attrs = append(attrs, slog.String("kind", e.Kind.String()))
		add := func(set bool, a slog.Attr) {
			if set {
				attrs = append(attrs, a)
			}
		}
		add(e.ID != "", slog.String("id", e.ID))
		add(e.Method != "", slog.String("method", e.Method))
		add(e.Status != 0, slog.Int("status", e.Status))
		add(e.Fence != 0, slog.Uint64("fence", e.Fence))
		add(e.Age != 0, slog.Duration("age", e.Age))
		if e.Err != nil {
			attrs = append(attrs, slog.String("err", e.Err.Error()))
		}
		log.LogAttrs(ctx, level, "idempotency key", attrs...)
	}}
}

// Counts counts decisions. The zero Counts is ready; it is safe for use by many
// goroutines, and an expvar.Var.
type Counts struct{ n [kinds]atomic.Int64 }

// Observer is what counts.
func (c *Counts) Observer() Observer {
	return Observer{Event: func(_ context.Context, e Event) {
		if e.Kind < kinds {
			c.n[e.Kind].Add(1)
		}
	}}
}

// Of returns how often k was decided.
func (c *Counts) Of(k Kind) int64 {
	if k >= kinds {
		return 0
	}
	return c.n[k].Load()
}

// String is the counts as a JSON object.
func (c *Counts) String() string {
	pairs := make([]string, kinds)
	for k := range kinds {
		pairs[k] = strconv.Quote(k.String()) + ":" + strconv.FormatInt(c.Of(k), 10)
	}
	return "{" + strings.Join(pairs, ",") + "}"
}
