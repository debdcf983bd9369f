package resilient

import (
	"fmt"
	"io"
	"io/fs"
	"os"
)

// section is what remained of a file, or io.SectionReader, when the operation
// began. Every reader it opens has a position of its own: an attempt that is
// still sending shares nothing with the next.
type section struct {
	at     io.ReaderAt
	off, n int64
	direct bool // at is the body itself
	info   fs.FileInfo
}

// of reports whether r is something to read by sections. A file without size
// (a pipe, most of /proc) is not.
func (c *section) of(r io.Reader) bool {
	var base int64
	switch r := r.(type) {
	case *os.File:
		c.at, c.direct = r, true
	case *io.SectionReader:
		c.at, base, c.n = r.Outer()
	default:
		return false
	}
	if f, ok := c.at.(*os.File); ok {
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return false
		}
		c.info = info
		if c.direct {
			c.n = info.Size()
		}
	}
	pos, err := r.(io.Seeker).Seek(0, io.SeekCurrent)
	c.off, c.n = base+pos, c.n-pos
	return err == nil && c.n > 0
}

func (c *section) open() io.Reader { return io.NewSectionReader(c.at, c.off, c.n) }

// whole returns the file if it is the body and has just the length declared.
func (c *section) whole(length int64) *os.File {
	f, _ := c.at.(*os.File)
	if c.direct && (length < 0 || length == c.n) {
		return f
	}
	return nil
}

// changed refuses a file that is no longer what the first attempt sent.
func (c *section) changed() error {
	f, ok := c.at.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBody, err)
	}
	if info.Size() != c.info.Size() || !info.ModTime().Equal(c.info.ModTime()) {
		return fmt.Errorf("%w: the file has changed", ErrBody)
	}
	return nil
}
