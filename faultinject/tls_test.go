package faultinject

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func get(t *testing.T, client *http.Client, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return resp, err
}

func TestAClientChoosesItsProtocol(t *testing.T) {
	for _, tt := range []struct{ proto, url, want string }{
		{"", "https://shop.test", "HTTP/2.0"},
		{"h1", "https://shop.test", "HTTP/1.1"},
		{"h2", "https://shop.test:8443", "HTTP/2.0"},
		{"", "http://shop.test:0", "HTTP/1.1"},
		{"h2c", "http://shop.test", "HTTP/2.0"},
		{"", "https://[2001:db8::1]:0/", "HTTP/2.0"},
	} {
		bubble(t, tt.proto+tt.url, func(t *testing.T) {
			n := NewNetwork()
			defer n.Close()
			s := n.NewServer(t, tt.url, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Proto != tt.want || (r.TLS != nil) != strings.HasPrefix(tt.url, "https") || r.Header[mark] != nil {
					t.Error(r.Proto, r.TLS, r.Header)
				}
				if r.TLS != nil && (!r.TLS.HandshakeComplete || r.TLS.ServerName != "shop.test" && r.TLS.NegotiatedProtocol != "h2") {
					t.Errorf("%+v", r.TLS)
				}
			}), nil)
			client := s.Client()
			if tt.proto != "" {
				speakOnly(client.Transport.(*http.Transport), tt.proto)
			}
			resp, err := get(t, client, s.URL+"/")
			if err != nil {
				t.Fatal(err)
			}
			if resp.Proto != tt.want || strings.HasSuffix(s.URL, ":0") || strings.HasSuffix(s.URL, "/") {
				t.Error(resp.Proto, s.URL)
			}
			if d := s.Deliveries()[0]; d.Conn != 1 {
				t.Error("connection", d.Conn)
			}
		})
	}
}

func TestABadURLIsNamed(t *testing.T) {
	n := NewNetwork()
	defer n.Close()
	for _, url := range []string{"", "shop.test", "ftp://shop.test", "https://", "https://:443", "http://shop.test/path", "http://shop.test?q", "http://u@shop.test", "http://a b", "http://shop.test:port"} {
		s, err := n.Serve(url, echo, nil)
		if err == nil || s != nil || !strings.Contains(err.Error(), url) || !strings.HasPrefix(err.Error(), "faultinject: ") {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := n.Serve("http://shop.test", echo, nil); err != nil {
		t.Error(err)
	}
	if _, err := n.Serve("http://shop.test:80/", echo, nil); err == nil {
		t.Error("two servers at one address")
	}
}

func TestNetworksAndBubblesShareAnAuthority(t *testing.T) {
	shared := NewAuthority()
	var seen [][]byte
	for range 3 {
		bubble(t, "", func(t *testing.T) {
			n := NewNetwork()
			defer n.Close()
			n.Authority = shared
			s := n.NewServer(t, "https://shop.test", echo, nil)
			resp, err := get(t, s.Client(), s.URL)
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, resp.TLS.PeerCertificates[0].Raw)
			// A network of its own is a stranger to it.
			other := NewNetwork()
			defer other.Close()
			stranger := other.NewServer(t, "https://shop.test", echo, nil)
			tr := s.Transport()
			tr.DialContext = other.DialContext
			if _, err := get(t, &http.Client{Transport: tr}, stranger.URL); err == nil {
				t.Error("trusted")
			}
		})
	}
	if len(seen) != 3 || !bytes.Equal(seen[0], seen[2]) {
		t.Error("a certificate was made more than once")
	}
}

func TestACertificateIsGoodNowAndInABubble(t *testing.T) {
	a := NewAuthority()
	cert, err := a.certificate("shop.test", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"shop.test", "127.0.0.1"} {
		for _, when := range []time.Time{time.Now(), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)} {
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: host, CurrentTime: when}); err != nil {
				t.Error(host, when, err)
			}
		}
	}
}

func TestAServerOfOnesOwnTLSIsStruckToo(t *testing.T) {
	for _, f := range append(TLSFaults(), HangUp(RST), Pass()) {
		bubble(t, f.String(), func(t *testing.T) {
			n := NewNetwork()
			defer n.Close()
			cert, pool := certificate(t, "shop.test")
			l, _ := n.Listen("shop.test:443")
			s := Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}), echo, only(f))
			defer s.Close()
			tr := n.Transport()
			tr.TLSClientConfig, tr.TLSHandshakeTimeout = &tls.Config{RootCAs: pool}, time.Second
			defer tr.CloseIdleConnections()
			if s.URL != "https://shop.test:443" {
				t.Error(s.URL)
			}
			_, err := get(t, &http.Client{Transport: tr}, "https://shop.test/")
			if (err == nil) != (f == Pass()) {
				t.Error(err)
			}
			what := secureProfile(err)
			if timeout := f == StallHandshake(); timeout != strings.Contains(what, "timeout") {
				t.Error(what)
			}
			if flaw := f.Name() == "bad-cert"; flaw != strings.HasPrefix(what, "certificate: ") {
				t.Error(what)
			}
			if d := s.Accepts()[0]; d.Fault != f || d.Op != "accept shop.test:443" || d.Conn != 1 || d.Nth != 1 {
				t.Error(d)
			}
		})
	}
}

func TestWhoSpeaksPlainToTLSIsTold(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := NewNetwork()
		defer n.Close()
		s := n.NewServer(t, "https://shop.test", echo, nil)
		tr := s.Transport()
		speakOnly(tr, "h1")
		resp, err := get(t, &http.Client{Transport: tr}, "http://shop.test:443/")
		if err != nil || resp.StatusCode != 400 {
			t.Error(resp, err)
		}
		synctest.Wait()
		if n.Open() != 0 {
			t.Error("open:", n.Open())
		}
	})
}

func TestAServerClosesWhateverHangs(t *testing.T) {
	for _, f := range []Fault{StallHandshake(), HangUp(FIN), CutHandshake(FIN)} {
		bubble(t, f.String(), func(t *testing.T) {
			n := NewNetwork()
			s := n.NewServer(t, "https://shop.test", echo, only(f))
			c, err := n.DialContext(t.Context(), "tcp", "shop.test:443")
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, "x") // and says no more
			synctest.Wait()
			s.Close()
			synctest.Wait()
			if n.Open() != 1 {
				t.Error("open besides ours:", n.Open()-1)
			}
			c.Close()
		})
	}
}

func TestAFaultOfTLSPassesWhereThereIsNone(t *testing.T) {
	for _, f := range TLSFaults() {
		rt := Handler(echo, Script(f))
		resp, err := get(t, &http.Client{Transport: rt}, "http://shop.test/")
		if err != nil || resp.StatusCode != 200 || rt.Effects()["GET /"] != 1 {
			t.Error(f, err)
		}
	}
}
