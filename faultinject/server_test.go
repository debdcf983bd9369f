package faultinject

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// shop is a network with one server.
func shop(t *testing.T, h http.Handler, plan Plan) (*Network, *Server, *http.Client) {
	t.Helper()
	n := NewNetwork()
	l, err := n.Listen("shop.test:80")
	if err != nil {
		t.Fatal(err)
	}
	s, tr := Serve(l, h, plan), n.Transport()
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		s.Close()
		n.Close()
	})
	return n, s, &http.Client{Transport: tr}
}

// The trap that makes a network level worth having: net/http replays a keyed
// request by itself, and its caller sees the fate of the replay alone.
func TestAHiddenReplayIsADeliveryOfItsOwn(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, s, client := shop(t, echo, Script(Respond(503), LoseResponse(RST)))
		n.Plan = Script(Pass(), RefuseDial())
		pay := func() error {
			req := post(t.Context(), bytes.NewReader([]byte("10 EUR")), 6)
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte("10 EUR"))), nil }
			resp, err := client.Do(req)
			if err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			return err
		}
		if err := pay(); err != nil {
			t.Fatal(err)
		}
		if err := pay(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error("the caller should see the replay's dial alone:", err)
		}
		if s.Effects()["k1"] != 1 || len(s.Deliveries()) != 2 || len(n.Dials()) != 2 {
			t.Error(s.Effects(), s.Deliveries(), n.Dials())
		}
	})
}

func TestAKeyedRequestSurvivesAConnectionThatDiedIdle(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, s, client := shop(t, echo, PlanFunc(func(x Exchange) Fault {
			if x.Op == "k1" && x.Nth == 1 {
				return CloseIdle(RST)
			}
			return Pass()
		}))
		warm(t, client.Transport.(*http.Transport), "http://shop.test")
		req := post(t.Context(), http.NoBody, 0)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if s.Effects()["k1"] != 1 || len(s.Deliveries()) != 3 {
			t.Error(s.Effects(), s.Deliveries())
		}
	})
}

func TestALateDeliveryLandsAtTheServerToo(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, s, client := shop(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if err := r.Context().Err(); err != nil {
				t.Error("the late request went with its caller:", err)
			}
		}), Script(Late(time.Hour)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := client.Do(post(ctx, http.NoBody, 0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		synctest.Wait()
		if s.Effects()["k1"] != 0 {
			t.Error("too early")
		}
		s.Settle()
		if s.Effects()["k1"] != 1 || time.Since(start) != time.Hour+time.Second {
			t.Error(s.Effects(), time.Since(start))
		}
	})
}

func TestClosingAServerDropsWhatIsStillOnItsWay(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, s, client := shop(t, echo, Script(Late(time.Hour)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		client.Do(post(ctx, http.NoBody, 0))
		s.Close()
		if s.Effects()["k1"] != 0 {
			t.Error("handled after all")
		}
	})
}

func TestALargeRequestIsCutInTheMiddle(t *testing.T) {
	for _, how := range []How{FIN, RST} {
		bubble(t, how.String(), func(t *testing.T) {
			n, s, client := shop(t, echo, Script(CutRequest(how)))
			const size = 8 << 20
			_, err := client.Do(post(t.Context(), bytes.NewReader(make([]byte, size)), size))
			// Still writing, net/http may tell of its Write on the connection it closed.
			if err == nil || how == FIN && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			s.Settle()
			if d := s.Deliveries()[0]; d.Length != size/2 || d.Runs != 0 || d.Reach() != MaybePartly {
				t.Errorf("%d bytes, %d runs", d.Length, d.Runs)
			}
			synctest.Wait()
			if n.Open() != 0 {
				t.Error("open:", n.Open())
			}
		})
	}
}

func TestAClientThatIgnoresTheEndOfItsRequestIsLeft(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, s, _ := shop(t, echo, Script(CutRequest(FIN)))
		conn, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		io.WriteString(conn, "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\na")
		synctest.Wait()
		s.Settle()
		if time.Since(start) != patience {
			t.Error(time.Since(start))
		}
	})
}

