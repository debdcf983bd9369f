package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-resilient/resilient/faultinject"
)

// board is the plan of the running proxy: faults armed by hand first, then the
// plan as text. Unlike other plans it changes its mind, whenever somebody asks
// it to.
type board struct {
	mu    sync.Mutex
	text  string
	plan  faultinject.Plan
	armed []*trigger
	last  int // the id given last
}

// trigger is a fault that waits for the next exchanges.
type trigger struct {
	ID      int    `json:"id"`
	Pattern string `json:"pattern"`
	Fault   string `json:"fault"`
	Left    int    `json:"left"`

	fault faultinject.Fault
	plan  faultinject.Plan
}

// Decide spends one of an armed fault where that strikes, or asks the plan.
func (b *board) Decide(x faultinject.Exchange) faultinject.Fault {
	b.mu.Lock()
	plan := b.plan
	for i, t := range b.armed {
		if strikesAt(t.fault, x) && t.plan.Decide(x) == t.fault {
			if t.Left--; t.Left == 0 {
				b.armed = slices.Delete(b.armed, i, i+1)
			}
			b.mu.Unlock()
			return t.fault
		}
	}
	b.mu.Unlock()
	if plan == nil {
		return faultinject.Pass()
	}
	return plan.Decide(x)
}

func strikesAt(f faultinject.Fault, x faultinject.Exchange) bool {
	accepted := x.Method == faultinject.MethodAccept
	return accepted == (f.Strikes() == faultinject.AtAccept)
}

func (b *board) setPlan(text string) error {
	plan, err := faultinject.ParsePlan(text)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text, b.plan = text, plan
	return nil
}

func (b *board) planText() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text
}

const (
	maxArmed = 100
	maxTimes = 1_000_000
)

// arm lets the fault strike the next exchanges that match: one, if times is 0.
func (b *board) arm(pattern, fault string, times int) (trigger, error) {
	pattern = strings.TrimSpace(pattern)
	if pattern == "" {
		pattern = "/"
	}
	if times == 0 {
		times = 1
	}
	if times < 0 || times > maxTimes {
		return trigger{}, fmt.Errorf("times: want 1 to %d", maxTimes)
	}
	f, err := armable(fault)
	if err != nil {
		return trigger{}, fmt.Errorf("fault: %w", err)
	}
	t := &trigger{Pattern: pattern, Fault: f.String(), Left: times, fault: f}
	t.plan = faultinject.Match(pattern, faultinject.Forever(f))
	if bad := faultinject.Match(pattern, nil).Decide(faultinject.Exchange{Nth: 1}); bad != faultinject.Pass() {
		return trigger{}, fmt.Errorf("pattern %q is not one of http.ServeMux, such as \"POST /charge/{id}\"", pattern)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.armed) == maxArmed {
		return trigger{}, fmt.Errorf("%d faults are armed already", maxArmed)
	}
	b.last++
	t.ID = b.last
	b.armed = append(b.armed, t)
	return *t, nil
}

// armable reads a fault in the manner of a plan, so that 503 is one.
func armable(text string) (faultinject.Fault, error) {
	plan, err := faultinject.ParsePlan(text)
	var at *faultinject.PlanError
	if errors.As(err, &at) {
		return faultinject.Fault{}, errors.New(at.Reason)
	}
	f, err := faultinject.ParseFault(fmt.Sprint(plan))
	switch {
	case err != nil:
		return f, errors.New("want one fault, such as lose-response(rst)")
	case f.Strikes() == faultinject.AtDial:
		return f, fmt.Errorf("%s strikes where a connection is dialled, and this proxy's clients have their connection", f.Name())
	case f.Strikes() == faultinject.Anywhere:
		return f, errors.New("pass strikes nothing")
	}
	return f, nil
}

// disarm takes back the armed fault of this id, or all for 0, and reports
// whether there was one.
func (b *board) disarm(id int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := len(b.armed)
	b.armed = slices.DeleteFunc(b.armed, func(t *trigger) bool { return id == 0 || t.ID == id })
	return id == 0 || len(b.armed) < before
}

func (b *board) list() []trigger {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]trigger, len(b.armed))
	for i, t := range b.armed {
		all[i] = *t
	}
	return all
}
