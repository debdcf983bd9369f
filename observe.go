package resilient

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// An Attempt is one request on the wire.
type Attempt struct {
	// N counts the attempts of the operation from 1, redirect hops and
	// net/http's own replays included.
	N int
	// Method and Host say where the attempt went; Host is as in the URL.
	Method, Host string
	// Start is when the attempt was handed to Base, after any wait.
	Start time.Time
	// Duration runs from Start to the response headers or the error.
	Duration time.Duration
	// Status is the answer's, 0 if there was none.
	Status int
	// Err is why there was no answer. Its text holds no query, user or header
	// value; errors.Is and errors.As see through to what Base returned.
	Err error
	// Verdict says what the attempt means for the next.
	Verdict Verdict
	// Outcome says what the server can have done.
	Outcome Outcome
	// Wait is the pause that follows it, 0 if there is none.
	Wait time.Duration
	// Replay marks a request that net/http sent by itself below us. Only its
	// being on the wire is known; Start and Duration are those of the attempt
	// it belongs to.
	Replay bool
}

// An Operation is the record of one request of the caller: all its attempts,
// over all redirect hops.
type Operation struct {
	// Method and URL are the request's. URL has no user, query or fragment.
	Method, URL string
	// Key is the idempotency key as it stood on the wire, to resume with by
	// [WithKey]; empty if there was none. Whoever holds a key may be able to
	// fetch the answer: do not log it.
	Key string
	// FirstSent is when the key was first sent, zero without a key.
	FirstSent time.Time
	// Outcome says what the server can have done.
	Outcome Outcome
	// Attempts holds every attempt made, in order.
	Attempts []Attempt
	// Stop says why there was no further attempt; nil if the last one was
	// final. See [ErrAttempts] and its neighbours.
	Stop error
	// NotBefore is when a further attempt would have been due, zero if unknown.
	NotBefore time.Time
}

// EarlierUnknown reports whether an attempt before the last ended with its
// outcome unknown. Then the answer may be the echo of our own success: the 404
// to a repeated DELETE, the 412 to a repeated conditional PUT.
func (o Operation) EarlierUnknown() bool {
	if len(o.Attempts) == 0 {
		return false
	}
	return slices.ContainsFunc(o.Attempts[:len(o.Attempts)-1], func(a Attempt) bool { return a.Outcome == Unknown })
}

// An Observer is told what happens. Nil functions are skipped and the zero
// Observer costs nothing. The functions run on the caller's goroutine, outside
// our locks, in the order of events; many operations call them at once.
type Observer struct {
	// Start opens an operation; only Method, URL and Key of it are set. The
	// context it returns serves all its attempts; nil keeps the caller's.
	Start func(context.Context, Operation) context.Context
	// AttemptStart precedes attempt n. The context it returns serves that
	// attempt; nil keeps the operation's. Where net/http sends the attempt again
	// by itself, the copies take n and what follows, and the attempt a later N.
	AttemptStart func(ctx context.Context, n int) context.Context
	// Attempt follows each attempt, before any wait.
	Attempt func(context.Context, Attempt)
	// End closes the operation. err is nil when an answer is returned.
	End func(ctx context.Context, op Operation, err error)
}

func (o Observer) idle() bool {
	return o.Start == nil && o.AttemptStart == nil && o.Attempt == nil && o.End == nil
}

// Observers joins observers into one; each hears every event, in the order
// given. Contexts nest in that order.
func Observers(all ...Observer) Observer {
	all = slices.DeleteFunc(slices.Clone(all), Observer.idle)
	if len(all) == 0 {
		return Observer{}
	}
	return Observer{
		Start: func(ctx context.Context, op Operation) context.Context {
			for _, o := range all {
				ctx = o.start(ctx, op)
			}
			return ctx
		},
		AttemptStart: func(ctx context.Context, n int) context.Context {
			for _, o := range all {
				ctx = o.attemptStart(ctx, n)
			}
			return ctx
		},
		Attempt: func(ctx context.Context, a Attempt) {
			for _, o := range all {
				o.attempt(ctx, a)
			}
		},
		End: func(ctx context.Context, op Operation, err error) {
			for _, o := range all {
				o.end(ctx, op, err)
			}
		},
	}
}

func (o Observer) start(ctx context.Context, op Operation) context.Context {
	if o.Start != nil {
		if c := o.Start(ctx, op); c != nil {
			return c
		}
	}
	return ctx
}

func (o Observer) attemptStart(ctx context.Context, n int) context.Context {
	if o.AttemptStart != nil {
		if c := o.AttemptStart(ctx, n); c != nil {
			return c
		}
	}
	return ctx
}

func (o Observer) attempt(ctx context.Context, a Attempt) {
	if o.Attempt != nil {
		o.Attempt(ctx, a)
	}
}

func (o Observer) end(ctx context.Context, op Operation, err error) {
	if o.End != nil {
		o.End(ctx, op, err)
	}
}

// LogTo returns an Observer that writes to l: each attempt that brought no final
// answer at level Warn, and an operation that took more than one attempt or
// ended in an error at level Info or Error. An untroubled operation is silent.
// A key appears only as a short hash.
func LogTo(l *slog.Logger) Observer {
	return Observer{
		Attempt: func(ctx context.Context, a Attempt) {
			if a.Verdict != Done {
				l.LogAttrs(ctx, slog.LevelWarn, "attempt failed", attemptAttrs(a)...)
			}
		},
		End: func(ctx context.Context, op Operation, err error) {
			switch {
			case err != nil:
				l.LogAttrs(ctx, slog.LevelError, "operation failed", append(operationAttrs(op), slog.Any("err", err))...)
			case len(op.Attempts) > 1 || op.Stop != nil:
				l.LogAttrs(ctx, slog.LevelInfo, "operation answered", operationAttrs(op)...)
			}
		},
	}
}

func attemptAttrs(a Attempt) []slog.Attr {
	attrs := []slog.Attr{
		slog.Int("n", a.N), slog.String("method", a.Method), slog.String("host", a.Host),
		slog.String("verdict", a.Verdict.String()), slog.String("outcome", a.Outcome.String()),
		slog.Duration("took", a.Duration), slog.Duration("wait", a.Wait),
	}
	if a.Status != 0 {
		attrs = append(attrs, slog.Int("status", a.Status))
	}
	if a.Err != nil {
		attrs = append(attrs, slog.Any("err", a.Err))
	}
	return attrs
}

func operationAttrs(op Operation) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("method", op.Method), slog.String("url", op.URL),
		slog.Int("attempts", len(op.Attempts)), slog.String("outcome", op.Outcome.String()),
	}
	if op.Key != "" {
		attrs = append(attrs, slog.String("key_hash", hashKey(op.Key)))
	}
	if n := len(op.Attempts); n > 0 && op.Attempts[n-1].Status != 0 {
		attrs = append(attrs, slog.Int("status", op.Attempts[n-1].Status))
	}
	if op.Stop != nil {
		attrs = append(attrs, slog.Any("stop", op.Stop))
	}
	return attrs
}
