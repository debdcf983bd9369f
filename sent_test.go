package resilient_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// A provocation makes net/http fail in one certain way, in a bubble.
type provocation func(t *testing.T) (*http.Transport, *http.Request)

const (
	overH1 = "http://api.test/"
	overH2 = "https://api.test/"
)

func posting(t *testing.T, url string) *http.Request {
	req := wireKinds[1].request(t, t.Context(), url)
	req.GetBody = nil // as in every unsafe attempt of ours
	return req
}

// faulty is a request that was changed so as to fail, to a server that answers.
func faulty(change func(*http.Request)) provocation {
	return func(t *testing.T) (*http.Transport, *http.Request) {
		end, base := overHTTP1(t, answerAll)
		base.DialContext = breakingFirst(end, flowSize) // which is told by its Write
		req := posting(t, overH1)
		change(req)
		return base, req
	}
}

// faultyH2 does so over HTTP/2, where the connection has served before.
func faultyH2(change func(*http.Request), settings ...uint32) provocation {
	return func(t *testing.T) (*http.Transport, *http.Request) {
		_, base := overHTTP2(t, func(p *peer) {
			for ok := p.begin(settings...); ok; {
				stream, _ := p.stream()
				if ok = stream != 0; ok {
					p.ok(stream)
				}
			}
		})
		do(t, &http.Client{Transport: base}, newRequestTo(t, overH2))
		req := posting(t, overH2)
		change(req)
		return base, req
	}
}

func striking(script func(*peer)) provocation {
	return func(t *testing.T) (*http.Transport, *http.Request) {
		_, base := overHTTP2(t, script)
		return base, posting(t, overH2)
	}
}

// closingWhere closes the connection that is got, before anything is written.
func closingWhere(p provocation, which func(httptrace.GotConnInfo) bool) provocation {
	return func(t *testing.T) (*http.Transport, *http.Request) {
		base, req := p(t)
		ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			if which(info) {
				info.Conn.Close()
				synctest.Wait()
			}
		}})
		return base, req.WithContext(ctx)
	}
}

func isReused(info httptrace.GotConnInfo) bool { return info.Reused }

func isNew(info httptrace.GotConnInfo) bool { return !info.Reused }

// between makes the far end do something between GotConn and the write.
func between(what func(*peer)) provocation {
	return func(t *testing.T) (*http.Transport, *http.Request) {
		happen := make(chan struct{})
		_, base := overHTTP1(t, func(p *peer) {
			if p.n == 0 && p.request() > 0 {
				p.answer(200)
				<-happen
				what(p)
				return
			}
			answerAll(p)
		})
		do(t, &http.Client{Transport: base}, newRequestTo(t, overH1))
		req := posting(t, overH1)
		return base, req.WithContext(betweenGotConnAndWrite(req.Context(), happen))
	}
}

// eightConnections leaves as many idle HTTP/2 connections of one stream each.
func eightConnections(t *testing.T) (*http.Transport, *http.Request) {
	const maxConcurrentStreams = 3
	_, base := overHTTP2(t, func(p *peer) {
		for ok := p.begin(maxConcurrentStreams, 1); ok; {
			stream, _ := p.stream()
			if ok = stream != 0; ok {
				time.Sleep(time.Minute)
				p.ok(stream)
			}
		}
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { do(t, &http.Client{Transport: base}, newRequestTo(t, overH2)) })
		synctest.Wait()
	}
	all.Wait()
	return base, posting(t, overH2)
}

func dialling(conn func(*farEnd) func(context.Context, string, string) (net.Conn, error)) provocation {
	return func(t *testing.T) (*http.Transport, *http.Request) {
		end, base := overHTTP1(t, answerAll)
		base.DialContext = conn(end)
		return base, posting(t, overH1)
	}
}

