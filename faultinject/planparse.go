package faultinject

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A PlanError says where the text of a plan cannot be read, and why.
type PlanError struct {
	// Line and Column count from 1; Column counts characters.
	Line, Column int
	// Reason is what was found or expected there.
	Reason string
}

// Error returns it all in one line.
func (e *PlanError) Error() string {
	return fmt.Sprintf("faultinject: plan, line %d, column %d: %s", e.Line, e.Column, e.Reason)
}

// ParsePlan reads a [Plan] from text:
//
//	# the second charge is applied and its answer lost
//	POST /charge: pass lose-response(rst) 2*503(Retry-After: 2)
//	shop.test:8080/: random(1, 5%, stall, cut-body(1,rst)); /: window(40s, 60s, 503...)
//
// Rules are parted by semicolons or line ends, # begins a comment. A rule is a
// pattern as for [Match], a colon, a blank, and what strikes there; without a
// pattern it is for everything. Of several rules the [First] that does not pass
// decides.
//
// What strikes is a [Script] of faults parted by blanks; or one of the functions
// every(n, fault), window(from, to, what), random(seed, rate, faults),
// ramp(seed, from, to, rate, rate, faults), swarm(seed, faults) and jitter(seed,
// from, to), which are [Every], [Window] and so on; or rules in braces. A fault
// is written as it prints. A status alone means [Respond]; an argument without
// quotes ends before the next comma or parenthesis; 3*stall means three times,
// and three dots at the end of a script [Forever]. A rate is 0.05 or 5%.
//
// The error is a [*PlanError]. Text without any rule is a plan that lets all
// pass.
func ParsePlan(text string) (Plan, error) {
	p := &planParser{text: text}
	plan := p.rules()
	if p.err == nil && p.pos < len(text) {
		p.fail("a } without its {")
	}
	if p.err != nil {
		return nil, p.err
	}
	return plan, nil
}

// planParser reads from left to right. After the first error, which it keeps,
// it stands at the end of the text, so that everything comes to its own end.
type planParser struct {
	text   string
	pos    int
	parens int // those open: in them a line end is a blank
	depth  int // groups and functions open
	err    *PlanError
}

const maxDepth = 100 // of groups and functions: a stack has its end

func (p *planParser) fail(format string, args ...any) { p.failAt(p.pos, format, args...) }

func (p *planParser) failAt(pos int, format string, args ...any) {
	if p.err == nil {
		before := p.text[:pos]
		line := before[strings.LastIndexByte(before, '\n')+1:]
		p.err = &PlanError{
			Line:   1 + strings.Count(before, "\n"),
			Column: 1 + utf8.RuneCountInString(line),
			Reason: fmt.Sprintf(format, args...),
		}
	}
	p.pos = len(p.text)
}

func (p *planParser) rest() string { return p.text[p.pos:] }

// at reports whether the text goes on with one of the characters, or ends.
func (p *planParser) at(chars string) bool {
	return p.pos == len(p.text) || strings.IndexByte(chars, p.text[p.pos]) >= 0
}

// skip goes over blanks and comments.
func (p *planParser) skip() {
	blank := " \t\r"
	if p.parens > 0 {
		blank += "\n"
	}
	for {
		p.pos = len(p.text) - len(strings.TrimLeft(p.rest(), blank))
		if !strings.HasPrefix(p.rest(), "#") {
			return
		}
		p.pos += len(upTo(p.rest(), "\n"))
	}
}

// eat goes over a mark and what is blank around it.
func (p *planParser) eat(mark string) bool {
	p.skip()
	if !strings.HasPrefix(p.rest(), mark) {
		return false
	}
	p.pos += len(mark)
	p.skip()
	return true
}

func (p *planParser) expect(mark, instead string) {
	if !p.eat(mark) {
		p.fail("expected %s, found %s", instead, p.found())
	}
}

// found is what stands here, for an error.
func (p *planParser) found() string {
	switch {
	case p.pos == len(p.text):
		return "the end"
	case p.at("\n"):
		return "the end of the line"
	}
	if word := p.peek(); word != "" {
		return fmt.Sprintf("%.40q", word)
	}
	r, _ := utf8.DecodeRuneInString(p.rest())
	return strconv.Quote(string(r))
}

// peek is the next word: what goes up to a mark or a blank.
func (p *planParser) peek() string { return upTo(p.rest(), " \t\r\n;,(){}#*\"") }

func (p *planParser) word() string {
	word := p.peek()
	p.pos += len(word)
	return word
}

func upTo(text, chars string) string {
	if i := strings.IndexAny(text, chars); i >= 0 {
		return text[:i]
	}
	return text
}

// within reads what is inside of braces or parentheses.
func (p *planParser) within(parens int, read func()) {
	if p.depth++; p.depth > maxDepth {
		p.fail("more than %d brackets open", maxDepth)
	}
	before := p.parens
	p.parens = parens
	read()
	p.parens = before
	p.depth--
}

// rules reads up to the end or to a closing brace.
func (p *planParser) rules() Plan {
	var plans first
	for {
		for p.eat(";") || p.eat("\n") {
		}
		if p.at("}") {
			break
		}
		plans = append(plans, p.rule())
		if p.skip(); !p.at(";\n}") {
			p.fail("expected the end of the rule, a ; or a new line, found %s", p.found())
		}
	}
	if len(plans) == 1 {
		return plans[0]
	}
	return plans
}

func (p *planParser) rule() Plan {
	start := p.pos
	text, ok := p.patternText()
	if !ok {
		return p.body()
	}
	pattern, err := newPattern(text)
	if err != nil {
		p.failAt(start, "pattern %q: %v", text, err)
	}
	p.skip()
	return match{pattern, p.body()}
}

