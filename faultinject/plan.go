package faultinject

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
)

// An Exchange is one arrival of a request, or one dial, at the place where a
// fault may strike it.
type Exchange struct {
	// Op names the operation: the value of Idempotency-Key without the quotes
	// that some servers want; without such a key "METHOD /path"; for a dial
	// "dial host:port". All attempts of an operation share it.
	Op string
	// Nth counts the arrivals of Op, from 1. What net/http replays by itself
	// counts too, where it can be seen.
	Nth int
	// Host is the host asked for, with the port if the request names one.
	Host string
	// Method and Path are those of the request, and empty for a dial.
	Method, Path string
}

// A Plan decides what happens to each exchange. Decide must answer the same
// for the same exchange, whatever came before, and is called by many
// goroutines at once: this is what makes a concurrent run repeatable.
type Plan interface {
	Decide(Exchange) Fault
}

// PlanFunc is a function as a [Plan].
type PlanFunc func(Exchange) Fault

// Decide calls p.
func (p PlanFunc) Decide(x Exchange) Fault { return p(x) }

// Script gives the n-th arrival of every operation the n-th fault; later
// arrivals pass.
func Script(faults ...Fault) Plan {
	faults = slices.Clone(faults)
	return PlanFunc(func(x Exchange) Fault {
		if x.Nth < 1 || x.Nth > len(faults) {
			return Pass()
		}
		return faults[x.Nth-1]
	})
}

// Random strikes the share rate of all arrivals with one of the faults, of
// [Essential] if none is named. Each decision depends on the seed, Op and Nth
// alone, so that neither the order of arrivals nor another operation moves it.
// Some of the essential faults last until the caller gives up: give it a
// deadline.
func Random(seed uint64, rate float64, faults ...Fault) Plan {
	faults = slices.Clone(faults)
	if len(faults) == 0 {
		faults = Essential()
	}
	return PlanFunc(func(x Exchange) Fault {
		r := keyed(seed, x)
		// Both are always drawn: another rate keeps the choice of faults.
		strike, choice := r.Float64() < rate, r.IntN(len(faults))
		if !strike {
			return Pass()
		}
		return faults[choice]
	})
}

func keyed(seed uint64, x Exchange) *rand.Rand {
	text := binary.BigEndian.AppendUint64(nil, seed)
	text = binary.BigEndian.AppendUint64(text, uint64(x.Nth))
	return rand.New(rand.NewChaCha8(sha256.Sum256(append(text, x.Op...))))
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