// Where net/http has no type for what it says, its text is read. Each text here
// is first provoked without us, so that a release of Go that changes one fails
// this test and not a user.
func TestNetHTTPStillSaysWhatItsErrorsAreRecognisedBy(t *testing.T) {
	const cannotRetry = "http2: Transport: cannot retry err ["
	const broken = "net/http: HTTP/1.x transport connection broken: "
	for _, tt := range []struct {
		text    string
		provoke provocation
		verdict resilient.Verdict
		outcome resilient.Outcome
	}{
		{"http: server closed idle connection", between((*peer).fin), resilient.Unsent, resilient.NotSent},
		{"readLoopPeekFailLocked: ", between((*peer).rst), resilient.Unsent, resilient.NotSent},
		{"http2: client conn could not be established", closingWhere(striking(answerAll), isNew), resilient.Unsent, resilient.NotSent},
		{"http2: client conn not usable", closingWhere(eightConnections, isReused), resilient.Unsent, resilient.NotSent},
		{"net/http: cannot rewind body after connection loss", closingWhere(faultyH2(func(*http.Request) {}), isReused), resilient.Unsent, resilient.NotSent},
		{"http2: Transport received GOAWAY from server ErrCode:", striking(once(goAwayBelow(codeCalm))), resilient.Unsent, resilient.NotSent},
		{cannotRetry + "stream error: stream ID 1; REFUSED_STREAM;", striking(once(rstStream(codeRefused))), resilient.Unsent, resilient.NotSent},
		{cannotRetry + "http2: Transport received Server's graceful shutdown GOAWAY]", striking(once(goAwayBelow(codeNo))), resilient.Unsent, resilient.NotSent},
		{cannotRetry + "stream error: stream ID 1; PROTOCOL_ERROR;", striking(once(rstStream(codeProtocol))), resilient.Transient, resilient.Unknown},
		{"write tcp", dialling(func(e *farEnd) func(context.Context, string, string) (net.Conn, error) { return breakingFirst(e, 0) }), resilient.Unsent, resilient.NotSent},

		{"unsupported protocol scheme", faulty(func(r *http.Request) { r.URL.Scheme = "gopher" }), resilient.Fatal, resilient.NotSent},
		{"http: no Host in request URL", faulty(func(r *http.Request) { r.URL.Host = "" }), resilient.Fatal, resilient.NotSent},
		{"net/http: invalid method", faulty(func(r *http.Request) { r.Method = "BAD METHOD" }), resilient.Fatal, resilient.NotSent},
		{"net/http: invalid header field name", faulty(func(r *http.Request) { r.Header["X Bad"] = []string{"x"} }), resilient.Fatal, resilient.NotSent},
		{"net/http: invalid header field value", faulty(func(r *http.Request) { r.Header["X-Bad"] = []string{"\n"} }), resilient.Fatal, resilient.NotSent},
		{"invalid Trailer key", faulty(func(r *http.Request) { r.ContentLength, r.Trailer = -1, http.Header{"Content-Length": nil} }), resilient.Fatal, resilient.NotSent},
		{"net/http: can't write control character in Request.URL", faulty(func(r *http.Request) { r.URL = &url.URL{Scheme: "http", Host: "api.test", Opaque: "/\x01"} }), resilient.Fatal, resilient.NotSent},
		{broken + "net/http: server response headers exceeded", func(t *testing.T) (*http.Transport, *http.Request) {
			_, base := overHTTP1(t, func(p *peer) {
				p.request()
				p.say("HTTP/1.1 200 OK\r\nX-Big: %s\r\n\r\n", strings.Repeat("x", flowSize))
			})
			base.MaxResponseHeaderBytes = 1000
			return base, posting(t, overH1)
		}, resilient.Fatal, resilient.Unknown},
		{"http2: request header list larger than peer's advertised limit", faultyH2(func(r *http.Request) { r.Header.Set("X-Big", strings.Repeat("x", 2000)) }, 6, 1000), resilient.Fatal, resilient.NotSent},
		{"http2: invalid ", faultyH2(func(r *http.Request) { r.Header.Set("Connection", "foo, bar") }), resilient.Fatal, resilient.NotSent},
	} {
		t.Run(tt.text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, req := tt.provoke(t)
				resp, err := base.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				require.Error(t, err)
				require.True(t, strings.HasPrefix(err.Error(), tt.text), "%v", err)
				time.Sleep(time.Minute)
			})
			synctest.Test(t, func(t *testing.T) {
				base, req := tt.provoke(t)
				var first *resilient.Attempt
				attempts := 0
				client := overWire(t, base, hasty, func(c *resilient.Config) {
					c.Observer.Attempt = func(_ context.Context, a resilient.Attempt) {
						if attempts++; attempts == 1 {
							first = &a
						}
					}
				})
				resp, err := client.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				require.NotNil(t, first)
				require.Equal(t, tt.verdict, first.Verdict, "%v", first.Err)
				require.Equal(t, tt.outcome, first.Outcome, "%v", first.Err)
				require.Equal(t, tt.verdict == resilient.Unsent, attempts > 1, "%v", err)
				time.Sleep(time.Minute)
			})
		})
	}
}