// net/http does not look whether a client has left that has sent more than its
// request, nor does its Close know of a connection that was taken over.
func TestAServerClosesOnAClientThatStays(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"
	until := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	taken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		defer conn.Close()
		io.Copy(conn, conn)
	})
	for name, tt := range map[string]struct {
		h    http.Handler
		plan Plan
	}{
		"and sends on while it is stalled":           {echo, Forever(Stall())},
		"and sends on while it reads a stalled body": {echo, Forever(StallBody(1))},
		"and sends on while its request is late":     {echo, Forever(Late(time.Second))},
		"and sends on while the handler waits":       {until, nil},
		"and has an upgraded connection":             {taken, nil},
	} {
		bubble(t, name, func(t *testing.T) {
			n, s, _ := shop(t, tt.h, tt.plan)
			conn, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for range 2 {
				io.WriteString(conn, request)
				synctest.Wait()
			}
			s.Close()
		})
	}
}

func TestAServerClosesOnAClientThatDoesNotRead(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, s, _ := shop(t, echo, Script(OversizedHeader()))
		conn, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
		synctest.Wait()
		s.Close() // returns
	})
}

func TestARequestIsCutInOrderWhateverIsLeftOfIt(t *testing.T) {
	for how, want := range map[How]error{FIN: nil, RST: syscall.ECONNRESET} {
		bubble(t, how.String(), func(t *testing.T) {
			n, _, _ := shop(t, echo, Script(CutRequest(how)))
			conn, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 40000\r\n\r\n%s", strings.Repeat("x", 40000))
			if b, err := io.ReadAll(conn); len(b) > 0 || !errors.Is(err, want) {
				t.Errorf("%q %v", b, err)
			}
		})
	}
}

func TestAHeaderEndsWhereTheClientHasHadEnough(t *testing.T) {
	for _, limit := range []int64{0, 4 << 10, 1 << 20, 32 << 20} {
		bubble(t, fmt.Sprint(limit), func(t *testing.T) {
			n, s, client := shop(t, echo, Script(OversizedHeader()))
			client.Transport.(*http.Transport).MaxResponseHeaderBytes = limit
			_, err := client.Do(post(t.Context(), http.NoBody, 0))
			want := fmt.Sprintf("server response headers exceeded %d bytes; aborted", cmp.Or(limit, 10<<20))
			if limit > 16<<20 {
				want = "unexpected EOF"
			}
			if err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
			s.Settle()
			synctest.Wait()
			if n.Open() != 0 || s.Effects()["k1"] != 1 {
				t.Error("open:", n.Open(), s.Effects())
			}
		})
	}
}

func TestHTTP10HasNoInterimAnswer(t *testing.T) {
	for version, interim := range map[string]bool{"1.0": false, "1.1": true} {
		bubble(t, version, func(t *testing.T) {
			n, s, _ := shop(t, echo, Script(Interim(103, "Link: </a>")))
			conn, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "GET / HTTP/%s\r\nHost: shop.test\r\nConnection: close\r\n\r\n", version)
			b, _ := io.ReadAll(conn)
			head, rest, _ := strings.Cut(string(b), "\r\n\r\n")
			if (head == "HTTP/1.1 103 Early Hints\r\nLink: </a>") != interim || interim && strings.Contains(rest, "Link") {
				t.Errorf("%q", b)
			}
			if s.Effects()["GET /"] != 1 {
				t.Error(s.Effects())
			}
		})
	}
}

