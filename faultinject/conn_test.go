package faultinject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What TestConn of golang.org/x/net/nettest asks of every net.Conn, on lines of
// each kind.
func TestAConnectionIsANetConn(t *testing.T) {
	longAgo := time.Unix(233431200, 0)
	for line, set := range map[string]func(*Network){
		"instant":   func(*Network) {},
		"far":       func(n *Network) { n.Up, n.Down, n.Jitter = time.Second, time.Millisecond, time.Second },
		"bandwidth": func(n *Network) { n.Bandwidth = 1 << 20 },
	} {
		for name, check := range map[string]func(t *testing.T, a, b *Conn){
			"many bytes come through": func(t *testing.T, a, b *Conn) {
				sent := make([]byte, 8<<20)
				rand.NewChaCha8([32]byte{}).Read(sent)
				go func() { // an echo that reads and writes at once
					io.Copy(b, b)
					b.CloseWrite()
				}()
				go func() {
					a.Write(sent)
					a.CloseWrite()
				}()
				if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, sent) {
					t.Error(len(got), err)
				}
			},
			"ping and pong": func(t *testing.T, a, b *Conn) {
				go io.Copy(b, b)
				for i := range byte(100) {
					roundTrip(t, a, i)
				}
			},
			"a deadline in the past fails at once": func(t *testing.T, a, b *Conn) {
				go io.Copy(b, b)
				a.SetDeadline(longAgo)
				n, err := a.Write(make([]byte, 1024))
				timedOut(t, n, err)
				n, err = a.Read(make([]byte, 1024))
				timedOut(t, n, err)
				roundTrip(t, a, 1)
			},
			"a deadline that comes wakes whoever waits": func(t *testing.T, a, b *Conn) {
				for _, set := range []func(){
					func() { a.SetDeadline(time.Now().Add(time.Minute)) },
					func() { time.AfterFunc(time.Minute, func() { a.SetDeadline(longAgo) }) },
				} {
					a.SetDeadline(time.Time{})
					start := time.Now()
					set()
					var wg sync.WaitGroup
					wg.Go(func() {
						n, err := a.Read(make([]byte, 1024))
						timedOut(t, n, err)
					})
					wg.Go(func() {
						for err := error(nil); err == nil; {
							if _, err = a.Write(make([]byte, 1024)); err != nil {
								timedOut(t, 0, err)
							}
						}
					})
					wg.Wait()
					if took := time.Since(start); took != time.Minute {
						t.Error("took", took)
					}
				}
				go io.Copy(b, b)
				for range 2 * window / 1024 { // what was written comes back
					a.SetReadDeadline(time.Now().Add(time.Hour))
					if n, err := io.ReadFull(a, make([]byte, 512)); err != nil {
						t.Fatal(n, err)
					}
				}
			},
			"a deadline taken back does not come": func(t *testing.T, a, b *Conn) {
				a.SetDeadline(time.Now().Add(time.Second))
				a.SetDeadline(time.Time{})
				time.AfterFunc(time.Hour, func() { b.Write([]byte("x")) })
				if _, err := a.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
			},
			"Close wakes whoever waits": func(t *testing.T, a, b *Conn) {
				a.SetDeadline(time.Now().Add(time.Hour))
				time.AfterFunc(time.Minute, func() { a.Close() })
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := a.Read(make([]byte, 1024)); !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
				})
				wg.Go(func() {
					err := error(nil)
					for err == nil {
						_, err = a.Write(make([]byte, 1024))
					}
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
				})
				wg.Wait()
			},
			"racing reads and deadlines": func(t *testing.T, a, b *Conn) {
				go pour(b)
				race(t, func() error {
					a.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(3)) * time.Millisecond))
					_, err := a.Read(make([]byte, 1024))
					return err
				})
			},
			"racing writes and deadlines": func(t *testing.T, a, b *Conn) {
				go io.Copy(io.Discard, b)
				race(t, func() error {
					a.SetWriteDeadline(time.Now().Add(time.Duration(rand.IntN(3)) * time.Millisecond))
					_, err := a.Write(make([]byte, 1024))
					return err
				})
			},
			"all methods at once": func(t *testing.T, a, b *Conn) {
				go io.Copy(b, b)
				var wg sync.WaitGroup
				for range 100 {
					for _, f := range []func(){
						func() { a.Read(make([]byte, 1024)) }, func() { a.Write(make([]byte, 1024)) },
						func() { a.SetDeadline(time.Now().Add(10 * time.Millisecond)) },
						func() { a.SetReadDeadline(longAgo) }, func() { a.SetWriteDeadline(longAgo) },
						func() { _ = a.LocalAddr().String() + a.RemoteAddr().String() },
					} {
						wg.Go(f)
					}
				}
				wg.Wait()
			},
		} {
			bubble(t, line+"/"+name, func(t *testing.T) {
				n := NewNetwork()
				set(n)
				a, b := pair(t, n)
				check(t, a, b)
				a.Close()
				b.Close()
			})
		}
	}
}

func timedOut(t *testing.T, n int, err error) {
	t.Helper()
	timeout, ok := errors.AsType[net.Error](err)
	if n != 0 || !ok || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(n, err)
	}
}

// roundTrip sends a byte to an echo, without a deadline.
func roundTrip(t *testing.T, c *Conn, sent byte) {
	t.Helper()
	c.SetDeadline(time.Time{})
	got := []byte{0}
	if _, err := c.Write([]byte{sent}); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || got[0] != sent {
		t.Error(got, err)
	}
}

func pour(c *Conn) {
	for err := error(nil); err == nil; {
		_, err = c.Write(make([]byte, 1024))
	}
}

