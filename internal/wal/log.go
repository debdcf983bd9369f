// Package wal is an append-only log of records in one file: what was
// acknowledged is there after a crash, and what is damaged is not believed.
//
//	Append ─▶ pending ─▶ one write, one sync ─▶ durable
//	Append ─▶    ╵            (a frame)
//
// Records that come while a sync is under way share the next one.
package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Options configures a [Log].
type Options struct {
	// Kind says what the records are, with their version: "journal/1". A file of
	// another kind is refused. Not longer than KindSize.
	Kind string
	// Sync makes durable what was written, before it is acknowledged. Nil means
	// fsync, or what the system has in its place.
	Sync func(*os.File) error
}

// NoSync, as [Options].Sync, leaves it to the operating system when a record
// reaches the disk. What was acknowledged then survives the death of the
// process, not that of the machine, which may even damage earlier records.
func NoSync(*os.File) error { return nil }

// maxBacklog bounds what waits for a disk that does not answer.
const maxBacklog = 64 << 20

var (
	// ErrClosed is what a closed log returns.
	ErrClosed = errors.New("wal: the log is closed")
	// ErrBacklog is returned while too much waits for the disk: 64 MiB.
	ErrBacklog = errors.New("wal: the disk does not keep up")

	errHeld = errors.New("somebody else has it open")
)

// A Pos names a record of this opening of a log. Later records have higher ones.
type Pos uint64

// A Log may be used by many goroutines. An error of the disk ends it: what the
// file then holds is known to nobody before it is opened anew, and a second
// fsync may report success for what the first has lost.
type Log struct {
	path string
	head header
	sync func(*os.File) error
	lock io.Closer

	mu      sync.Mutex
	changed sync.Cond // flushing ended
	file    *os.File  // written to by flush alone, or while held
	size    int64     // of file: what is written
	added   Pos       // the last record
	durable Pos       // the last record that is on disk
	pending *batch    // nil if there is nothing to write
	writing *batch    // what flush is at
	spare   []byte    // the buffer of an earlier batch
	running bool      // flush is
	held    bool      // flush must not begin
	busy    bool      // Compact is at work; then Close waits
	err     error     // ends it all
}

// A batch is the records that will share a sync.
type batch struct {
	frame []byte
	last  Pos
	done  chan struct{}
}

// Open opens a log, or makes one, and hands each record in it to replay, which
// must not keep the slice. A torn record at the end, which was never
// acknowledged, is cut off; damage anywhere else is a [CorruptError]. Nobody else
// can open the log until it is closed: the lock is a file beside it that stays.
func Open(path string, o Options, replay func(record []byte) error) (*Log, error) {
	if len(o.Kind) > KindSize {
		return nil, fmt.Errorf("wal: Options.Kind: %q is longer than %d bytes", o.Kind, KindSize)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // or a compaction would replace the link
	}
	held, err := lock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("wal: lock %s: %w", path, err)
	}
	l := &Log{path: path, head: newHeader(o.Kind), sync: o.Sync, lock: held}
	if l.sync == nil {
		l.sync = (*os.File).Sync
	}
	l.changed.L = &l.mu
	if err := l.load(replay); err != nil {
		if l.file != nil {
			l.file.Close()
		}
		held.Close()
		return nil, err
	}
	return l, nil
}

func (l *Log) load(replay func([]byte) error) error {
	if err := os.Remove(successor(l.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wal: what a crash left: %w", err)
	}
	var err error
	l.file, err = os.OpenFile(l.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		l.file, err = create(l.path, l.head)
	}
	if err != nil {
		return fmt.Errorf("wal: %w", err)
	}
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("wal: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("wal: %s is not a regular file", l.path)
	}
	r := reader{path: l.path, file: l.file, size: info.Size(), head: l.head}
	l.size, err = r.replay(replay)
	if err != nil {
		return err
	}
	l.head = r.head
	if l.size < info.Size() {
		if err := l.file.Truncate(l.size); err != nil {
			return fmt.Errorf("wal: a torn record: %w", err)
		}
	}
	// A crash may have left whole frames that only the page cache holds, and what
	// is replayed counts as durable.
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("wal: %w", err)
	}
	return nil
}

