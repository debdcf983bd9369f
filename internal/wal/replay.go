package wal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A reader replays a file. Its memory is bounded by what the file holds, never
// by a length that the file states.
type reader struct {
	path string
	file io.ReaderAt
	size int64
	head header
}

// replay hands each record to each, which must not keep it, and returns the end
// of the last whole frame: what follows is torn.
func (r *reader) replay(each func(record []byte) error) (end int64, err error) {
	in := bufio.NewReaderSize(io.NewSectionReader(r.file, 0, r.size), 1<<16)
	first := make([]byte, min(headSize, r.size))
	if _, err := io.ReadFull(in, first); err != nil {
		return 0, err
	}
	if err := r.head.check(r.path, first); err != nil {
		return 0, err
	}
	var body bytes.Buffer
	for end = headSize; end < r.size; {
		if r.size-end < frameSize {
			return end, nil
		}
		var first [frameSize]byte
		if _, err := io.ReadFull(in, first[:]); err != nil {
			return end, err
		}
		length, sum, ok := r.head.frame(first[:])
		if !ok {
			return end, r.noHeader(end)
		}
		if length > r.size-end-frameSize {
			return end, nil
		}
		body.Reset()
		if _, err := io.CopyN(&body, in, length); err != nil {
			return end, err
		}
		if crc32.Checksum(body.Bytes(), castagnoli) != sum {
			return end, r.badBody(end, body.Bytes())
		}
		if err := r.records(end, body.Bytes(), each); err != nil {
			return end, err
		}
		end += frameSize + length
	}
	return end, nil
}

func (r *reader) records(at int64, body []byte, each func([]byte) error) error {
	for len(body) > 0 {
		n, head := binary.Uvarint(body)
		if head <= 0 || n > uint64(len(body)-head) {
			return r.corrupt(at, "a frame of records that do not add up")
		}
		end := head + int(n)
		if err := each(body[head:end:end]); err != nil {
			return fmt.Errorf("wal: %s: the frame at offset %d: %w", r.path, at, err)
		}
		body = body[end:]
	}
	return nil
}

func (r *reader) corrupt(at int64, reason string) error {
	return &CorruptError{Path: r.path, Offset: at, Reason: reason}
}

// badBody judges a frame with a sound header and a body that differs. It is torn
// if it is the last, and a sector of it never reached the disk: file systems
// show such a sector as zeros.
func (r *reader) badBody(at int64, body []byte) error {
	start := at + frameSize
	if start+int64(len(body)) < r.size {
		return r.corrupt(at, "the checksum of a frame differs, and more follows")
	}
	if !zeroSector(start, body) {
		return r.corrupt(at, "the checksum of the last frame differs, though all of it was written")
	}
	return nil
}

// noHeader judges bytes that are not the header of a frame. They are torn if a
// sector of the header never reached the disk and no frame follows.
func (r *reader) noHeader(at int64) error {
	near := make([]byte, min(2*sectorSize, r.size-at))
	if _, err := r.file.ReadAt(near, at); err != nil {
		return err
	}
	edge := int(sectorSize - (at+frameSize-1)%sectorSize + frameSize - 1) // of the sector where the header ends
	if !zeroSector(at, near[:min(edge, len(near))]) {
		return r.corrupt(at, "the checksum of a frame's header differs")
	}
	in := bufio.NewReaderSize(io.NewSectionReader(r.file, at, r.size-at), 1<<16)
	for ; at <= r.size-frameSize; at++ {
		window, err := in.Peek(frameSize)
		if err != nil {
			return err
		}
		if _, _, ok := r.head.frame(window); ok {
			return r.corrupt(at, "a frame that follows on a hole")
		}
		in.Discard(1) // it was peeked at
	}
	return nil
}

// zeroSector reports whether b, which stands at an offset, has a sector of zeros:
// that part of it which is in b.
func zeroSector(at int64, b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), int(sectorSize-at%sectorSize))
		if len(bytes.TrimLeft(b[:n], "\x00")) == 0 {
			return true
		}
		at, b = at+int64(n), b[n:]
	}
	return false
}
