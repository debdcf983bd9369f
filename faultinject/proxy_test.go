package faultinject

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// upstream serves h on the loopback interface.
func upstream(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// askProxy sends a request with a client of its own, and reads the answer.
func askProxy(t *testing.T, req *http.Request) (*http.Response, string, error) {
	t.Helper()
	tr := &http.Transport{DisableCompression: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req.WithContext(t.Context()))
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func charge(s *Server) *http.Request {
	req, _ := http.NewRequest("POST", s.URL+"/charge", strings.NewReader("10 EUR"))
	req.Header.Set("Idempotency-Key", "k1")
	return req
}

func TestARequestPassesTheProxyAsItCame(t *testing.T) {
	var got *http.Request
	var body []byte
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "not really")
	})
	s := NewProxy(t, up.URL+"/v2", nil)
	req := charge(s)
	req.URL.RawQuery = "a=1;b=%zz"
	req.Host = "shop.test"
	req.Header.Set("X-Forwarded-For", "192.0.2.7")
	resp, answer, err := askProxy(t, req)
	if err != nil || resp.StatusCode != http.StatusTeapot || answer != "not really" || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatal(resp, answer, err)
	}
	if got.Host != strings.TrimPrefix(up.URL, "http://") || got.RequestURI != "/v2/charge?a=1;b=%zz" || string(body) != "10 EUR" {
		t.Errorf("%s %s %q", got.Host, got.RequestURI, body)
	}
	want := http.Header{
		"X-Forwarded-For": {"192.0.2.7"}, "Idempotency-Key": {"k1"}, "Content-Length": {"6"}, "User-Agent": {"Go-http-client/1.1"},
	}
	if fmt.Sprint(got.Header) != fmt.Sprint(want) {
		t.Errorf("header %v\nwant %v", got.Header, want)
	}
	if d := s.Deliveries()[0]; d.Host != "shop.test" || d.Op != "k1" || d.Runs != 1 || d.Status != http.StatusTeapot || d.Length != 6 {
		t.Errorf("%+v", d)
	}
}

func TestTheRecordTellsAnUpstreamThatWasAskedFromOneThatWasNot(t *testing.T) {
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	s := NewProxy(t, up.URL, nil)
	resp, answer, err := askProxy(t, charge(s))
	if err != nil || resp.StatusCode != 502 || !strings.Contains(answer, up.URL+" did not answer: EOF") {
		t.Error(resp, answer, err)
	}
	up.Close()
	resp, answer, err = askProxy(t, charge(s))
	if err != nil || resp.StatusCode != 502 || !strings.Contains(answer, up.URL+" could not be reached: dial tcp") {
		t.Error(resp, answer, err)
	}
	asked, not := s.Deliveries()[0], s.Deliveries()[1]
	if asked.Runs != 1 || asked.Reach() != Applied || not.Runs != 0 || not.Reach() == Applied {
		t.Error(asked, not)
	}
	if s.Effects()["k1"] != 1 {
		t.Error(s.Effects())
	}
}

func TestFaultsStrikeInFrontOfAnyUpstream(t *testing.T) {
	var charges atomic.Int32
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		charges.Add(1)
		io.WriteString(w, "charged")
	})
	plan, err := ParsePlan("POST /charge: 503(Retry-After: 2) lose-response(fin) cut-body(3,fin) duplicate")
	if err != nil {
		t.Fatal(err)
	}
	s := NewProxy(t, up.URL, plan)
	for _, want := range []struct {
		answer  string
		err     error
		charges int32
	}{
		{"Service Unavailable\n", nil, 0}, {"", io.EOF, 1}, {"cha", io.ErrUnexpectedEOF, 2}, {"charged", nil, 4},
	} {
		req := charge(s)
		req.GetBody = nil // net/http would send it again
		_, answer, err := askProxy(t, req)
		if answer != want.answer || err != want.err || charges.Load() != want.charges {
			t.Errorf("%q, %v, %d charges; want %v", answer, err, charges.Load(), want)
		}
	}
	if d := s.Deliveries(); d[1].Status != 200 || d[0].Status != 0 {
		t.Error(d[0].Status, d[1].Status)
	}
}

func TestAKeyedRequestIsNotReplayedBehindTheRecordsBack(t *testing.T) {
	var charges atomic.Int32
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if charges.Add(1) == 2 { // on the connection of the first
			panic(http.ErrAbortHandler)
		}
	})
	s := NewProxy(t, up.URL, nil)
	for _, want := range []int{200, 502} {
		req := charge(s)
		req.Body, req.ContentLength = http.NoBody, 0 // what net/http replays most readily
		if resp, answer, err := askProxy(t, req); err != nil || resp.StatusCode != want {
			t.Error(resp, answer, err)
		}
	}
	if charges.Load() != 2 || s.Effects()["k1"] != 2 {
		t.Error(charges.Load(), s.Effects())
	}
}

func TestAStreamAndItsTrailersFlowThroughTheProxy(t *testing.T) {
	t.Run("of known length", func(t *testing.T) { flow(t, http.Header{"Content-Length": {"18"}}) })
	t.Run("in chunks", func(t *testing.T) { flow(t, http.Header{"Trailer": {"X-Sum"}}) })
}

func flow(t *testing.T, header http.Header) {
	read := make(chan bool)
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), header)
		io.WriteString(w, "data: 1\n\n")
		http.NewResponseController(w).Flush()
		<-read // the second event waits until the first has been read
		io.WriteString(w, "data: 2\n\n")
		w.Header().Set("X-Sum", "3")
	})
	s := NewProxy(t, up.URL, nil)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(charge(s))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 9)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "data: 1\n\n" {
		t.Error(string(first), err)
	}
	close(read)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != "data: 2\n\n" {
		t.Error(string(rest), err)
	}
	if _, announced := header["Trailer"]; announced && resp.Trailer.Get("X-Sum") != "3" {
		t.Error("trailers:", resp.Trailer)
	}
}

