package faultinject

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair returns both ends of a connection.
func pair(t *testing.T, n *Network) (client, server *Conn) {
	t.Helper()
	l, err := n.Listen("shop.test:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return c.(*Conn), s.(*Conn)
}

func readAll(c *Conn) (string, error) {
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestAConnectionEndsAsTCPDoes(t *testing.T) {
	for _, tt := range []struct {
		name        string
		end         func(server *Conn)
		read        string
		readErr     error
		write, then error // of two writes by the client
	}{
		{"closed in order", func(s *Conn) { s.Close() }, "", nil, nil, syscall.EPIPE},
		{"closed after an answer", func(s *Conn) { s.Write([]byte("hi")); s.Close() }, "hi", nil, nil, syscall.EPIPE},
		{"half closed", func(s *Conn) { s.Write([]byte("hi")); s.CloseWrite() }, "hi", nil, nil, nil},
		{"reset", func(s *Conn) { s.Write([]byte("hi")); s.Reset() }, "hi", syscall.ECONNRESET, syscall.ECONNRESET, syscall.EPIPE},
		{"closed with linger 0", func(s *Conn) { s.SetLinger(0); s.Close() }, "", syscall.ECONNRESET, syscall.ECONNRESET, syscall.EPIPE},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			client, server := pair(t, NewNetwork())
			tt.end(server)
			_, first := client.Write([]byte("a"))
			_, second := client.Write([]byte("b"))
			if !errors.Is(first, tt.write) || !errors.Is(second, tt.then) {
				t.Error("write:", first, second)
			}
			got, err := readAll(client)
			if got != tt.read || !errors.Is(err, tt.readErr) {
				t.Errorf("read: %q %v", got, err)
			}
			if op, ok := errors.AsType[*net.OpError](err); ok && op.Error() !=
				"read tcp "+client.local.String()+"->"+client.remote.String()+": read: connection reset by peer" {
				t.Error(op)
			}
		})
	}
}

// The word that nobody reads any more travels as everything does.
func TestAWriterLearnsOfTheEndWhenItArrives(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(server *Conn)
		after time.Duration // this a Write fails
		err   error
	}{
		{"reset", func(s *Conn) { s.Reset() }, 2 * time.Second, syscall.ECONNRESET},
		{"closed, and the first write answered by a reset", func(s *Conn) { s.Close() }, 3 * time.Second, syscall.EPIPE},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			n := NewNetwork()
			n.Up, n.Down, n.TieBreak = time.Second, 2*time.Second, 0
			client, server := pair(t, n)
			tt.end(server)
			ended := time.Now()
			for {
				if _, err := client.Write([]byte("a")); err != nil {
					if took := time.Since(ended); took != tt.after || !errors.Is(err, tt.err) {
						t.Errorf("%v after %v", err, took)
					}
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		bubble(t, tt.name+", while a write waits", func(t *testing.T) {
			n := NewNetwork()
			n.Up, n.Down, n.TieBreak = time.Second, 2*time.Second, 0
			client, server := pair(t, n)
			tt.end(server)
			ended := time.Now()
			_, err := client.Write(make([]byte, window+1))
			if took := time.Since(ended); took != tt.after || !errors.Is(err, tt.err) {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}

// What the table above says of TCP holds there, as far as a reader can tell.
func TestAReaderMeetsTheSameEndOverTCP(t *testing.T) {
	onlyLinux(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	type end interface {
		net.Conn
		SetLinger(int) error
		CloseWrite() error
	}
	for name, play := range map[string]func(end){
		"closed":        func(c end) { c.Close() },
		"after answer":  func(c end) { io.WriteString(c, "hi"); c.Close() },
		"half closed":   func(c end) { io.WriteString(c, "hi"); c.CloseWrite() },
		"linger 0":      func(c end) { c.SetLinger(0); c.Close() },
		"unread bytes":  func(c end) { c.Read(make([]byte, 1)); c.Close() },
		"unread, reply": func(c end) { c.Read(make([]byte, 1)); io.WriteString(c, "hi"); c.Close() },
	} {
		faceOf := func(client, server net.Conn) string {
			defer client.Close()
			defer server.Close()
			if strings.HasPrefix(name, "unread") {
				io.WriteString(client, "never read")
			}
			play(server.(end))
			b, err := io.ReadAll(client)
			_, again := client.Read(make([]byte, 1))
			out := fmt.Sprintf("%q %s, again %s", b, profile(err), profile(again))
			if err != nil { // the write after a reset is as sure as the read
				_, err = client.Write([]byte("x"))
				out += ", write " + profile(err)
			}
			return out
		}
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		tcp := faceOf(client, server)
		var memory string
		synctest.Test(t, func(t *testing.T) {
			c, s := pair(t, NewNetwork())
			memory = faceOf(c, s)
		})
		if tcp != memory {
			t.Errorf("%s\n   TCP %s\nmemory %s", name, tcp, memory)
		}
	}
}

func TestClosingOnUnreadBytesResets(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		client, server := pair(t, NewNetwork())
		client.Write([]byte("never read"))
		server.Close()
		if _, err := client.Write([]byte("a")); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if _, err := readAll(client); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	})
}

func TestAClosedConnectionSaysSo(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		client, _ := pair(t, NewNetwork())
		go func() {
			time.Sleep(time.Second)
			client.Close()
		}()
		_, read := client.Read(make([]byte, 1)) // waits, and is woken by Close
		_, write := client.Write([]byte("a"))
		for i, err := range []error{read, write, client.Close(), client.SetDeadline(time.Time{}), client.CloseWrite()} {
			if _, ok := errors.AsType[*net.OpError](err); !ok || !errors.Is(err, net.ErrClosed) {
				t.Error(i, err)
			}
		}
	})
}

func TestDeadlinesAreKeptInVirtualTime(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		client, server := pair(t, NewNetwork())
		start := time.Now()
		client.SetDeadline(start.Add(time.Minute))
		_, read := client.Read(make([]byte, 1))
		n, write := client.Write(make([]byte, 2*window))
		for _, err := range []error{read, write} {
			var timeout net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Error(err)
			}
		}
		if n != 0 || time.Since(start) != time.Minute {
			t.Error(n, time.Since(start))
		}
		client.SetDeadline(time.Now().Add(time.Minute))
		if n, err := client.Write(make([]byte, 2*window)); n != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a full buffer:", n, err)
		}
		client.SetDeadline(time.Time{})
		server.Write([]byte("x"))
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Error("a deadline taken back:", err)
		}
	})
}

