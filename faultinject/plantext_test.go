package faultinject

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAPlanInWordsIsThePlanInGo(t *testing.T) {
	for text, want := range map[string]Plan{
		"":                                           First(),
		" # nothing\n\n;":                            First(),
		"lose-response(rst) 503(Retry-After: 2)":     Script(LoseResponse(RST), Respond(503, "Retry-After: 2")),
		`503("X-Why: a, (b)", X-B: c )`:              Script(Respond(503, "X-Why: a, (b)", "X-B: c")),
		"3*respond(503) stall":                       Script(Respond(503), Respond(503), Respond(503), Stall()),
		"pass 503...":                                Forever(Pass(), Respond(503)),
		"2*stall ...":                                Forever(Stall(), Stall()),
		"POST /charge/{id}: 503":                     Match("POST /charge/{id}", Script(Respond(503))),
		"shop.test:8080/: 503":                       Match("shop.test:8080/", Script(Respond(503))),
		`"GET /a(b)": 503`:                           Match("GET /a(b)", Script(Respond(503))),
		"A /: 503; B /: 429\nstall":                  First(Match("A /", Script(Respond(503))), Match("B /", Script(Respond(429))), Script(Stall())),
		"/x/{$}: cut-body( 1 , rst )":                Match("/x/{$}", Script(CutBody(1, RST))),
		"every(3, 503)":                              Every(3, Respond(503)),
		"window(40s,0s, 503...)":                     Window(40*time.Second, 0, Forever(Respond(503))),
		"random(1, 5%, stall, cut-body(1,rst))":      Random(1, 0.05, Stall(), CutBody(1, RST)),
		"random(18446744073709551615,0.25)":          Random(1<<64-1, 0.25),
		"ramp(7, 1s, 1m, 0%, 100%, duplicate)":       Ramp(7, time.Second, time.Minute, 0, 1, Duplicate()),
		"swarm(3)":                                   Swarm(3),
		"swarm(3, # few\n stall,\n 503)":             Swarm(3, Stall(), Respond(503)),
		"jitter(9,0s,1s)":                            Jitter(9, 0, time.Second),
		"/a: {/a/b: 503; stall}":                     Match("/a", First(Match("/a/b", Script(Respond(503))), Script(Stall()))),
		"window(1s, 2s, { /a: 503\n /b: 429 }); 500": First(Window(time.Second, 2*time.Second, First(Match("/a", Script(Respond(503))), Match("/b", Script(Respond(429))))), Script(Respond(500))),
		`invalid("why")`:                             Script(unreadable("why")),
	} {
		got, err := ParsePlan(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
			continue
		}
		again, err := ParsePlan(fmt.Sprint(got))
		if err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%q printed as %q: %v", text, got, err)
		}
	}
}

func TestEveryFaultOfTheCatalogueStandsInAPlanAsItPrints(t *testing.T) {
	for _, f := range append(Catalogue(), Pass()) {
		plan, err := ParsePlan("/: " + f.String())
		if err != nil || plan.Decide(Exchange{Nth: 1, Method: "GET"}) != f {
			t.Errorf("%v: %v, %v", f, plan, err)
		}
	}
}

