package resilient_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// dies answers all requests but the nth, after which it does something else.
func dies(nth int, how func(*peer)) func(*peer) {
	return func(p *peer) {
		for {
			switch p.request() {
			case 0:
				return
			case nth:
				how(p)
				return
			}
			p.answer(200)
		}
	}
}

func saying(bytes string, end func(*peer)) func(*peer) {
	return func(p *peer) { p.say("%s", bytes); end(p) }
}

// The cells read as in the table for HTTP/2.
func TestOverHTTP1NobodyIsChargedTwiceAndEveryRequestIsReported(t *testing.T) {
	for _, tt := range []struct {
		name  string
		used  bool // it happens on a connection that has served before
		death func(*peer)
		// In the order of wireKinds.
		get, post, vouched, bare, bareVouched, put, del string
	}{
		{"a used connection is closed over the request", true, (*peer).fin,
			"200, 2 of 1", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a used connection is reset over the request", true, (*peer).rst,
			"200, 2 of 1", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a new connection is closed over the request", false, (*peer).fin,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a new connection is reset over the request", false, (*peer).rst,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"the answer's head is cut in a line", true, saying("HTTP/1.1 200 OK\r\nContent-Le", (*peer).fin),
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"the answer's head is cut after a line", true, saying("HTTP/1.1 200 OK\r\n", (*peer).fin),
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"the answer's head is cut in its first byte", false, saying("H", (*peer).fin),
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"103 and nothing after it", true, saying("HTTP/1.1 103 Early Hints\r\n\r\n", (*peer).fin),
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"100 and nothing after it", false, saying("HTTP/1.1 100 Continue\r\n\r\n", (*peer).rst),
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
	} {
		for i, want := range []string{tt.get, tt.post, tt.vouched, tt.bare, tt.bareVouched, tt.put, tt.del} {
			k := wireKinds[i]
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				before := 0
				if tt.used {
					before = 1
				}
				end, base, url := onTCP(t, dies(1+before, tt.death))
				if tt.used {
					do(t, &http.Client{Transport: base}, newRequestTo(t, url))
				}
				got := do(t, overWire(t, base, hasty, k.config), k.request(t, t.Context(), url))
				seen := end.arrivals()[before:]
				require.Equal(t, want, brief(got, len(seen)))
				require.True(t, k.method == "GET" || got.attempts == len(seen))
				for _, a := range seen {
					require.Equal(t, seen[0].head.Header, a.head.Header)
					require.Equal(t, k.method == "POST", a.head.Header.Get("Idempotency-Key") != "", "the key arrives")
					require.Equal(t, len(k.body), a.body)
				}
			})
		}
	}
}

func TestAGETSentAgainByNetHTTPIsCountedWhereTheCallerWantsToKnow(t *testing.T) {
	end, base, url := onTCP(t, dies(2, (*peer).fin))
	client := overWire(t, base, func(c *resilient.Config) { c.CountReplays = true })
	do(t, client, newRequestTo(t, url))
	got := do(t, client, newRequestTo(t, url))
	require.Equal(t, "200, 2", brief(got, len(end.arrivals())-1))
	require.True(t, got.record.Attempts[0].Replay)
}

func TestACallersOwnKeyLicensesNetHTTPToSendABodylessPOSTAgainAndIsCounted(t *testing.T) {
	for _, body := range []string{"", "amount=1"} {
		end, base, url := onTCP(t, dies(2, (*peer).fin))
		client := overWire(t, base, hasty)
		do(t, client, newRequestTo(t, url))
		req := wireKind{method: "POST", body: body}.request(t, t.Context(), url)
		req.Header.Set("X-Idempotency-Key", "mine")
		got := do(t, client, req)
		require.Equal(t, "200, 2", brief(got, len(end.arrivals())-1))
		require.Equal(t, "mine", end.arrivals()[2].head.Header.Get("X-Idempotency-Key"))
		require.Empty(t, end.arrivals()[2].head.Header.Get("Idempotency-Key"))
		require.Equal(t, body == "", got.record.Attempts[0].Replay)
	}
}

