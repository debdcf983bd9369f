package wal

import (
	"errors"
	"io"
	"os"
)

// errBusy is what a second Compact gets.
var errBusy = errors.New("wal: a compaction is under way")

// Compact puts a file that begins with a snapshot in the place of this one.
// Snapshot hands over records that tell what all records so far have come to; it
// may tell of later ones too, for whatever was added since Compact was called
// follows the snapshot in any case and is replayed on top of it. Add does not
// wait meanwhile; Wait does so for the last step, two syncs and a rename.
//
// A crash at any instant leaves the old file or the new one, both good. An error
// before the last step leaves the log as it was.
func (l *Log) Compact(snapshot func(add func(record []byte) error) error) error {
	l.mu.Lock()
	if l.err != nil || l.busy {
		defer l.mu.Unlock()
		return errors.Join(l.err, busy(l.busy))
	}
	l.busy = true
	from, old := l.size, l.file // what is pending will be written behind from
	l.mu.Unlock()
	defer l.release()

	next, err := begin(l.path, l.head)
	if err != nil {
		return err
	}
	w := writer{head: l.head, file: next}
	err = snapshot(w.add)
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		from, err = w.follow(old, from, l.Size())
	}
	if err == nil {
		err = next.Sync() // most of it, while others still append
	}
	if err != nil {
		return errors.Join(err, drop(next))
	}
	return l.replace(&w, from)
}

func busy(is bool) error {
	if is {
		return errBusy
	}
	return nil
}

func (l *Log) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy, l.held = false, false
	l.startLocked()
	l.changed.Broadcast()
}

// replace is the last step: nothing is written to the old file any more.
func (l *Log) replace(w *writer, from int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
	for l.running {
		l.changed.Wait()
	}
	if errors.Is(l.err, errDisk) {
		return errors.Join(l.err, drop(w.file))
	}
	old, end := l.file, l.size
	l.mu.Unlock()
	file, size, fatal, err := w.install(l.path, old, from, end)
	l.mu.Lock()
	if fatal {
		l.poisonLocked(err)
	}
	if err == nil {
		l.file, l.size = file, size
	}
	return err
}

// install is fatal once the old file is closed, as some systems ask before it
// can be replaced.
func (w *writer) install(path string, old *os.File, from, end int64) (file *os.File, size int64, fatal bool, err error) {
	if _, err = w.follow(old, from, end); err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		return nil, 0, false, errors.Join(err, drop(w.file))
	}
	if size, err = w.file.Seek(0, io.SeekCurrent); err != nil {
		return nil, 0, false, errors.Join(err, drop(w.file))
	}
	if err = errors.Join(w.file.Close(), old.Close()); err == nil {
		file, err = install(path)
	}
	return file, size, true, err
}

// A writer writes a snapshot, in frames of about a megabyte.
type writer struct {
	head  header
	file  *os.File
	frame []byte
}

func (w *writer) add(record []byte) error {
	if len(record) > MaxRecord {
		return errTooLong(record)
	}
	w.frame = appendRecord(w.frame, record)
	if len(w.frame) < 1<<20 {
		return nil
	}
	return w.flush()
}

func (w *writer) flush() error {
	if len(w.frame) == 0 {
		return nil
	}
	w.head.seal(w.frame)
	_, err := w.file.Write(w.frame)
	w.frame = w.frame[:0]
	return err
}

// follow copies the frames of old from an offset to another, which is where the
// next copy begins. Both files have the same salt.
func (w *writer) follow(old *os.File, from, to int64) (int64, error) {
	n, err := io.Copy(w.file, io.NewSectionReader(old, from, to-from))
	return from + n, err
}
