package resilient

import (
	"hash/maphash"
	"maps"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// hostKey names a host: scheme, name and port as one server would see them,
// lower case and without the scheme's own port.
type hostKey struct{ scheme, host string }

// hostKeyOf returns the key of the host that u names. It allocates only if
// something must be lowered.
func hostKeyOf(u *url.URL) hostKey {
	k := hostKey{u.Scheme, u.Host}
	if k.scheme != "https" && k.scheme != "http" {
		k.scheme = strings.ToLower(k.scheme)
	}
	if isPlain(k.host) {
		return k
	}
	k.host = strings.TrimSuffix(strings.ToLower(k.host), ":")
	switch k.scheme {
	case "http":
		k.host = withoutPort(k.host, ":80")
	case "https":
		k.host = withoutPort(k.host, ":443")
	}
	return k
}

// isPlain reports that host is lower case and has no port.
func isPlain(host string) bool {
	for i := range len(host) {
		if c := host[i]; c == ':' || 'A' <= c && c <= 'Z' || c >= 0x80 {
			return false
		}
	}
	return true
}

// withoutPort cuts port off host, unless it is the end of an IPv6 address
// without brackets.
func withoutPort(host, port string) string {
	name, ok := strings.CutSuffix(host, port)
	if !ok || strings.IndexByte(name, ':') >= 0 && !strings.HasSuffix(name, "]") {
		return host
	}
	return name
}

// host is what the client remembers of one host while it is called, or in
// trouble. All methods are safe for concurrent use; now is the time since the
// transport was made.
type host struct {
	key    hostKey
	budget budget
	gate   *gate // nil: no breaker

	users  atomic.Int64 // operations inside; below zero: evicted
	cool   atomic.Int64 // until when it asked to be left alone; zero: it did not
	doubt  doubt
	lost   atomic.Int64 // when an attempt last ended without an answer; zero: none did
	unwell atomic.Bool  // it has failed, or turned somebody away, and not answered well since
	shared bool         // stands for many: see hosts
}

// evicted is where users starts once the host is; no number of late comers
// brings it above zero.
const evicted = -1 << 62

// release ends what acquire began.
func (h *host) release() { h.users.Add(-1) }

// coolDown leaves the host alone until then; it lengthens, never shortens. The
// host that stands for many has none: one of them could silence the others.
func (h *host) coolDown(until, now time.Duration) {
	if until <= now || h.shared {
		return
	}
	for {
		old := h.cool.Load()
		if old >= int64(until) || h.cool.CompareAndSwap(old, int64(until)) {
			return
		}
	}
}

// cooling is how much longer the host is to be left alone.
func (h *host) cooling(now time.Duration) time.Duration {
	return max(0, time.Duration(h.cool.Load())-now)
}

// heard takes note of an attempt's report. A good one ends a cool-down and all
// doubt.
func (h *host) heard(r report) {
	if r == failure {
		h.unwell.Store(true)
	}
	if r != success {
		return
	}
	if h.unwell.Load() {
		h.unwell.Store(false)
	}
	if h.cool.Load() != 0 {
		h.cool.Store(0)
	}
	h.doubt.lift()
}

// fail notes that an attempt has failed, and reports whether another one is
// worth its while to an operation that began then. The host that stands for many
// is never doubted: one of them could silence the others.
func (h *host) fail(began, now time.Duration) bool {
	return h.shared || h.doubt.fail(began, now)
}

// lose notes that an attempt ended without an answer.
func (h *host) lose(now time.Duration) { h.lost.Store(int64(max(now, 1))) }

// loses reports whether one did of late. Then net/http may be sending safe
// requests again without end, and they are watched.
func (h *host) loses(now time.Duration) bool {
	last := h.lost.Load()
	return last != 0 && now-time.Duration(last) < breakerWindow
}

// evict gives the host up if there is nothing to remember of it: nobody
// inside, healthy, its budget full, no cool-down, no doubt.
func (h *host) evict(now time.Duration) bool {
	return h.users.Load() == 0 &&
		(h.gate == nil || h.gate.closed()) &&
		h.budget.balance(now) >= float64(budgetCap/budgetRetry) &&
		h.cooling(now) == 0 &&
		h.doubt.beginning(now) == 0 &&
		h.users.CompareAndSwap(0, evicted)
}

const (
	hostShards = 256

	// After a search for a host to evict found none, newcomers are not made to
	// repeat it for so long.
	hostSearchPause = time.Second
)

// hosts keeps at most max hosts, however many are seen. One that is idle and
// in good health makes room, whichever is found first: it would be made anew
// exactly as it was. One in trouble never does. When there is none to evict,
// newcomers share a single host with a budget and no breaker, so that a flood
// of names costs neither memory nor anybody's protection.
//
// Looking up takes no lock: each shard's map is replaced, never changed. The
// price, a copy of some forty entries for each new host, is paid where a
// connection is about to be dialled.
type hosts struct {
	max      int64
	newGate  func() *gate
	epoch    time.Time
	seed     maphash.Seed
	overflow *host
	shards   [hostShards]hostShard

	kept   atomic.Int64 // hosts in the shards, and places promised to newcomers
	search sync.Mutex
	cursor int          // where the next search begins; under search
	full   atomic.Int64 // until when there is no use in searching
}

type hostShard struct {
	mu    sync.Mutex // of writers
	bySum atomic.Pointer[map[uint64]*host]
}

// newHosts returns an empty set. newGate makes the gate of a new host, or nil
// for none; epoch is when the transport was made.
func newHosts(max int, newGate func() *gate, epoch time.Time) *hosts {
	return &hosts{
		max: int64(max), newGate: newGate, epoch: epoch,
		seed: maphash.MakeSeed(), overflow: &host{shared: true},
	}
}

// acquire returns the host of that key, and keeps it from being evicted until
// it is released. It is never nil.
func (h *hosts) acquire(key hostKey) *host {
	sum := maphash.String(h.seed, key.host) + uint64(len(key.scheme))
	s := &h.shards[sum%hostShards]
	if known := s.get(sum); known != nil && known.key == key && known.users.Add(1) > 0 {
		return known
	}
	return h.admit(s, sum, key)
}

// admit is acquire for a newcomer.
func (h *hosts) admit(s *hostShard, sum uint64, key hostKey) *host {
	room := h.reserve()
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.get(sum)
	if known != nil && room { // somebody was faster
		h.kept.Add(-1)
	}
	switch {
	case known != nil && known.key == key:
		known.users.Add(1) // it is only evicted under s.mu
		return known
	case known != nil || !room: // or two keys with one sum, once in 2^64
		h.overflow.users.Add(1)
		return h.overflow
	}
	// The key may be part of a long URL, which is not to be kept for its sake.
	key = hostKey{strings.Clone(key.scheme), strings.Clone(key.host)}
	fresh := &host{key: key, gate: h.newGate()}
	fresh.users.Store(1)
	s.replace(func(m map[uint64]*host) { m[sum] = fresh })
	return fresh
}

// reserve makes sure of a place for one more host.
func (h *hosts) reserve() bool {
	if h.kept.Add(1) <= h.max {
		return true
	}
	h.kept.Add(-1)
	if h.now() < time.Duration(h.full.Load()) {
		return false
	}
	h.search.Lock()
	defer h.search.Unlock()
	now := h.now()
	if now < time.Duration(h.full.Load()) {
		return false
	}
	for range hostShards {
		h.cursor = (h.cursor + 1) % hostShards
		if h.shards[h.cursor].evictOne(now) {
			return true // its place passes to the newcomer
		}
	}
	h.full.Store(int64(now + hostSearchPause))
	return false
}

func (h *hosts) now() time.Duration { return time.Since(h.epoch) }

func (s *hostShard) get(sum uint64) *host {
	if m := s.bySum.Load(); m != nil {
		return (*m)[sum]
	}
	return nil
}

func (s *hostShard) evictOne(now time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.bySum.Load()
	if m == nil {
		return false
	}
	for sum, idle := range *m {
		if idle.evict(now) {
			s.replace(func(m map[uint64]*host) { delete(m, sum) })
			return true
		}
	}
	return false
}

// replace puts a changed copy in the map's place, under mu.
func (s *hostShard) replace(change func(map[uint64]*host)) {
	m := make(map[uint64]*host)
	if old := s.bySum.Load(); old != nil {
		m = maps.Clone(*old)
	}
	change(m)
	s.bySum.Store(&m)
}
