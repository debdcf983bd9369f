package faultinject

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	window = 64 << 10 // bytes that a sender may be ahead of its reader
	packet = 1460     // bytes that travel together where bandwidth is scarce
)

// line is how bytes travel one way.
type line struct {
	delay     time.Duration
	jitter    time.Duration
	random    *rand.Rand // of the jitter
	bandwidth int        // bytes per second; 0 is without bound

	free time.Time // when the line has passed on what it was given
}

// newLine is the line of a connection, by its number: what it draws depends on
// nothing else, and so repeats.
func newLine(n *Network, delay time.Duration, number, way uint64) *line {
	if delay > 0 || n.Jitter > 0 {
		delay += n.TieBreak * time.Duration(number)
	}
	return &line{delay: delay, jitter: n.Jitter, bandwidth: n.Bandwidth, random: rand.New(rand.NewPCG(number, way))}
}

// arrival returns when n bytes sent now arrive, if those before them have.
func (l *line) arrival(n int, now time.Time) time.Time {
	if l.bandwidth > 0 {
		l.free = later(l.free, now).Add(time.Duration(float64(n) / float64(l.bandwidth) * float64(time.Second)))
		now = l.free
	}
	at := now.Add(l.delay)
	if l.jitter > 0 {
		at = at.Add(time.Duration(l.random.Uint64N(uint64(l.jitter) + 1)))
	}
	return at
}

// most is how many bytes travel together.
func (l *line) most() int {
	if l.bandwidth > 0 {
		return packet
	}
	return window
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A segment is what one Write sent, and when it arrives.
type segment struct {
	data []byte
	at   time.Time
}

// ending is how a sender has ended its stream.
type ending uint8

const (
	open ending = iota
	finished
	broken
)

// stream carries bytes one way. Whoever waits does so in cond, which testing/synctest
// takes for idle; mu is never held across a wait.
type stream struct {
	mu   sync.Mutex
	cond sync.Cond
	line *line

	queue []segment
	size  int // bytes in queue
	end   ending
	endAt time.Time

	writerGone bool     // the sender has closed its end
	readerGone bool     // the receiver has: what comes is answered by a reset
	refused    deadline // when a reset of the receiver's reaches the sender
	back       time.Duration
	reset      bool // the receiver ended by a reset, and the sender has not learnt of it

	readBy, writeBy deadline
}

// newStream is a stream whose receiver's word takes back to its sender.
func newStream(l *line, back time.Duration) *stream {
	s := &stream{line: l, back: back}
	s.cond.L = &s.mu
	return s
}

// wake lets all waiters look again.
func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

// arrivesLocked returns when n bytes sent now arrive, and sees to it that the
// reader looks then.
func (s *stream) arrivesLocked(n int) time.Time {
	now := time.Now()
	at := s.line.arrival(n, now)
	if wait := at.Sub(now); wait > 0 {
		time.AfterFunc(wait, s.wake)
	}
	s.cond.Broadcast()
	return at
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case s.readerGone:
			return 0, net.ErrClosed
		case s.readBy.passed(now):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(s.queue) > 0 && !s.queue[0].at.After(now):
			return s.takeLocked(p, now), nil
		case len(s.queue) == 0 && s.end != open && !s.endAt.After(now):
			if s.end == broken {
				s.end = finished // a reset is reported once
				return 0, syscall.ECONNRESET
			}
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (s *stream) takeLocked(p []byte, now time.Time) (n int) {
	for n < len(p) && len(s.queue) > 0 && !s.queue[0].at.After(now) {
		head := &s.queue[0]
		m := copy(p[n:], head.data)
		n, s.size, head.data = n+m, s.size-m, head.data[m:]
		if len(head.data) == 0 {
			s.queue = s.queue[1:]
		}
	}
	s.cond.Broadcast()
	return n
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case s.writerGone:
			return n, net.ErrClosed
		case s.writeBy.passed(now):
			return n, os.ErrDeadlineExceeded
		case s.end != open:
			return n, syscall.EPIPE
		case n == len(p):
			return n, nil
		case s.refused.passed(now) && s.reset:
			s.reset = false // it is reported once
			return n, syscall.ECONNRESET
		case s.refused.passed(now):
			return n, syscall.EPIPE
		case s.size < window:
			part := p[n:min(len(p), n+window-s.size, n+s.line.most())]
			s.sendLocked(part)
			n += len(part)
		default:
			s.cond.Wait()
		}
	}
}