func TestBytesTakeTheirTimeEachWay(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		n.Up, n.Down, n.TieBreak = time.Second, 3*time.Second, 0
		start := time.Now()
		client, server := pair(t, n)
		if time.Since(start) != 4*time.Second {
			t.Error("dial:", time.Since(start))
		}
		client.Write([]byte("a"))
		server.Read(make([]byte, 1))
		if time.Since(start) != 5*time.Second {
			t.Error("up:", time.Since(start))
		}
		server.Write([]byte("b"))
		server.Reset()
		if got, err := readAll(client); got != "b" || !errors.Is(err, syscall.ECONNRESET) || time.Since(start) != 8*time.Second {
			t.Error("down:", got, err, time.Since(start))
		}
	})
}

func TestManyBytesArriveInOrder(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		client, server := pair(t, NewNetwork())
		sent := strings.Repeat("0123456789", 50_000)
		go func() {
			io.WriteString(client, sent)
			client.CloseWrite()
		}()
		if got, err := readAll(server); got != sent || err != nil {
			t.Error(len(got), err)
		}
	})
}

func TestADialMeetsWhatItsPlanSays(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		defer n.Close()
		n.Plan = Script(NXDomain(), LoseResponse(RST), RefuseDial())
		l, _ := n.Listen("shop.test:80")
		dial := func(addr string) error {
			c, err := n.DialContext(t.Context(), "tcp", addr)
			if (c == nil) != (err != nil) {
				t.Error("neither or both:", c, err)
			}
			return err
		}
		if dns, ok := errors.AsType[*net.DNSError](dial("shop.test:80")); !ok || !dns.IsNotFound {
			t.Error("first dial")
		}
		if err := dial("shop.test:80"); err != nil {
			t.Error("a fault that means nothing to a dial:", err)
		}
		if err := dial("shop.test:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error("third dial:", err)
		}
		if d := n.Dials()[2]; d.Op != "dial shop.test:80" || d.Nth != 3 || d.Fault != RefuseDial() || n.Dials()[1].Reach() != NeverSent {
			t.Errorf("%+v", d)
		}
		n.Plan = nil
		if _, ok := errors.AsType[*net.DNSError](dial("nobody.test:80")); !ok {
			t.Error("a name that nobody has listened on is found")
		}
		a, _ := n.Listen("shop.test:0")
		if b, err := n.Listen("shop.test:0"); err != nil || a.Addr() == b.Addr() {
			t.Error("two free ports:", a.Addr(), err)
		}
		if _, err := n.Listen("shop.test:80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Error(err)
		}
		l.Close()
		if err := dial("shop.test:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error("after the listener has gone:", err)
		}
	})
}

