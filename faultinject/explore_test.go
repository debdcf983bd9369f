package faultinject

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pay is what the example in the comment of Explore has.
func pay(c *http.Client, url string, attempts int) (receipt []byte, told Told) {
	told, receipt = payer{}.pay(context.Background(), c.Transport, url, attempts)
	return receipt, told
}

func TestAPaymentIsMadeOnce(t *testing.T) {
	e := Exploration{HonourKeys: true, Attempts: 3}
	Explore(t, e, func(r *Run) {
		receipt, told := pay(r.Client, r.URL+"/pay", r.Attempts)
		r.Report("pay", told, receipt)
	})
}

func TestEveryKindOfFaultIsSurvivedByACorrectClient(t *testing.T) {
	faults := slices.DeleteFunc(Catalogue(), func(f Fault) bool { return f == CorruptBody(0) })
	for _, level := range []Level{OnTransport, OnNetwork} {
		t.Run(level.String(), func(t *testing.T) {
			result := Explore(t, Exploration{Level: level, Faults: faults, HonourKeys: true, Attempts: 2}, paid(payer{}))
			if level == OnNetwork && result.Resent == 0 {
				t.Error("net/http sent nothing again by itself")
			}
		})
	}
	t.Run("but for a flipped bit that nobody checks", func(t *testing.T) {
		s := exploreInto(t, new(notebook), Exploration{Faults: Catalogue(), HonourKeys: true, Attempts: 1}, paid(payer{}))
		if s.failed == nil || s.failed.findings[0].rule != "answer" {
			t.Error("not found")
		}
	})
}

// visits collects the schedules of an exploration.
func visits(t *testing.T, e Exploration, body func(*Run)) []string {
	t.Helper()
	var mu sync.Mutex
	var all []string
	Explore(t, e, func(r *Run) {
		body(r)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, r.schedule().String())
	})
	slices.Sort(all)
	return all
}

