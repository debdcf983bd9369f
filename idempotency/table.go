package idempotency

import (
	"iter"
	"math"
	"time"
)

// A table is the records of a store, as a plain value: it has no lock and no
// clock. Who owns it serialises the calls and says what time it is.
//
// A method that alters a record only decides: it returns the change, and the
// owner applies it, after writing it down if it keeps a log. The changes of a
// log, applied in their order to an empty table, make the same table again.
// What time alone does (a lease lapses, a record expires) is in no change.
//
// Results are bytes that the table does not look into: an owner that keeps them
// elsewhere gives and gets what leads to them.
type table struct {
	records map[ID]*entry
	due     agenda
	fence   uint64  // of the last run under any key, so that it outlives the records
	now     instant // the latest time anybody told: it never goes back
	bytes   int     // of all results
}

// An instant is a point in time, in nanoseconds since 1970: all that a log has
// to write, and the same after a restart.
type instant int64

// add is as late as can be told, rather than early, where the sum is too large.
func (i instant) add(d time.Duration) instant {
	if d > 0 && i > math.MaxInt64-instant(d) {
		return math.MaxInt64
	}
	return i + instant(d)
}

// A run is what a change says of a key: everything of it that a log must keep.
type run struct {
	fingerprint Fingerprint
	token       Token // of the last claim
	fence       uint64
	takenOver   bool
	completed   bool
	claimed     instant // for the first time
	lease       instant // when it lapses, until completed
	answer      instant // when the result is dropped, once completed
	keep        instant // when the key is forgotten
	result      []byte
}

// A change is one step of a record. The zero change does nothing.
type change struct {
	op  op
	id  ID
	at  instant
	run run // of forget: only the fence, the last that was given
}

type op uint8

const (
	nothing op = iota
	put        // the record is now run
	forget     // the key is absent
)

// state is where a key stands that is known by r.
func (r *run) state(now instant) State {
	switch {
	case now >= r.keep:
		return Absent
	case r.completed && now < r.answer:
		return Completed
	case r.completed:
		return Expired
	case now < r.lease:
		return Running
	}
	return Unknown
}

func (r *run) record(now instant) Record {
	state := r.state(now)
	if state == Absent {
		return Record{}
	}
	rec := Record{
		State:       state,
		Fingerprint: r.fingerprint,
		Fence:       r.fence,
		TakenOver:   r.takenOver,
		Age:         time.Duration(now - r.claimed),
	}
	if state == Completed {
		rec.Result = r.result
	}
	if state == Running {
		rec.Left = time.Duration(r.lease - now)
	}
	return rec
}

// hold begins the lease at now. No record is forgotten while its lease is held,
// however short the keep: somebody else would run beside the holder.
func (r *run) hold(now instant, lease, keep time.Duration) {
	r.lease = now.add(lease)
	r.keep = max(r.lease, now.add(keep))
}

// sweptByClaim is how many due records a claim clears away. A claim brings one
// record, which is due twice at most, so that they cannot pile up.
const sweptByClaim = 4

// claim is Store.Claim. What it decides has to be applied where claimed is true;
// the record is already as it then stands.
func (t *table) claim(at time.Time, c Claim) (rec Record, claimed bool, ch change) {
	now := t.tick(at)
	for range sweptByClaim {
		if !t.sweep() {
			break
		}
	}
	next := run{fingerprint: c.Fingerprint, token: c.Token, fence: t.fence + 1, claimed: now}
	if e := t.find(c.ID); e != nil {
		switch state := e.state(now); {
		case !e.completed && e.token == c.Token:
			next = e.run
		case state == Unknown && c.TakeOver && e.fingerprint == c.Fingerprint:
			next.takenOver, next.claimed = true, e.claimed
		default:
			return e.record(now), false, change{}
		}
	}
	next.hold(now, c.Lease, c.Keep)
	return next.record(now), true, change{op: put, id: c.ID, at: now, run: next}
}

// renew is Store.Renew, to be applied.
func (t *table) renew(at time.Time, h Holder, lease, keep time.Duration) (change, error) {
	now := t.tick(at)
	e := t.held(h)
	if e == nil {
		return change{}, ErrLost
	}
	next := e.run
	next.hold(now, lease, keep)
	return change{op: put, id: h.ID, at: now, run: next}, nil
}

// complete is Store.Complete, to be applied. The table keeps result itself.
func (t *table) complete(at time.Time, h Holder, result []byte, keep Keep) (change, error) {
	now := t.tick(at)
	e := t.find(h.ID)
	if e == nil || e.token != h.Token {
		return change{}, ErrLost
	}
	if e.completed {
		return change{}, nil
	}
	next := e.run
	next.completed, next.result = true, result
	next.answer, next.keep = now.add(keep.Result), now.add(keep.Key)
	return change{op: put, id: h.ID, at: now, run: next}, nil
}

