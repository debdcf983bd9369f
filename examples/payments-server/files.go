package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-resilient/resilient/idempotency"
)

// files is a ledger with one file for each charge, all in this directory.
type files string

func openLedger(dir string) (files, error) {
	dir = filepath.Join(dir, "charges")
	return files(dir), os.MkdirAll(dir, 0o700)
}

// add writes the charge beside its place and then links it there: it is there
// whole or not at all, and the first one stays.
func (f files) add(_ context.Context, c charge, _ idempotency.Answer) error {
	draft, err := f.write(c)
	if err != nil {
		return fmt.Errorf("%w: %w", idempotency.ErrNotApplied, err)
	}
	defer os.Remove(draft)
	err = os.Link(draft, f.path(c.ID))
	if errors.Is(err, fs.ErrExist) {
		if first, err := f.read(c.ID); err != nil || first != c {
			return errors.Join(errCharged, err)
		}
	} else if err != nil {
		return fmt.Errorf("%w: %w", idempotency.ErrNotApplied, err)
	}
	return f.sync() // after an error here it may be there or not
}

func (f files) find(_ context.Context, id string) (c charge, ok bool, err error) {
	if !strings.HasPrefix(id, "ch_") || strings.ContainsAny(id, `/\`) {
		return charge{}, false, nil // no ID of ours, and no path into somewhere else
	}
	c, err = f.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return charge{}, false, nil
	}
	return c, err == nil, err
}

func (f files) path(id string) string { return filepath.Join(string(f), id) }

func (f files) read(id string) (c charge, err error) {
	text, err := os.ReadFile(f.path(id))
	if err != nil {
		return charge{}, err
	}
	return c, json.Unmarshal(text, &c)
}

// write returns the name of a file with the charge that is on the disk.
func (f files) write(c charge) (string, error) {
	file, err := os.CreateTemp(string(f), "draft-*")
	if err != nil {
		return "", err
	}
	err = errors.Join(json.NewEncoder(file).Encode(c), file.Sync(), file.Close())
	if err != nil {
		os.Remove(file.Name())
	}
	return file.Name(), err
}

// sync makes sure of the directory itself.
func (f files) sync() error {
	dir, err := os.Open(string(f))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
