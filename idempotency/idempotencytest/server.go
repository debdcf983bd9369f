package idempotencytest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-resilient/resilient/internal/httptoken"
)

// A Target is a service of which is to be learnt whether it honours idempotency
// keys. It may be written in any language: all that is asked of it is HTTP/1.1,
// with or without TLS. What it is sent has real effects, some twenty of them.
type Target struct {
	// URL is where the operation is: http or https. Needed.
	URL string
	// Method is the operation's. Empty means POST.
	Method string
	// Header is sent with each request: Content-Type, Authorization and so on.
	Header http.Header
	// Body is a payload that the service accepts again and again under new keys.
	Body []byte
	// OtherBody is another payload that it accepts. Nil means Body with one value
	// changed, if Body is JSON; else the case is not tried.
	OtherBody []byte
	// FailingBody is a payload that the service fails on or refuses. Nil means that
	// the case is not tried.
	FailingBody []byte
	// KeyHeader carries the key. Empty means Idempotency-Key.
	KeyHeader string
	// NewKey makes a key as it stands on the wire, a new one each time. Nil means a
	// random UUID, bare.
	NewKey func() string

	// DialContext connects to the service. Nil means over TCP.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is for https. Nil means the system's roots.
	TLS *tls.Config
	// Patience is for how long an answer may take, being told to wait included.
	// Zero means 10 seconds.
	Patience time.Duration

	// Effects counts what the service has really done so far, which only its owner
	// can know. Nil means that the answers alone are judged, and many things then
	// stay unclear. It is called between requests, never at the same time.
	Effects func(context.Context) (int, error)
}

const (
	defaultPatience = 10 * time.Second
	defaultHeader   = "Idempotency-Key"
	crowd           = 20 // duplicates at once
)

// complete fills in the defaults and refuses what cannot be meant.
func (t *Target) complete() (*url.URL, error) {
	u, err := url.Parse(t.URL)
	switch {
	case err != nil:
		return nil, errors.New("idempotencytest: Target.URL: it is not a URL") // err would show what may be secret
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("idempotencytest: Target.URL: %q is not an http or https URL with a host", u.Redacted())
	case t.Patience < 0:
		return nil, fmt.Errorf("idempotencytest: Target.Patience: %v is negative", t.Patience)
	}
	if t.Method == "" {
		t.Method = http.MethodPost
	}
	if t.KeyHeader == "" {
		t.KeyHeader = defaultHeader
	}
	if t.Patience == 0 {
		t.Patience = defaultPatience
	}
	if t.NewKey == nil {
		t.NewKey = randomKey
	}
	if _, err := http.NewRequest(t.Method, t.URL, nil); err != nil { //nolint:noctx // it is never sent
		return nil, fmt.Errorf("idempotencytest: Target.Method: %q is not a method", t.Method)
	}
	for _, name := range append([]string{t.KeyHeader}, headerNames(t.Header)...) {
		if !httptoken.Valid(name) {
			return nil, fmt.Errorf("idempotencytest: %q is not a header name", name)
		}
	}
	return u, nil
}

// Verdict is what became of a promise.
type Verdict uint8

const (
	NotTried Verdict = iota // something it takes was not given, or nothing was to be learnt
	Kept                    // as it should be
	Broken                  // seen to fail
	Unclear                 // what was seen proves neither
)

