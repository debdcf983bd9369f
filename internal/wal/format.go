package wal

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A file is a header and frames, numbers little-endian:
//
//	header  magic [8]  version u32  salt [8]  kind [16]  crc32c of these u32
//	frame   length u32  crc32c of the body u32  crc32c of salt, length and that u32  body
//	body    (uvarint length, record) ...
//
// A frame is what one write and one sync made durable, with all records of the
// callers that shared them. That tells a torn end from damage: no frame is begun
// before the last one is safe, so only the last can be torn. The header of a
// frame has a checksum of its own, hence its length can be trusted; the salt is
// random, so that a record with the bytes of a frame in it is not taken for one.
const (
	magic      = "resilwal"
	version    = 1
	headSize   = 8 + 4 + 8 + KindSize + 4
	frameSize  = 3 * 4
	sectorSize = 512 // what a disk writes whole
)

// KindSize is the length of [Options].Kind at most.
const KindSize = 16

// MaxRecord is the length of a record at most: 64 MiB.
const MaxRecord = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A CorruptError tells where a file is damaged.
type CorruptError struct {
	Path   string
	Offset int64
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("wal: %s is damaged at offset %d: %s", e.Path, e.Offset, e.Reason)
}

type header struct {
	salt [8]byte
	kind [KindSize]byte
}

func newHeader(kind string) (h header) {
	rand.Read(h.salt[:]) // never fails, says crypto/rand
	copy(h.kind[:], kind)
	return h
}

func (h header) encode() []byte {
	b := make([]byte, 0, headSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = append(b, h.salt[:]...)
	b = append(b, h.kind[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// check reports what is wrong with the header of a file, if it is not to be h
// but for the salt, which it takes over.
func (h *header) check(path string, b []byte) error {
	switch {
	case len(b) < headSize:
		return &CorruptError{path, int64(len(b)), "the file ends within its header"} // it came into being whole
	case string(b[:8]) != magic:
		return &CorruptError{path, 0, "no log begins like this"}
	case binary.LittleEndian.Uint32(b[headSize-4:]) != crc32.Checksum(b[:headSize-4], castagnoli):
		return &CorruptError{path, 0, "the checksum of the header differs"}
	case binary.LittleEndian.Uint32(b[8:]) != version:
		return fmt.Errorf("wal: %s has version %d, and this program knows %d", path, binary.LittleEndian.Uint32(b[8:]), version)
	case [KindSize]byte(b[20:]) != h.kind:
		return fmt.Errorf("wal: %s holds %q, not %q", path, trimmed(b[20:20+KindSize]), trimmed(h.kind[:]))
	}
	copy(h.salt[:], b[12:])
	return nil
}

func trimmed(kind []byte) []byte {
	for len(kind) > 0 && kind[len(kind)-1] == 0 {
		kind = kind[:len(kind)-1]
	}
	return kind
}

// appendRecord adds a record to a frame that is not sealed yet.
func appendRecord(frame, record []byte) []byte {
	if len(frame) == 0 {
		frame = append(frame, make([]byte, frameSize)...)
	}
	frame = binary.AppendUvarint(frame, uint64(len(record)))
	return append(frame, record...)
}

// seal fills in the header of a frame.
func (h header) seal(frame []byte) {
	body := frame[frameSize:]
	binary.LittleEndian.PutUint32(frame, uint32(len(body)))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(body, castagnoli))
	binary.LittleEndian.PutUint32(frame[8:], h.sum(frame))
}

// sum is the checksum of a frame's header.
func (h header) sum(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(h.salt[:], castagnoli), castagnoli, frame[:8])
}

// frame reads the header of a frame.
func (h header) frame(b []byte) (length int64, sum uint32, ok bool) {
	length, sum = int64(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint32(b[4:])
	return length, sum, length > 0 && h.sum(b) == binary.LittleEndian.Uint32(b[8:])
}