func TestEveryScheduleIsVisitedOnce(t *testing.T) {
	faults := []Fault{Respond(503), LoseResponse(RST), Respond(400)}
	e := Exploration{Level: OnTransport, Faults: faults, HonourKeys: true, Attempts: 2}
	var want []string
	for _, attempts := range []int{1, 2} {
		begin := fmt.Sprintf("level=transport attempts=%d", attempts)
		want = append(want, begin)
		for _, f := range faults {
			want = append(want, begin+" "+f.String())
			if attempts == 2 && f != Respond(400) {
				for _, g := range faults {
					want = append(want, begin+" "+f.String()+" "+g.String())
				}
			}
		}
	}
	slices.Sort(want)
	if got := visits(t, e, paid(payer{})); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheBoundOfFaultsIsKept(t *testing.T) {
	e := Exploration{HonourKeys: true, Attempts: 3, MaxFaults: 1}
	all := visits(t, e, func(r *Run) {
		paid(payer{})(r)
		if n := len(r.Faults()); n > 1 {
			r.Errorf("%d faults", n)
		}
	})
	if unique := slices.Compact(slices.Clone(all)); len(unique) != len(all) || len(all) < 27 {
		t.Errorf("%d schedules, %d of them different", len(all), len(unique))
	}
}

func TestThePartsOfATreeAreTheTree(t *testing.T) {
	e := Exploration{HonourKeys: true, Attempts: 2}
	whole := visits(t, e, paid(payer{}))
	var parts []string
	for e.Parts, e.Part = 3, 0; e.Part < e.Parts; e.Part++ {
		part := visits(t, e, paid(payer{}))
		if len(part) > len(whole)*2/3 {
			t.Errorf("part %d has %d of %d schedules", e.Part, len(part), len(whole))
		}
		parts = append(parts, part...)
	}
	slices.Sort(parts)
	if parts = slices.Compact(parts); !slices.Equal(parts, whole) {
		t.Errorf("%d schedules in parts, %d in whole", len(parts), len(whole))
	}
}

// order is a workflow of three calls. Goods that are reserved and not charged are
// released: it takes faults at two sites until nobody knows of them any more.
func order(r *Run) {
	call := func(site string) Told {
		r.Site(site)
		told, body := payer{}.pay(r.Context(), rekeyed{r.Base, site}, r.URL+"/"+site, r.Attempts)
		r.Report("/"+site, told, body)
		return told
	}
	if call("reserve") == OK && call("charge") == NotApplied && call("release") == Unknown {
		r.Errorf("reserved for ever")
	}
}

func TestAWorkflowIsExploredSiteBySiteAndThenInPairs(t *testing.T) {
	e := Exploration{Level: OnTransport, HonourKeys: true, Attempts: 1}
	s := exploreInto(t, &notebook{name: t.Name()}, e, order)
	if s.failed == nil || s.failed.findings[0].text != "reserved for ever" || s.failed.schedule().number() != 2 {
		t.Fatal(s.result)
	}

	var mu sync.Mutex
	struck := make(map[string]int)
	result := Explore(t, e, func(r *Run) {
		for _, site := range []string{"reserve", "charge", "ship"} {
			r.Site(site)
			told, body := payer{}.pay(r.Context(), rekeyed{r.Base, site}, r.URL+"/"+site, r.Attempts)
			r.Report("/"+site, told, body)
		}
		var sites []string
		for _, d := range r.decisions {
			if d.fault != Pass() {
				sites = append(sites, d.site)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		struck[strings.Join(sites, "+")]++
	})
	// Ten faults at each site alone, which every pair meets again, and each two.
	want := map[string]int{
		"": 7, "reserve": 30, "charge": 30, "ship": 30,
		"reserve+charge": 100, "reserve+ship": 100, "charge+ship": 100,
	}
	if !maps.Equal(struck, want) {
		t.Errorf("%v\nwant %v\n%v", struck, want, result)
	}
}

func TestARunThatIsOverSendsNothing(t *testing.T) {
	for _, level := range []Level{OnNetwork, OnTransport} {
		t.Run(level.String(), func(t *testing.T) {
			var kept *Run
			e := Exploration{Level: level, Faults: []Fault{Respond(503)}, HonourKeys: true, Attempts: 1}
			Explore(t, e, func(r *Run) {
				paid(payer{})(r)
				kept = r
			})
			if _, err := kept.Base.RoundTrip(post(t.Context(), nil, 0)); err == nil || !strings.Contains(err.Error(), "this Run is over") {
				t.Error(err)
			}
		})
	}
}

func TestWhatShowsNothingFails(t *testing.T) {
	panics := func(*Run) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") })
	}
	for name, tt := range map[string]struct {
		e    Exploration
		body func(*Run)
		want string
	}{
		"nothing is reported": {Exploration{}, func(*Run) {}, "reported no operation"},
		"nobody is told ok": {Exploration{}, func(r *Run) { r.Report("pay", NotApplied, nil) },
			"vacuous: nobody was told ok"},
		"the handler enters no effect": {Exploration{Handler: func(*Run) http.Handler { return echo }}, paid(payer{}),
			"told ok, effects=0: the handler never called Run.Ledger.Effect"},
		"a fault has no occasion": {
			Exploration{Level: OnTransport, Faults: []Fault{RefuseDial()}, Attempts: 1},
			func(r *Run) { r.Report("pay", NotApplied, nil) }, "refuse-dial never struck"},
		"the handler panics":                {Exploration{Handler: panics}, paid(payer{}), "panic: the handler panicked: oh"},
		"the handler panics in a Transport": {Exploration{Level: OnTransport, Handler: panics}, paid(payer{}), "panic: the handler panicked: oh"},
		"there is no handler": {Exploration{Handler: func(*Run) http.Handler { return nil }}, paid(payer{}),
			"Exploration.Handler returned nil"},
		"there is no body":    {Exploration{}, nil, "no body to explore"},
		"a field is negative": {Exploration{Attempts: -1}, paid(payer{}), "Exploration.Attempts"},
	} {
		t.Run(name, func(t *testing.T) {
			n := &notebook{name: t.Name()}
			s, err := newSearch(t, n, tt.e, tt.body)
			if err != nil {
				n.Errorf("%v", err)
			} else {
				s.explore()
			}
			if said := strings.Join(n.said, "\n"); !strings.Contains(said, tt.want) {
				t.Errorf("%q", said)
			}
		})
	}
}

func TestWhatTheBodyDoesToItselfIsAFindingOfItsSchedule(t *testing.T) {
	for name, tt := range map[string]struct {
		body func(*Run)
		want string
	}{
		"panics":         {func(r *Run) { panic("oh") }, "panic: panic: oh"},
		"ends":           {func(r *Run) { runtime.Goexit() }, "ended its goroutine"},
		"waits for ever": {func(r *Run) { <-r.Context().Done() }, "hang: deadlock"},
		"leaves somebody behind": {func(r *Run) {
			go func() { <-r.Context().Done() }()
		}, "goroutines: a goroutine is left behind\ngoroutine "},
		"differs each time": {func() func(*Run) {
			var mu sync.Mutex
			n := 0
			return func(r *Run) {
				mu.Lock()
				n++
				once := n < 3
				mu.Unlock()
				if once {
					payer{}.pay(r.Context(), r.Base, r.URL, r.Attempts)
				}
				r.Report("pay", Unknown, nil)
			}
		}(), "repeatable: "},
	} {
		t.Run(name, func(t *testing.T) {
			n := &notebook{name: t.Name()}
			exploreInto(t, n, Exploration{Attempts: 1, Vague: true}, tt.body)
			if said := strings.Join(n.said, "\n"); !strings.Contains(said, tt.want) || !strings.Contains(said, scheduleVariable) {
				t.Errorf("%q", said)
			}
		})
	}
}

func TestAScheduleThatHangsIsNamed(t *testing.T) {
	n := &notebook{name: t.Name()}
	var held sync.Mutex
	held.Lock()
	s := exploreInto(t, n, Exploration{Attempts: 1, Patience: 50 * time.Millisecond}, func(r *Run) {
		paid(payer{})(r)
		if slices.Contains(r.Faults(), Respond(503)) {
			held.Lock() // which no bubble takes for idle
		}
	})
	if len(n.said) != 1 || !strings.Contains(n.said[0], "has not ended") ||
		!strings.Contains(n.said[0], "level=network attempts=1 pass respond(503)") {
		t.Errorf("%q", n.said)
	}
	held.Unlock()
	for s.running[0].Load() != nil || s.running[1].Load() != nil {
		runtime.Gosched() // what was given up ends after all, and before this test
	}
}

// provoked makes the test below fail, in a process of its own.
const provoked = "FAULTINJECT_PROVOKED"

func TestAFailureToBeRepeated(t *testing.T) {
	if os.Getenv(provoked) == "" {
		return // it is the next test that runs it
	}
	for _, level := range []Level{OnNetwork, OnTransport} {
		t.Run("on the "+level.String()+" (it's a $sub)", func(t *testing.T) {
			t.Log(Explore(t, Exploration{Level: level, HonourKeys: true, Attempts: 2}, paid(payer{believesLast: level == OnNetwork})))
		})
	}
}

func TestTheLineThatAFailurePrintsRepeatsIt(t *testing.T) {
	run := func(command string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Env = append(os.Environ(), provoked+"=1", "TESTBINARY="+os.Args[0])
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	first, err := run(`"$TESTBINARY" -test.run '^TestAFailureToBeRepeated$' -test.v`)
	if _, failed := errors.AsType[*exec.ExitError](err); !failed {
		t.Fatalf("%v\n%s", err, first)
	}
	line := regexp.MustCompile(`FAULTINJECT_SCHEDULE=.*`).FindString(first)
	if !strings.HasPrefix(line, "FAULTINJECT_SCHEDULE='level=network attempts=2 pass respond(503) pass lose-response(rst)") {
		t.Fatalf("%s", first)
	}
	again, err := run(strings.Replace(line, "go test -run", `"$TESTBINARY" -test.v -test.run`, 1))
	if err == nil || !strings.Contains(again, "truth: pay: told not-applied, effects=1") ||
		!strings.Contains(again, "(sent again by net/http)") || strings.Contains(again, "on_the_transport") {
		t.Errorf("%s\n%v\n%s", line, err, again)
	}
}

func TestAFailureIsToldFromBothSides(t *testing.T) {
	n := &notebook{name: "TestPay"}
	t.Setenv(scheduleVariable, "level=network attempts=2 pass respond(503) pass lose-response(rst) refuse-dial")
	exploreInto(t, n, Exploration{HonourKeys: true}, paid(payer{believesLast: true}))
	got := strings.Join(append(n.said, n.logs...), "\n")
	want := `faultinject: truth: pay: told not-applied, effects=1
faultinject: schedule level=network attempts=2 pass respond(503) pass lose-response(rst) refuse-dial
   +3ms      k1#1 POST /pay key=k1  respond(503)  client: 503
   +105ms    k1#2 POST /pay key=k1  lose-response(rst)  handler ran, effects=1
   +106ms    dial k1  (sent again by net/http)  refuse-dial  client: dial tcp shop.test:80: connect: connection refused
   caller of pay told not-applied, effects=1`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestAScheduleOfAnotherClientIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"attempts=1 stall":                                          "choice 1 is a DIAL",
		"attempts=1 pass pass pass respond(503)":                    "only 2 of 4 choices were met",
		"level=transport attempts=1":                                "names another level",
		`level=network attempts=1 seed=0x1 "k1"#1=respond(503)`:     "names a seed",
		`level=network attempts=1 pass respond(503) lose-response(`: "malformed",
	} {
		n := &notebook{name: "TestPay"}
		t.Setenv(scheduleVariable, text)
		if s, err := newSearch(t, n, Exploration{HonourKeys: true}, paid(payer{})); err != nil {
			n.Errorf("%v", err)
		} else {
			s.explore()
		}
		if got := strings.Join(append(n.said, n.logs...), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// put sets /x under a key. A header is written as on the wire.
func put(r *Run, key, value, header string) (told Told, tag string) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.URL+"/x", strings.NewReader(value))
	if err != nil {
		r.Errorf("%v", err)
		return Unknown, ""
	}
	req.Header.Set("Idempotency-Key", key)
	if name, v, found := strings.Cut(header, ": "); found {
		req.Header.Set(name, v)
	}
	resp, err := r.Client.Do(req)
	if err != nil {
		return Unknown, ""
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Unknown, ""
	}
	return OK, resp.Header.Get("ETag")
}

func TestAPutMayComeTwiceButNotWithAnotherValue(t *testing.T) {
	e := Exploration{Faults: []Fault{Respond(503), DropBefore(RST), LoseResponse(RST)}, Attempts: 1}
	body := func(values ...string) func(*Run) {
		return func(r *Run) {
			told := Unknown
			for _, v := range values {
				if now, _ := put(r, "k1", v, ""); now == OK {
					told = OK
				}
			}
			r.Report("x", told, nil)
		}
	}
	Explore(t, e, body("v", "v"))
	s := exploreInto(t, new(notebook), e, body("v", "w"))
	if s.failed == nil || s.failed.findings[0].rule != "sameness" {
		t.Error("another value was put unseen")
	}
}

func TestAnOldValueThatComesLateMustNotUndoANewOne(t *testing.T) {
	e := Exploration{Faults: []Fault{Late(2 * time.Second)}, Attempts: 1, Operation: func(x Exchange) string { return x.Op }}
	body := func(header string) func(*Run) {
		return func(r *Run) {
			told, _ := put(r, "old", "v1", header)
			r.Report("old", told, nil)
			told, _ = put(r, "new", "v2", "")
			r.Report("new", told, nil)
		}
	}
	s := exploreInto(t, new(notebook), e, body(""))
	if s.failed == nil || s.failed.findings[0].rule != "state" {
		t.Error("not found")
	}
	Explore(t, e, body("If-None-Match: *"))
}

func TestWhatTheNetworkDoublesIsNotTheClientsFault(t *testing.T) {
	Explore(t, Exploration{Faults: []Fault{Duplicate()}, Attempts: 1}, paid(payer{noKey: true}))
}

func TestWhatComesLateIsWaitedFor(t *testing.T) {
	e := Exploration{Faults: []Fault{Late(time.Hour)}, HonourKeys: true, Attempts: 1}
	s := exploreInto(t, new(notebook), e, paid(payer{sureOfFailure: true}))
	if s.failed == nil || s.failed.findings[0].rule != "truth" {
		t.Error("not found")
	}
}

func TestAConnectionThatDiedIdleTakesARequestWithIt(t *testing.T) {
	died := 0
	var mu sync.Mutex
	e := Exploration{Level: OnWarmNetwork, Faults: []Fault{CloseIdle(FIN), CloseIdle(RST)}, HonourKeys: true, Attempts: 1}
	Explore(t, e, func(r *Run) {
		told, body := payer{noKey: true}.pay(r.Context(), r.Base, r.URL, 1)
		r.Report("pay", told, body)
		if len(r.Faults()) > 0 {
			mu.Lock()
			died++
			mu.Unlock()
			if told != Unknown || len(r.Deliveries()) > 0 {
				r.Errorf("told %v after %d deliveries", told, len(r.Deliveries()))
			}
		}
	})
	if died != 2 {
		t.Error("died:", died)
	}
}
