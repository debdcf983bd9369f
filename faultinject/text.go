package faultinject

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

type kind uint8

const (
	pass    kind = iota
	invalid      // stands for what could not be read
	refuseDial
	nxDomain
	dnsTimeout
	blackhole
	slowDial
	hangUp
	badCert
	stallHandshake
	cutHandshake
	closeIdle
	cutRequest
	dropBefore
	respond
	goAway
	resetStream
	loseResponse
	goAwayAfter
	maskResponse
	malformedStatus
	oversizedHeader
	interim
	late
	delay
	stall
	cutBody
	stallBody
	corruptBody
	malformedChunk
	trickleBody
	bandwidth
	duplicate
)

// kinds says of each kind its name, the arguments of its text and its truth.
// An argument is one letter: h for How, n for a count, d for a duration, s for
// a status, i for an interim one, w for what is wrong with a certificate, c for
// an HTTP/2 code, t for any text; a final * stands for any number of headers.
var kinds = [...]struct {
	name, args string
	reach      Reach
}{
	pass:            {"pass", "", Applied},
	invalid:         {"invalid", "t", NeverSent},
	refuseDial:      {"refuse-dial", "", NeverSent},
	nxDomain:        {"nxdomain", "", NeverSent},
	dnsTimeout:      {"dns-timeout", "", NeverSent},
	blackhole:       {"blackhole", "", NeverSent},
	slowDial:        {"slow-dial", "d", Applied},
	hangUp:          {"hang-up", "h", NeverSent},
	badCert:         {"bad-cert", "w", NeverSent},
	stallHandshake:  {"stall-handshake", "", NeverSent},
	cutHandshake:    {"cut-handshake", "h", NeverSent},
	closeIdle:       {"close-idle", "h", NeverSent},
	cutRequest:      {"cut-request", "h", MaybePartly},
	dropBefore:      {"drop-before", "h", Delivered},
	respond:         {"respond", "s*", Delivered},
	goAway:          {"goaway", "c", Delivered},
	resetStream:     {"reset-stream", "c", Applied}, // Delivered where the code says so
	loseResponse:    {"lose-response", "h", Applied},
	goAwayAfter:     {"goaway-after", "c", Applied},
	maskResponse:    {"mask-response", "s", Applied},
	malformedStatus: {"malformed-status", "", Applied},
	oversizedHeader: {"oversized-header", "", Applied},
	interim:         {"interim", "i*", Applied},
	late:            {"late", "d", Applied},
	delay:           {"delay", "d", Applied},
	stall:           {"stall", "", Applied},
	cutBody:         {"cut-body", "nh", Applied},
	stallBody:       {"stall-body", "n", Applied},
	corruptBody:     {"corrupt-body", "n", Applied},
	malformedChunk:  {"malformed-chunk", "", Applied},
	trickleBody:     {"trickle-body", "nd", Applied},
	bandwidth:       {"bandwidth", "n", Applied},
	duplicate:       {"duplicate", "", Applied},
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
		case 's', 'i':
			args = append(args, strconv.Itoa(f.status))
		case 'w':
			args = append(args, CertFlaw(f.at).String())
		case 'c':
			args = append(args, Code(f.at).String())
		case 't':
			args = append(args, strconv.Quote(f.header))
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
		if near := nearest(name, faultNames()); near != "" {
			return Fault{}, fmt.Errorf("faultinject: unknown fault %q: did you mean %s?", s, near)
		}
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
	if len(args) < len(want) {
		return Fault{}, fmt.Errorf("faultinject: %q lacks an argument: %s", s, wanted(want[len(args)]))
	}
	if len(args) > len(want) && !many {
		return Fault{}, fmt.Errorf("faultinject: %q has too many arguments", s)
	}
	for i := range want {
		if !f.set(want[i], args[i]) {
			return Fault{}, fmt.Errorf("faultinject: argument %d of %q is not %s", i+1, s, wanted(want[i]))
		}
	}
	if lines := args[len(want):]; many {
		if f.header = joinHeader(lines); len(f.lines()) != len(lines) {
			return Fault{}, fmt.Errorf("faultinject: malformed header in %q", s)
		}
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
		return err == nil && f.at == count(f.at, f.least())
	case 'd':
		f.wait, err = time.ParseDuration(text)
		return err == nil && f.wait >= 0
	case 's':
		f.status, err = strconv.Atoi(text)
		return err == nil && f.status == final(f.status, -1)
	case 'i':
		f.status, err = strconv.Atoi(text)
		return err == nil && f.status == informational(f.status, -1)
	case 'w':
		for w := Untrusted; w <= WrongHost; w++ {
			if w.String() == text {
				f.at = int(w)
				return true
			}
		}
	case 'c':
		var c Code
		c, ok = parseCode(text)
		f.at = int(c)
		return ok
	case 't':
		f.header = text
		return true
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
