package faultinject

import (
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// HTTP2Faults returns the faults that HTTP/2 alone knows, [ResetStream] with each
// code of the RFC. They are apart from [Catalogue] since HTTP/1.1 can only do
// something like it. A request that net/http does not send again meets:
//
//	fault                           truth         what the client sees
//	goaway(NO_ERROR)                delivered     a GOAWAY below its stream
//	goaway(ENHANCE_YOUR_CALM)       delivered     a GOAWAY below its stream
//	goaway-after(NO_ERROR)          applied       a GOAWAY, then the end
//	goaway-after(INTERNAL_ERROR)    applied       a GOAWAY, then the end
//	reset-stream(REFUSED_STREAM)    delivered     RST_STREAM
//	reset-stream(...)               applied       RST_STREAM
//
// net/http sends a request again by itself after a GOAWAY below its stream (but
// for the first stream of a connection and a code other than NO_ERROR), after
// REFUSED_STREAM, and after PROTOCOL_ERROR, whatever its method, if its body can be
// had again: by Request.GetBody, or because there is none. To meet PROTOCOL_ERROR
// is to be applied, so that it repeats what it should not.
func HTTP2Faults() []Fault {
	faults := []Fault{
		GoAway(NoError), GoAway(EnhanceYourCalm),
		GoAwayAfter(NoError), GoAwayAfter(InternalError),
	}
	for code := range codes {
		faults = append(faults, ResetStream(Code(code)))
	}
	return faults
}

// Frames, and what we need of them (RFC 9113, sections 4.1 and 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameRST          = 0x3
	frameGoAway       = 0x7
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4

	frameHead = 9                                  // bytes
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, section 3.4
)

// mark is the field that tells a handler its stream. Canonical, as handlers see it.
const mark = "Faultinject-Stream"

// frames follows the HTTP/2 frames of one connection. Coming in, each request
// gets a mark with the number of its stream, which net/http does not tell a
// handler. Going out, the RST_STREAM by which net/http ends the stream of a
// handler that broke off is replaced by what the fault asks for. Both happen at
// the border of a frame and leave alone the header blocks, whose compression has
// a state that all streams share. HTTP/1.1 passes.
type frames struct {
	received, sent follower
	http2          atomic.Bool

	state   sync.Mutex
	streams map[uint32]Fault // the open ones, and what is to end them
	newest  uint32           // stream that the client has opened
	marking uint32           // stream whose header block is on its way in
	closing uint32           // stream whose last header block is on its way out
	entered uint32           // newest stream that a handler may have seen
	leaving Fault            // the GOAWAY that was sent
	last    uint32           // stream that it covers
	ended   bool             // nothing more is sent
	how     How
	writing bool // what was sent is on its way
}

// enter lets a request in, or returns the fault that it arrived behind: the
// client has been told that nobody will look at it.
func (s *frames) enter(id uint32) Fault {
	s.state.Lock()
	defer s.state.Unlock()
	if s.leaving != Pass() && id > s.last {
		return s.leaving
	}
	s.entered = max(s.entered, id)
	return Pass()
}

// doom says how a stream ends if its handler breaks off.
func (s *frames) doom(id uint32, f Fault) {
	switch f.kind {
	case goAway, goAwayAfter, resetStream, closeIdle, cutRequest, dropBefore, loseResponse, cutBody:
		s.state.Lock()
		defer s.state.Unlock()
		if _, open := s.streams[id]; open {
			s.streams[id] = f
		}
	}
}

// due reports whether the connection is to end now, and how.
func (s *frames) due() (How, bool) {
	s.state.Lock()
	defer s.state.Unlock()
	return s.how, s.ended && !s.writing
}

// receive takes in what the client has written.
func (s *frames) receive(p []byte) {
	s.state.Lock()
	defer s.state.Unlock()
	if p = s.received.greet(p); len(p) > 0 {
		s.http2.Store(true)
		s.received.pass(p, s.arriveLocked)
	}
}

func (s *frames) arriveLocked(h frameHeader) (drop bool, then func() []byte) {
	id := h.stream()
	if h.kind() == frameHeaders && id > s.newest { // else they are trailers
		s.newest, s.marking = id, id
		if s.streams == nil {
			s.streams = make(map[uint32]Fault)
		}
		s.streams[id] = Pass()
	}
	switch {
	case h.kind() == frameRST:
		then = func() []byte { return s.closeLocked(id) }
	case id == s.marking && h.has(flagEndHeaders):
		h[4] &^= flagEndHeaders // for one more fragment follows
		s.marking = 0
		then = func() []byte { return marked(id) }
	}
	return false, then
}

// send returns what to write for what the server writes, one Write at a time. It
// is on its way until written is called: the reading side may find that the
// connection is to end, and must not end it before.
func (s *frames) send(p []byte) []byte {
	s.state.Lock()
	defer s.state.Unlock()
	s.sent.out = s.sent.out[:0]
	if !s.ended {
		s.writing = true
		s.sent.pass(p, s.departLocked)
	}
	return s.sent.out
}

func (s *frames) written() {
	s.state.Lock()
	defer s.state.Unlock()
	s.writing = false
}

