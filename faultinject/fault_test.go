package faultinject

import (
	"testing"
	"time"
)

func TestEveryFaultPrintsAndParsesBack(t *testing.T) {
	faults := append(Catalogue(), Pass(), Respond(503, "retry-after:2", "X-Why: a, (b) \"c\""),
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
		`respond(503,"A: \n")`, "delay(1s,)",
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
	f.Fuzz(func(t *testing.T, s string) {
		fault, err := ParseFault(s)
		if err != nil {
			return
		}
		again, err := ParseFault(fault.String())
		if err != nil || again != fault {
			t.Fatalf("%q parsed as %q, and that as %q, %v", s, fault, again, err)
		}
	})
}

func TestTheCatalogueHoldsEveryKindAndTheEssentials(t *testing.T) {
	seen, names := map[Fault]bool{}, map[string]bool{"pass": true}
	for _, f := range Catalogue() {
		if seen[f] {
			t.Error("twice in the catalogue:", f)
		}
		seen[f], names[f.Name()] = true, true
	}
	if len(names) != len(kinds) {
		t.Errorf("%d of %d kinds are in the catalogue", len(names), len(kinds))
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

func TestConstructorsBringBadArgumentsIntoRange(t *testing.T) {
	for _, pair := range [][2]Fault{
		{Late(-1), Late(0)}, {CutBody(-5, RST), CutBody(0, RST)}, {Respond(7), Respond(503)},
		{MaskResponse(1000), MaskResponse(502)}, {Respond(503, "bad", "A b: c", "X: a\r\nY: b"), Respond(503)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%v, want %v", pair[0], pair[1])
		}
	}
}