// release is Store.Release, to be applied.
func (t *table) release(at time.Time, h Holder) (change, error) {
	now := t.tick(at)
	if t.find(h.ID) == nil {
		return change{}, nil
	}
	if t.held(h) == nil {
		return change{}, ErrLost
	}
	return change{op: forget, id: h.ID, at: now, run: run{fence: t.fence}}, nil
}

// abandon is Store.Abandon, to be applied.
func (t *table) abandon(at time.Time, h Holder, keep time.Duration) (change, error) {
	now := t.tick(at)
	e := t.held(h)
	if e == nil {
		return change{}, ErrLost
	}
	next := e.run
	next.lease, next.keep = min(next.lease, now), now.add(keep)
	return change{op: put, id: h.ID, at: now, run: next}, nil
}

// lookup is Store.Lookup.
func (t *table) lookup(at time.Time, id ID) Record {
	now := t.tick(at)
	if e := t.find(id); e != nil {
		return e.record(now)
	}
	return Record{}
}

// all is what makes this table of an empty one: a log may begin anew with it.
func (t *table) all(at time.Time) iter.Seq[change] {
	return func(yield func(change) bool) {
		now := t.tick(at)
		// First the fence, which no record may have any more: it forgets nothing, being first.
		if !yield(change{op: forget, at: now, run: run{fence: t.fence}}) {
			return
		}
		for id, e := range t.records {
			state := e.state(now)
			if state == Absent {
				continue
			}
			ch := change{op: put, id: id, at: now, run: e.run}
			if state == Expired {
				ch.run.result = nil
			}
			if !yield(ch) {
				return
			}
		}
	}
}

// apply makes a change that a method of this table decided, now or before a restart.
func (t *table) apply(ch change) {
	if ch.op == nothing {
		return
	}
	t.now = max(t.now, ch.at)
	t.fence = max(t.fence, ch.run.fence)
	e := t.records[ch.id]
	if ch.op == forget {
		if e != nil {
			t.drop(e)
		}
		return
	}
	if e != nil {
		t.bytes += len(ch.run.result) - len(e.result)
		e.run = ch.run
		t.due.place(e.index, e.deadline())
		return
	}
	if t.records == nil {
		t.records = make(map[ID]*entry)
	}
	e = &entry{id: ch.id, run: ch.run}
	t.bytes += len(e.result)
	t.records[ch.id] = e
	t.due = append(t.due, deadline{})
	t.due.place(len(t.due)-1, e.deadline())
}

func (t *table) tick(at time.Time) instant {
	t.now = max(t.now, instant(at.UnixNano()))
	return t.now
}

// find is the entry of a key that is not absent.
func (t *table) find(id ID) *entry {
	if e := t.records[id]; e != nil && e.state(t.now) != Absent {
		return e
	}
	return nil
}

// held is the entry that h may still alter: its own, and not settled.
func (t *table) held(h Holder) *entry {
	if e := t.find(h.ID); e != nil && e.token == h.Token && !e.completed {
		return e
	}
	return nil
}

// sweep forgets a record or drops a result whose time is over, and reports
// whether there was one.
func (t *table) sweep() bool {
	if len(t.due) == 0 || t.due[0].at > t.now {
		return false
	}
	e := t.due[0].entry
	if e.keep <= t.now {
		t.drop(e)
		return true
	}
	t.bytes -= len(e.result)
	e.result = nil
	t.due.place(e.index, e.deadline())
	return true
}

func (t *table) drop(e *entry) {
	t.bytes -= len(e.result)
	delete(t.records, e.id)
	t.due.remove(e.index)
}

// An entry is a record where a table has it.
type entry struct {
	run
	id    ID
	index int // in the agenda
}

// deadline is when time takes something of the entry that needs memory.
func (e *entry) deadline() deadline {
	if e.result != nil {
		return deadline{min(e.answer, e.keep), e}
	}
	return deadline{e.keep, e}
}

type deadline struct {
	at    instant
	entry *entry
}

// An agenda is a heap: the first deadline is at its root. With package
// container/heap a new key would cost a fifth more.
type agenda []deadline

// place puts d at i, of which the deadline is gone, or where it belongs from there.
func (a agenda) place(i int, d deadline) {
	for i > 0 {
		parent := (i - 1) / 2
		if a[parent].at <= d.at {
			break
		}
		a.set(i, a[parent])
		i = parent
	}
	for {
		child := 2*i + 1
		if child+1 < len(a) && a[child+1].at < a[child].at {
			child++
		}
		if child >= len(a) || a[child].at >= d.at {
			break
		}
		a.set(i, a[child])
		i = child
	}
	a.set(i, d)
}

func (a agenda) set(i int, d deadline) {
	a[i] = d
	d.entry.index = i
}

func (a *agenda) remove(i int) {
	last := len(*a) - 1
	d := (*a)[last]
	(*a)[last] = deadline{}
	*a = (*a)[:last]
	if i < last {
		a.place(i, d)
	}
}