// No text is needed for it: the body is watched where its length is in doubt.
func TestABodyThatLiesAboutItsLengthIsNotSentAgain(t *testing.T) {
	for _, k := range []wireKind{wireKinds[2], wireKinds[5]} {
		for _, length := range []int64{3, 30} {
			for _, url := range []string{overH1, overH2} {
				t.Run(fmt.Sprint(k.name, length, url), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						_, base := overHTTP1(t, silent)
						if url == overH2 {
							_, base = overHTTP2(t, once(rstStream(codeProtocol))) // as servers say to it
						}
						req := k.request(t, t.Context(), url)
						req.ContentLength = length
						got := do(t, overWire(t, base, hasty, k.config), req)
						require.Equal(t, resilient.Fatal, got.record.Attempts[0].Verdict)
						require.Equal(t, resilient.Unknown, got.outcome)
						require.Equal(t, 1, got.attempts)
						require.NoError(t, got.stop)
					})
				})
			}
		}
	}
}

// The type that says that no byte was written is known by its name alone.
func TestNetHTTPStillNamesTheErrorOfWhichNothingWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, base := overHTTP1(t, answerAll)
		base.DialContext = breakingFirst(end, 0)
		_, err := base.RoundTrip(posting(t, overH1))
		require.Error(t, err)
		require.Equal(t, "http.nothingWrittenError", reflect.TypeOf(err).String())
		time.Sleep(time.Second)
	})
}

// drops serves a connection that ends, unread, when the request has come.
func drops(end func(*peer)) func(*peer) {
	return func(p *peer) {
		_, _ = p.r.Peek(1)
		time.Sleep(time.Millisecond)
		end(p)
	}
}

// deafConn cannot write, and its Read fails first.
type deafConn struct {
	net.Conn
	tried chan struct{}
}

func (c *deafConn) Read([]byte) (int, error) {
	<-c.tried
	return 0, opError("read", io.EOF)
}

func (c *deafConn) Write([]byte) (int, error) {
	close(c.tried)
	time.Sleep(time.Millisecond)
	return 0, opError("write", net.ErrClosed)
}

