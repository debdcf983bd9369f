package faultinject

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

type eventKind uint8

const (
	sentRequest     eventKind = iota // the client calls RoundTrip
	struck                           // a choice was met
	handledRequest                   // the handler has answered
	answeredRequest                  // RoundTrip has returned
	brokenBody                       // reading an answer has failed
)

// An event is what one side saw.
type event struct {
	kind     eventKind
	at       time.Duration
	exchange Exchange
	fault    Fault
	sending  *sending
	text     string
}

// history is the events of a run, in their order.
type history struct {
	events []event
	lines  []crossing
	under  []*sending // without an answer yet
}

// A crossing tells of one exchange from both sides.
type crossing struct {
	at       time.Duration
	exchange Exchange
	sending  *sending
	words    []string
}

func (r *Run) noteLocked(e event) {
	if r.traced {
		e.at = time.Since(r.start)
		r.history.events = append(r.history.events, e)
	}
}

// timeline returns the history as text, one line for each exchange: of one
// operation, or of all if op is empty.
func (r *Run) timeline(op string) []string {
	r.mu.Lock()
	h := history{events: r.history.events}
	r.mu.Unlock()
	for _, e := range h.events {
		h.add(e)
	}
	var text []string
	operations := r.operations()
	name := r.naming(operations, r.Deliveries())
	for _, l := range h.lines {
		if l.sending != nil {
			l.exchange = l.sending.Exchange
		}
		if op != "" && name(l.exchange) != op {
			continue
		}
		text = append(text, fmt.Sprintf("   +%-8v %s", l.at.Round(time.Microsecond), strings.Join(l.words, "  ")))
	}
	for _, o := range operations {
		for _, rep := range o.reports {
			if op != "" && o.name != op {
				continue
			}
			text = append(text, fmt.Sprintf("   caller of %s told %v, effects=%d", o.name, rep.told, len(o.effects)))
		}
	}
	return text
}

func (h *history) add(e event) {
	switch e.kind {
	case sentRequest:
		h.under = append(h.under, e.sending)
	case struck:
		h.strike(e)
	case handledRequest:
		h.handle(e)
	case answeredRequest:
		h.under = slices.DeleteFunc(h.under, func(s *sending) bool { return s == e.sending })
		h.tell(e, "client: "+e.text)
	case brokenBody:
		h.tell(e, e.text)
	}
}

// strike begins a line. What passes before a request arrives is left out.
func (h *history) strike(e event) {
	x := e.exchange
	if !arrives(x) && e.fault == Pass() {
		return
	}
	s := h.sender(x)
	what := x.Op
	if arrives(x) {
		what = fmt.Sprintf("%s#%d", x.Op, x.Nth)
		if request := x.Method + " " + x.Path; x.Op != request {
			what += " " + request
		}
		if s != nil && s.key != "" {
			what += " key=" + s.key
		}
	}
	l := crossing{at: e.at, exchange: x, sending: s, words: []string{what}}
	if s != nil && slices.ContainsFunc(h.lines, func(l crossing) bool { return l.sending == s && l.exchange.Method != MethodDial }) {
		l.words = append(l.words, "(sent again by net/http)")
	}
	l.words = append(l.words, e.fault.String())
	h.lines = append(h.lines, l)
}

func arrives(x Exchange) bool { return x.isRequest() && x.Method != methodIdle }

// sender finds the RoundTrip that an exchange belongs to: the latest that is
// under way for its operation.
func (h *history) sender(x Exchange) *sending {
	for _, s := range slices.Backward(h.under) {
		if x.Op == s.Op || x.Op == "idle "+s.Op || x.Op == "dial "+s.Op {
			return s
		}
	}
	return nil
}

func (h *history) handle(e event) {
	for i, l := range slices.Backward(h.lines) {
		if arrives(l.exchange) && l.exchange.Op == e.exchange.Op && l.at == e.at {
			h.lines[i].words = append(h.lines[i].words, e.text)
			return
		}
	}
	h.lines = append(h.lines, crossing{at: e.at, exchange: e.exchange, words: []string{e.exchange.Op, "late: " + e.text}})
}

// tell adds what the client saw to the last line of its request.
func (h *history) tell(e event, text string) {
	for i, l := range slices.Backward(h.lines) {
		if l.sending == e.sending {
			h.lines[i].words = append(h.lines[i].words, text)
			return
		}
	}
	h.lines = append(h.lines, crossing{at: e.at, sending: e.sending, words: []string{e.sending.Op, text}})
}
