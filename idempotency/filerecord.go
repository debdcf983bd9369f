package idempotency

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// fileKind is the version of the records below.
const fileKind = "idempotency/1"

// A record of a file is a change, numbers little-endian:
//
//	nothing  op  at
//	forget   op  at  id  fence
//	put      op  at  id  fence  fingerprint  token  flags  claimed lease answer keep  result
//
// Nothing tells the time alone: a clock that is set back while the file is
// closed does not undo what somebody has been told.
const (
	fileTick   = 1 + 8
	fileForget = fileTick + 32 + 8
	filePut    = fileForget + 32 + 16 + 1 + 4*8
)

const (
	fileTakenOver = 1 << iota
	fileCompleted
	fileResult // there is one, be it empty
	fileFlags  = fileResult<<1 - 1
)

var errFileRecord = errors.New("idempotency: a record that this version does not know")

func (ch *change) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, byte(ch.op))
	b = le.AppendUint64(b, uint64(ch.at))
	if ch.op == nothing {
		return b
	}
	r := &ch.run
	b = append(b, ch.id[:]...)
	b = le.AppendUint64(b, r.fence)
	if ch.op == forget {
		return b
	}
	b = append(b, r.fingerprint[:]...)
	b = append(b, r.token[:]...)
	b = append(b, flag(r.takenOver, fileTakenOver)|flag(r.completed, fileCompleted)|flag(r.result != nil, fileResult))
	for _, at := range []instant{r.claimed, r.lease, r.answer, r.keep} {
		b = le.AppendUint64(b, uint64(at))
	}
	return append(b, r.result...)
}

func flag(is bool, bit byte) byte {
	if is {
		return bit
	}
	return 0
}

// readChange copies what it keeps of b.
func readChange(b []byte) (ch change, err error) {
	le := binary.LittleEndian
	if len(b) < fileTick || op(b[0]) > forget {
		return ch, errFileRecord
	}
	ch.op, ch.at = op(b[0]), instant(le.Uint64(b[1:]))
	least := map[op]int{nothing: fileTick, forget: fileForget, put: filePut}[ch.op]
	if len(b) < least || len(b) > least && ch.op != put {
		return change{}, fmt.Errorf("%w: %d bytes of kind %d", errFileRecord, len(b), ch.op)
	}
	if ch.op == nothing {
		return ch, nil
	}
	r := &ch.run
	b = b[fileTick:]
	b = b[copy(ch.id[:], b):]
	r.fence, b = le.Uint64(b), b[8:]
	if ch.op == forget {
		return ch, nil
	}
	b = b[copy(r.fingerprint[:], b):]
	b = b[copy(r.token[:], b):]
	flags := b[0]
	b = b[1:]
	for _, at := range []*instant{&r.claimed, &r.lease, &r.answer, &r.keep} {
		*at, b = instant(le.Uint64(b)), b[8:]
	}
	r.takenOver, r.completed = flags&fileTakenOver != 0, flags&fileCompleted != 0
	if flags > fileFlags || len(b) > 0 && flags&fileResult == 0 {
		return change{}, fmt.Errorf("%w: flags %#x", errFileRecord, flags)
	}
	if flags&fileResult != 0 {
		r.result = append([]byte{}, b...)
	}
	return ch, nil
}
