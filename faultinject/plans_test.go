package faultinject

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAPatternMatchesAsInServeMux(t *testing.T) {
	request := func(method, host, path string) Exchange {
		return Exchange{Op: "op", Nth: 1, Method: method, Host: host, Path: path}
	}
	for _, c := range []struct {
		pattern string
		x       Exchange
		want    bool
	}{
		{"POST /charge/{id}", request("POST", "shop.test", "/charge/7"), true},
		{"POST /charge/{id}", request("POST", "shop.test", "/charge/7/8"), false},
		{"POST /charge/{id}", request("GET", "shop.test", "/charge/7"), false},
		{"GET /", request("HEAD", "shop.test", "/a"), true},
		{"shop.test/", request("GET", "shop.test", "/a"), true},
		{"shop.test/", request("GET", "SHOP.test:8080", "/a"), true},
		{"Shop.Test/", request("GET", "shop.test", "/a"), true},
		{"shop.test/", request("GET", "bank.test", "/a"), false},
		{"shop.test:8080/", request("GET", "shop.test:8080", "/a"), true},
		{"shop.test:8080/", request("GET", "shop.test", "/a"), false},
		{"GET shop.test:8080/", request("GET", "shop.test:81", "/a"), false},
		{"[::1]:80/", request("GET", "[::1]:80", "/"), true},
		{"[::1]/", request("GET", "[::1]", "/"), true},
		{"GET shop.test/a/{rest...}", request("GET", "shop.test", "/a/b/c"), true},
		{"/x/{$}", request("GET", "", "/x/"), true},
		{"/x/{$}", request("GET", "", "/x/y"), false},
		{"/x/", request("GET", "", "/x"), false}, // a ServeMux would redirect
		{"/x/y", request("GET", "", "//x/../x/y"), true},
		{"/a%20b", request("GET", "", "/a b"), true},
		{"/", request("CONNECT", "shop.test:443", ""), true},
		{"/", request("OPTIONS", "", "*"), true},
		{"DIAL shop.test/", Exchange{Method: MethodDial, Host: "shop.test:443"}, true},
		{"DIAL shop.test/", Exchange{Method: MethodAccept, Host: "shop.test:443"}, false},
		{"ACCEPT /", Exchange{Method: MethodAccept, Host: "192.0.2.1:80"}, true},
		{"shop.test/", Exchange{Method: MethodDial, Host: "shop.test:443"}, true},
	} {
		c.x.Nth = 1
		if got := Match(c.pattern, Forever(Stall())).Decide(c.x) == Stall(); got != c.want {
			t.Errorf("%q and %+v: %v", c.pattern, c.x, got)
		}
	}
}

func TestWhatCannotBeMeantFailsEveryExchangeAndSaysWhy(t *testing.T) {
	for want, plan := range map[string]Plan{
		`pattern "POST charge":`:                Match("POST charge", nil),
		`pattern "":`:                           Match("", nil),
		`pattern "GET /{":`:                     Match("GET /{", nil),
		"random: the rate NaN is not":           Random(1, math.NaN()),
		"random: the rate -0.1 is not":          Random(1, -0.1),
		"random: the rate 1.5 is not":           Random(1, 1.5),
		"ramp: the rate +Inf is not":            Ramp(1, 0, 1, 0, math.Inf(1)),
		"ramp: nothing is between 1s and 1s":    Ramp(1, time.Second, time.Second, 0, 1),
		"window: nothing is between 2s and 1s":  Window(2*time.Second, time.Second, nil),
		"window: nothing is between -1s and 0s": Window(-time.Second, 0, nil),
		"every: 0 is not a count":               Every(0, Stall()),
		"jitter: nothing is between 1s and 1s":  Jitter(1, time.Second, time.Second),
		"jitter: nothing is between -":          Jitter(1, -1, 1),
	} {
		for nth := range 3 {
			f := plan.Decide(Exchange{Nth: nth + 1})
			if f.Name() != "invalid" || !strings.HasPrefix(f.text().Error(), "faultinject: "+want) {
				t.Errorf("%v, want %s", f.text(), want)
			}
		}
	}
}

func TestTheFirstPlanThatDoesNotPassDecides(t *testing.T) {
	plan := First(nil, PlanFunc(nil), Script(Pass(), Stall()), Script(Respond(503), Respond(503)))
	for nth, want := range []Fault{Pass(), Respond(503), Stall(), Pass()} {
		if got := plan.Decide(Exchange{Nth: nth}); got != want {
			t.Errorf("arrival %d: %v, want %v", nth, got, want)
		}
	}
	if Match("/", nil).Decide(Exchange{Nth: 1}) != Pass() || Window(0, 0, nil).Decide(Exchange{Nth: 1}) != Pass() {
		t.Error("a plan of nothing strikes")
	}
}

func TestAWindowIsOpenFromItsBeginningToBeforeItsEnd(t *testing.T) {
	plan, ever := Window(2, 4, Forever(Stall())), Window(2, 0, Forever(Stall()))
	for since := range time.Duration(6) {
		x := Exchange{Nth: 9, Since: since}
		if got, want := plan.Decide(x) == Stall(), since == 2 || since == 3; got != want {
			t.Error(since, got)
		}
		if got, want := ever.Decide(x) == Stall(), since >= 2; got != want {
			t.Error("for ever:", since, got)
		}
	}
}

