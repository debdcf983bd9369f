package wal

import (
	"errors"
	"os"
	"path/filepath"
)

// successor is the name of the file that is to take the place of a log. One
// that is there when a log is opened was left by a crash.
func successor(path string) string { return path + ".new" }

// begin makes a successor with a header and nothing else.
func begin(path string, h header) (*os.File, error) {
	f, err := os.OpenFile(successor(path), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(h.encode()); err != nil {
		return nil, errors.Join(err, drop(f))
	}
	return f, nil
}

func drop(f *os.File) error {
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// install puts the successor, which must be synced and closed, in the place of
// the log. A crash leaves either the one or the other.
func install(path string) (*os.File, error) {
	if err := os.Rename(successor(path), path); err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// create makes an empty log: whole or not at all.
func create(path string, h header) (*os.File, error) {
	f, err := begin(path, h)
	if err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, errors.Join(err, drop(f))
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return install(path)
}