func TestAStaleConnectionCostsNoPause(t *testing.T) {
	for _, tt := range []struct {
		name  string
		nth   int
		pause time.Duration
	}{
		{"the first repeat after a used connection died is made at once", 2, 0},
		{"the first repeat after a new connection died is not", 1, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP1(t, dies(tt.nth, (*peer).fin))
				client := overWire(t, base, steady)
				for range tt.nth - 1 {
					do(t, client, newRequestTo(t, "http://api.test/"))
				}
				start := time.Now()
				got := do(t, client, wireKinds[5].request(t, t.Context(), "http://api.test/"))
				require.Equal(t, "200, 2", brief(got, len(end.arrivals())-tt.nth+1))
				require.Equal(t, tt.pause, time.Since(start))
			})
		})
	}
}

// net/http sends a request under its caller's key again when the used connection
// that it went out on ends. It cannot, since we keep the body from it, so nobody
// may be worse off with us: neither by the budget nor by the breaker.
func TestAServerThatEndsUsedConnectionsCostsNoMoreThanWithNetHTTPAlone(t *testing.T) {
	const rounds = 100
	run := func(t *testing.T, idle int, header string, clientOver func(*http.Transport) *http.Client) (done, arrived int) {
		synctest.Test(t, func(t *testing.T) {
			end, base := overHTTP1(t, func(p *peer) { // each connection serves once
				if p.request() > 0 {
					time.Sleep(time.Second)
					p.answer(200)
					p.request()
				}
			})
			base.MaxIdleConnsPerHost = idle
			client := clientOver(base)
			for range rounds {
				base.CloseIdleConnections()
				var all sync.WaitGroup
				for range idle {
					all.Go(func() { do(t, client, newRequestTo(t, "http://api.test/")) })
				}
				all.Wait()
				req := wireKinds[1].request(t, t.Context(), "http://api.test/")
				req.Header.Set(header, "mine")
				if resp, err := client.Do(req); err == nil {
					require.NoError(t, resp.Body.Close())
					done++
				}
			}
			base.CloseIdleConnections()
			arrived = len(end.arrivals())
		})
		return done, arrived
	}
	for _, tt := range []struct {
		name   string
		idle   int
		header string
		done   int
		sent   int // in each round
	}{
		{"one, under the caller's key", 1, "Idempotency-Key", rounds, 1 + 2},
		{"three, under the caller's key", 3, "X-Idempotency-Key", rounds, 3 + 4},
		{"one, without a key", 1, "X-Nothing", 0, 1 + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := []int{tt.done, rounds * tt.sent}
			done, arrived := run(t, tt.idle, tt.header, func(base *http.Transport) *http.Client { return &http.Client{Transport: base} })
			require.Equal(t, want, []int{done, arrived}, "net/http alone")
			done, arrived = run(t, tt.idle, tt.header, func(base *http.Transport) *http.Client { return overWire(t, base, steady) })
			require.Equal(t, want, []int{done, arrived})
		})
	}
}

// A connection that goes from one request straight to the next is never idle.
func TestAServerThatEndsConnectionsHandedOnCostsNoMoreThanWithNetHTTPAlone(t *testing.T) {
	const requests = 60
	for name, clientOver := range map[string]func(*http.Transport) *http.Client{
		"net/http alone": func(base *http.Transport) *http.Client { return &http.Client{Transport: base} },
		"ours":           func(base *http.Transport) *http.Client { return overWire(t, base, steady) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP1(t, func(p *peer) {
					for range 2 {
						if p.request() == 0 {
							return
						}
						time.Sleep(time.Second)
						p.answer(200)
					}
					p.request()
				})
				base.MaxConnsPerHost = 2
				client := clientOver(base)
				var done atomic.Int32
				var all sync.WaitGroup
				for range requests {
					all.Go(func() {
						req := wireKinds[1].request(t, t.Context(), "http://api.test/")
						req.Header.Set("Idempotency-Key", "mine")
						if resp, err := client.Do(req); err == nil {
							_, _ = io.Copy(io.Discard, resp.Body)
							_ = resp.Body.Close()
							done.Add(1)
						}
					})
				}
				all.Wait()
				require.EqualValues(t, requests, done.Load())
				require.Equal(t, requests/2, end.opened())
			})
		})
	}
}

