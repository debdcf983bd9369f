package faultinject

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

type kind uint8

const (
	pass kind = iota
	refuseDial
	nxDomain
	dnsTimeout
	blackhole
	closeIdle
	cutRequest
	dropBefore
	respond
	loseResponse
	maskResponse
	late
	delay
	stall
	cutBody
	stallBody
	corruptBody
	duplicate
)

// kinds says of each kind its name, the arguments of its text and its truth.
// An argument is one letter: h for How, n for a count, d for a duration, s for
// a status; a final * stands for any number of headers.
var kinds = [...]struct {
	name, args string
	reach      Reach
}{
	pass:         {"pass", "", Applied},
	refuseDial:   {"refuse-dial", "", NeverSent},
	nxDomain:     {"nxdomain", "", NeverSent},
	dnsTimeout:   {"dns-timeout", "", NeverSent},
	blackhole:    {"blackhole", "", NeverSent},
	closeIdle:    {"close-idle", "h", NeverSent},
	cutRequest:   {"cut-request", "", MaybePartly},
	dropBefore:   {"drop-before", "h", Delivered},
	respond:      {"respond", "s*", Delivered},
	loseResponse: {"lose-response", "h", Applied},
	maskResponse: {"mask-response", "s", Applied},
	late:         {"late", "d", Applied},
	delay:        {"delay", "d", Applied},
	stall:        {"stall", "", Applied},
	cutBody:      {"cut-body", "nh", Applied},
	stallBody:    {"stall-body", "n", Applied},
	corruptBody:  {"corrupt-body", "n", Applied},
	duplicate:    {"duplicate", "", Applied},
}

// String returns the fault as [ParseFault] reads it, such as "pass",
// "lose-response(rst)" or `respond(429,"Retry-After: 2")`.
func (f Fault) String() string {
	var args []string
	for _, a := range kinds[f.kind].args {
		switch a {
		case 'h':
			args = append(args, f.how.String())
		case 'n':
			args = append(args, strconv.Itoa(f.at))
		case 'd':
			args = append(args, f.wait.String())
		case 's':
			args = append(args, strconv.Itoa(f.status))
		case '*':
			for _, line := range f.lines() {
				args = append(args, strconv.Quote(line))
			}
		}
	}
	if args == nil {
		return f.Name()
	}
	return f.Name() + "(" + strings.Join(args, ",") + ")"
}

// ParseFault reads the text of a [Fault]: ParseFault(f.String()) is f.
func ParseFault(s string) (Fault, error) {
	name, rest, open := strings.Cut(s, "(")
	f, spec, found := named(name)
	if !found {
		return Fault{}, fmt.Errorf("faultinject: unknown fault %q", s)
	}
	var args []string
	if open {
		var ok bool
		if args, ok = splitArgs(rest); !ok {
			return Fault{}, fmt.Errorf("faultinject: malformed arguments in %q", s)
		}
	}
	want, many := strings.CutSuffix(spec, "*")
	if len(args) < len(want) || len(args) > len(want) && !many {
		return Fault{}, fmt.Errorf("faultinject: wrong number of arguments in %q", s)
	}
	for i := range want {
		if !f.set(want[i], args[i]) {
			return Fault{}, fmt.Errorf("faultinject: argument %d of %q cannot be read", i+1, s)
		}
	}
	lines := args[len(want):]
	f.header = joinHeader(lines)
	if len(f.lines()) != len(lines) {
		return Fault{}, fmt.Errorf("faultinject: malformed header in %q", s)
	}
	return f, nil
}

func named(name string) (Fault, string, bool) {
	for k, v := range kinds {
		if v.name == name {
			return Fault{kind: kind(k)}, v.args, true
		}
	}
	return Fault{}, "", false
}

// set reads one argument into its field.
func (f *Fault) set(arg byte, text string) (ok bool) {
	var err error
	switch arg {
	case 'h':
		f.how = FIN
		if text == RST.String() {
			f.how = RST
		}
		return text == f.how.String()
	case 'n':
		f.at, err = strconv.Atoi(text)
		return err == nil && f.at >= 0
	case 'd':
		f.wait, err = time.ParseDuration(text)
		return err == nil && f.wait >= 0
	case 's':
		f.status, err = strconv.Atoi(text)
		return err == nil && f.status == final(f.status, -1)
	}
	return false
}

// splitArgs reads `a,b,"c"` up to the closing parenthesis that ends the text.
func splitArgs(s string) ([]string, bool) {
	var args []string
	for {
		var arg string
		if quoted, err := strconv.QuotedPrefix(s); err == nil {
			s = s[len(quoted):]
			if arg, err = strconv.Unquote(quoted); err != nil {
				return nil, false
			}
		} else {
			end := strings.IndexAny(s, ",)")
			if end <= 0 {
				return nil, false
			}
			arg, s = s[:end], s[end:]
		}
		args = append(args, arg)
		switch {
		case s == ")":
			return args, true
		case !strings.HasPrefix(s, ","):
			return nil, false
		}
		s = s[1:]
	}
}