func TestAProxyThatClosesLeavesNoConnectionToItsUpstream(t *testing.T) {
	ended := make(chan bool, 1)
	up := httptest.NewUnstartedServer(echo)
	up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			ended <- true
		}
	}
	up.Start()
	defer up.Close()
	s := NewProxy(t, up.URL, nil)
	if resp, answer, err := askProxy(t, charge(s)); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, answer, err)
	}
	s.Close()
	<-ended
}

func TestAnUpgradedConnectionRunsThroughTheProxyUntilItCloses(t *testing.T) {
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(conn, buf)
	})
	s := NewProxy(t, up.URL, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	io.WriteString(conn, "ping")
	echo := make([]byte, 4)
	if _, err := io.ReadFull(in, echo); err != nil || string(echo) != "ping" {
		t.Error(string(echo), err)
	}
	s.Close() // returns, though the connection is still in use
	if _, err := in.ReadByte(); err == nil {
		t.Error("the connection outlived the proxy")
	}
	if d := s.Deliveries()[0]; d.Status != http.StatusSwitchingProtocols {
		t.Error(d.Status)
	}
}

func TestAnUpstreamOverTLSIsSpokenToInHTTP2(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, r.Header.Get("Idempotency-Key"))
	}))
	up.EnableHTTP2, up.Config.ErrorLog = true, quiet()
	up.StartTLS()
	defer up.Close()
	s := NewProxy(t, up.URL, nil)
	if resp, answer, err := askProxy(t, charge(s)); err != nil || resp.StatusCode != 502 || !strings.Contains(answer, "certificate") {
		t.Error(resp, answer, err)
	}
	if d := s.Deliveries()[0]; d.Runs != 0 || d.Reach() == Applied {
		t.Error("a failed handshake asked nothing:", d)
	}
	s = NewProxy(t, up.URL, nil)
	s.proxy.transport.TLSClientConfig = up.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	if _, answer, err := askProxy(t, charge(s)); err != nil || answer != "HTTP/2.0k1" {
		t.Error(answer, err)
	}
}

func TestAnUpstreamThatCannotBeMeantIsRefused(t *testing.T) {
	for _, text := range []string{"", "shop.test", "ftp://shop.test", "http://", "http://:80", "http://a b", "http://u:secret@shop.test", "http://a.test/?q=1", "http://u:secret@a b"} {
		s, err := Proxy(nil, text, nil)
		if err == nil || s != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
	fatal := &dying{TB: t}
	if s := NewProxy(fatal, "shop.test", nil); s != nil || !strings.Contains(fatal.text, `"shop.test"`) {
		t.Error(s, fatal.text)
	}
}

// dying keeps what a test would have died of.
type dying struct {
	TB
	text string
}

func (f *dying) Fatalf(format string, args ...any) { f.text = fmt.Sprintf(format, args...) }

func TestAProxyIsAHandlerToo(t *testing.T) {
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	s, err := Proxy(nil, up.URL, Script(MaskResponse(504)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	front := httptest.NewUnstartedServer(s)
	front.TLS = &tls.Config{}
	front.StartTLS()
	defer front.Close()
	for _, want := range []string{"Gateway Timeout\n", "10 EUR"} {
		resp, err := front.Client().Post(front.URL, "", bytes.NewReader([]byte("10 EUR")))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
			t.Error(string(body), err)
		}
		resp.Body.Close()
	}
}

func TestARecordWithABoundKeepsTheLastExchangesAndCountsOn(t *testing.T) {
	rt := Handler(echo, Every(3, Respond(503)))
	rt.Keep(2)
	for range 5 {
		resp, err := rt.RoundTrip(httptest.NewRequest("GET", "http://shop.test/", nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	all := rt.Deliveries()
	if len(all) != 2 || all[0].Seq != 4 || all[1].Nth != 5 || rt.Effects()["GET /"] != 2 {
		t.Error(all, rt.Effects())
	}
	rt.Keep(1)
	if all = rt.Deliveries(); len(all) != 1 || all[0].Seq != 5 {
		t.Error(all)
	}
}

func TestABoundedRecordKeepsTheLastConnectionsToo(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, s, client := shop(t, echo, nil)
		d := Dialer{Base: n.DialContext}
		client.Transport = &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}
		s.Keep(2)
		d.Keep(2)
		for range 5 {
			resp, err := client.Get("http://shop.test/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		for _, all := range [][]Delivery{s.Deliveries(), s.Accepts(), d.Dials()} {
			if len(all) != 2 || all[1].Seq != 5 {
				t.Error(all)
			}
		}
	})
}

func TestABoundedRecordForgetsOperationsNotSeenForLong(t *testing.T) {
	l := &journal{}
	l.Keep(1)
	arrive := func(op string) int { return l.arrive(nil, Exchange{Op: op}, "").Nth }
	arrive("old")
	for i := range 3 * remembered {
		arrive(fmt.Sprint(i))
		if i%1000 == 0 {
			arrive("GET /")
		}
	}
	if nth := arrive("GET /"); nth != 3*remembered/1000+2 {
		t.Error("an operation that kept arriving was forgotten:", nth)
	}
	if n := len(l.arrivals) + len(l.older); n > 2*remembered || arrive("old") != 1 {
		t.Error("remembered:", n)
	}
}
