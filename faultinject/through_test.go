package faultinject

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
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

// recorded is a listener that keeps what its connections carry.
type recorded struct {
	net.Listener
	mu   sync.Mutex
	in   []byte
	outs []string // one for each Write
}

func (l *recorded) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return recordedConn{conn.(*Conn), l}, nil
}

type recordedConn struct {
	*Conn
	l *recorded
}

func (c recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.in = append(c.l.in, p[:n]...)
	return n, err
}

func (c recordedConn) Write(p []byte) (int, error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.outs = append(c.l.outs, string(p))
	return c.Conn.Write(p)
}

// versatile does by its path what a handler can do.
func versatile(w http.ResponseWriter, r *http.Request) {
	out := http.NewResponseController(w)
	switch r.URL.Path {
	case "/echo":
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%q %v %v %v", b, err, r.Trailer, r.Body == http.NoBody)
	case "/ignore":
		io.WriteString(w, "unread")
	case "/some":
		io.ReadFull(r.Body, make([]byte, 2))
	case "/stream":
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			out.Flush()
			time.Sleep(time.Second)
		}
	case "/trailer":
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-More", "2")
	case "/hints":
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusAccepted)
	case "/same":
		w.Header().Set("ETag", `"a"`)
		w.WriteHeader(http.StatusNotModified)
	case "/copy":
		w.(io.ReaderFrom).ReadFrom(strings.NewReader("copied"))
	case "/limit":
		_, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2))
		http.Error(w, fmt.Sprint(err), http.StatusRequestEntityTooLarge)
	case "/duplex":
		fmt.Fprint(w, out.EnableFullDuplex(), out.SetWriteDeadline(time.Now().Add(time.Hour)))
		out.Flush()
		io.Copy(w, r.Body)
	case "/upgrade":
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		buf.Flush()
		io.Copy(conn, buf)
	case "/abort":
		io.WriteString(w, "half")
		out.Flush()
		panic(http.ErrAbortHandler)
	}
}

// dialogues are what a client says, each part when the server has fallen silent.
func dialogues() [][]string {
	post := func(path, rest string) string { return "POST " + path + " HTTP/1.1\r\nHost: shop.test\r\n" + rest }
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: shop.test\r\n\r\n" }
	chunks := "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n"
	return [][]string{
		{get("/echo"), post("/echo", "Content-Length: 3\r\n\r\nabc"), get("/stream")},
		{post("/echo", "Content-Length: 3\r\n\r\na"), "b", "c"},
		{post("/echo", chunks), "2\r\nde\r\n", "0\r\nX-T: 1\r\n\r\n", get("/trailer")},
		{post("/echo", "Transfer-Encoding: chunked\r\n\r\nzz\r\n")},
		{post("/echo", "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"), "abc", get("/echo")},
		{post("/ignore", "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"), get("/echo")},
		{post("/ignore", "Content-Length: 3\r\n\r\nabc"), get("/echo")},
		{post("/ignore", fmt.Sprint("Content-Length: ", 1<<20, "\r\n\r\n", strings.Repeat("x", 1<<10)))},
		{post("/some", "Content-Length: 5\r\n\r\nabcde"), get("/echo")},
		{"HEAD /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n", get("/same"), get("/hints"), get("/copy"), get("/nothing")},
		{post("/limit", "Content-Length: 5\r\n\r\nabcde")},
		{post("/duplex", "Content-Length: 5\r\n\r\nab"), "cde"},
		{"GET /upgrade HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", "ping", "pong"},
		{"GET /echo HTTP/1.0\r\n\r\n"}, {"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"},
		{get("/abort")}, {"OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n"}, {"garbage\r\n\r\n"}, {get("/echo"), ""},
	}
}

// speak holds a dialogue and returns what the server wrote, Write by Write.
func speak(t *testing.T, says []string, serve func(net.Listener) io.Closer) []string {
	start := time.Now()
	n := NewNetwork()
	defer n.Close()
	inner, err := n.Listen("shop.test:80")
	if err != nil {
		t.Fatal(err)
	}
	l := &recorded{Listener: inner}
	defer serve(l).Close()
	conn, err := n.DialContext(t.Context(), "tcp", "shop.test:80")
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, conn)
	for _, part := range says {
		io.WriteString(conn, part)
		time.Sleep(10 * time.Second)
		synctest.Wait()
	}
	conn.Close()
	synctest.Wait()
	return undated(l.outs, start)
}

// undated puts the time since start in the place of each Date.
func undated(outs []string, start time.Time) []string {
	for i, out := range outs {
		head, rest, dated := strings.Cut(out, "Date: ")
		if date, after, _ := strings.Cut(rest, "\r\n"); dated {
			at, _ := http.ParseTime(date)
			outs[i] = fmt.Sprint(head, at.Sub(start), after)
		}
	}
	return outs
}

func TestWhatPassesAServerIsTheSameOnTheWireAsWithoutIt(t *testing.T) {
	for i, says := range dialogues() {
		bubble(t, fmt.Sprint(i), func(t *testing.T) {
			h := http.HandlerFunc(versatile)
			bare := speak(t, says, func(l net.Listener) io.Closer {
				s := &http.Server{Handler: h}
				go s.Serve(l)
				return s
			})
			if len(bare) == 0 {
				t.Fatal("the bare handler said nothing")
			}
			for name, plan := range map[string]Plan{"nil": nil, "Script": Script(), "rate 0": Random(1, 0)} {
				struck := speak(t, says, func(l net.Listener) io.Closer { return Serve(l, h, plan) })
				if !slices.Equal(bare, struck) {
					t.Errorf("%s:\n%q\nwant\n%q", name, struck, bare)
				}
			}
		})
	}
}

