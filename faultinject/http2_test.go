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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// overHTTP2 is a shop that speaks HTTP/2 over TLS.
func overHTTP2(t *testing.T, h http.HandlerFunc, plan Plan) (*Network, *Server, *http.Client) {
	t.Helper()
	n := NewNetwork()
	s := n.NewServer(t, "https://shop.test", h, plan)
	t.Cleanup(func() { n.Close() })
	return n, s, s.Client()
}

// payOver makes one request with a body; without GetBody net/http cannot replay it.
func payOver(ctx context.Context, client *http.Client, key string, replay bool) (int, error) {
	req, _ := http.NewRequestWithContext(ctx, "POST", "https://shop.test/charge", strings.NewReader(key))
	req.Header.Set("Idempotency-Key", key)
	if !replay {
		req.GetBody = nil
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && string(body) != key {
		err = fmt.Errorf("another's answer: %q", body)
	}
	return resp.StatusCode, err
}

func TestFiftyStreamsOfOneConnectionMeetEachItsOwnFault(t *testing.T) {
	const streams = 50
	// PROTOCOL_ERROR is not among them: net/http leaves a connection on which it came.
	fates := []Fault{Pass(), ResetStream(InternalError), ResetStream(RefusedStream), ResetStream(FlowControlError), Respond(503), ResetStream(Cancel)}
	fate := func(key string) Fault {
		var i int
		fmt.Sscanf(key, "op%d", &i)
		return fates[i%len(fates)]
	}
	bubble(t, "", func(t *testing.T) {
		_, s, client := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
			io.Copy(w, r.Body)
		}, PlanFunc(func(x Exchange) Fault {
			if x.isRequest() && x.Conn != 1 {
				t.Error("connection", x.Conn)
			}
			if strings.HasPrefix(x.Op, "op") {
				return fate(x.Op)
			}
			return Pass()
		}))
		payOver(t.Context(), client, "first", false) // so that there is one connection
		var wg sync.WaitGroup
		for i := range streams {
			wg.Go(func() {
				key := fmt.Sprint("op", i)
				status, err := payOver(t.Context(), client, key, false)
				f := fate(key)
				switch {
				case f == Pass() && (status != 200 || err != nil), f == Respond(503) && status != 503:
					t.Error(key, f, status, err)
				case f.Name() == "reset-stream" && (err == nil || !strings.Contains(err.Error(), "; "+Code(f.at).String()+"; received from peer")):
					t.Error(key, f, status, err)
				}
			})
		}
		wg.Wait()
		for _, d := range s.Deliveries() {
			if d.Reach() != d.Fault.Truth() {
				t.Error(d)
			}
		}
		if got := len(s.Accepts()); got != 1 || len(s.Deliveries()) != streams+1 {
			t.Error("connections:", got, "deliveries:", len(s.Deliveries()))
		}
	})
}

func TestARequestRefusedByGoAwayIsAppliedOnceWhateverElseIsUnderWay(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, fmt.Sprint(seed), func(t *testing.T) {
			_, s, client := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
				io.Copy(w, r.Body)
			}, Random(seed, 0.3, GoAway(NoError), ResetStream(RefusedStream), Delay(time.Millisecond)))
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * 100 * time.Microsecond)
					if status, err := payOver(t.Context(), client, fmt.Sprint("op", i), true); status != 200 {
						t.Error(i, status, err)
					}
				})
			}
			wg.Wait()
			for op, n := range s.Effects() {
				if n != 1 {
					t.Error(op, "was applied", n, "times")
				}
			}
			if n := len(s.Effects()); n != 50 {
				t.Error("operations applied:", n)
			}
		})
	}
}

func TestAConnectionThatSaidGoAwayEndsWithItsLastAnswer(t *testing.T) {
	for _, f := range []Fault{GoAway(NoError), GoAwayAfter(NoError)} {
		bubble(t, f.String(), func(t *testing.T) {
			_, s, client := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Idempotency-Key") == "slow" {
					time.Sleep(time.Second)
				}
				io.Copy(w, r.Body)
			}, PlanFunc(func(x Exchange) Fault {
				if x.Op == "struck" {
					return f
				}
				return Pass()
			}))
			start := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				if status, err := payOver(t.Context(), client, "slow", false); status != 200 {
					t.Error("the answer that was still to come:", err)
				}
			})
			synctest.Wait()
			_, err := payOver(t.Context(), client, "struck", false)
			if err == nil || !strings.Contains(err.Error(), "GOAWAY") {
				t.Error(err)
			}
			if covered := f.Name() == "goaway-after"; covered != (time.Since(start) == time.Second) {
				t.Error("told after", time.Since(start))
			}
			wg.Wait()
			if status, err := payOver(t.Context(), client, "next", false); status != 200 || len(s.Accepts()) != 2 {
				t.Error(status, err, s.Accepts())
			}
		})
	}
}

