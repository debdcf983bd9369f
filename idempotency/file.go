package idempotency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-resilient/resilient/internal/wal"
)

// FileConfig configures a [File]. The zero FileConfig is ready to use.
type FileConfig struct {
	// MaxRecords bounds the records, of some 300 bytes of memory each beside the
	// result. Zero means 1,000,000.
	MaxRecords int
	// MaxBytes bounds the results together, which are in memory as well as in
	// the file: when they reach it, no key is taken that is not known. The
	// results of runs that have begun are still kept. Zero means 256 MiB.
	MaxBytes int
	// NoSync leaves it to the operating system when a change reaches the disk.
	// What was acknowledged then survives the death of the process, but not a
	// loss of power or a crash of the machine: keys of its last seconds may be
	// executed again, or the file may be damaged and refused.
	NoSync bool
}

// A File is a [Store] in one file, for one process at a time: what it has
// acknowledged survives the death of the process and, unless NoSync is set, of
// the machine. Callers that come together share a sync.
//
// As nobody else can have the file, each Running record found by [OpenFile] is
// of a holder that is dead, and is Unknown at once. Like [Memory] it forgets no
// record before its time, refuses new keys with [ErrFull], and shares the Result
// of a [Record]. An error of the disk ends it: all methods return the error
// until the file is opened anew.
//
// Time is that of the process's monotonic clock from the time of day at
// OpenFile, or from the latest time in the file if that is later: a clock set
// back makes nothing valid again. Where the monotonic clock stops while the
// machine sleeps, lives are longer by that.
//
// Results are written anew when the file is mostly of the past, which takes
// room for a second file meanwhile.
type File struct {
	log                  *wal.Log
	maxRecords, maxBytes int
	start                time.Time
	ahead                time.Duration  // of the time of day: it was set back
	work                 sync.WaitGroup // a compaction

	mu         sync.Mutex
	table      table
	logged     instant // the latest time that the log has
	ticked     wal.Pos // of a record that had nothing but the time
	recent     positions
	record     []byte // the last one, for its room
	compacting bool
	closed     bool
	enough     int   // dead bytes, before a compaction
	failed     error // of the last compaction
	again      int64 // the size at which it is tried again
}

// fileEnough is how many bytes of the past a file may have in any case.
const fileEnough = 4 << 20

// OpenFile opens the file, or makes it, readable by its owner only. Beside it
// there is one with ".lock" added to the name, which stays, and at times one
// with ".new". A file that is open already, damaged, or of another version is an
// error that names it.
func OpenFile(path string, c FileConfig) (*File, error) {
	o := wal.Options{Kind: fileKind}
	if c.NoSync {
		o.Sync = wal.NoSync
	}
	f, err := loadFile(path, c, o)
	if err != nil {
		return nil, err
	}
	now := f.table.now
	for id, e := range f.table.records {
		if e.state(now) == Running {
			orphan := e.run
			orphan.lease = now // not written: it is so whenever the file is opened
			f.table.apply(change{op: put, id: id, at: now, run: orphan})
		}
	}
	return f, nil
}

// loadFile opens the file with the records as they were left.
func loadFile(path string, c FileConfig, o wal.Options) (*File, error) {
	if c.MaxRecords < 0 {
		return nil, fmt.Errorf("idempotency: FileConfig.MaxRecords: %d is negative", c.MaxRecords)
	}
	if c.MaxBytes < 0 {
		return nil, fmt.Errorf("idempotency: FileConfig.MaxBytes: %d is negative", c.MaxBytes)
	}
	f := &File{maxRecords: c.MaxRecords, maxBytes: c.MaxBytes, enough: fileEnough}
	if f.maxRecords == 0 {
		f.maxRecords = 1_000_000
	}
	if f.maxBytes == 0 {
		f.maxBytes = 256 << 20
	}
	var err error
	f.log, err = wal.Open(path, o, f.replay)
	if err != nil {
		return nil, fmt.Errorf("idempotency: %w", err)
	}
	f.start = time.Now()
	f.ahead = max(0, time.Unix(0, int64(f.table.now)).Sub(f.start))
	f.logged = f.table.tick(f.now())
	for f.table.sweep() {
	}
	// What is swept stays so, and a disk that takes nothing is found out now.
	tick := change{at: f.logged}
	if err := f.log.Append(context.Background(), tick.appendTo(nil)); err != nil {
		return nil, fmt.Errorf("idempotency: %w", errors.Join(err, f.log.Close()))
	}
	return f, nil
}

func (f *File) replay(record []byte) error {
	ch, err := readChange(record)
	if err != nil {
		return err
	}
	f.table.apply(ch)
	f.table.now = max(f.table.now, ch.at)
	return nil
}

// Claim implements [Store].
func (f *File) Claim(ctx context.Context, c Claim) (rec Record, claimed bool, err error) {
	err = f.do(ctx, c.ID, func(now time.Time) (ch change, err error) {
		rec, claimed, ch = f.table.claim(now, c)
		if claimed && f.table.records[c.ID] == nil && f.fullLocked() {
			return change{}, ErrFull
		}
		return ch, nil
	})
	if err != nil {
		return Record{}, false, err
	}
	return rec, claimed, nil
}

// Renew implements [Store].
func (f *File) Renew(ctx context.Context, h Holder, lease, keep time.Duration) error {
	return f.do(ctx, h.ID, func(now time.Time) (change, error) {
		return f.table.renew(now, h, lease, keep)
	})
}

// Complete implements [Store]. It copies the result.
func (f *File) Complete(ctx context.Context, h Holder, result []byte, keep Keep) error {
	if len(result) > wal.MaxRecord-filePut {
		return fmt.Errorf("idempotency: a result of %d bytes is longer than %d", len(result), wal.MaxRecord-filePut)
	}
	result = bytes.Clone(result)
	return f.do(ctx, h.ID, func(now time.Time) (change, error) {
		return f.table.complete(now, h, result, keep)
	})
}