func TestAPlanThatWasWrittenWronglySaysSo(t *testing.T) {
	const why = "no such time: 25:00"
	bubble(t, "", func(t *testing.T) {
		n, s, client := shop(t, echo, Script(unreadable(why)))
		resp, err := client.Do(post(t.Context(), http.NoBody, 0))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 500 || string(b) != "faultinject: "+why+"\n" || s.Effects()["k1"] != 0 || s.Deliveries()[0].Reach() != NeverSent {
			t.Errorf("%d %q %v", resp.StatusCode, b, s.Deliveries())
		}
		client.CloseIdleConnections()
		n.Plan = PlanFunc(func(Exchange) Fault { return unreadable(why) })
		body := &countedBody{Reader: strings.NewReader("x")}
		if _, err := client.Do(post(t.Context(), body, 1)); err == nil || !strings.Contains(err.Error(), why) {
			t.Error("at a dial:", err)
		}
		for _, rt := range []*Transport{Handler(echo, Script(unreadable(why))), Wrap(client.Transport, Script(unreadable(why)))} {
			body := &countedBody{Reader: strings.NewReader("x")}
			if _, err := rt.RoundTrip(post(t.Context(), body, 1)); err == nil || err.Error() != "faultinject: "+why || body.closed != 1 {
				t.Error(err, body.closed)
			}
		}
	})
}

func TestAFaultOfAnotherPlacePassesAndIsNotRecorded(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, s, client := shop(t, echo, PlanFunc(func(x Exchange) Fault {
			if x.Method == MethodAccept {
				return BadCert(Expired) // and there is no TLS
			}
			return HangUp(RST)
		}))
		n.Plan = PlanFunc(func(Exchange) Fault { return LoseResponse(RST) })
		resp, err := client.Do(post(t.Context(), http.NoBody, 0))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		for _, d := range slices.Concat(s.Deliveries(), s.Accepts(), n.Dials()) {
			if d.Fault != Pass() {
				t.Error(d)
			}
		}
	})
}

func TestAStreamFlowsThroughAHealthyServer(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, _, client := shop(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 3 {
				io.WriteString(w, "tick")
				http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		}), nil)
		start := time.Now()
		resp, err := client.Do(post(t.Context(), http.NoBody, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 8)); err != nil || time.Since(start) != time.Second {
			t.Error(err, time.Since(start))
		}
	})
}

func TestARequestThatHasArrivedWasDialled(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, s, client := shop(t, echo, Script(RefuseDial()))
		resp, err := client.Do(post(t.Context(), http.NoBody, 0))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if d := s.Deliveries()[0]; d.Fault != Pass() || d.Runs != 1 {
			t.Error(d)
		}
	})
}

func TestAWrappedTransportLetsGoOfItsConnections(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, _, client := shop(t, echo, nil)
		client.Transport = Wrap(client.Transport, Script(LoseResponse(RST)))
		for _, lost := range []bool{true, false} {
			resp, err := client.Do(post(t.Context(), http.NoBody, 0))
			if (err != nil) != lost {
				t.Error(err)
			}
			if err == nil {
				resp.Body.Close()
			}
		}
		client.CloseIdleConnections()
		synctest.Wait()
		if n.Open() != 0 {
			t.Error("open:", n.Open())
		}
	})
}

func TestASeedStrikesTheSameUnderConcurrency(t *testing.T) {
	run := func(t *testing.T) (history map[string]Fault) {
		synctest.Test(t, func(t *testing.T) {
			_, s, client := shop(t, echo, Random(3, 0.5))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					for range 3 {
						req := post(ctx, bytes.NewReader([]byte("x")), 1)
						req.Header = http.Header{"idempotency-key": {fmt.Sprint("op", i)}}
						if resp, err := client.Do(req); err == nil {
							io.Copy(io.Discard, resp.Body)
							resp.Body.Close()
						}
					}
				})
			}
			wg.Wait()
			s.Settle()
			history = make(map[string]Fault)
			for _, d := range s.Deliveries() {
				history[fmt.Sprint(d.Op, "#", d.Nth)] = d.Fault
			}
		})
		return history
	}
	first, second := run(t), run(t)
	if !maps.Equal(first, second) {
		t.Errorf("%v\n%v", first, second)
	}
	if len(first) < 100 {
		t.Error("arrivals:", len(first))
	}
}

func TestAServerIsAHandlerForAServerOfOnesOwn(t *testing.T) {
	s := Serve(nil, echo, Script(MaskResponse(504)))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/charge", nil))
	if w.Code != 504 || s.Effects()["POST /charge"] != 1 {
		t.Error(w.Code, s.Effects())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