func (s *frames) departLocked(h frameHeader) (drop bool, then func() []byte) {
	id := h.stream()
	switch kind := h.kind(); {
	case kind == frameRST:
		f := s.streams[id]
		return f != Pass(), func() []byte { return append(s.insteadLocked(id, f), s.closeLocked(id)...) }
	case (kind == frameHeaders || kind == frameData) && h.has(flagEndStream):
		s.closing = id
	}
	if s.closing != 0 && (h.kind() == frameData || h.has(flagEndHeaders)) {
		s.closing = 0
		then = func() []byte { return s.closeLocked(id) }
	}
	return false, then
}

// insteadLocked is what a stream struck by f has instead of an answer.
func (s *frames) insteadLocked(id uint32, f Fault) []byte {
	switch {
	case f == Pass(), s.leaving != Pass() && id > s.last: // left out by a GOAWAY already
		return nil
	case f.kind == resetStream:
		return rstStream(id, Code(f.at))
	case f.kind == goAwayAfter:
		return s.leaveLocked(s.entered, f)
	case f.kind == goAway && s.entered > id:
		// A GOAWAY below this stream would deny the later one, which may have been
		// acted on. So this one is refused by itself.
		return append(rstStream(id, RefusedStream), s.leaveLocked(s.entered, f)...)
	case f.kind == goAway:
		return s.leaveLocked(max(id, 2)-2, f)
	}
	s.ended, s.how = true, f.how
	return nil
}

// leaveLocked says goodbye (RFC 9113, section 6.8).
func (s *frames) leaveLocked(last uint32, f Fault) []byte {
	if s.leaving != Pass() {
		last = min(last, s.last) // it must not increase
	}
	s.leaving, s.last = GoAway(Code(f.at)), last
	return frame(frameGoAway, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), uint32(f.at)))
}

// closeLocked forgets a stream. The last one of a connection that has said goodbye
// ends it.
func (s *frames) closeLocked(id uint32) []byte {
	delete(s.streams, id)
	if s.leaving != Pass() && len(s.streams) == 0 {
		s.ended = true
	}
	return nil
}

// A frameHeader is what each frame begins with (RFC 9113, section 4.1).
type frameHeader []byte

func (h frameHeader) length() int        { return int(h[0])<<16 | int(h[1])<<8 | int(h[2]) }
func (h frameHeader) kind() byte         { return h[3] }
func (h frameHeader) has(flag byte) bool { return h[4]&flag != 0 }
func (h frameHeader) stream() uint32     { return binary.BigEndian.Uint32(h[5:]) &^ (1 << 31) }

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	head := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(head, stream), payload...)
}

func rstStream(id uint32, code Code) []byte {
	return frame(frameRST, 0, id, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

// marked ends a header block by a field that no table remembers (RFC 7541, section
// 6.2.3), so that it fits behind any other.
func marked(id uint32) []byte {
	name, value := strings.ToLower(mark), strconv.FormatUint(uint64(id), 10)
	field := append([]byte{0x10, byte(len(name))}, name...)
	field = append(append(field, byte(len(value))), value...)
	return frame(frameContinuation, flagEndHeaders, id, field)
}

// unmark takes the stream out of a header. The mark is the last: what stands
// before it is the client's own.
func unmark(h http.Header) uint32 {
	values := h[mark]
	if len(values) == 0 {
		return 0
	}
	id, err := strconv.ParseUint(values[len(values)-1], 10, 31)
	if h[mark] = values[:len(values)-1]; len(h[mark]) == 0 {
		delete(h, mark)
	}
	if err != nil {
		return 0
	}
	return uint32(id)
}

// A follower cuts a stream of bytes into frames, wherever the reads and writes
// that bring them begin and end.
type follower struct {
	greeted int  // bytes of the preface seen
	plain   bool // it is no HTTP/2
	head    []byte
	left    int // bytes of the frame's payload that are yet to come
	drop    bool
	then    func() []byte
	out     []byte
}

// greet lets the preface pass, and returns what follows it.
func (f *follower) greet(p []byte) []byte {
	for len(p) > 0 && !f.plain && f.greeted < len(preface) {
		if f.plain = p[0] != preface[f.greeted]; !f.plain {
			f.out, p = append(f.out, p[0]), p[1:]
			f.greeted++
		}
	}
	if f.plain {
		f.out, p = append(f.out, p...), nil
	}
	return p
}

// pass lets frames pass. border sees the header of each, may change it, and says
// whether to leave the frame out and what follows it.
func (f *follower) pass(p []byte, border func(frameHeader) (drop bool, then func() []byte)) {
	for len(p) > 0 {
		if missing := frameHead - len(f.head); missing > 0 {
			n := min(missing, len(p))
			f.head, p = append(f.head, p[:n]...), p[n:]
			if n < missing {
				return
			}
			f.left = frameHeader(f.head).length()
			if f.drop, f.then = border(f.head); !f.drop {
				f.out = append(f.out, f.head...)
			}
		}
		n := min(f.left, len(p))
		if !f.drop {
			f.out = append(f.out, p[:n]...)
		}
		if f.left, p = f.left-n, p[n:]; f.left == 0 {
			f.head = f.head[:0]
			if f.then != nil {
				f.out = append(f.out, f.then()...)
			}
		}
	}
}

// take gives away what has passed.
func (f *follower) take(p []byte) int {
	n := copy(p, f.out)
	if f.out = f.out[n:]; len(f.out) == 0 {
		f.out = nil
	}
	return n
}
