package faultinject

import (
	"fmt"
	"strconv"
	"strings"
)

func (s script) String() string {
	var words []string
	for _, r := range s.runs {
		word := r.fault.String()
		if r.n > 1 {
			word = strconv.Itoa(r.n) + "*" + word
		}
		words = append(words, word)
	}
	if words == nil {
		return Pass().String()
	}
	text := strings.Join(words, " ")
	if s.forever {
		text += "..."
	}
	return text
}

func (p first) String() string {
	rules := make([]string, len(p))
	for i, plan := range p {
		rules[i] = planText(plan)
		if isFirst(plan) {
			rules[i] = bodyText(plan)
		}
	}
	return strings.Join(rules, "; ")
}

func (m match) String() string {
	text := m.text
	if !isBare(text) {
		text = strconv.Quote(text)
	}
	return text + ": " + bodyText(m.plan)
}

func (w interval) String() string { return written("window", nil, w.from, w.to, bodyText(w.plan)) }
func (e every) String() string    { return written("every", []Fault{e.fault}, e.n) }
func (p random) String() string   { return written("random", p.faults, p.seed, p.rate) }
func (p swarm) String() string    { return written("swarm", p.faults, p.seed) }
func (j jitter) String() string   { return written("jitter", nil, j.seed, j.from, j.to) }
func (p ramp) String() string {
	return written("ramp", p.faults, p.seed, p.from, p.to, p.rate, p.rate1)
}

func written(name string, faults []Fault, args ...any) string {
	for _, f := range faults {
		args = append(args, f)
	}
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = fmt.Sprint(arg)
	}
	return name + "(" + strings.Join(words, ",") + ")"
}

// planText is the text of a plan that may be nil, or of another package.
func planText(p Plan) string {
	switch p := p.(type) {
	case nil:
		return Pass().String()
	case fmt.Stringer:
		return p.String()
	}
	return "custom"
}

// bodyText is the text of a plan where rules need braces.
func bodyText(p Plan) string {
	if _, rule := p.(match); rule || isFirst(p) {
		return "{" + planText(p) + "}"
	}
	return planText(p)
}

func isFirst(p Plan) bool {
	_, ok := p.(first)
	return ok
}
