package debug

import (
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-resilient/resilient"
)

const (
	// An update shows so many of each at most, those in trouble first and the
	// newest first; a filter finds the others.
	mostShown = 50

	// The hosts are read no oftener than this, however many look.
	lookEvery = 500 * time.Millisecond

	longestFilter = 200
	mostHashes    = 4
)

// source is what there is to look at.
type source struct {
	transport *resilient.Transport // nil: no hosts
	recorder  *Recorder            // nil: no operations

	mu     sync.Mutex
	looked time.Time
	hosts  []resilient.HostState // as of then; never changed
}

// look returns the hosts as they were half a second ago or later.
func (s *source) look() []resilient.HostState {
	if s.transport == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.looked.IsZero() || now.Sub(s.looked) >= lookEvery {
		s.looked, s.hosts = now, s.transport.Hosts()
	}
	return s.hosts
}

// filter is what a viewer asks for. The zero filter lets all through.
type filter struct {
	text   string   // part of a host, or of a method and URL; lower case
	hashes []string // of keys, in short
}

func newFilter(q url.Values) filter {
	f := filter{text: strings.ToLower(strings.TrimSuffix(clip(q.Get("q"), longestFilter), "…"))} // as of a long name that the page shows
	for _, hash := range q["key_hash"] {
		if hash != "" && len(f.hashes) < mostHashes {
			f.hashes = append(f.hashes, strings.ToLower(clip(hash, longestFilter)))
		}
	}
	return f
}

func (f filter) finds(text string) bool {
	return f.text == "" || strings.Contains(strings.ToLower(text), f.text)
}

func (f filter) findsOperation(r *record) bool {
	return f.finds(r.Method+" "+r.URL) && (len(f.hashes) == 0 || slices.Contains(f.hashes, r.KeyHash))
}

// view is the page's content, and the JSON.
type view struct {
	Now        time.Time      `json:"now"` // by which the times are to be read
	Hosts      hostsView      `json:"hosts"`
	Operations operationsView `json:"operations"`
}

type hostsView struct {
	Total   int        `json:"total"`
	Trouble int        `json:"in_trouble"` // of Total
	Found   int        `json:"found"`      // by the filter
	Shown   []hostView `json:"shown"`
}

type operationsView struct {
	Recorded bool      `json:"recorded"`   // false: there is no Recorder
	Troubled uint64    `json:"in_trouble"` // ever
	Found    int       `json:"found"`      // by the filter, of those that are kept and new to the viewer
	Shown    []*record `json:"shown"`
}

type hostView struct {
	Host      string     `json:"host"`
	Trouble   string     `json:"trouble,omitempty"` // the worst there is
	Breaker   string     `json:"breaker"`
	Since     *time.Time `json:"since,omitempty"`
	NextProbe *time.Time `json:"next_probe,omitempty"`
	Waiting   int        `json:"waiting"`
	Trips     uint64     `json:"trips"`
	Balance   float64    `json:"retries_left"`
	Doubted   bool       `json:"doubted,omitempty"`
	CoolUntil *time.Time `json:"cool_until,omitempty"`
	InFlight  int        `json:"in_flight"`
	Successes int        `json:"successes"`
	Failures  int        `json:"failures"`
}

// The kinds of trouble, the worst first; a host has the first that fits. One
// without a name is no trouble yet, only worth a look.
var troubles = [...]struct {
	name string
	is   func(h *resilient.HostState, now time.Time) bool
}{
	{"open", func(h *resilient.HostState, _ time.Time) bool { return h.Breaker == resilient.BreakerOpen }},
	{"half-open", func(h *resilient.HostState, _ time.Time) bool { return h.Breaker == resilient.BreakerHalfOpen }},
	{"only failing", func(h *resilient.HostState, _ time.Time) bool { return h.Doubted }},
	{"cooling down", func(h *resilient.HostState, now time.Time) bool { return h.CoolUntil.After(now) }},
	{"budget spent", func(h *resilient.HostState, _ time.Time) bool { return h.Balance < 1 }},
	{"", func(h *resilient.HostState, _ time.Time) bool { return h.Failures > 0 }},
}

// trouble is the kind of a host's; len(troubles): none.
func trouble(h *resilient.HostState, now time.Time) int {
	for i := range troubles {
		if troubles[i].is(h, now) {
			return i
		}
	}
	return len(troubles)
}

// viewHosts puts those in trouble first, the worst before the others and each
// kind in the order of names: a row moves only when its state does.
func (s *source) viewHosts(f filter) hostsView {
	var (
		all   = s.look()
		now   = time.Now()
		v     = hostsView{Total: len(all), Shown: []hostView{}}
		kinds [len(troubles) + 1][]int
	)
	for i := range all {
		kind := trouble(&all[i], now)
		if kind < len(troubles) && troubles[kind].name != "" {
			v.Trouble++
		}
		if f.finds(all[i].Host) {
			v.Found++
			if len(kinds[kind]) < mostShown {
				kinds[kind] = append(kinds[kind], i)
			}
		}
	}
	for kind, hosts := range kinds {
		for _, i := range hosts[:min(len(hosts), mostShown-len(v.Shown))] {
			v.Shown = append(v.Shown, newHostView(&all[i], kind))
		}
	}
	return v
}

func newHostView(h *resilient.HostState, kind int) hostView {
	v := hostView{
		Host: clip(h.Host, longestText), Breaker: h.Breaker.String(), Waiting: h.Waiting, Trips: h.Trips,
		Balance: float64(int(h.Balance*10)) / 10, // a tenth at a time, or a budget that fills would be news all the time
		Doubted: h.Doubted, InFlight: h.InFlight, Successes: h.Successes, Failures: h.Failures,
		Since: moment(h.Since), NextProbe: moment(h.NextProbe), CoolUntil: moment(h.CoolUntil),
	}
	if kind < len(troubles) {
		v.Trouble = troubles[kind].name
	}
	return v
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Round(time.Millisecond)
	return &t
}

// viewOperations shows the newest that are not among the first seen.
func (s *source) viewOperations(f filter, seen uint64) operationsView {
	v := operationsView{Shown: []*record{}}
	if s.recorder == nil {
		return v
	}
	newest, troubled := s.recorder.since(seen)
	v.Recorded, v.Troubled = true, troubled
	for _, r := range newest {
		if !f.findsOperation(r) {
			continue
		}
		v.Found++
		if len(v.Shown) < mostShown {
			v.Shown = append(v.Shown, r)
		}
	}
	return v
}