func TestARequestThatPassesIsCountedWhileItStreams(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		pipe, w := io.Pipe()
		half := make(chan struct{})
		_, s, client := shop(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.ReadFull(r.Body, make([]byte, 3))
			close(half)
			io.Copy(io.Discard, r.Body)
		}), Script())
		go func() {
			io.WriteString(w, "abc")
			<-half
			d := s.Deliveries()[0]
			if d.Length != 3 || d.Sum != [sha256.Size]byte{} || d.Reach() != Applied {
				t.Error("in the middle:", d, d.Sum)
			}
			io.WriteString(w, "def")
			w.Close()
		}()
		resp, err := client.Do(post(t.Context(), pipe, -1))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if d := s.Deliveries()[0]; d.Length != 6 || d.Sum != sha256.Sum256([]byte("abcdef")) {
			t.Error("at the end:", d, d.Sum)
		}
	})
}

func TestABodyThatTheHandlerLeavesUnreadHasNoSum(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		_, s, client := shop(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body.Read(make([]byte, 2))
		}), nil)
		resp, err := client.Do(post(t.Context(), strings.NewReader("abc"), 3))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		s.Settle()
		if d := s.Deliveries()[0]; d.Length != 2 || d.Sum != [sha256.Size]byte{} || d.Reach() != Applied {
			t.Error(d, d.Sum, d.Reach())
		}
	})
}

// The stub's own words for what net/http would look at.
func TestWhatPassesAWrapIsNotTouched(t *testing.T) {
	failed := errors.New("failed")
	for name, plan := range map[string]Plan{"nil": nil, "Script": Script()} {
		var seen *http.Request
		answer := &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("x")), Trailer: http.Header{"X-T": {"1"}}}
		var rt *Transport
		rt = Wrap(roundTripper(func(r *http.Request) (*http.Response, error) {
			seen = r
			answer.Request = r
			b, _ := io.ReadAll(r.Body)
			again, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			replayed := make([]byte, 2)
			io.ReadFull(again, replayed)
			if string(b) != "abc" || string(replayed) != "ab" {
				t.Errorf("%s: %q, then %q", name, b, replayed)
			}
			if d := rt.Deliveries()[0]; plan != nil && (d.Length != 2 || d.Sum != [sha256.Size]byte{}) {
				t.Error("what is sent again is counted anew:", d)
			}
			io.ReadAll(again)
			return answer, r.Body.Close()
		}), plan)
		req := post(t.Context(), strings.NewReader("abc"), 3)
		before := *req
		resp, err := rt.RoundTrip(req)
		if err != nil || resp != answer || resp.Request != req || seen.ContentLength != 3 || req.Body != before.Body || seen.Context() != req.Context() {
			t.Errorf("%s: %v %v %v", name, resp, err, seen)
		}
		d := rt.Deliveries()[0]
		if plan == nil && (d.Length != 0 || seen != req) || plan != nil && (d.Length != 3 || d.Sum != sha256.Sum256([]byte("abc"))) || d.Runs != 1 {
			t.Errorf("%s: %+v", name, d)
		}
		bodyless := post(t.Context(), http.NoBody, 0)
		rt = Wrap(roundTripper(func(r *http.Request) (*http.Response, error) {
			if r != bodyless {
				t.Error(name, "another request without a body")
			}
			return nil, failed
		}), plan)
		if _, err := rt.RoundTrip(bodyless); err != failed {
			t.Error(name, err)
		}
		if _, err := Wrap(roundTripper(func(r *http.Request) (*http.Response, error) {
			_, err := r.GetBody()
			return nil, err
		}), Script()).RoundTrip(unwindable(t, failed)); err != failed {
			t.Error("error of GetBody:", err)
		}
	}
}

func unwindable(t *testing.T, err error) *http.Request {
	req := post(t.Context(), strings.NewReader("abc"), 3)
	req.GetBody = func() (io.ReadCloser, error) { return nil, err }
	return req
}

func TestTrailersAndUpgradesPassAWrap(t *testing.T) {
	for name, plan := range map[string]Plan{"nil": nil, "Script": Script()} {
		bubble(t, name, func(t *testing.T) {
			_, _, client := shop(t, http.HandlerFunc(versatile), nil)
			client.Transport = Wrap(client.Transport, plan)
			resp, err := client.Get("http://shop.test/trailer")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.Trailer.Get("X-Sum") != "1" || resp.Trailer.Get("X-More") != "2" {
				t.Error(resp.Trailer)
			}
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://shop.test/upgrade", nil)
			req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"echo"}}
			if resp, err = client.Do(req); err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			rw := resp.Body.(io.ReadWriter)
			io.WriteString(rw, "ping")
			if b := make([]byte, 4); resp.StatusCode != 101 || resp.Request != req {
				t.Error(resp)
			} else if _, err := io.ReadFull(rw, b); err != nil || string(b) != "ping" {
				t.Errorf("%q %v", b, err)
			}
		})
	}
}

func TestTheFilesOfAFormAreRemovedAsWithoutAServerInFront(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var name string
		_, s, client := shop(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if err := r.ParseMultipartForm(0); err != nil { // nothing in memory
				t.Error(err)
				return
			}
			file, _, err := r.FormFile("f")
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			if f, ok := file.(*os.File); ok {
				name = f.Name()
			}
		}), nil)
		var form strings.Builder
		parts := multipart.NewWriter(&form)
		file, _ := parts.CreateFormFile("f", "f")
		file.Write(make([]byte, 1<<10))
		parts.Close()
		resp, err := client.Post("http://shop.test/", parts.FormDataContentType(), strings.NewReader(form.String()))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		s.Settle()
		synctest.Wait()
		if _, err := os.Stat(name); name == "" || !errors.Is(err, fs.ErrNotExist) {
			t.Error(name, err)
		}
	})
}