// patternText goes over a pattern and its colon, if there is one.
func (p *planParser) patternText() (string, bool) {
	if !p.at(`"`) {
		text, ok := barePattern(p.rest())
		if ok {
			p.pos += len(text) + len(":")
		}
		return strings.TrimRight(text, " \t"), ok
	}
	text := p.quoted()
	p.expect(":", "a colon after the pattern")
	return text, true
}

// barePattern is what stands before a colon and a blank, if that comes before
// anything that no pattern has. Braces are a pattern's own when they pair.
func barePattern(s string) (string, bool) {
	open := 0
	for i := range len(s) {
		switch s[i] {
		case ';', '\n', '\r', '#', '(', ')', ',', '"':
			return "", false
		case '{':
			open++
		case '}':
			open--
		case ':':
			if i+1 == len(s) || strings.IndexByte(" \t\r\n", s[i+1]) >= 0 {
				return s[:i], true
			}
		}
		if open < 0 || open > 0 && i == 0 {
			return "", false
		}
	}
	return "", false
}

// isBare reports whether a pattern needs no quotes.
func isBare(text string) bool {
	bare, ok := barePattern(text + ": ")
	return ok && bare == text && strings.TrimSpace(text) == text
}

// quoted reads a string as Go writes it.
func (p *planParser) quoted() string {
	literal, err := strconv.QuotedPrefix(p.rest())
	if err != nil {
		p.fail("this quote has no end, or no meaning, on its line")
		return ""
	}
	text, _ := strconv.Unquote(literal)
	p.pos += len(literal)
	return text
}

// body reads what strikes where a pattern matched.
func (p *planParser) body() (plan Plan) {
	if p.eat("{") {
		p.within(0, func() { plan = p.rules() })
		p.expect("}", "a } that ends the group")
		return plan
	}
	start := p.pos
	name := p.word()
	if slices.Contains(functions, name) && p.eat("(") {
		p.within(1, func() { plan = p.function(name, start) })
		p.expect(")", "a ) that ends "+name)
		return plan
	}
	p.backTo(start)
	return p.script()
}

// backTo is for another look at what was read, unless that was an error.
func (p *planParser) backTo(pos int) {
	if p.err == nil {
		p.pos = pos
	}
}

const endOfScript = ";\n,)}"

func (p *planParser) script() Plan {
	s := script{}
	for p.skip(); !p.at(endOfScript) && !s.forever; p.skip() {
		if len(s.runs) > 0 && p.eat("...") {
			s.forever = true
			continue
		}
		n := p.times()
		s.add(n, p.fault())
	}
	if len(s.runs) == 0 {
		p.fail("expected a fault, found %s", p.found())
	}
	return s
}

// times reads the 3 of 3*stall.
func (p *planParser) times() int {
	start := p.pos
	digits := p.word()
	if !strings.HasPrefix(p.rest(), "*") {
		p.backTo(start)
		return 1
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > 1_000_000 {
		p.failAt(start, "expected a count of 1 to 1000000 before the *, found %q", digits)
	}
	p.eat("*")
	return n
}

var functions = []string{"every", "window", "random", "ramp", "swarm", "jitter"}

// function reads the arguments of one of the functions.
func (p *planParser) function(name string, start int) (plan Plan) {
	flaw := ""
	switch name {
	case "every":
		n := argument(p, "a count of at least 1", positive)
		p.comma()
		plan = Every(n, p.fault())
	case "window":
		from, to := p.span()
		p.comma()
		flaw, plan = windowFlaw(from, to), Window(from, to, p.body())
	case "random":
		seed, rate := p.seed(), p.rate()
		plan = Random(seed, rate, p.faults()...)
	case "ramp":
		seed := p.seed()
		p.comma()
		from, to := p.span()
		rate0, rate1 := p.rate(), p.rate()
		flaw, plan = spanFlaw(from, to), Ramp(seed, from, to, rate0, rate1, p.faults()...)
	case "swarm":
		seed := p.seed()
		plan = Swarm(seed, p.faults()...)
	case "jitter":
		seed := p.seed()
		p.comma()
		from, to := p.span()
		flaw, plan = spanFlaw(from, to), Jitter(seed, from, to)
	}
	if flaw != "" {
		p.failAt(start, "%s: %s", name, flaw)
	}
	return plan
}

func (p *planParser) comma() { p.expect(",", "a comma") }

func (p *planParser) seed() uint64 {
	return argument(p, "a seed, which is a whole number", func(s string) (uint64, error) {
		return strconv.ParseUint(s, 10, 64)
	})
}

func (p *planParser) span() (from, to time.Duration) {
	from = argument(p, "a time such as 40s", time.ParseDuration)
	p.comma()
	return from, argument(p, "a time such as 40s", time.ParseDuration)
}

func (p *planParser) rate() float64 {
	p.comma()
	return argument(p, "a rate from 0 to 1, or from 0% to 100%", parseRate)
}

func argument[T any](p *planParser, what string, read func(string) (T, error)) T {
	p.skip()
	value, err := read(p.peek())
	if err != nil {
		p.fail("expected %s, found %s", what, p.found())
	}
	p.word()
	return value
}

func positive(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err == nil && n < 1 {
		err = strconv.ErrRange
	}
	return n, err
}

func parseRate(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	rate, err := strconv.ParseFloat(number, 64)
	if percent {
		rate /= 100
	}
	if err == nil && rateFlaw(rate) != "" {
		err = strconv.ErrRange
	}
	return rate, err
}

// faults reads the faults that end the arguments of a function.
func (p *planParser) faults() (faults []Fault) {
	for p.eat(",") {
		faults = append(faults, p.fault())
	}
	return faults
}
