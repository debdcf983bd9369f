package faultinject

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestEveryFaultPrintsAndParsesBack(t *testing.T) {
	faults := append(Catalogue(), Pass(), unreadable(`a "b", (c)`), BadCert(Expired), StallHandshake(), CutHandshake(RST),
		GoAway(NoError), GoAwayAfter(99), ResetStream(RefusedStream), Interim(199, "Link: </a>"), TrickleBody(1, 0), Bandwidth(1<<40),
		Respond(429, "Retry-After: {now+2s}"), Respond(429, "Retry-After: {now-1h}"), Respond(429, "Retry-After: soon"),
		Respond(429, "Retry-After: 99999999999999999999"), Respond(429, "RateLimit-Reset: {unix+1500ms}"), Respond(503, "retry-after:2", "X-Why: a, (b) \"c\""),
		Late(90*time.Second), CutBody(4096, RST))
	for _, f := range faults {
		got, err := ParseFault(f.String())
		if err != nil || got != f {
			t.Errorf("ParseFault(%q) = %v, %v", f.String(), got, err)
		}
	}
	if got := Respond(429, "retry-after:2").String(); got != `respond(429,"Retry-After: 2")` {
		t.Error("text of a fault changed:", got)
	}
	if got := LoseResponse(RST).String(); got != "lose-response(rst)" {
		t.Error("text of a fault changed:", got)
	}
	if (Fault{}) != Pass() || Pass().String() != "pass" {
		t.Error("the zero Fault is not Pass")
	}
}

func TestMalformedFaultsAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "nope", "pass()", "pass(1)", "late", "late(", "late()", "late(-1s)", "late(1s", "late(1s))",
		"cut-body(1)", "cut-body(-1,fin)", "cut-body(1,fin,rst)", "lose-response(FIN)",
		"respond(99)", "respond(700)", `respond(503,"no colon")`, `respond(503,"A: b)`, `respond(503,"A: b"x)`,
		`respond(503,"A: \n")`, "delay(1s,)", "slow-dial", "slow-dial(-1s)", "hang-up", "hang-up(x)", "cut-request",
		"trickle-body(0,1s)", "trickle-body(1)", "trickle-body(1,-1s)", "bandwidth(0)", "bandwidth(1.5)", "malformed-status(1)",
		"interim(200)", "interim(101)", `interim(103,"x")`, "goaway(NOPE)", "bad-cert(stale)", "invalid", "cut-body(9223372036854775807,fin)",
	} {
		if f, err := ParseFault(s); err == nil {
			t.Errorf("ParseFault(%q) = %v, want an error", s, f)
		}
	}
}

func FuzzParseFault(f *testing.F) {
	for _, fault := range Catalogue() {
		f.Add(fault.String())
	}
	f.Add(`respond(503,"A: \xff","B: \"")`)
	for _, s := range []string{
		`interim(103,"Link: </a>; rel=preload")`, `respond(429,"Retry-After: {now+2s}","X: {unix-1m}")`, "goaway(ENHANCE_YOUR_CALM)",
		"reset-stream(4294967295)", "bad-cert(wrong-host)", `invalid("why")`, "trickle-body(3,1.5s)", "cut-handshake(rst)",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fault, err := ParseFault(s)
		if err != nil {
			return
		}
		again, err := ParseFault(fault.String())
		if err != nil || again != fault {
			t.Fatalf("%q parsed as %q, and that as %q, %v", s, fault, again, err)
		}
		fault.httpHeader(time.Unix(0, 0)) // whatever the braces say
		if fault.kind == trickleBody || fault.kind == bandwidth {
			if fault.piece(0) < 1 || fault.pause(0, fault.piece(0)) < 0 {
				t.Fatalf("%v lets through %d bytes after %v", fault, fault.piece(0), fault.pause(0, fault.piece(0)))
			}
		}
	})
}

func TestTheCatalogueHoldsEveryKindAndTheEssentials(t *testing.T) {
	seen, names := map[Fault]bool{}, map[string]bool{"pass": true, "invalid": true}
	last := pass
	for _, f := range Catalogue() {
		if seen[f] {
			t.Error("twice in the catalogue:", f)
		}
		if f.kind < last {
			t.Error("out of its order:", f)
		}
		seen[f], names[f.Name()], last = true, true, f.kind
	}
	// What needs a handshake to strike, and what needs frames.
	for _, name := range []string{"bad-cert", "stall-handshake", "cut-handshake", "goaway", "reset-stream", "goaway-after"} {
		if names[name] {
			t.Error("plain HTTP/1.1 has no such face:", name)
		}
		names[name] = true
	}
	for _, k := range kinds {
		if !names[k.name] {
			t.Error("in no list:", k.name)
		}
	}
	if len(names) != len(kinds) {
		t.Error("a name without a kind:", names)
	}
	if n := len(Essential()); n != 10 {
		t.Error("Essential has", n)
	}
	for _, f := range Essential() {
		if !seen[f] {
			t.Error("essential, but not in the catalogue:", f)
		}
	}
}

func TestBracesInAHeaderBecomeTimes(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 500e6, time.FixedZone("", 3600))
	for value, want := range map[string]string{
		"{now+2s}":              "Fri, 31 Dec 1999 23:00:02 GMT",
		"{now}":                 "Fri, 31 Dec 1999 23:00:00 GMT",
		"{now-1h30m}":           "Fri, 31 Dec 1999 21:30:00 GMT",
		"{unix+2s}":             "946681202",
		"{unix+500ms}":          "946681201",
		"{unix-1m}":             "946681140",
		"a={unix};b={unix+1s}x": "a=946681200;b=946681201x",
		"{{unix}}":              "{946681200}",
		"{unix{unix}":           "{unix946681200",
		"{2s} {now+} {now2s} {now+2} {} {unix+x} { now}": "{2s} {now+} {now2s} {now+2} {} {unix+x} { now}",
		"}{": "}{", "{now": "{now", "99999999999999999999": "99999999999999999999", "": "",
	} {
		if got := expand(value, now); got != want {
			t.Errorf("%q became %q, want %q", value, got, want)
		}
	}
}

func TestConstructorsBringBadArgumentsIntoRange(t *testing.T) {
	for _, pair := range [][2]Fault{
		{TrickleBody(-1, -1), TrickleBody(1, 0)}, {Bandwidth(0), Bandwidth(1)}, {Interim(101), Interim(103)}, {Interim(200), Interim(103)},
		{SlowDial(-1), SlowDial(0)}, {CutBody(math.MaxInt, FIN), CutBody(math.MaxInt-1, FIN)},
		{Late(-1), Late(0)}, {CutBody(-5, RST), CutBody(0, RST)}, {Respond(7), Respond(503)},
		{MaskResponse(1000), MaskResponse(502)}, {Respond(503, "bad", "A b: c", "X: a\r\nY: b"), Respond(503)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%v, want %v", pair[0], pair[1])
		}
	}
}

func TestWhatParseFaultCannotReadItNames(t *testing.T) {
	for text, want := range map[string]string{
		"drop_before":              "did you mean drop-before?",
		"lose-response":            "lacks an argument: fin or rst",
		"delay(5)":                 "is not a time such as 1s",
		"respond(99)":              "is not a status from 200 to 599",
		"stall(1)":                 "has too many arguments",
		"nothing-of-the-kind(1,2)": `unknown fault "nothing-of-the-kind(1,2)"`,
	} {
		if _, err := ParseFault(text); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want … %s", text, err, want)
		}
	}
}