// Here the server saw no request, and yet a client cannot know it. To say
// NotSent would be a guess, and one day a second charge.
var unknowable = []struct {
	name, reason string
	provoke      func(t *testing.T) (*farEnd, *http.Transport, string)
}{
	{"the server closes without reading", "the request was handed to the kernel; only the server knows that it never read it", plainly(drops((*peer).fin))},
	{"the server resets without reading", "as above; a reset may overtake an answer", plainly(drops((*peer).rst))},
	{"the server resets within the head", "the client wrote all of it", plainly(func(p *peer) { _, _ = io.CopyN(io.Discard, p.r, 10); p.rst() })},
	{"the server had closed the idle connection", "on the wire it looks like a server that read, acted and died", func(t *testing.T) (*farEnd, *http.Transport, string) {
		end, base := overHTTP1(t, func(p *peer) {
			if p.request() > 0 {
				p.answer(200)
				drops((*peer).fin)(p)
			}
		})
		do(t, &http.Client{Transport: base}, newRequestTo(t, overH1))
		return end, base, overH1
	}},
	{"the write breaks within the head", "the client cannot know how much of it arrived, and the truth is seldom that a head was cut", func(t *testing.T) (*farEnd, *http.Transport, string) {
		end, base := overHTTP1(t, answerAll)
		base.DialContext = breakingFirst(end, 50)
		return end, base, overH1
	}},
	{"nothing can be written, and reading fails first", "net/http reports the Read, and takes the proof off it", func(t *testing.T) (*farEnd, *http.Transport, string) {
		end, base := overHTTP1(t, answerAll)
		base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := end.dial(ctx, network, address)
			return &deafConn{conn, make(chan struct{})}, err
		}
		return end, base, overH1
	}},
	{"the server closes an HTTP/2 connection before its settings", "HEADERS do not wait for the server's SETTINGS", inFrames(drops((*peer).fin))},
	{"the server speaks no HTTP/2 after all", "as above", inFrames(drops(saying("HTTP/1.1 400 Bad Request\r\n\r\n", silent)))},
	{"the server resets a used HTTP/2 connection as the frames come", "net/http says only that the connection was lost", func(t *testing.T) (*farEnd, *http.Transport, string) {
		end, base := overHTTP2(t, func(p *peer) {
			p.begin()
			stream, _ := p.stream()
			p.ok(stream)
			p.frame(framePing, 0, 0, make([]byte, 8)...)
			p.frames(func(kind, _ byte) bool { return kind == framePing }) // what belongs to the first request is behind us
			drops((*peer).rst)(p)
		})
		do(t, &http.Client{Transport: base}, newRequestTo(t, overH2))
		time.Sleep(time.Minute)
		return end, base, overH2
	}},
	{"the attempt's time ran out in the queue for an HTTP/2 stream", "with the context ended, HEADERS may be on the wire before net/http tells of them", func(t *testing.T) (*farEnd, *http.Transport, string) {
		const maxConcurrentStreams = 3
		end, base := overHTTP2(t, func(p *peer) {
			p.begin(maxConcurrentStreams, 1)
			stream, _ := p.stream()
			p.ok(stream)
			stream, _ = p.stream()
			time.Sleep(time.Hour)
			p.ok(stream)
			p.stream()
		})
		base.HTTP2 = &http.HTTP2Config{StrictMaxConcurrentRequests: true}
		do(t, &http.Client{Transport: base}, newRequestTo(t, overH2))
		go func() { do(t, &http.Client{Transport: base}, newRequestTo(t, overH2)) }()
		synctest.Wait()
		return end, base, overH2
	}},
}

func plainly(script func(*peer)) func(t *testing.T) (*farEnd, *http.Transport, string) {
	return func(t *testing.T) (*farEnd, *http.Transport, string) {
		end, base := overHTTP1(t, script)
		return end, base, overH1
	}
}

func inFrames(script func(*peer)) func(t *testing.T) (*farEnd, *http.Transport, string) {
	return func(t *testing.T) (*farEnd, *http.Transport, string) {
		end, base := overHTTP2(t, script)
		return end, base, overH2
	}
}

func TestWhatCannotBeKnownIsToldUnknownAndNotRepeated(t *testing.T) {
	for _, tt := range unknowable {
		for _, k := range []wireKind{wireKinds[1], wireKinds[3]} {
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end, base, url := tt.provoke(t)
					before := len(end.arrivals())
					got := do(t, overWire(t, base, hasty, attemptsOfASecond), k.request(t, t.Context(), url))
					require.Equal(t, "unknown, 0 of 1", brief(got, len(end.arrivals())-before), "%s: %v", tt.reason, got.err)
					require.ErrorIs(t, got.stop, resilient.ErrUnsafe)
					time.Sleep(2 * time.Hour)
				})
			})
		}
	}
}