// What the end of a connection allows for free, an answer has paid for before.
func TestTheEndOfUsedConnectionsAllowsNoMoreRetriesThanThereWereAnswers(t *testing.T) {
	const operations, idle = 200, 7
	for _, tt := range []struct {
		name, url string
		wire      func(*testing.T, func(*peer)) (*farEnd, *http.Transport)
		atOnce    int // at first, when all goes well
		script    func(*peer)
	}{
		{"HTTP/1.1, each on its own", "http://api.test/", overHTTP1, idle, func(p *peer) {
			if p.n < idle && p.request() > 0 {
				time.Sleep(time.Second)
				p.answer(200)
			}
			p.request()
		}},
		{"HTTP/2, all on one", "https://api.test/", overHTTP2, 1, func(p *peer) {
			for ok := p.begin(); ok && p.n == 0; {
				switch stream, n := p.stream(); {
				case stream == 0 || n == idle+operations:
					return
				case n <= idle:
					p.ok(stream)
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, base := tt.wire(t, tt.script)
				base.MaxIdleConnsPerHost = idle
				client := overWire(t, base, steady, wireKinds[2].config, func(c *resilient.Config) { c.NoBreaker = true })
				retriesOf := func(operations int) int {
					var attempts atomic.Int64
					var all sync.WaitGroup
					for range operations {
						all.Go(func() { attempts.Add(int64(do(t, client, wireKinds[2].request(t, t.Context(), tt.url)).attempts)) })
					}
					all.Wait()
					return int(attempts.Load()) - operations
				}
				for range idle / tt.atOnce {
					require.Zero(t, retriesOf(tt.atOnce))
				}
				start := time.Now()
				retries := retriesOf(operations)
				require.LessOrEqual(t, retries, 10+operations/10+int(time.Since(start)/(10*time.Second))+idle)
				require.GreaterOrEqual(t, retries, 10)
			})
		})
	}
}

// What net/http reports is the fate of its last copy: here of one that never
// left, after one that was acted on.
func TestAReplayThatNeverLeftDoesNotHideTheCopyThatDid(t *testing.T) {
	for i, want := range []string{
		"unknown, 2 of 4", "503, 1", "unknown, 2 of 4", "503, 1", "unknown, 2 of 4", "unknown, 2 of 4", "unknown, 2 of 4",
	} {
		k := wireKinds[i]
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP1(t, func(p *peer) {
					p.request()
					p.answer(503)
					p.request() // acted on, and the answer lost
				})
				base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if end.opened() > 0 {
						return nil, opError("dial", syscall.ECONNREFUSED)
					}
					return end.dial(ctx, network, address)
				}
				got := do(t, overWire(t, base, k.config), k.request(t, t.Context(), "http://api.test/"))
				require.Equal(t, want, brief(got, len(end.arrivals())))
			})
		})
	}
}

// stale opens so many connections, which then each die of their next request.
func stale(n int) func(*peer) {
	return func(p *peer) {
		for served := 0; p.request() > 0; served++ {
			if p.n < n && served > 0 {
				return
			}
			if p.n < n {
				time.Sleep(time.Second)
			}
			p.answer(200)
		}
	}
}

func TestManyStaleConnectionsMultiplyNoUnsafeRequest(t *testing.T) {
	for _, tt := range []struct {
		stale int
		// In the order of wireKinds.
		get, post, vouched, bare, bareVouched, put, del string
	}{
		{3, "200, 4 of 1", "unknown, 1", "200, 4", "unknown, 1", "200, 4", "200, 4", "200, 4"},
		{9, "200, 10 of 1", "unknown, 1", "unknown, 4", "unknown, 1", "200, 10", "unknown, 4", "unknown, 4"},
	} {
		for i, want := range []string{tt.get, tt.post, tt.vouched, tt.bare, tt.bareVouched, tt.put, tt.del} {
			k := wireKinds[i]
			t.Run(k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end, base := overHTTP1(t, stale(tt.stale))
					base.MaxIdleConnsPerHost = 100
					var all sync.WaitGroup
					for range tt.stale {
						all.Go(func() { do(t, &http.Client{Transport: base}, newRequestTo(t, "http://api.test/")) })
					}
					all.Wait()
					got := do(t, overWire(t, base, hasty, k.config), k.request(t, t.Context(), "http://api.test/"))
					synctest.Wait()
					arrived := len(end.arrivals()) - tt.stale
					require.Equal(t, want, brief(got, arrived))
				})
			})
		}
	}
}

