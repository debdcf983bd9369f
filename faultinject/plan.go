package faultinject

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// An Exchange is one arrival of a request, one dial or one connection accepted,
// at the place where a fault may strike it.
type Exchange struct {
	// Op names the operation: the value of Idempotency-Key without the quotes
	// that some servers want; without such a key "METHOD /path"; for a dial
	// "dial host:port", and for a connection that a [Server] accepts "accept
	// host:port". All attempts of an operation share it.
	Op string
	// Nth counts the arrivals of Op, from 1. What net/http replays by itself
	// counts too, where it can be seen.
	Nth int
	// Host is the host asked for, with the port if the request names one.
	Host string
	// Method and Path are those of the request; Method is [MethodDial] or
	// [MethodAccept], and Path empty, where it is not a request.
	Method, Path string
	// Conn counts the connections of a Server, from 1, and is 0 where there are
	// none.
	Conn int
	// Since is the time since the Transport, Network or Server was made.
	Since time.Duration
}

// isRequest reports whether x is more than the making of a connection.
func (x Exchange) isRequest() bool { return x.Method != MethodDial && x.Method != MethodAccept }

// The methods of exchanges that are not requests.
const (
	MethodDial   = "DIAL"   // a [Network] is asked for a connection
	MethodAccept = "ACCEPT" // a [Server] accepts one
)

// A Plan decides what happens to each exchange. Decide must answer the same
// for the same exchange, whatever came before, and is called by many
// goroutines at once: this is what makes a concurrent run repeatable.
//
// The plans of this package print as the text that [ParsePlan] reads. One made
// from arguments that cannot be meant, such as a rate of 5, lets every exchange
// fail with an error that says so.
type Plan interface {
	Decide(Exchange) Fault
}

// PlanFunc is a function as a [Plan]. A nil one lets all pass.
type PlanFunc func(Exchange) Fault

// Decide calls p.
func (p PlanFunc) Decide(x Exchange) Fault {
	if p == nil {
		return Pass()
	}
	return p(x)
}

// decide asks a plan that may be nil.
func decide(p Plan, x Exchange) Fault {
	if p == nil {
		return Pass()
	}
	return p.Decide(x)
}

// senseless stands for a plan that cannot be meant: every exchange fails and says why.
func senseless(format string, args ...any) Plan {
	return Forever(unreadable(fmt.Sprintf(format, args...)))
}

// at is a plan of which nothing strikes but at this place. A nil plan stays nil.
func at(place Place, plan Plan) Plan {
	if plan == nil {
		return nil
	}
	return PlanFunc(func(x Exchange) Fault {
		f := plan.Decide(x)
		if where := f.Strikes(); where != place && where != Anywhere {
			return Pass()
		}
		return f
	})
}

// Script gives the n-th arrival of every operation the n-th fault; later
// arrivals pass.
func Script(faults ...Fault) Plan { return scripted(faults) }

// Forever is a [Script] whose last fault strikes all later arrivals too:
// Forever(Stall()) strikes whatever comes. Without faults all pass.
func Forever(faults ...Fault) Plan {
	s := scripted(faults)
	s.forever = true
	return s
}

// script keeps what is repeated as a count, however often that is.
type script struct {
	runs    []repeated
	forever bool
}

type repeated struct {
	n     int
	fault Fault
}

func scripted(faults []Fault) (s script) {
	for _, f := range faults {
		s.add(1, f)
	}
	return s
}

func (s *script) add(n int, f Fault) {
	if last := len(s.runs) - 1; last >= 0 && s.runs[last].fault == f {
		s.runs[last].n += n
		return
	}
	s.runs = append(s.runs, repeated{n, f})
}

func (s script) Decide(x Exchange) Fault {
	if x.Nth < 1 || len(s.runs) == 0 {
		return Pass()
	}
	nth := x.Nth
	for _, r := range s.runs {
		if nth <= r.n {
			return r.fault
		}
		nth -= r.n
	}
	if s.forever {
		return s.runs[len(s.runs)-1].fault
	}
	return Pass()
}

// First asks the plans in their order, and the first that does not pass has
// decided. A nil plan passes.
func First(plans ...Plan) Plan { return first(slices.Clone(plans)) }

type first []Plan

func (p first) Decide(x Exchange) Fault {
	for _, plan := range p {
		if f := decide(plan, x); f != Pass() {
			return f
		}
	}
	return Pass()
}

// Window asks the plan about what arrives when the age of the Transport, Network
// or Server ([Exchange.Since]) is at least from and less than to; all else
// passes. A to of 0 means for ever. The plan counts arrivals outside the window
// too: to strike whatever comes in it, hand it [Forever].
func Window(from, to time.Duration, plan Plan) Plan {
	if flaw := windowFlaw(from, to); flaw != "" {
		return senseless("window: %s", flaw)
	}
	return interval{from, to, plan}
}

func windowFlaw(from, to time.Duration) string {
	if from < 0 || to != 0 && to <= from {
		return fmt.Sprintf("nothing is between %v and %v", from, to)
	}
	return ""
}

type interval struct {
	from, to time.Duration
	plan     Plan
}

func (w interval) Decide(x Exchange) Fault {
	if x.Since < w.from || w.to != 0 && x.Since >= w.to {
		return Pass()
	}
	return decide(w.plan, x)
}

// Every strikes the arrivals n, 2n, 3n and so on of each operation.
func Every(n int, fault Fault) Plan {
	if n < 1 {
		return senseless("every: %d is not a count of arrivals", n)
	}
	return every{n, fault}
}

type every struct {
	n     int
	fault Fault
}

func (e every) Decide(x Exchange) Fault {
	if x.Nth < 1 || x.Nth%e.n != 0 {
		return Pass()
	}
	return e.fault
}

// identify describes a request, its arrivals not yet counted, and the key it
// bears as it stands in the header.
func identify(r *http.Request) (x Exchange, key string) {
	x = Exchange{Host: r.Host, Method: r.Method, Path: r.URL.Path}
	if x.Host == "" {
		x.Host = r.URL.Host
	}
	if x.Method == "" {
		x.Method = http.MethodGet
	}
	if x.Path == "" {
		x.Path = "/"
	}
	key = keyOf(r.Header)
	if x.Op = unquote(key); x.Op == "" {
		x.Op = x.Method + " " + x.Path
	}
	return x, key
}

// keyOf finds the key under any spelling of its name: a client may write it
// into the map in lower case to keep net/http from replaying the request.
func keyOf(h http.Header) string {
	if key := h.Get("Idempotency-Key"); key != "" {
		return key
	}
	key := ""
	for name, values := range h {
		if strings.EqualFold(name, "Idempotency-Key") && len(values) > 0 {
			key = max(key, values[0]) // the map's order must not matter
		}
	}
	return key
}

// unquote reads a key written as a string of RFC 8941, section 3.3.3.
func unquote(key string) string {
	inner, ok := strings.CutPrefix(key, `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	if !ok || !closed {
		return key
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(inner)
}
