package faultinject

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A finding is an invariant that a schedule broke.
type finding struct {
	rule string
	op   string // empty if it is not about one
	text string
}

func (f finding) String() string {
	if f.op == "" {
		return f.rule + ": " + f.text
	}
	return fmt.Sprintf("%s: %s: %s", f.rule, f.op, f.text)
}

// An operation is all that is known of one.
type operation struct {
	name       string
	reports    []report
	deliveries []Delivery
	effects    []Entry
	answers    [][]byte
	conns      int // got to send it
}

// operations sorts what is known by operation, those first that were reported.
func (r *Run) operations() []operation {
	r.mu.Lock()
	reports, answers := slices.Clone(r.reports), slices.Clone(r.answers)
	sendings := make([]sending, len(r.sendings))
	for i, s := range r.sendings {
		sendings[i] = *s
	}
	r.mu.Unlock()
	var all []operation
	places := make(map[string]int)
	find := func(name string) *operation {
		i, known := places[name]
		if !known {
			i, all = len(all), append(all, operation{name: name})
			places[name] = i
		}
		return &all[i]
	}
	for _, rep := range reports {
		o := find(rep.op)
		o.reports = append(o.reports, rep)
	}
	deliveries := r.Deliveries()
	name := r.naming(all, deliveries)
	for _, d := range deliveries {
		o := find(name(d.Exchange))
		o.deliveries = append(o.deliveries, d)
	}
	for i, e := range r.Ledger.Entries() {
		o := find(name(Exchange{Op: e.Op, Method: e.Method, Path: e.Path}))
		o.enter(i, e)
	}
	for _, a := range answers {
		o := find(name(a.Exchange))
		o.answers = append(o.answers, a.body)
	}
	for _, s := range sendings {
		find(name(s.Exchange)).conns += s.conns
	}
	return all
}

// enter adds an effect, number i of the ledger, which older reports did not know.
func (o *operation) enter(i int, e Entry) {
	o.effects = append(o.effects, e)
	for n := range o.reports {
		if i < o.reports[n].entries {
			o.reports[n].effects++
		}
	}
}

// naming returns how exchanges are told apart. If one operation was reported,
// all belongs to it, but for what is read beside it.
func (r *Run) naming(known []operation, deliveries []Delivery) func(Exchange) string {
	var reported []operation
	for _, o := range known {
		if len(o.reports) > 0 {
			reported = append(reported, o)
		}
	}
	named := r.search.operationOf
	if len(reported) != 1 {
		return named
	}
	only := reported[0].name
	reads := !slices.ContainsFunc(deliveries, func(d Delivery) bool { return !safe(d.Method) })
	return func(x Exchange) string {
		if safe(x.Method) && !reads && named(x) != only {
			return x.Method + " " + x.Path
		}
		return only
	}
}

// safe follows RFC 9110, section 9.2.1.
func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// judge holds what the callers were told against what happened.
func (r *Run) judge() {
	reported := false
	all := r.operations()
	r.judgeStates(all)
	for _, o := range all {
		reported = reported || len(o.reports) > 0
		find := func(rule, format string, args ...any) { r.find(rule, o.name, format, args...) }
		o.judgeEffects(r.search.Effects, r.Ledger.HonourKeys, find)
		o.judgeSameness(find)
		o.judgePauses(find)
		for i, rep := range o.reports {
			o.judgeReport(rep, i == len(o.reports)-1, r, find)
		}
	}
	if !reported {
		r.find("report", "", "the body reported no operation")
	}
}

// bound reports whether the number of effects matters: that of a PUT or a DELETE
// does not, unless a key promises more.
func (o *operation) bound(honoured bool) bool {
	return slices.ContainsFunc(o.effects, func(e Entry) bool {
		return !idempotent(e.Method) || honoured && e.Key != ""
	})
}

func (o *operation) judgeEffects(most int, honoured bool, find func(string, string, ...any)) {
	for _, d := range o.deliveries {
		most += max(d.Runs-1, 0) // a Duplicate is nobody's fault
	}
	if n := len(o.effects); n > most && o.bound(honoured) {
		find("effects", "effects=%d, more than %d", n, most)
	}
}