// betweenGotConnAndWrite makes something happen at the far end when a
// connection has been taken out of the pool, and lets net/http notice it before
// it writes. Only a bubble can tell when it has.
func betweenGotConnAndWrite(ctx context.Context, happen chan struct{}) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.Reused {
			happen <- struct{}{}
			synctest.Wait()
		}
	}})
}

func TestARequestThatMetAClosingConnectionWasNotSent(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*peer)
	}{
		{"the server closes the idle connection", (*peer).fin},
		{"the server resets the idle connection", (*peer).rst},
		{"the server says 408 and closes", saying("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", (*peer).fin)},
		{"the server says what nobody asked", saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", func(*peer) {})},
	} {
		for _, k := range wireKinds {
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					happen := make(chan struct{})
					end, base := overHTTP1(t, func(p *peer) {
						if p.n == 0 && p.request() > 0 {
							p.answer(200)
							<-happen
							tt.do(p)
						}
						answerAll(p)
					})
					client := overWire(t, base, steady, k.config)
					do(t, client, newRequestTo(t, "http://api.test/"))
					start := time.Now()
					got := do(t, client, k.request(t, betweenGotConnAndWrite(t.Context(), happen), "http://api.test/"))
					require.Equal(t, 200, got.status)
					require.Len(t, end.arrivals(), 2, "it arrived once")
					require.Zero(t, time.Since(start))
					if got.attempts > 1 {
						require.Equal(t, resilient.Unsent, got.record.Attempts[0].Verdict)
						require.Equal(t, resilient.NotSent, got.record.Attempts[0].Outcome)
					}
				})
			})
		}
	}
}

// brokenConn writes so many bytes and then fails. Its Read fails a moment
// later: net/http tells which of the two it noticed first, and after the Read
// that nothing was written can no longer be told.
type brokenConn struct {
	net.Conn
	left int
}

func (c *brokenConn) Write(p []byte) (int, error) {
	n, _ := c.Conn.Write(p[:min(len(p), c.left)])
	if c.left -= n; n < len(p) {
		return n, opError("write", syscall.EPIPE)
	}
	return n, nil
}

func (c *brokenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		time.Sleep(time.Millisecond)
	}
	return n, err
}

// breakingFirst makes the first connection one that breaks after so many bytes.
func breakingFirst(end *farEnd, bytes int) func(context.Context, string, string) (net.Conn, error) {
	var dials atomic.Int32
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := end.dial(ctx, network, address)
		if dials.Add(1) > 1 {
			return conn, err
		}
		return &brokenConn{conn, bytes}, err
	}
}

func TestARequestOfWhichNoByteWasWrittenIsSentAgainWhateverItIs(t *testing.T) {
	for _, k := range wireKinds {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP1(t, answerAll)
				base.DialContext = breakingFirst(end, 0)
				got := do(t, overWire(t, base, k.config), k.request(t, t.Context(), "http://api.test/"))
				require.Equal(t, "200, 1 of 2", brief(got, len(end.arrivals())))
				if k.method != "GET" {
					require.Equal(t, resilient.NotSent, got.record.Attempts[0].Outcome)
				}
				time.Sleep(time.Second) // until the broken one is gone
			})
		})
	}
}

func TestAFailedWriteIsRepeatedOnceAtMostSinceItMayHaveBeenAnAnswerToTheUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, base := overHTTP1(t, answerAll)
		base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := end.dial(ctx, network, address)
			return &brokenConn{conn, flowSize}, err
		}
		req, err := http.NewRequestWithContext(t.Context(), "PUT", "http://api.test/", bytes.NewReader(make([]byte, upload)))
		require.NoError(t, err)
		got := do(t, overWire(t, base), req)
		require.Equal(t, 2, got.attempts)
		require.ErrorIs(t, got.stop, resilient.ErrAttempts)
		require.Equal(t, resilient.Unknown, got.outcome)
		time.Sleep(time.Second)
	})
}

