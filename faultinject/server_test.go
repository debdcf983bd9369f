package faultinject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
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
	s, tr := NewServer(l, h, plan), n.Transport()
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
	bubble(t, "", func(t *testing.T) {
		_, s, client := shop(t, echo, Script(CutRequest()))
		const size = 8 << 20
		_, err := client.Do(post(t.Context(), bytes.NewReader(make([]byte, size)), size))
		if err == nil {
			t.Error("no error")
		}
		s.Settle()
		if d := s.Deliveries()[0]; d.Length != size/2 || d.Runs != 0 {
			t.Errorf("%d bytes, %d runs", d.Length, d.Runs)
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
	s := NewServer(nil, echo, Script(MaskResponse(504)))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/charge", nil))
	if w.Code != 504 || s.Effects()["POST /charge"] != 1 {
		t.Error(w.Code, s.Effects())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