// sendLocked sends what fits. As on TCP, a sender whose receiver has left goes on
// until it hears of that, which it does when what it sent is answered by a reset.
func (s *stream) sendLocked(p []byte) {
	at := s.arrivesLocked(len(p))
	s.size += len(p)
	if !s.readerGone {
		s.queue = append(s.queue, segment{append([]byte(nil), p...), at})
	} else if s.refused.at.IsZero() {
		s.setDeadlineLocked(&s.refused, at.Add(s.back))
	}
}

// learn tells the sender of the reset that its other half has met.
func (s *stream) learn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset = false
}

// finish ends the stream from the sender's side, and returns when the end arrives.
func (s *stream) finish(how ending, gone bool) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writerGone = s.writerGone || gone
	if s.end == open || how == broken {
		s.end, s.endAt = how, s.arrivesLocked(0)
	}
	if gone {
		s.writeBy.stop()
		s.refused.stop()
	}
	s.cond.Broadcast()
	return s.endAt
}

// abandon ends the stream from the receiver's side and reports whether bytes
// were left unread.
func (s *stream) abandon() (unread bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unread = s.size > 0
	s.readerGone, s.queue = true, nil
	s.readBy.stop()
	s.cond.Broadcast()
	return unread
}

// refuse lets the receiver's reset reach the sender at a time.
func (s *stream) refuse(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset = true
	s.setDeadlineLocked(&s.refused, at)
}

// deadline is a point in time at which waiters look again.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed(now time.Time) bool { return !d.at.IsZero() && !d.at.After(now) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (s *stream) setDeadline(d *deadline, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setDeadlineLocked(d, at)
}

func (s *stream) setDeadlineLocked(d *deadline, at time.Time) {
	d.stop()
	d.at = at
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, s.wake)
	}
	s.cond.Broadcast()
}

// Conn is one end of a connection on a [Network]. It behaves as a
// *net.TCPConn: buffered, closed one way or both, reset by the peer's Close when
// bytes were left unread, with the same errors.
type Conn struct {
	in, out       *stream
	local, remote address
	forget        func() // tells the network that this end is closed

	mu     sync.Mutex
	closed bool
	linger bool // Close resets
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return netError(op, c.local, c.remote, err)
}

// Read reads what has arrived.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	if errors.Is(err, syscall.ECONNRESET) {
		c.out.learn()
	}
	return n, c.wrap("read", err)
}

// Write sends p. It waits while the peer is more than 64 KiB behind.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// CloseWrite ends the sending half: the peer reads io.EOF after what was sent.
func (c *Conn) CloseWrite() error {
	if c.isClosed() {
		return c.wrap("close", net.ErrClosed)
	}
	c.out.finish(finished, false)
	return nil
}

// SetLinger(0) makes Close a [Conn.Reset], as on a *net.TCPConn; any other
// value undoes that.
func (c *Conn) SetLinger(sec int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.linger = sec == 0
	return nil
}

// Close closes both halves. If the peer has sent what nobody read, it meets a
// reset.
func (c *Conn) Close() error {
	c.mu.Lock()
	was, reset := c.closed, c.linger
	c.closed = true
	c.mu.Unlock()
	if was {
		return c.wrap("close", net.ErrClosed)
	}
	if c.in.abandon() || reset {
		c.in.refuse(c.out.finish(broken, true))
	} else {
		c.out.finish(finished, true)
	}
	c.forget()
	return nil
}

// Reset closes both halves, and the peer meets "connection reset by peer".
func (c *Conn) Reset() error {
	c.SetLinger(0)
	return c.Close()
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetReadDeadline sets the time after which Read fails; zero means never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.isClosed() {
		return c.wrap("set", net.ErrClosed)
	}
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

// SetWriteDeadline sets the time after which Write fails; zero means never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.isClosed() {
		return c.wrap("set", net.ErrClosed)
	}
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}