func TestAPlanThatCannotBeReadSaysWhereAndWhy(t *testing.T) {
	for _, c := range []struct {
		text         string
		line, column int
		reason       string
	}{
		{"POST /charge: lose-responsse(rst)", 1, 15, `unknown fault "lose-responsse": did you mean lose-response?`},
		{"rndom(1,5%)", 1, 1, "did you mean random?"},
		{"/ü: x", 1, 5, "unknown fault"},
		{"503\n\n GET /: pass passs", 3, 14, "did you mean pass?"},
		{"POST /charge:503", 1, 1, "a pattern is followed by a colon and a blank"},
		{"POST charge: 503", 1, 1, "missing /"},
		{"/{a}/{a}: 503", 1, 1, "duplicate wildcard"},
		{": 503", 1, 1, "invalid pattern"},
		{"/a:", 1, 4, "expected a fault, found the end"},
		{"/a: \n503", 1, 5, "the end of the line"},
		{`"/a" 503`, 1, 6, "expected a colon after the pattern"},
		{`"/a: 503`, 1, 1, "quote has no end"},
		{"lose-response", 1, 14, "lose-response needs fin or rst here"},
		{"lose-response(FIN)", 1, 15, `expected fin or rst, found "FIN"`},
		{"stall(1)", 1, 7, "stall takes no further argument"},
		{"pass()", 1, 6, "expected an argument"},
		{"cut-body(1,rst", 1, 15, "expected a comma or a )"},
		{"cut-body(1,,rst)", 1, 12, "expected an argument"},
		{"600", 1, 1, "expected a status from 200 to 599"},
		{"503(Retry-After)", 1, 5, "expected a header such as Retry-After: 2"},
		{"0*stall", 1, 1, "expected a count"},
		{"x*stall", 1, 1, "expected a count"},
		{"9999999*stall", 1, 1, "expected a count"},
		{"...", 1, 1, "expected a fault"},
		{"503... 429", 1, 8, "expected the end of the rule"},
		{"503 random(1,5%)", 1, 5, "random(...) stands alone"},
		{"random(1,5%) 503", 1, 14, "expected the end of the rule"},
		{"random", 1, 1, "random(...) stands alone"},
		{"random(x,5%)", 1, 8, `expected a seed, which is a whole number, found "x"`},
		{"random(1,101%)", 1, 10, "expected a rate from 0 to 1"},
		{"random(1,NaN)", 1, 10, "expected a rate"},
		{"random(1)", 1, 9, "expected a comma"},
		{"random(1,5%", 1, 12, "a ) that ends random"},
		{"every(0,503)", 1, 7, "a count of at least 1"},
		{"window(2s,1s,503)", 1, 1, "nothing is between 2s and 1s"},
		{"window(2,3,503)", 1, 8, `a time such as 40s, found "2"`},
		{"window(2s,3s,)", 1, 14, "expected a fault"},
		{"ramp(1,2s,2s,0,1,503)", 1, 1, "nothing is between"},
		{"jitter(1,2s,1s)", 1, 1, "nothing is between"},
		{"{503", 1, 5, "a } that ends the group"},
		{"503}", 1, 4, "a } without its {"},
		{strings.Repeat("{", 200), 1, 102, "more than 100 brackets open"},
	} {
		plan, err := ParsePlan(c.text)
		var at *PlanError
		if !errors.As(err, &at) || plan != nil {
			t.Errorf("%q: %v, %v", c.text, plan, err)
			continue
		}
		if at.Line != c.line || at.Column != c.column || !strings.Contains(at.Reason, c.reason) {
			t.Errorf("%q: %v; want line %d, column %d, %s", c.text, err, c.line, c.column, c.reason)
		}
	}
}

func TestPlansMadeInGoPrintToo(t *testing.T) {
	own := PlanFunc(func(Exchange) Fault { return Pass() })
	for want, plan := range map[string]Plan{
		"pass":                 Script(),
		"window(1s,0s,custom)": Window(time.Second, 0, own),
		"/: pass":              Match("/", nil),
		"{stall; pass}; pass":  First(First(Script(Stall()), nil), nil),
	} {
		if fmt.Sprint(plan) != want {
			t.Errorf("%v, want %s", plan, want)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	for _, text := range []string{
		"POST /charge: lose-response(rst) 503(Retry-After: 2)", "GET /: random(1, 5%, stall, cut-body(1,rst)); DIAL /: pass",
		"window(40s,60s,{/a: 3*503...\n/b: swarm(1)})", `"/a: \x00": respond(503,"A: \xff")`, "ramp(1,0s,1h,1e-3,1)",
		"jitter(1,1ns,2ns) # x", "every(2,stall);;{}", "[::1]:80/: 503", "/{x...}: stall ...",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		plan, err := ParsePlan(text)
		if err != nil {
			return
		}
		for i, method := range []string{"GET", "DIAL", "", "CONNECT"} {
			plan.Decide(Exchange{Op: "k", Nth: i, Method: method, Host: "a:1", Path: text})
		}
		printed := fmt.Sprint(plan)
		again, err := ParsePlan(printed)
		if err != nil || !reflect.DeepEqual(again, plan) {
			t.Fatalf("%q printed as %q, which is %v, %v", text, printed, again, err)
		}
	})
}