func TestEveryThirdArrivalIsStruck(t *testing.T) {
	var struck []int
	for nth := range 10 {
		if Every(3, Stall()).Decide(Exchange{Nth: nth}) == Stall() {
			struck = append(struck, nth)
		}
	}
	if !slices.Equal(struck, []int{3, 6, 9}) {
		t.Error(struck)
	}
}

// share is how much of 10,000 arrivals a plan strikes.
func share(plan Plan, since time.Duration) float64 {
	struck := 0
	for i := range 10_000 {
		if plan.Decide(Exchange{Op: fmt.Sprint(i / 10), Nth: 1 + i%10, Since: since}) != Pass() {
			struck++
		}
	}
	return float64(struck) / 10_000
}

func TestARampRisesInAStraightLineAndStays(t *testing.T) {
	plan := Ramp(5, 10*time.Second, 20*time.Second, 0.1, 0.9, Stall())
	for since, want := range map[time.Duration]float64{0: 0.1, 10: 0.1, 15: 0.5, 17: 0.66, 20: 0.9, 99: 0.9} {
		if got := share(plan, since*time.Second); math.Abs(got-want) > 0.015 {
			t.Errorf("after %ds: %v, want %v", since, got, want)
		}
	}
	x := Exchange{Op: "op", Nth: 1, Since: 15 * time.Second}
	for range 200 {
		x.Nth++
		if Ramp(5, 0, time.Minute, 0.3, 0.3).Decide(x) != Random(5, 0.3).Decide(x) {
			t.Fatal("a level ramp is not the Random of its seed")
		}
	}
	if share(Ramp(5, 0, time.Second, 1, 0), time.Second) != 0 {
		t.Error("a ramp that fell to 0 strikes")
	}
}

func TestTheSeedOfASwarmPicksTheMixTheWeightsAndTheRate(t *testing.T) {
	mixes, rates := map[string]bool{}, map[float64]bool{}
	for seed := range uint64(200) {
		p := Swarm(seed).(swarm)
		rates[p.rate] = true
		mixes[fmt.Sprint(p.random.faults)] = true
		if len(p.random.faults) == 0 || p.rate <= 0 {
			t.Fatal("an idle swarm:", p.random)
		}
		if got := share(p, 0); seed < 5 && math.Abs(got-p.rate) > 0.02 {
			t.Errorf("seed %d strikes %v, want %v", seed, got, p.rate)
		}
	}
	if len(rates) != 5 || len(mixes) < 190 {
		t.Error(len(rates), "rates,", len(mixes), "mixes")
	}
}

func TestJitterDrawsADelayForEachArrival(t *testing.T) {
	plan, sum := Jitter(1, time.Second, 3*time.Second), time.Duration(0)
	for i := range 10_000 {
		f := plan.Decide(Exchange{Op: "op", Nth: i})
		if f.Name() != "delay" || f.wait < time.Second || f.wait >= 3*time.Second {
			t.Fatal(f)
		}
		sum += f.wait
	}
	if mean := sum / 10_000; mean < 1980*time.Millisecond || mean > 2020*time.Millisecond {
		t.Error(mean)
	}
}

func TestNothingButItsIdentityMovesADecision(t *testing.T) {
	for _, plan := range []Plan{
		Random(1, 0.5), Swarm(11), Jitter(1, 0, time.Hour), Ramp(1, 0, time.Hour, 0.5, 0.6),
		Every(2, Stall()), Match("/", Random(4, 0.5)), First(Random(1, 0.2), Random(2, 0.2)),
	} {
		decisions := make(map[string]Fault)
		for _, backwards := range []bool{false, true} {
			for i := range 600 {
				if backwards {
					i = 599 - i
				}
				x := Exchange{Op: fmt.Sprint("op", i%20), Nth: 1 + i/20, Method: "GET", Conn: i}
				name := fmt.Sprint(x.Op, "#", x.Nth)
				got := plan.Decide(x)
				if before, seen := decisions[name]; seen && got != before {
					t.Fatalf("%v: %s was struck by %v, then by %v", plan, name, before, got)
				}
				decisions[name] = got
			}
		}
	}
}

// Seeds in a bug report must mean the same in the next release.
func TestSeedsKeepTheirMeaning(t *testing.T) {
	for _, c := range []struct {
		plan Plan
		want string
	}{
		{Random(1, 0.5), "pass pass cut-request(rst) pass pass respond(503) pass respond(503)"},
		{Random(2, 0.5, Stall(), Respond(503)), "stall respond(503) pass stall respond(503) respond(503) stall pass"},
		{Ramp(3, 0, time.Second, 0, 1, Stall(), Respond(503)), "pass stall pass stall pass pass respond(503) pass"},
		{Swarm(4), "lose-response(rst) pass pass pass refuse-dial pass pass pass"},
		{Swarm(7, Stall(), Respond(503), Duplicate()), "pass pass pass stall pass respond(503) stall stall"},
		{Jitter(6, 0, time.Second), "delay(906.427687ms) delay(495.4286ms) delay(967.252856ms) delay(907.846035ms) delay(859.448822ms) delay(297.729971ms) delay(58.974726ms) delay(237.323613ms)"},
	} {
		var got []string
		for nth := range 8 {
			got = append(got, c.plan.Decide(Exchange{Op: "POST /charge", Nth: 1 + nth, Since: 600 * time.Millisecond}).String())
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%v\n got %s\nwant %s", c.plan, text, c.want)
		}
	}
}