// A server that closes an idle connection may say 408 first. Where the client
// writes before it has noticed, that is the answer to what nobody has read.
func TestA408LeftOnAnIdleConnectionIsTheAnswerItLooksLike(t *testing.T) {
	for _, tt := range []struct {
		kind wireKind
		want string
	}{
		{wireKinds[0], "200, 1 of 2"}, {wireKinds[1], "408, 0 of 1"}, {wireKinds[2], "200, 1 of 2"},
		{wireKinds[3], "408, 0 of 1"}, {wireKinds[5], "200, 1 of 2"},
	} {
		t.Run(tt.kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP1(t, func(p *peer) {
					if p.n == 0 && p.request() > 0 {
						p.answer(200)
						_, _ = p.r.Peek(1)
						p.say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
						return
					}
					answerAll(p)
				})
				client := overWire(t, base, tt.kind.config)
				do(t, client, newRequestTo(t, "http://api.test/"))
				got := do(t, client, tt.kind.request(t, t.Context(), "http://api.test/"))
				require.Equal(t, tt.want, brief(got, len(end.arrivals())-1))
			})
		})
	}
}

const upload = 8 << 20

func TestAnAnswerGivenInTheMiddleOfAnUploadIsNeverTurnedIntoASecondCharge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		linger bool
	}{
		{"413, and the server reads on", 413, true},
		{"413, and the server hangs up", 413, false},
		{"503, and the server reads on", 503, true},
		{"503, and the server hangs up", 503, false},
	} {
		for _, method := range []string{"POST", "PUT"} {
			t.Run(tt.name+"/"+method, func(t *testing.T) {
				end, base, url := onTCP(t, func(p *peer) {
					if p.head() == nil {
						return
					}
					_, _ = io.CopyN(io.Discard, p.r, flowSize)
					p.say("HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", tt.status)
					if tt.linger {
						_ = p.raw.(*net.TCPConn).CloseWrite()
						_, _ = io.Copy(io.Discard, p.r)
					}
				})
				req, err := http.NewRequest(method, url, bytes.NewReader(make([]byte, upload)))
				require.NoError(t, err)
				got := do(t, overWire(t, base, hasty), req)
				arrived := len(end.arrivals())
				require.Equal(t, arrived, got.attempts)
				require.True(t, method == "PUT" || arrived == 1)
				if tt.linger {
					require.Equal(t, tt.status, got.status)
				}
				if got.status == 0 {
					require.Equal(t, resilient.Unknown, got.outcome)
				}
			})
		}
	}
}

func TestABodyThatWasNotAskedForStaysAtHome(t *testing.T) {
	for _, tt := range []struct {
		name, say string
		vouched   bool
		want      string
		read      int // bytes of the body
	}{
		{"a 417 is the answer", "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false, "417, 1", 0},
		{"a server that hangs up may have acted", "", false, "unknown, 1", 0},
		{"a server that honours keys is asked again", "", true, "200, 2", 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP1(t, func(p *peer) {
					if p.n > 0 {
						p.head()
						p.say("HTTP/1.1 100 Continue\r\n\r\n")
						_, _ = io.CopyN(io.Discard, p.r, 8)
						p.answer(200)
					} else if p.head() != nil {
						p.say("%s", tt.say)
					}
				})
				base.ExpectContinueTimeout = time.Minute
				body := &counted{r: bytes.NewReader([]byte("amount=1"))}
				req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.test/", body)
				require.NoError(t, err)
				req.ContentLength = 8
				req.Header.Set("Expect", "100-continue")
				got := do(t, overWire(t, base, steady, wireKind{vouched: tt.vouched}.config), req)
				require.Equal(t, tt.want, brief(got, len(end.arrivals())))
				require.Equal(t, tt.read, body.n)
			})
		})
	}
}

type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