func TestAnHTTP2ConnectionThatDiesTakesAllItsStreams(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, _, client := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			io.Copy(w, r.Body)
		}, PlanFunc(func(x Exchange) Fault {
			if x.Op == "struck" {
				return DropBefore(RST)
			}
			return Pass()
		}))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := payOver(t.Context(), client, "bystander", false); !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		})
		synctest.Wait()
		if _, err := payOver(t.Context(), client, "struck", false); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		wg.Wait()
		time.Sleep(time.Second) // the handler that goes on by itself
		synctest.Wait()
		if n.Open() != 0 {
			t.Error("open:", n.Open())
		}
	})
}

// The mark that tells a handler its stream is one fragment more in each header
// block. Nothing else of a request may change by it.
func TestWhatAClientSendsOverHTTP2ArrivesAsItWas(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		long := strings.Repeat("0123456789", 5_000) // more than a frame holds
		_, s, client := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if r.Header.Get("Long") != long || r.ContentLength != -1 || r.TLS == nil || r.Proto != "HTTP/2.0" {
				t.Error(len(r.Header.Get("Long")), r.ContentLength, r.TLS, r.Proto)
			}
			if !slices.Equal(r.Header[mark], []string{"99"}) || r.Trailer.Get("Sum") != "1" {
				t.Error(r.Header[mark], r.Trailer)
			}
			w.Header().Set("Long", long)
			w.Header().Set(http.TrailerPrefix+"End", "2")
		}, nil)
		for range 3 {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://shop.test/", struct{ io.Reader }{strings.NewReader("body")})
			req.Header.Set("Long", long)
			req.Header.Set(mark, "99") // a client's own business
			req.Trailer = http.Header{"Sum": {"1"}}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.Header.Get("Long") != long || resp.Trailer.Get("End") != "2" {
				t.Error(len(resp.Header.Get("Long")), resp.Trailer)
			}
		}
		if len(s.Accepts()) != 1 {
			t.Error(s.Accepts())
		}
	})
}

func TestAStreamWithoutABodyIsStruckToo(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, s, client := overHTTP2(t, func(http.ResponseWriter, *http.Request) {}, Script(ResetStream(Cancel)))
		for _, method := range []string{"HEAD", "DELETE", "GET"} {
			req, _ := http.NewRequestWithContext(t.Context(), method, "https://shop.test/", http.NoBody)
			_, err := client.Do(req)
			if e, ok := errors.AsType[netStreamError](err); !ok || e.Code != netErrCode(Cancel) || s.Effects()[method+" /"] != 1 {
				t.Error(method, err, s.Effects())
			}
		}
	})
}

func TestACallerWhoGivesUpLeavesTheHTTP2ConnectionToOthers(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, s, client := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }, PlanFunc(func(x Exchange) Fault {
			return map[string]Fault{"a": Stall(), "b": Late(time.Second), "c": Delay(time.Hour), "d": StallBody(0)}[x.Op]
		}))
		for _, key := range []string{"a", "b", "c", "d"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := payOver(ctx, client, key, false); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(key, err)
			}
			cancel()
			if status, err := payOver(t.Context(), client, "after "+key, false); status != 200 {
				t.Error(status, err)
			}
		}
		if len(s.Accepts()) != 1 {
			t.Error(s.Accepts())
		}
	})
}

// frameOf builds a frame for the tests of the follower.
func frameOf(kind, flags byte, id uint32, size int) []byte {
	return frame(kind, flags, id, bytes.Repeat([]byte{'x'}, size))
}

