package faultinject

import (
	"slices"
	"strings"
)

// fault reads a fault as [ParseFault] does, with less rigour about blanks and
// quotes, and a bare status.
func (p *planParser) fault() Fault {
	p.skip()
	start := p.pos
	name := strings.TrimSuffix(p.word(), "...")
	p.backTo(start + len(name))
	var args []planArg
	if status := name != "" && strings.Trim(name, "0123456789") == ""; status {
		args = append(args, planArg{name, start})
		name = Respond(503).Name()
	}
	f, spec, known := named(name)
	if !known {
		p.unknown(name, start)
		return f
	}
	if strings.HasPrefix(p.rest(), "(") {
		args = append(args, p.args()...)
	}
	return p.assemble(f, spec, args)
}

// planArg is an argument and where it stands.
type planArg struct {
	text string
	pos  int
}

func (p *planParser) args() (args []planArg) {
	p.pos += len("(")
	for more := true; more; more = p.eat(",") {
		p.skip()
		arg := planArg{pos: p.pos}
		if p.at(`"`) && p.pos < len(p.text) {
			arg.text = p.quoted()
		} else {
			raw := upTo(p.rest(), ",)\n")
			p.pos += len(raw)
			arg.text = strings.TrimRight(raw, " \t\r")
			if arg.text == "" {
				p.fail("expected an argument, found %s", p.found())
			}
		}
		args = append(args, arg)
	}
	p.skip()
	if !strings.HasPrefix(p.rest(), ")") {
		p.fail("expected a comma or a ) after the argument, found %s", p.found())
		return nil
	}
	p.pos += len(")")
	return args
}

// assemble puts the arguments into the fault.
func (p *planParser) assemble(f Fault, spec string, args []planArg) Fault {
	want, many := strings.CutSuffix(spec, "*")
	if len(args) < len(want) {
		p.fail("%s needs %s here", f.Name(), wanted(want[len(args)]))
		return f
	}
	var lines []string
	for i, arg := range args {
		switch {
		case i < len(want):
			if !f.set(want[i], arg.text) {
				p.failAt(arg.pos, "expected %s, found %q", wanted(want[i]), arg.text)
			}
		case !many:
			p.failAt(arg.pos, "%s takes no further argument", f.Name())
		case joinHeader([]string{arg.text}) == "":
			p.failAt(arg.pos, "expected a header such as Retry-After: 2, found %q", arg.text)
		default:
			lines = append(lines, arg.text)
		}
	}
	if lines != nil {
		f.header = joinHeader(lines)
	}
	return f
}

// wanted says in words what an argument's letter in kinds means.
func wanted(letter byte) string {
	switch letter {
	case 'h':
		return "fin or rst"
	case 'n':
		return "a number"
	case 'd':
		return "a time such as 1s"
	case 's':
		return "a status from 200 to 599"
	case 'i':
		return "an interim status from 102 to 199"
	case 'w':
		return "untrusted, expired or wrong-host"
	case 'c':
		return "an HTTP/2 code such as REFUSED_STREAM"
	case 't':
		return "a text"
	}
	return "another argument"
}

// unknown complains about a name, and says which is the nearest.
func (p *planParser) unknown(name string, pos int) {
	switch {
	case name == "":
		p.failAt(pos, "expected a fault, found %s", p.found())
		return
	case slices.Contains(functions, name):
		p.failAt(pos, "%s(...) stands alone in its rule: part rules by a ;", name)
		return
	}
	if near := nearest(name, slices.Concat(functions, faultNames())); near != "" {
		p.failAt(pos, "unknown fault %q: did you mean %s?", name, near)
		return
	}
	hint := ""
	if strings.Contains(upTo(p.rest(), "\n;("), "/") {
		hint = ": a pattern is followed by a colon and a blank"
	}
	p.failAt(pos, "unknown fault %.40q%s", name, hint)
}

func faultNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// nearest returns the name that was probably meant, or nothing.
func nearest(name string, names []string) (near string) {
	best := 1 + len(name)/3
	for _, candidate := range names {
		if d := distance(name, candidate); d <= best && d < len(candidate) {
			near, best = candidate, d-1
		}
	}
	return near
}

// distance is how many letters must be put in, taken out or replaced.
func distance(a, b string) int {
	if len(a) > 64 { // no name is so long, and the work grows with both
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := corner
			if a[i] != b[j] {
				replaced++
			}
			corner = row[j+1]
			row[j+1] = min(replaced, row[j]+1, corner+1)
		}
	}
	return row[len(b)]
}
