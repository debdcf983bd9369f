//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// lock takes a file for this opener alone by making it. This system has no lock
// that a crash frees, so after one somebody must remove the file.
func lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w, or was when it crashed: then remove %s", errHeld, name)
	}
	if err != nil {
		return nil, err
	}
	return made{f}, nil
}

type made struct{ *os.File }

func (m made) Close() error {
	return errors.Join(m.File.Close(), os.Remove(m.Name()))
}