func TestFramesAreFollowedWhereverTheyAreSplit(t *testing.T) {
	in := slices.Concat([]byte(preface), frameOf(0x4, 0, 0, 12), frameOf(frameHeaders, 0, 1, 30), frameOf(frameContinuation, flagEndHeaders, 1, 5),
		frameOf(frameData, flagEndStream, 1, 100), frameOf(frameHeaders, flagEndHeaders|flagEndStream, 3, 9), frameOf(frameHeaders, flagEndHeaders|flagEndStream, 1, 4))
	want := slices.Concat([]byte(preface), frameOf(0x4, 0, 0, 12), frameOf(frameHeaders, 0, 1, 30), frameOf(frameContinuation, 0, 1, 5), marked(1),
		frameOf(frameData, flagEndStream, 1, 100), frameOf(frameHeaders, flagEndStream, 3, 9), marked(3), frameOf(frameHeaders, flagEndHeaders|flagEndStream, 1, 4))
	for size := 1; size <= len(in); size++ {
		var s frames
		for part := range slices.Chunk(in, size) {
			s.receive(part)
		}
		if !bytes.Equal(s.received.out, want) {
			t.Fatalf("%d bytes at a time:\n%q\nwant\n%q", size, s.received.out, want)
		}
		s.doom(1, ResetStream(Cancel))
		var out []byte
		for part := range slices.Chunk(slices.Concat(frameOf(frameData, 0, 1, 7), frameOf(frameRST, 0, 1, 4), frameOf(frameData, flagEndStream, 3, 7)), size) {
			out = append(out, s.send(part)...)
		}
		if want := slices.Concat(frameOf(frameData, 0, 1, 7), rstStream(1, Cancel), frameOf(frameData, flagEndStream, 3, 7)); !bytes.Equal(out, want) {
			t.Fatalf("%d bytes at a time:\n%q\nwant\n%q", size, out, want)
		}
	}
}

func TestAGoAwayDeniesNoStreamThatAHandlerHasSeen(t *testing.T) {
	goAwayFrame := func(last byte) []byte { return frame(frameGoAway, 0, 0, []byte{0, 0, 0, last, 0, 0, 0, 0}) }
	var s frames
	s.receive([]byte(preface))
	for _, id := range []uint32{1, 3, 5} {
		s.receive(frameOf(frameHeaders, flagEndHeaders, id, 3))
	}
	for i, step := range []struct {
		id    uint32
		enter Fault
		want  []byte
	}{
		{1, Pass(), append(rstStream(1, RefusedStream), goAwayFrame(3)...)},
		{5, GoAway(NoError), nil}, // it came behind the GOAWAY
		{3, Pass(), goAwayFrame(1)},
	} {
		if i == 0 {
			s.enter(3)
		}
		if f := s.enter(step.id); f != step.enter {
			t.Error(step.id, "entered:", f)
		}
		s.doom(step.id, GoAway(NoError))
		if got := s.send(frameOf(frameRST, 0, step.id, 4)); !bytes.Equal(got, step.want) {
			t.Errorf("%d: %q, want %q", step.id, got, step.want)
		}
	}
	if s.written(); !s.ended {
		t.Error("the connection goes on")
	}
}

func FuzzAStrangersFrames(f *testing.F) {
	f.Add([]byte(preface), uint16(3))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(5))
	f.Add(append([]byte(preface), marked(1)...), uint16(1))
	f.Add(slices.Concat([]byte(preface), frameOf(frameHeaders, flagEndHeaders, 1, 3), rstStream(1, 0)), uint16(100))
	f.Fuzz(func(t *testing.T, in []byte, size uint16) {
		var whole, parts frames
		whole.receive(in)
		for part := range slices.Chunk(in, int(size)+1) {
			parts.receive(part)
		}
		if !bytes.Equal(whole.received.out, parts.received.out) {
			t.Error("splitting matters")
		}
		if !strings.HasPrefix(string(in), preface) && !bytes.Equal(whole.received.out, in) {
			t.Error("what is not HTTP/2 was changed")
		}
		for id := range whole.streams {
			whole.doom(id, GoAway(Code(id)))
		}
		if out := parts.send(in); len(in) < frameHead && len(out) > 0 {
			t.Error("less than a frame was written:", out)
		}
		whole.send(in) // whatever is doomed
	})
}

func TestAStreamErrorFillsInThatOfTheHTTP2Package(t *testing.T) {
	err := fmt.Errorf("wrapped: %w", streamError{StreamID: 3, Code: Cancel, Cause: errFromPeer})
	if e, ok := errors.AsType[netStreamError](err); !ok || e.StreamID != 3 || e.Code != 8 || e.Cause != errFromPeer {
		t.Errorf("%+v", e)
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		t.Error("it is no timeout")
	}
	var other struct {
		error
		StreamID string
	}
	if errors.As(err, &other) {
		t.Error("a struct of other fields was filled in")
	}
}