// race lets ten goroutines do it ten times. They may run out of time, and no more.
func race(t *testing.T, do func() error) {
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 10 {
				if err := do(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestBandwidthIsSharedByAllThatIsSent(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		n.Bandwidth, n.Up, n.TieBreak = 1000, time.Second, 0
		a, b := pair(t, n)
		start := time.Now()
		for range 10 {
			a.Write(make([]byte, 300))
		}
		a.CloseWrite()
		if got, err := readAll(b); len(got) != 3000 || err != nil || time.Since(start) != 4*time.Second {
			t.Error(len(got), err, time.Since(start))
		}
		time.Sleep(time.Hour) // an idle line saves nothing up
		start = time.Now()
		b.Write(make([]byte, 500))
		b.CloseWrite()
		if got, err := readAll(a); len(got) != 500 || err != nil || time.Since(start) != 500*time.Millisecond {
			t.Error(len(got), err, time.Since(start))
		}
	})
}

func TestJitterKeepsTheOrderAndRepeats(t *testing.T) {
	times := func() (at []time.Duration) {
		bubble(t, "", func(t *testing.T) {
			n := NewNetwork()
			n.Jitter = time.Second
			a, b := pair(t, n)
			start := time.Now()
			for i := range byte(20) {
				a.Write([]byte{i})
			}
			for i := range byte(20) {
				got := []byte{99}
				if _, err := b.Read(got); err != nil || got[0] != i {
					t.Error(i, got, err)
				}
				at = append(at, time.Since(start))
			}
		})
		return at
	}
	first := times()
	if !slices.Equal(first, times()) || !slices.IsSorted(first) {
		t.Error(first)
	}
	if first[0] == 0 || first[0] == first[19] || first[19] > time.Second {
		t.Error("no jitter to speak of:", first)
	}
}

func TestEachConnectionHasItsOwnNanoseconds(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		n.Up = time.Second
		for i, want := range []time.Duration{time.Second + 13, time.Second + 26, time.Second + 39} {
			a, b := pair(t, n)
			start := time.Now()
			a.Write([]byte("x"))
			b.Read(make([]byte, 1))
			if took := time.Since(start); took != want {
				t.Error(i, took)
			}
		}
		n.TieBreak = 0
		a, b := pair(t, n)
		start := time.Now()
		a.Write([]byte("x"))
		b.Read(make([]byte, 1))
		if took := time.Since(start); took != time.Second {
			t.Error("without:", took)
		}
	})
}

// storm is the history of many operations under random faults.
func storm(t *testing.T, proto string, seed uint64, operations int, faults []Fault) string {
	var lines strings.Builder
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork()
		n.Up, n.Down = time.Millisecond, time.Millisecond
		random := Random(seed, 0.3, faults...)
		plan := PlanFunc(func(x Exchange) Fault {
			if x.Method == "GET" { // to warm up
				return Pass()
			}
			return random.Decide(x)
		})
		n.Plan = plan
		url := "http://shop.test"
		s, err := n.Serve(url, echo, plan)
		if err != nil {
			t.Fatal(err)
		}
		tr := s.Transport()
		speakOnly(tr, proto)
		if proto != "h1" {
			warm(t, tr, url)
		}
		client := &http.Client{Transport: tr, Timeout: time.Second}
		told := make([]string, operations)
		var wg sync.WaitGroup
		for i := range operations {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Microsecond)
				for attempt := range 4 {
					status, err := payAt(t.Context(), client, url, fmt.Sprint("op", i))
					told[i] += fmt.Sprint(time.Now().UnixNano(), " ", attempt, " ", status, " ", profile(err), "\n")
					if err == nil && status == 200 {
						break
					}
					time.Sleep(time.Duration(100<<attempt)*time.Millisecond + time.Duration(i)*time.Microsecond)
				}
			})
		}
		wg.Wait()
		tr.CloseIdleConnections()
		s.Settle()
		for _, d := range slices.Concat(s.Deliveries(), s.Accepts(), n.Dials()) {
			fmt.Fprintln(&lines, d.Time.UnixNano(), d.Conn, d)
		}
		for _, l := range told {
			lines.WriteString(l)
		}
		s.Close()
		n.Close()
	})
	return lines.String()
}

func payAt(ctx context.Context, client *http.Client, url, key string) (int, error) {
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/charge", strings.NewReader(key))
	req.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func TestOneSeedIsOneHistory(t *testing.T) {
	all := append(Essential(), Delay(3*time.Millisecond))
	// Over HTTP/2 a connection must live, for requests that wait for a new one go
	// out at one instant; and net/http waits by chance before some of its replays.
	streams := []Fault{Respond(503), MaskResponse(504), Stall(), Delay(3 * time.Millisecond), Late(time.Second),
		ResetStream(InternalError), ResetStream(Cancel)}
	for _, tt := range []struct {
		proto             string
		operations, seeds int
		faults            []Fault
	}{
		{"h1", 8, 40, all}, {"h1", 32, 8, all}, {"h1", 200, 2, all},
		{"h2c", 8, 20, streams}, {"h2c", 200, 2, streams},
	} {
		t.Run(fmt.Sprint(tt.proto, " ", tt.operations), func(t *testing.T) {
			const replays = 4
			same := 0
			for seed := range tt.seeds {
				histories := make(map[string]bool)
				for range replays {
					histories[storm(t, tt.proto, uint64(seed), tt.operations, tt.faults)] = true
				}
				if len(histories) == 1 {
					same++
				}
			}
			if same != tt.seeds {
				t.Errorf("%d of %d seeds repeat", same, tt.seeds)
			}
		})
	}
}