// judgeSameness holds the deliveries of one operation against each other.
func (o *operation) judgeSameness(find func(string, string, ...any)) {
	var first *Delivery
	var sum [sha256.Size]byte
	moved := false
	for i := range o.deliveries {
		d := &o.deliveries[i]
		if first == nil {
			first = d
		}
		if d.Key != first.Key {
			find("sameness", "sent under the keys %q and %q", first.Key, d.Key)
		}
		if d.Method != first.Method || d.Path != first.Path && !moved {
			find("sameness", "sent as %s %s and as %s %s", first.Method, first.Path, d.Method, d.Path)
		}
		moved = moved || d.Fault.status/100 == 3
		none := [sha256.Size]byte{}
		if d.Sum == none || d.Fault.kind == cutRequest {
			continue
		}
		if sum != none && d.Sum != sum {
			find("sameness", "sent with another body, of %d bytes", d.Length)
		}
		sum = d.Sum
	}
}

// judgePauses looks whether a Retry-After was heeded.
func (o *operation) judgePauses(find func(string, string, ...any)) {
	var notBefore time.Time
	for _, d := range o.deliveries {
		if d.Time.Before(notBefore) {
			find("retry-after", "came %v before the time that Retry-After names", notBefore.Sub(d.Time))
		}
		for _, line := range d.Fault.lines() {
			value, found := strings.CutPrefix(line, "Retry-After: ")
			if seconds, err := strconv.Atoi(value); found && err == nil {
				notBefore = d.Time.Add(time.Duration(seconds) * time.Second)
			}
		}
	}
}

func (o *operation) judgeReport(rep report, last bool, r *Run, find func(string, string, ...any)) {
	effects := len(o.effects)
	switch {
	case rep.told == Unknown && o.conns == 0 && !r.search.Vague:
		find("precision", "told unknown, and nothing can have been sent")
	case rep.told == NotApplied && rep.effects > 0, rep.told == NotApplied && last && effects > 0:
		find("truth", "told not-applied, effects=%d", max(rep.effects, effects))
	case rep.told == OK && effects == 0 && !o.reads() && r.search.Handler != nil && len(r.Ledger.Entries()) == 0:
		find("truth", "told ok, effects=0: the handler never called Run.Ledger.Effect")
	case rep.told == OK && len(o.deliveries) == 0:
		find("truth", "told ok, and no request of that name has come; Exploration.Operation names them, by their path if nil")
	case rep.told == OK && effects == 0 && !o.reads():
		find("truth", "told ok, effects=0")
	case rep.told == OK && rep.body != nil && !o.answered(rep.body):
		find("answer", "told ok with %q, which the server did not say", rep.body)
	}
}

// reads reports whether nothing was asked for that has an effect.
func (o *operation) reads() bool {
	return len(o.deliveries) > 0 && !slices.ContainsFunc(o.deliveries, func(d Delivery) bool { return !safe(d.Method) })
}

func (o *operation) answered(body []byte) bool {
	return slices.ContainsFunc(o.answers, func(a []byte) bool { return bytes.Equal(a, body) })
}

// judgeStates looks whether a path is as the caller left it who was told last of
// it, and told OK: an older PUT that comes late undoes a newer one unless
// something forbids it, such as If-Match.
func (r *Run) judgeStates(all []operation) {
	last := make(map[string]operation) // by path
	for _, o := range all {
		if len(o.reports) == 0 || len(o.effects) == 0 {
			continue
		}
		path := o.effects[0].Path
		if other, found := last[path]; !found || other.toldAt() < o.toldAt() {
			last[path] = o
		}
	}
	for path, o := range last {
		e := o.effects[len(o.effects)-1]
		if o.reports[len(o.reports)-1].told != OK || !idempotent(e.Method) || e.Sum == [sha256.Size]byte{} {
			continue // or the ledger was not the handler
		}
		state, found := r.Ledger.State(path)
		if found != (e.Method == http.MethodPut) || found && sha256.Sum256(state) != e.Sum {
			r.find("state", o.name, "told ok, and the state of %s is %q", path, state)
		}
	}
}

// toldAt is the place of the last report among all of the run.
func (o *operation) toldAt() int { return o.reports[len(o.reports)-1].nth }