// Cleartext HTTP/2 is known only by what net/http does to it. On a used
// connection the first copy passes for one of HTTP/1.1, so one more may arrive.
func TestOverCleartextHTTP2NoStormIsJoinedAndEveryRequestIsReported(t *testing.T) {
	for _, tt := range []struct {
		name   string
		used   bool
		strike func(*peer, uint32)
		// How many may arrive, of a bodyless POST, vouched, and of a DELETE.
		bare, vouched, del int
	}{
		{"PROTOCOL_ERROR on a new connection", false, rstStream(codeProtocol), 1, 4, 4},
		{"PROTOCOL_ERROR on a used connection", true, rstStream(codeProtocol), 2, 4, 4},
		{"GOAWAY below our stream on a new connection", false, goAwayBelow(codeNo), 1, 4, 4},
		{"every stream refused", true, rstStream(codeRefused), 4, 4, 4},
	} {
		for i, most := range []int{3: tt.bare, 4: tt.vouched, 6: tt.del} {
			k := wireKinds[i]
			if most == 0 {
				continue
			}
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end, base := overHTTP1(t, struck(func(n int) bool { return n > 1 || !tt.used }, tt.strike))
					base.Protocols = new(http.Protocols)
					base.Protocols.SetUnencryptedHTTP2(true)
					if tt.used {
						do(t, &http.Client{Transport: base}, newRequestTo(t, overH1))
					}
					before := len(end.arrivals())
					got := do(t, overWire(t, base, hasty, k.config), k.request(t, t.Context(), overH1))
					synctest.Wait()
					arrived := len(end.arrivals()) - before
					require.Equal(t, resilient.Unknown, got.outcome)
					require.Equal(t, most, arrived)
					require.GreaterOrEqual(t, got.attempts, arrived)
				})
			})
		}
	}
}

// foreignCtx is a context that package context does not know: each context
// made from it costs a goroutine until it is cancelled, and so shows a leak.
type foreignCtx struct {
	context.Context
	done chan struct{}
}

func (c foreignCtx) Done() <-chan struct{} { return c.done }
func (foreignCtx) Err() error              { return nil }

func TestAThousandFailedOperationsLeaveNothingBehind(t *testing.T) {
	end, base, url := onTCP(t, func(p *peer) {
		switch p.n % 4 {
		case 0:
			p.request()
			p.rst()
		case 1:
			p.fin()
		case 2:
			p.request()
			p.say("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno")
			p.request()
		case 3:
			p.request()
			p.say("HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nbe")
		}
	})
	client := overWire(t, base, hasty, func(c *resilient.Config) {
		c.AttemptTimeout, c.BodyIdleTimeout, c.MaxAttempts, c.NoBudget, c.NoBreaker = time.Hour, time.Hour, 2, true, true
	})
	ctx := foreignCtx{t.Context(), make(chan struct{})}
	runtime.GC()
	before := runtime.NumGoroutine()
	var failed atomic.Int32
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := range 250 {
				body := io.Reader(bytes.NewReader([]byte("amount=1")))
				if n%2 == 0 {
					body = io.MultiReader(body)
				}
				method := []string{"GET", "POST", "PUT", "DELETE"}[(i+n)%4]
				req, err := http.NewRequestWithContext(ctx, method, url, body)
				if err != nil {
					return
				}
				resp, err := client.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				failed.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1000, failed.Load())
	client.CloseIdleConnections()
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 && end.open() == 0 }, 10*time.Second, time.Millisecond,
		"goroutines %d, then %d", before, runtime.NumGoroutine())
}

// In a bubble a goroutine or connection that stays behind is a deadlock, and a
// timer that does would fire within the year.
func TestAThousandFailedOperationsLeaveNothingBehindOverHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, base := overHTTP2(t, func(p *peer) {
			for ok := p.begin(); ok; {
				stream, n := p.stream()
				switch {
				case stream == 0:
					return
				case n%50 == 4:
					p.goAway(stream, codeInternal)
					p.fin()
				case n%5 != 3: // which is never answered
					p.rstStream(stream, codeInternal)
				}
			}
		})
		ctx := foreignCtx{t.Context(), make(chan struct{})}
		client := overWire(t, base, attemptsOfASecond, func(c *resilient.Config) { c.NoBudget, c.NoBreaker = true, true })
		for n := range 1000 {
			k := wireKinds[n%len(wireKinds)]
			resp, err := client.Do(k.request(t, ctx, overH2))
			if err == nil {
				resp.Body.Close()
			}
			require.Error(t, err)
		}
		client.CloseIdleConnections()
		synctest.Wait()
		require.Zero(t, end.open())
		time.Sleep(365 * 24 * time.Hour)
	})
}
