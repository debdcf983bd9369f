package resilient

import (
	"context"
	"errors"
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
	// ProtoMajor and ProtoMinor are the answer's version of HTTP: 1 and 1, or 2
	// and 0; both 0 if there was none.
	ProtoMajor, ProtoMinor uint8
	// Wait is the pause that follows it, 0 if there is none.
	Wait time.Duration
	// Replay marks a request that net/http sent by itself below us. Only its
	// being on the wire is known; Start and Duration are those of the attempt
	// it belongs to.
	Replay bool
	// ReplayedAnswer marks an answer that the server says it has kept from an
	// earlier request with the key (Idempotent-Replayed: true).
	ReplayedAnswer bool
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
	// FirstSent is when the key was first sent. Zero: it never was, or there is none.
	FirstSent time.Time
	// Outcome says what the server can have done.
	Outcome Outcome
	// Attempts holds every attempt made, in order, but for redirect hops that left
	// no record (see [OperationOf]).
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
	// End closes the operation. err is nil when an answer is returned. A panic of
	// Base, Prepare or Classify closes it too, with an error.
	End func(ctx context.Context, op Operation, err error)
	// TroubleOnly leaves out whatever goes well at the first attempt, a 404 too,
	// so that a client pays for trouble alone. It has no effect on an Observer
	// with Start or AttemptStart, which come too early to know. It is not told of a
	// panic at the first attempt of a safe request, which nobody watches.
	TroubleOnly bool
}

func (o Observer) idle() bool {
	return o.Start == nil && o.AttemptStart == nil && o.Attempt == nil && o.End == nil
}

// calm reports whether an operation that goes well at its first attempt is none
// of o's business.
func (o Observer) calm() bool {
	return o.idle() || o.TroubleOnly && o.Start == nil && o.AttemptStart == nil
}

// trouble reports whether an operation was not answered for good at the first
// attempt of each hop.
func trouble(attempts []Attempt, stop error) bool {
	return stop != nil || slices.ContainsFunc(attempts, Attempt.trouble)
}

func (a Attempt) trouble() bool { return a.Verdict != Done || a.Replay }

// Observers joins observers into one; each hears every event, in the order
// given. Contexts nest in that order.
func Observers(all ...Observer) Observer {
	all = slices.DeleteFunc(slices.Clone(all), Observer.idle)
	if len(all) == 0 {
		return Observer{}
	}
	joined := troubleOnly(all)
	if !slices.ContainsFunc(all, func(o Observer) bool { return !o.calm() }) {
		return joined
	}
	joined.TroubleOnly = false
	joined.Start = func(ctx context.Context, op Operation) context.Context {
		for _, o := range all {
			ctx = o.start(ctx, op)
		}
		return ctx
	}
	joined.AttemptStart = func(ctx context.Context, n int) context.Context {
		for _, o := range all {
			ctx = o.attemptStart(ctx, n)
		}
		return ctx
	}
	return joined
}

// troubleOnly joins observers of trouble alone, which have no start.
func troubleOnly(all []Observer) Observer {
	return Observer{
		TroubleOnly: true,
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
	if o.Attempt != nil && (!o.calm() || ctx.Value(troubledKey{}) == true) {
		o.Attempt(ctx, a)
	}
}

func (o Observer) end(ctx context.Context, op Operation, err error) {
	if o.End != nil && (!o.calm() || err != nil || trouble(op.Attempts, op.Stop)) {
		o.End(ctx, op, err)
	}
}

// LogTo returns an Observer that writes to l: each attempt that brought no final
// answer at level Warn, and the end of an operation in trouble: at level Info if
// it was answered all the same, at level Warn if its caller left, at level Error
// if it failed. All others are silent, and so is everything if l is nil.
// A key appears only as a short hash, the same in all lines of the operation. The
// handler is given the operation's context: one that looks for a trace in it finds
// what an observer before this one put there.
func LogTo(l *slog.Logger) Observer {
	if l == nil {
		return Observer{}
	}
	return Observer{
		TroubleOnly: true,
		Attempt: func(ctx context.Context, a Attempt) {
			if a.Verdict != Done && l.Enabled(ctx, slog.LevelWarn) {
				l.LogAttrs(ctx, slog.LevelWarn, "attempt failed", append(attemptAttrs(a), keyAttr(ctx)...)...)
			}
		},
		End: func(ctx context.Context, op Operation, err error) {
			level, message := slog.LevelInfo, "operation answered"
			switch {
			case err == nil && !trouble(op.Attempts, op.Stop):
				return
			case err != nil && errors.Is(op.Stop, context.Canceled):
				level, message = slog.LevelWarn, "operation failed"
			case err != nil:
				level, message = slog.LevelError, "operation failed"
			}
			if l.Enabled(ctx, level) {
				l.LogAttrs(ctx, level, message, append(operationAttrs(op), errorAttr("err", err)...)...)
			}
		},
	}
}

// errorAttr is the text of err alone: a handler that takes values apart would find
// the key in an [*Error], and in a Base's errors who knows what.
func errorAttr(name string, err error) []slog.Attr {
	if err == nil {
		return nil
	}
	return []slog.Attr{slog.String(name, err.Error())}
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
	return append(attrs, errorAttr("err", a.Err)...)
}

// troubledKey asks the context of an operation whether it has been in trouble.
type troubledKey struct{}

// loggedKey asks the context of an operation for its key.
type loggedKey struct{}

func keyAttr(ctx context.Context) []slog.Attr {
	if key, _ := ctx.Value(loggedKey{}).(string); key != "" {
		return []slog.Attr{slog.String("key_hash", hashKey(key))}
	}
	return nil
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
	return append(attrs, errorAttr("stop", op.Stop)...)
}
