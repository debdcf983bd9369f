package faultinject

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// crowd makes many payments at once, every other one under a key drawn at random.
func crowd(n int, pay func(r *Run, path, key string) (Told, []byte)) func(*Run) {
	return func(r *Run) {
		for i := range n {
			path, key := fmt.Sprintf("/pay/%d", i), fmt.Sprintf("k%d", i)
			if i%2 == 1 {
				key = rand.Text()
			}
			r.Go(i, func() {
				told, body := pay(r, path, key)
				r.Report(path, told, body)
			})
		}
	}
}

// rekeyed sets the key of a payer's request, which is always the same.
type rekeyed struct {
	http.RoundTripper
	key string
}

func (k rekeyed) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Idempotency-Key", k.key)
	return k.RoundTripper.RoundTrip(req)
}

func paysWith(p payer) func(r *Run, path, key string) (Told, []byte) {
	return func(r *Run, path, key string) (Told, []byte) {
		return p.pay(r.Context(), rekeyed{r.Base, key}, r.URL+path, r.Attempts)
	}
}

func TestManyPaymentsAtOnceAreTheSameAgainUnderTheSameSeed(t *testing.T) {
	t.Setenv(checkVariable, "1")
	for _, level := range []Level{OnNetwork, OnTransport} {
		t.Run(level.String(), func(t *testing.T) {
			e := Exploration{Level: level, HonourKeys: true, Seeds: 20}
			start := time.Now()
			result := Simulate(t, e, crowd(50, paysWith(payer{})))
			t.Log(result, time.Since(start))
			if result.Operations != 1000 || len(result.Fired) < 8 {
				t.Error(result)
			}
		})
	}
}

func TestACheckThatNobodyUnderstandsIsRefused(t *testing.T) {
	for text, ok := range map[string]bool{"": true, "0": true, "true": true, "twice": false} {
		t.Setenv(checkVariable, text)
		s, err := newSearch(t, &notebook{}, Exploration{}, paid(payer{}))
		if ok != (err == nil) || ok && s.twice != (text == "true") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestASeedThatFailsIsShrunkToItsStrikes(t *testing.T) {
	n := &notebook{name: "TestPay"}
	e := Exploration{HonourKeys: true, Seeds: 200}
	simulateInto := func() *search {
		s, err := newSearch(t, n, e, crowd(20, paysWith(payer{believesLast: true})))
		if err != nil {
			t.Fatal(err)
		}
		s.simulate()
		return s
	}
	if s := simulateInto(); s.failed == nil {
		t.Fatal("not found:", s.result)
	}
	t.Log(n.said[0])
	said := n.said[0]
	seed := regexp.MustCompile(`FAULTINJECT_SEED='(0x[0-9a-f]+)'`).FindStringSubmatch(said)
	schedule := regexp.MustCompile(`FAULTINJECT_SCHEDULE='(.*)' go test`).FindStringSubmatch(said)
	if seed == nil || schedule == nil || strings.Count(schedule[1], `"#`) > 3 {
		t.Fatal(said)
	}
	n.said = nil
	t.Setenv(seedVariable, seed[1])
	if s := simulateInto(); s.failed == nil || s.result.Schedules != 1 || n.said[0] == "" {
		t.Error("the seed does not fail again:", n.said)
	}
	n.said = nil
	t.Setenv(scheduleVariable, schedule[1])
	if s := simulateInto(); s.failed == nil || s.result.Schedules != 1 {
		t.Error("the schedule does not fail again:", n.said)
	}
}

func TestAClientThatFollowsAClockOfItsOwnIsFoundOut(t *testing.T) {
	t.Setenv(checkVariable, "1")
	n := &notebook{name: "TestPay"}
	runs := make(chan int, 1)
	runs <- 0
	s, err := newSearch(t, n, Exploration{HonourKeys: true, Seeds: 1}, func(r *Run) {
		run := <-runs
		runs <- run + 1
		told, body := payer{}.pay(r.Context(), r.Base, fmt.Sprint(r.URL, "/", run), r.Attempts)
		r.Report("pay", told, body)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.simulate()
	if len(n.said) != 1 || !strings.Contains(n.said[0], "repeatable: the second run") || !strings.Contains(n.said[0], "\nsecond: ") {
		t.Errorf("%q", n.said)
	}
}

func TestAPlanOfOnesOwnStrikesInASimulation(t *testing.T) {
	e := Exploration{HonourKeys: true, Seeds: 3, Faults: []Fault{}, Plan: func(seed uint64) Plan {
		return Script(Respond(503), LoseResponse(RST))
	}}
	result := Simulate(t, e, crowd(2, paysWith(payer{})))
	if result.Fired[Respond(503)] != 6 || len(result.Fired) > 2 {
		t.Error(result, result.Fired)
	}
}

func TestAReportUnderANameThatNoRequestHasIsExplained(t *testing.T) {
	n := &notebook{name: "TestPay"}
	s, err := newSearch(t, n, Exploration{HonourKeys: true, Faults: []Fault{}}, crowd(2, func(r *Run, path, key string) (Told, []byte) {
		told, body := paysWith(payer{})(r, path, key)
		r.Report("another "+path, told, body)
		return told, body
	}))
	if err != nil {
		t.Fatal(err)
	}
	s.simulate()
	if len(n.said) != 1 || !strings.Contains(n.said[0], "Exploration.Operation names them") {
		t.Errorf("%q", n.said)
	}
}

func TestABodyKnowsItsSeed(t *testing.T) {
	seeds := make(chan uint64, 3)
	Simulate(t, Exploration{HonourKeys: true, Seeds: 3, FirstSeed: 7}, func(r *Run) {
		seeds <- r.Seed
		told, body := paysWith(payer{})(r, "/pay", "k")
		r.Report("pay", told, body)
	})
	if sum := <-seeds + <-seeds + <-seeds; sum != 7+8+9 {
		t.Error(sum)
	}
}

func TestNotAppliedMustHaveBeenTrueWhenItWasSaid(t *testing.T) {
	for _, lie := range []bool{false, true} {
		n := &notebook{name: "TestPay"}
		e := Exploration{HonourKeys: true, Seeds: 1, Faults: []Fault{}}
		s, err := newSearch(t, n, e, crowd(3, func(r *Run, path, key string) (Told, []byte) {
			if !lie {
				r.Report(path, NotApplied, nil)
			}
			told, body := paysWith(payer{})(r, path, key)
			if lie {
				r.Report(path, NotApplied, nil)
			}
			return told, body
		}))
		if err != nil {
			t.Fatal(err)
		}
		s.simulate()
		if found := strings.Contains(fmt.Sprint(n.said), "told not-applied, effects=1"); found != lie {
			t.Errorf("lie %v: %q", lie, n.said)
		}
	}
}

func TestAWindowIsOverForIdleConnectionsToo(t *testing.T) {
	e := Exploration{HonourKeys: true, Seeds: 1, Faults: []Fault{}, Plan: func(uint64) Plan {
		return Window(0, time.Second, Forever(CloseIdle(FIN)))
	}}
	for _, after := range []time.Duration{0, 2 * time.Second} {
		result := Simulate(t, e, func(r *Run) {
			time.Sleep(after)
			for _, path := range []string{"/first", "/second"} {
				told, body := paysWith(payer{})(r, path, path)
				r.Report(path, told, body)
			}
		})
		if struck := result.Fired[CloseIdle(FIN)] > 0; struck != (after == 0) {
			t.Error(after, result)
		}
	}
}
