package faultinject

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how much a sender may be ahead of its reader.
const window = 64 << 10

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
	mu    sync.Mutex
	cond  sync.Cond
	delay time.Duration

	queue []segment
	size  int // bytes in queue
	end   ending
	endAt time.Time

	writerGone bool // the sender has closed its end
	readerGone bool // the receiver has
	reset      bool // the receiver did so by a reset
	told       bool // the sender has learnt of it, or spent the one Write that TCP lets through

	readBy, writeBy deadline
}

func newStream(delay time.Duration) *stream {
	s := &stream{delay: delay}
	s.cond.L = &s.mu
	return s
}

// wake lets all waiters look again.
func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

// arrivesLocked returns when what is sent now arrives, and sees to it that the
// reader looks then.
func (s *stream) arrivesLocked() time.Time {
	if s.delay > 0 {
		time.AfterFunc(s.delay, s.wake)
	}
	s.cond.Broadcast()
	return time.Now().Add(s.delay)
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
		switch {
		case s.writerGone:
			return n, net.ErrClosed
		case s.writeBy.passed(time.Now()):
			return n, os.ErrDeadlineExceeded
		case s.end != open:
			return n, syscall.EPIPE
		case s.readerGone:
			return s.writeToNobodyLocked(p, n)
		case n == len(p):
			return n, nil
		case s.size < window:
			part := p[n:min(len(p), n+window-s.size)]
			s.queue = append(s.queue, segment{append([]byte(nil), part...), s.arrivesLocked()})
			s.size += len(part)
			n += len(part)
		default:
			s.cond.Wait()
		}
	}
}

// writeToNobodyLocked is a Write whose reader has left. As on TCP, the first
// one after an orderly end is let through, to be answered by a reset.
func (s *stream) writeToNobodyLocked(p []byte, n int) (int, error) {
	first := !s.told
	s.told = true
	switch {
	case !first:
		return n, syscall.EPIPE
	case s.reset:
		return n, syscall.ECONNRESET
	}
	return len(p), nil
}

// learn tells the sender of the reset that its other half has met.
func (s *stream) learn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = true
}

// finish ends the stream from the sender's side.
func (s *stream) finish(how ending, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writerGone = s.writerGone || gone
	if s.end == open || how == broken {
		s.end, s.endAt = how, s.arrivesLocked()
	}
	if gone {
		s.writeBy.stop()
	}
	s.cond.Broadcast()
}

// abandon ends the stream from the receiver's side and reports whether bytes
// were left unread.
func (s *stream) abandon(reset bool) (unread bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unread = s.size > 0
	s.readerGone, s.reset = true, reset || unread
	s.queue, s.size = nil, 0
	s.readBy.stop()
	s.cond.Broadcast()
	return unread
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
	how := finished
	if c.in.abandon(reset) || reset {
		how = broken
	}
	c.out.finish(how, true)
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
