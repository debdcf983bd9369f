package resilient

import "fmt"

// A Verdict says what one attempt means for the next.
type Verdict uint8

const (
	// Done is a final answer, good or bad.
	Done Verdict = iota
	// Fatal means that repeating cannot help.
	Fatal
	// Transient means that repeating may help.
	Transient
	// Throttled means that the server asked for time. It may have acted all
	// the same: no RFC says that a 429 or 503 was not acted on.
	Throttled
	// Unsent means that the server cannot have acted: the request was never
	// sent, or refused by the protocol. It is repeated whatever its method.
	Unsent
)

// String returns the verdict's name in lower case.
func (v Verdict) String() string {
	switch v {
	case Done:
		return "done"
	case Fatal:
		return "fatal"
	case Transient:
		return "transient"
	case Throttled:
		return "throttled"
	case Unsent:
		return "unsent"
	}
	return "invalid verdict"
}

// MarshalText returns what String does, so that JSON and logs show words.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote of a valid verdict.
func (v *Verdict) UnmarshalText(text []byte) error { return fromText(v, Unsent, text) }

// An Outcome says what the server can have done. The zero Outcome is Unknown:
// whatever is not recognised is told as not known.
type Outcome uint8

const (
	// Unknown means that the server may have acted or not.
	Unknown Outcome = iota
	// NotSent means that the server cannot have acted: no request reached it,
	// or each was refused by the protocol.
	NotSent
	// Answered means that a server answered.
	Answered
)

// String returns the outcome in words.
func (o Outcome) String() string {
	switch o {
	case Unknown:
		return "outcome unknown"
	case NotSent:
		return "not sent"
	case Answered:
		return "answered"
	}
	return "invalid outcome"
}

// MarshalText returns what String does, so that JSON and logs show words.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText wrote of a valid outcome.
func (o *Outcome) UnmarshalText(text []byte) error { return fromText(o, Answered, text) }

// fromText sets v to the value, up to last, of that name.
func fromText[T interface {
	~uint8
	fmt.Stringer
}](v *T, last T, text []byte) error {
	for i := range last + 1 {
		if i.String() == string(text) {
			*v = i
			return nil
		}
	}
	return fmt.Errorf("%q is not a %T", text, last)
}