func TestAConnectionThatNobodyAcceptsIsReset(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		l, _ := n.Listen("shop.test:80")
		c, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		l.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	})
}

func TestADialEndsWithItsContext(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		n.Up = time.Minute
		n.Listen("shop.test:80")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := n.DialContext(ctx, "tcp", "shop.test:80")
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" || !op.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := n.DialContext(ctx, "udp", "shop.test:80"); err == nil {
			t.Error("there is no UDP here")
		}
	})
}

func TestCloseFreesWhoeverHangs(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		n.Plan = PlanFunc(func(x Exchange) Fault {
			if x.Host == "hole.test:80" {
				return Blackhole()
			}
			return Pass()
		})
		l, _ := n.Listen("shop.test:80")
		var wg sync.WaitGroup
		wg.Go(func() { n.DialContext(t.Context(), "tcp", "hole.test:80") })
		wg.Go(func() {
			for {
				if _, err := l.Accept(); err != nil {
					return
				}
			}
		})
		c, _ := n.DialContext(t.Context(), "tcp", "shop.test:80")
		wg.Go(func() { io.ReadAll(c) })
		synctest.Wait()
		if n.Open() != 2 {
			t.Error("open:", n.Open())
		}
		n.Close()
		wg.Wait()
		if n.Open() != 0 {
			t.Error("open after Close:", n.Open())
		}
	})
}

// certificate is made inside the bubble, so that it is valid there.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestTLSAndHTTP2RunOverTheNetwork(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		for _, f := range []Fault{Pass(), LoseResponse(RST), CutBody(2, FIN), Respond(503), Stall()} {
			bubble(t, fmt.Sprint(proto, f), func(t *testing.T) {
				n := NewNetwork()
				defer n.Close()
				n.Up = time.Millisecond
				cert, pool := certificate(t, "shop.test")
				l, _ := n.Listen("shop.test:443")
				s := Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{proto}}), echo, only(f))
				defer s.Close()
				tr := n.Transport()
				tr.ForceAttemptHTTP2 = proto == "h2"
				tr.TLSClientConfig = &tls.Config{RootCAs: pool}
				defer tr.CloseIdleConnections()
				got := exchange(t.Context(), tr, "https://shop.test", s.Deliveries)
				if got.fault != f || got.runs == 0 != (f == Respond(503)) || (got.err != "") != (f != Pass() && f != Respond(503)) {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

func TestAFailedHandshakeEndsForBothSides(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		defer n.Close()
		cert, _ := certificate(t, "shop.test")
		l, _ := n.Listen("shop.test:443")
		s := Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}), echo, nil)
		s.http.ErrorLog = quiet()
		defer s.Close()
		tr := n.Transport()
		defer tr.CloseIdleConnections()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://shop.test/", nil)
		_, err := tr.RoundTrip(req)
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
			t.Error(err)
		}
		synctest.Wait()
		if n.Open() != 0 {
			t.Error("open:", n.Open())
		}
	})
}

func TestANetworkDoesNotRunOutOfPorts(t *testing.T) {
	n := NewNetwork()
	defer n.Close()
	l, err := n.Listen("shop.test:80")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for range 40_000 {
		c, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
		if err != nil {
			t.Fatal(err)
		}
		from := c.LocalAddr().String()
		if _, err := net.ResolveTCPAddr("tcp", from); err != nil || seen[from] {
			t.Fatalf("%s: %v, seen before: %t", from, err, seen[from])
		}
		seen[from] = true
		c.Close()
		if c, err = l.Accept(); err == nil {
			c.Close()
		}
	}
}