// String is the verdict in a word.
func (v Verdict) String() string {
	switch v {
	case NotTried:
		return "not tried"
	case Kept:
		return "kept"
	case Broken:
		return "broken"
	case Unclear:
		return "unclear"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// MarshalText writes the verdict as a word.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// The cases, in the order in which they are tried.
const (
	Duplicate    = "duplicate"             // the same request again: one effect, the same answer
	Concurrent   = "concurrent duplicates" // twenty at once: one effect
	LostAnswer   = "lost answer"           // the connection is reset while the answer comes
	CallerGone   = "caller gone"           // the connection is closed while the service works
	OtherPayload = "other payload"         // under a key that was used: refused
	Failure      = "failure"               // a failed request again: nothing is done twice
	QuotedKey    = "quoted key"            // "k" and k: either is good, a client should know which
	MissingKey   = "missing key"           // whether a key is required
)

// A Finding is what one case brought.
type Finding struct {
	// Case is Duplicate, Concurrent and so on.
	Case string `json:"case"`
	// Verdict says whether the promise was kept.
	Verdict Verdict `json:"verdict"`
	// Seen names the behaviour in a word or two, for a program to compare.
	Seen string `json:"seen"`
	// Text says what was seen and what follows from it.
	Text string `json:"text"`
}

// A Report is what was learnt of a service.
type Report struct {
	// Method and URL are the target's, the URL without user and query.
	Method string `json:"method"`
	URL    string `json:"url"`
	// Verdict is Broken if a finding is. It is Kept if none is and those of
	// Duplicate, Concurrent and LostAnswer are: then a client may repeat under a
	// key. Else it is Unclear.
	Verdict Verdict `json:"verdict"`
	// Findings has one for each case.
	Findings []Finding `json:"findings"`
}

// Of returns the finding of a case; one that was not tried if there is none.
func (r Report) Of(name string) Finding {
	for _, f := range r.Findings {
		if f.Case == name {
			return f
		}
	}
	return Finding{Case: name}
}

func (r Report) sum() Verdict {
	for _, f := range r.Findings {
		if f.Verdict == Broken {
			return Broken
		}
	}
	for _, name := range []string{Duplicate, Concurrent, LostAnswer} {
		if r.Of(name).Verdict != Kept {
			return Unclear
		}
	}
	return Kept
}

// String is the report for a terminal, 80 columns wide.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s\n", r.Method, r.URL, r.Verdict)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n%-9s  %s", f.Verdict, f.Case)
		if f.Seen != "" {
			fmt.Fprintf(&b, ": %s", f.Seen)
		}
		b.WriteByte('\n')
		wrap(&b, f.Text, strings.Repeat(" ", 11), 80)
	}
	return b.String()
}

func wrap(b *strings.Builder, text, indent string, width int) {
	column := 0
	for word := range strings.FieldsSeq(text) {
		if n := len([]rune(word)); column > 0 && column+1+n > width {
			b.WriteByte('\n')
			column = 0
		}
		if column == 0 {
			b.WriteString(indent)
			column = len(indent)
		} else {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len([]rune(word))
	}
	b.WriteByte('\n')
}

// An UnreachableError says that no connection to the service could be made, so
// that nothing was learnt.
type UnreachableError struct{ Err error }

// Error names the target and the cause.
func (e *UnreachableError) Error() string {
	return "idempotencytest: the service cannot be reached: " + e.Err.Error()
}

// Unwrap returns why.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Check tries all cases on a service and reports what it saw. It sends about
// forty requests, each over a connection of its own, and follows no redirect;
// whatever the service answers, or does not, it ends. An error says that target
// is at fault, that the service cannot be reached (an [*UnreachableError]), or
// that ctx ended; then the report has what was found until then.
func Check(ctx context.Context, target Target) (Report, error) {
	p, err := newProbe(target)
	if err != nil {
		return Report{}, err
	}
	r := Report{Method: p.Method, URL: p.shown()}
	for _, c := range serverCases {
		f := p.try(ctx, c)
		if err = p.unreachable; err == nil {
			err = ctx.Err()
		}
		if err != nil {
			break
		}
		r.Findings = append(r.Findings, f)
	}
	r.Verdict = r.sum()
	return r, err
}

// Server runs [Check] as a test, with a subtest for each case. It fails those
// that are broken, and Duplicate also where it is unclear, since nothing was
// proved then; other unclear ones are skipped with what was seen.
func Server(t *testing.T, target Target) {
	t.Helper()
	p, err := newProbe(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range serverCases {
		t.Run(c.name, func(t *testing.T) {
			f := p.try(t.Context(), c)
			switch {
			case p.unreachable != nil:
				t.Fatal(p.unreachable)
			case f.Verdict == Broken, f.Verdict == Unclear && c.name == Duplicate:
				t.Errorf("%s: %s: %s", f.Verdict, f.Seen, f.Text)
			case f.Verdict != Kept:
				t.Skipf("%s: %s", f.Verdict, f.Text)
			default:
				t.Logf("%s: %s", f.Seen, f.Text)
			}
		})
	}
}

// other is a payload that differs from body in one value, nil if there is no
// telling how.
func other(body []byte) []byte {
	var v any
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.UseNumber()
	if dec.Decode(&v) != nil || dec.More() {
		return nil
	}
	for _, kind := range []func(any) (any, bool){changeNumber, changeString, changeBool} {
		if w, ok := change(v, kind); ok {
			text, err := json.Marshal(w)
			if err != nil {
				return nil
			}
			return text
		}
	}
	return nil
}