// Release implements [Store].
func (f *File) Release(ctx context.Context, h Holder) error {
	return f.do(ctx, h.ID, func(now time.Time) (change, error) {
		return f.table.release(now, h)
	})
}

// Abandon implements [Store].
func (f *File) Abandon(ctx context.Context, h Holder, keep time.Duration) error {
	return f.do(ctx, h.ID, func(now time.Time) (change, error) {
		return f.table.abandon(now, h, keep)
	})
}

// Lookup implements [Store].
func (f *File) Lookup(ctx context.Context, id ID) (rec Record, err error) {
	err = f.do(ctx, id, func(now time.Time) (change, error) {
		rec = f.table.lookup(now, id)
		return change{}, nil
	})
	if err != nil {
		return Record{}, err
	}
	return rec, nil
}

// do makes the change that decide asks for and returns decide's error, once
// nothing that it shows of the key can be undone by a crash.
//
// The table is always ahead of the disk: a change is added to the log and
// applied under one lock, and its sync is waited for outside of it. So that
// nobody acts on what may be lost, also who changes nothing, a reader or a
// holder that is refused, waits for the last record of this key. What was
// decided on top of a change that is not durable stands behind it in the log.
func (f *File) do(ctx context.Context, id ID, decide func(time.Time) (change, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.log.Err(); err != nil {
		return fmt.Errorf("idempotency: %w", err)
	}
	f.mu.Lock()
	now := f.now()
	told := f.lapsedLocked(id, now)
	records, results := len(f.table.records), f.table.bytes
	ch, decided := decide(now)
	told = told || len(f.table.records) != records || f.table.bytes != results // swept
	pos, err := f.writeLocked(id, ch, told)
	f.mu.Unlock()
	if err != nil {
		return fmt.Errorf("idempotency: %w", err)
	}
	if err := f.log.Wait(ctx, pos); err != nil {
		return fmt.Errorf("idempotency: %w", err)
	}
	return decided
}

// lapsedLocked reports whether the record has another state by now than by the
// latest time in the log. Who is told of it must find it so after a crash, even
// if the clock was set back.
func (f *File) lapsedLocked(id ID, at time.Time) bool {
	now := f.table.tick(at)
	e := f.table.records[id]
	return e != nil && e.state(f.logged) != e.state(now)
}

// writeLocked adds a change to the log and makes it, and returns what has to be
// durable before anybody is told of the key.
func (f *File) writeLocked(id ID, ch change, told bool) (wal.Pos, error) {
	if ch.op == nothing && !told {
		return max(f.ticked, f.recent.of(id)), nil
	}
	ch.at = f.table.now
	f.record = ch.appendTo(f.record[:0])
	pos, err := f.log.Add(f.record)
	if cap(f.record) > 1<<20 {
		f.record = nil
	}
	if err != nil {
		return 0, err
	}
	f.table.apply(ch)
	f.logged = ch.at
	f.recent.put(id, pos, f.log.Durable())
	if ch.op == nothing {
		f.ticked = pos
	}
	f.compactLocked()
	return pos, nil
}

func (f *File) now() time.Time { return f.start.Add(time.Since(f.start) + f.ahead) }

// fullLocked clears away all that is due before it says so.
func (f *File) fullLocked() bool {
	for len(f.table.records) >= f.maxRecords || f.table.bytes >= f.maxBytes {
		if !f.table.sweep() {
			return true
		}
	}
	return false
}

// compactLocked starts a compaction where more of the file is dead than alive.
func (f *File) compactLocked() {
	size, live := f.log.Size(), len(f.table.records)*filePut+f.table.bytes
	if f.closed || f.compacting || size < f.again || int(size)-live <= max(live, f.enough) {
		return
	}
	f.compacting = true
	f.work.Go(f.compact)
}

func (f *File) compact() {
	err := f.log.Compact(f.snapshot)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compacting = false
	f.failed, f.again = err, 0
	if err != nil { // the disk may be full: not again with every call
		f.again = 2 * f.log.Size()
	}
}

// snapshot gives the lock back between any two records, so that nobody waits
// for it. What changes meanwhile is in the log behind it.
func (f *File) snapshot(add func([]byte) error) error {
	var b []byte
	f.mu.Lock()
	defer f.mu.Unlock()
	for ch := range f.table.all(f.now()) {
		f.mu.Unlock()
		b = ch.appendTo(b[:0])
		err := add(b)
		f.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Close waits until all changes are durable and gives the file back. It returns
// what has ended the store before, and why the last compaction failed. All other
// methods return an error from then on.
func (f *File) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	err := f.log.Close()
	f.work.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil && !errors.Is(f.failed, wal.ErrClosed) {
		err = errors.Join(err, f.failed)
	}
	if err != nil {
		return fmt.Errorf("idempotency: %w", err)
	}
	return nil
}

// positions are where the last records of keys are in a log: of those that may
// not be durable yet, and of some others.
type positions struct {
	young, old map[ID]wal.Pos
	last       wal.Pos // of old
	newest     wal.Pos
}

func (p *positions) of(id ID) wal.Pos {
	return max(p.young[id], p.old[id])
}

func (p *positions) put(id ID, pos, durable wal.Pos) {
	if p.last <= durable { // nobody has to wait for what is in old
		p.young, p.old, p.last = p.old, p.young, p.newest
		if len(p.young) > 1000 { // a crowd that is over
			p.young = nil
		}
		clear(p.young)
	}
	if p.young == nil {
		p.young = make(map[ID]wal.Pos)
	}
	p.young[id], p.newest = pos, pos
}