// Append adds a record and waits until it is durable. A context that ends the
// wait leaves open whether it becomes so.
func (l *Log) Append(ctx context.Context, record []byte) error {
	p, err := l.Add(record)
	if err != nil {
		return err
	}
	return l.Wait(ctx, p)
}

// Add adds a record, to be durable soon; it does not wait for the disk. Records
// are in the file in the order of Add.
func (l *Log) Add(record []byte) (Pos, error) {
	if len(record) > MaxRecord {
		return 0, errTooLong(record)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	if l.pending != nil && len(l.pending.frame) > maxBacklog {
		return 0, ErrBacklog
	}
	if l.pending == nil {
		l.pending = &batch{frame: l.spare, done: make(chan struct{})}
		l.spare = nil
	}
	l.added++
	l.pending.last = l.added
	l.pending.frame = appendRecord(l.pending.frame, record)
	l.startLocked()
	return l.added, nil
}

func errTooLong(record []byte) error {
	return fmt.Errorf("wal: a record of %d bytes is longer than %d", len(record), MaxRecord)
}

// Err is what ended the log: nil while it takes records.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// startLocked starts a flush where there is none. It has a goroutine of its own,
// which ends when nothing is pending: a caller whose context ends is not held up
// by a slow disk, and leaves nothing behind that nobody writes.
func (l *Log) startLocked() {
	if l.pending != nil && !l.running && !l.held {
		l.running = true
		go l.flush()
	}
}

func (l *Log) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.pending != nil && !l.held && !errors.Is(l.err, errDisk) {
		b, file := l.pending, l.file
		l.writing, l.pending = b, nil
		l.mu.Unlock()
		err := l.write(file, b.frame)
		l.mu.Lock()
		if err == nil {
			l.size += int64(len(b.frame))
			l.durable = b.last
		}
		l.writing = nil
		if cap(b.frame) <= 1<<20 {
			l.spare = b.frame[:0]
		}
		l.poisonLocked(err)
		close(b.done)
	}
	l.running = false
	l.changed.Broadcast()
}

func (l *Log) write(file *os.File, frame []byte) error {
	l.head.seal(frame)
	if _, err := file.WriteAt(frame, l.size); err != nil {
		return err
	}
	return l.sync(file)
}

// errDisk marks an error that ends a log.
var errDisk = errors.New("wal: the log takes no more records")

// poisonLocked ends the log, and with it all who wait.
func (l *Log) poisonLocked(err error) {
	if err == nil {
		return
	}
	l.err = fmt.Errorf("%w: %w", errDisk, err)
	if l.pending != nil {
		close(l.pending.done)
		l.pending = nil
	}
}

// Wait waits until a record and all before it are durable.
func (l *Log) Wait(ctx context.Context, p Pos) error {
	l.mu.Lock()
	var done chan struct{}
	switch {
	case p <= l.durable: // also when the log has ended since
		l.mu.Unlock()
		return nil
	case l.writing != nil && p <= l.writing.last:
		done = l.writing.done
	case l.pending != nil && p <= l.pending.last:
		done = l.pending.done
	default:
		defer l.mu.Unlock()
		return l.err
	}
	l.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p <= l.durable {
		return nil
	}
	return l.err
}

// Size is the length of the file in bytes.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// Close waits until all records are durable and a compaction is over, and frees
// the file. A second Close returns ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.err, ErrClosed) {
		return ErrClosed
	}
	failed := l.err
	l.err = ErrClosed
	for l.running || l.busy {
		l.changed.Wait()
	}
	if failed == nil && !errors.Is(l.err, ErrClosed) {
		failed = l.err // by the last flush
	}
	l.err = ErrClosed
	if failed == nil {
		failed = l.file.Sync() // for those who did not ask for it
	}
	return errors.Join(failed, l.file.Close(), l.lock.Close())
}

// Durable is the last record that is known to be on disk.
func (l *Log) Durable() Pos {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}
