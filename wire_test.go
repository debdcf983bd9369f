package resilient_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

func withTLS(end *farEnd, base *http.Transport, id identity, change ...func(server, client *tls.Config)) {
	server := &tls.Config{Certificates: []tls.Certificate{id.cert}}
	client := &tls.Config{RootCAs: goodIdentity().roots}
	for _, c := range change {
		c(server, client)
	}
	end.tls, base.TLSClientConfig = server, client
}

func attemptsOfASecond(cfg *resilient.Config) { cfg.AttemptTimeout = time.Second }

func silent(p *peer) { _, _ = io.Copy(io.Discard, p.raw) }

// refuseHandshake answers nothing, and lets the alert be read.
func refuseHandshake(p *peer) {
	p.head()
	silent(p)
}

// throughProxy makes the far end the proxy.
func throughProxy(_ *farEnd, base *http.Transport) {
	base.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.test:3128") }
}

func sayToConnect(status string) func(*peer) {
	return func(p *peer) {
		if p.head() != nil {
			p.say("HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", status)
		}
	}
}

// A request that never reached a connection was not sent, and is told so,
// whatever net/http calls the failure.
func TestWhatFailsBeforeTheRequestIsToldNotSent(t *testing.T) {
	const http1, https = "http://api.test/", "https://api.test/"
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	for _, tt := range []struct {
		name     string
		url      string
		script   func(*peer)
		set      func(*farEnd, *http.Transport)
		attempts int
		is       error
		as       any
	}{
		{"a dial that hangs", http1, nil, func(_ *farEnd, b *http.Transport) {
			b.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		}, 4, context.DeadlineExceeded, nil},
		{"a dial that fails with an error of its own", http1, nil, func(_ *farEnd, b *http.Transport) {
			b.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }
		}, 4, io.EOF, nil},
		{"a certificate that nobody vouches for", https, refuseHandshake, func(e *farEnd, b *http.Transport) {
			withTLS(e, b, newIdentity("api.test", time.Now().AddDate(9, 0, 0)))
		}, 1, nil, &verify},
		{"a certificate that has expired", https, refuseHandshake, func(e *farEnd, b *http.Transport) {
			id := newIdentity("api.test", time.Now().AddDate(0, 0, -1))
			withTLS(e, b, id, func(_, client *tls.Config) { client.RootCAs = id.roots })
		}, 1, nil, &verify},
		{"a certificate of another host", https, refuseHandshake, func(e *farEnd, b *http.Transport) {
			id := newIdentity("other.test", time.Now().AddDate(9, 0, 0))
			withTLS(e, b, id, func(_, client *tls.Config) { client.RootCAs = id.roots })
		}, 1, nil, &verify},
		{"a server without TLS", https, saying("HTTP/1.1 400 Bad Request\r\n\r\n", silent), nil, 1, http.ErrSchemeMismatch, &record},
		{"a server that speaks gibberish", https, saying("220 mail.test ESMTP\r\n", silent), nil, 1, nil, &record},
		{"a handshake that hangs", https, silent, nil, 4, context.DeadlineExceeded, nil},
		{"a handshake that net/http gives up", https, silent, func(_ *farEnd, b *http.Transport) {
			b.TLSHandshakeTimeout = time.Second / 2
		}, 4, nil, nil},
		{"a handshake that is closed", https, (*peer).fin, nil, 4, nil, nil},
		{"a handshake that is reset", https, (*peer).rst, nil, 4, syscall.ECONNRESET, nil},
		{"a certificate of ours is asked for, under TLS 1.2", https, refuseHandshake, func(e *farEnd, b *http.Transport) {
			withTLS(e, b, goodIdentity(), func(server, _ *tls.Config) {
				server.ClientAuth, server.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
			})
		}, 1, nil, nil},
		{"a certificate of ours is asked for, under TLS 1.3, when the request is written", https, refuseHandshake, func(e *farEnd, b *http.Transport) {
			withTLS(e, b, goodIdentity(), func(server, _ *tls.Config) { server.ClientAuth = tls.RequireAnyClientCert })
		}, 1, nil, nil},
		{"no protocol in common", https, refuseHandshake, func(e *farEnd, b *http.Transport) {
			withTLS(e, b, goodIdentity(), func(server, client *tls.Config) {
				server.NextProtos, client.NextProtos = []string{"one"}, []string{"other"}
			})
		}, 1, nil, nil},
		{"a proxy that cannot be reached", https, nil, func(e *farEnd, b *http.Transport) {
			throughProxy(e, b)
			b.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, opError("dial", syscall.ECONNREFUSED)
			}
		}, 4, syscall.ECONNREFUSED, nil},
		{"a proxy that wants a password", https, sayToConnect("407 Proxy Authentication Required"), throughProxy, 4, nil, nil},
		{"a proxy that cannot reach the server", https, sayToConnect("502 Bad Gateway"), throughProxy, 4, nil, nil},
		{"a proxy that hangs up", https, func(p *peer) { p.head() }, throughProxy, 4, nil, nil},
		{"a proxy that says nothing", https, silent, throughProxy, 4, context.DeadlineExceeded, nil},
	} {
		for _, k := range []wireKind{wireKinds[1], wireKinds[3]} {
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end, base := overHTTP1(t, tt.script)
					if tt.set != nil {
						tt.set(end, base)
					}
					got := do(t, overWire(t, base, hasty, attemptsOfASecond), k.request(t, t.Context(), tt.url))
					require.Equal(t, resilient.NotSent, got.outcome, "%v", got.err)
					require.Equal(t, tt.attempts, got.attempts, "%v", got.err)
					for _, a := range got.record.Attempts {
						require.Equal(t, resilient.NotSent, a.Outcome)
						require.Equal(t, tt.attempts > 1, a.Verdict == resilient.Unsent)
					}
					if tt.is != nil {
						require.ErrorIs(t, got.err, tt.is)
					}
					if tt.as != nil {
						require.ErrorAs(t, got.err, tt.as)
					}
					for _, a := range end.arrivals() {
						require.Equal(t, "CONNECT", a.head.Method)
					}
				})
			})
		}
	}
}

func TestARefusedPortIsToldNotSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	base := &http.Transport{}
	got := do(t, overWire(t, base, hasty), wireKinds[1].request(t, t.Context(), "http://"+l.Addr().String()))
	require.Equal(t, "not sent, 0 of 4", brief(got, 0))
	require.ErrorIs(t, got.err, syscall.ECONNREFUSED)
}

// resolving answers every DNS query with that response code (RFC 1035, 4.1.1).
func resolving(t *testing.T, code byte) *net.Resolver {
	end := inMemory(t, func(p *peer) {
		var length uint16
		for binary.Read(p.r, binary.BigEndian, &length) == nil {
			query := make([]byte, length)
			if _, err := io.ReadFull(p.r, query); err != nil {
				return
			}
			query[2], query[3] = query[2]|0x80, 0x80|code // an answer, and its code
			query[10], query[11] = 0, 0                   // without the EDNS of the query
			_, _ = p.Write(append(binary.BigEndian.AppendUint16(nil, length), query...))
		}
	})
	return &net.Resolver{PreferGo: true, Dial: end.dial}
}

func TestANameThatIsNotFoundIsAskedForTwiceAndAFailingResolverAgainAndAgain(t *testing.T) {
	for _, tt := range []struct {
		name     string
		code     byte
		attempts int
	}{
		{"NXDOMAIN", 3, 2}, {"SERVFAIL", 2, 4}, {"REFUSED", 5, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := &http.Transport{DialContext: (&net.Dialer{Resolver: resolving(t, tt.code)}).DialContext}
			got := do(t, overWire(t, base, hasty), wireKinds[1].request(t, t.Context(), "http://api.test./"))
			var dns *net.DNSError
			require.ErrorAs(t, got.err, &dns)
			require.Equal(t, fmt.Sprint("not sent, 0 of ", tt.attempts), brief(got, 0), "%v", got.err)
		})
	}
}

func TestWaitingForAConnectionOfABusyPoolIsNotSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, base := overHTTP1(t, func(p *peer) {
			p.request()
			time.Sleep(time.Minute)
			p.answer(200)
		})
		base.MaxConnsPerHost = 1
		busy := make(chan told)
		go func() { busy <- do(t, &http.Client{Transport: base}, newRequestTo(t, "http://api.test/")) }()
		synctest.Wait()
		got := do(t, overWire(t, base, hasty, attemptsOfASecond), wireKinds[1].request(t, t.Context(), "http://api.test/"))
		require.Equal(t, "not sent, 0 of 4", brief(got, len(end.arrivals())-1))
		require.Equal(t, 200, (<-busy).status)
	})
}

// The instants at which a caller may leave.
func TestACallerWhoLeavesIsToldAtOnceAndTruly(t *testing.T) {
	answerHead := saying("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbe", silent)
	for _, tt := range []struct {
		name    string
		url     string
		body    int
		script  func(*peer)
		outcome resilient.Outcome
	}{
		{"during the dial", "http://api.test/", 1, nil, resilient.NotSent},
		{"during the handshake", "https://api.test/", 1, silent, resilient.NotSent},
		{"while the body is written", "http://api.test/", upload, func(p *peer) { p.head(); <-p.end.t.Context().Done() }, resilient.Unknown},
		{"while waiting for the answer", "http://api.test/", 1, func(p *peer) { p.request(); silent(p) }, resilient.Unknown},
		{"while the answer is read", "http://api.test/", 1, func(p *peer) { p.request(); answerHead(p) }, resilient.Answered},
		{"while waiting for the answer over HTTP/2", "https://api.test/", 1, everyStream(func(*peer, uint32) {}), resilient.Unknown},
		{"while the body is written over HTTP/2", "https://api.test/", upload, func(p *peer) { p.begin(); p.headers(); silent(p) }, resilient.Unknown},
	} {
		for _, leave := range []string{"cause", "cancel", "deadline", "channel"} {
			t.Run(tt.name+"/"+leave, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end, base := overHTTP1(t, tt.script)
					if tt.script == nil {
						base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
					}
					if strings.Contains(tt.name, "HTTP/2") {
						end, base = overHTTP2(t, tt.script)
					}
					ctx, channel, is := leaving(t, leave)
					req, err := http.NewRequestWithContext(ctx, "POST", tt.url, bytes.NewReader(make([]byte, tt.body)))
					require.NoError(t, err)
					req.Cancel = channel
					start := time.Now()
					resp, err := overWire(t, base).Do(req)
					if err == nil {
						require.Equal(t, resilient.Answered, tt.outcome)
						_, err = io.ReadAll(resp.Body)
						resp.Body.Close()
						require.Error(t, err)
						require.Equal(t, time.Second, time.Since(start))
						return
					}
					e, ok := errors.AsType[*resilient.Error](err)
					require.True(t, ok, "%v", err)
					require.Equal(t, tt.outcome, e.Outcome)
					require.Len(t, e.Attempts, 1)
					require.Equal(t, time.Second, time.Since(start))
					require.NotContains(t, err.Error(), "%!")
					for _, target := range is {
						require.ErrorIs(t, err, target)
					}
					require.Equal(t, leave == "deadline", e.Timeout())
					require.LessOrEqual(t, len(end.arrivals()), 1)
				})
			})
		}
	}
}

func TestACallerWhoLeavesBetweenTwoAttemptsIsToldAtOnce(t *testing.T) {
	for _, leave := range []string{"cause", "cancel", "channel"} {
		t.Run(leave, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP1(t, func(p *peer) { p.request(); p.fin() })
				ctx, channel, is := leaving(t, leave)
				req := wireKinds[5].request(t, ctx, "http://api.test/")
				req.Cancel = channel
				start := time.Now()
				got := do(t, overWire(t, base, func(c *resilient.Config) {
					c.Backoff = func() resilient.Schedule { return every(time.Hour) }
				}), req)
				require.Equal(t, "unknown, 1", brief(got, len(end.arrivals())))
				require.Equal(t, time.Second, time.Since(start))
				for _, target := range is {
					require.ErrorIs(t, got.err, target)
				}
			})
		})
	}
}

var errHome = errors.New("gone home")

// leaving makes a context, or a channel, that ends in a second, and what the
// error must be known as.
func leaving(t *testing.T, how string) (context.Context, <-chan struct{}, []error) {
	switch how {
	case "deadline":
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		t.Cleanup(cancel)
		return ctx, nil, []error{context.DeadlineExceeded}
	case "channel":
		channel := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(channel) })
		return t.Context(), channel, []error{context.Canceled}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if how == "cancel" {
		time.AfterFunc(time.Second, func() { cancel(nil) })
		return ctx, nil, []error{context.Canceled}
	}
	time.AfterFunc(time.Second, func() { cancel(errHome) })
	return ctx, nil, []error{context.Canceled, errHome}
}

func TestWhoseTimeRanOutDecidesWhetherThereIsAnotherAttempt(t *testing.T) {
	for _, tt := range []struct {
		name             string
		attempt, op, ctx time.Duration
		client           time.Duration // http.Client.Timeout
		attempts         int
		stop             error
		took             time.Duration
	}{
		{"the attempt's", time.Second, 0, 0, 0, 4, resilient.ErrAttempts, 4 * time.Second},
		{"the attempt's, then the caller's", time.Second, 0, 2500 * time.Millisecond, 0, 3, context.DeadlineExceeded, 2500 * time.Millisecond},
		{"the caller's alone", 5 * time.Second, 0, time.Second, 0, 1, context.DeadlineExceeded, time.Second},
		{"the operation's", 0, time.Second, 0, 0, 1, resilient.ErrNoTime, time.Second},
		{"the attempt's, then the operation's", time.Second, 2500 * time.Millisecond, 0, 0, 3, resilient.ErrNoTime, 2500 * time.Millisecond},
		{"http.Client's", 0, 0, 0, time.Second, 1, nil, time.Second},
		{"the attempt's, then http.Client's", time.Second, 0, 0, 2500 * time.Millisecond, 3, nil, 2500 * time.Millisecond},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/http2=%v", tt.name, http2), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end, base := overHTTP1(t, func(p *peer) { p.request(); silent(p) })
					target := "http://api.test/"
					if http2 {
						end, base = overHTTP2(t, everyStream(func(*peer, uint32) {}))
						target = "https://api.test/"
					}
					var record resilient.Operation
					client := overWire(t, base, hasty, func(c *resilient.Config) {
						c.AttemptTimeout, c.Timeout = tt.attempt, tt.op
						c.Observer.End = func(_ context.Context, op resilient.Operation, _ error) { record = op }
					})
					client.Timeout = tt.client
					ctx := t.Context()
					if tt.ctx > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, tt.ctx)
						defer cancel()
					}
					start := time.Now()
					_, err := client.Do(wireKinds[5].request(t, ctx, target))
					require.Equal(t, tt.took, time.Since(start))
					var timeout *url.Error
					require.ErrorAs(t, err, &timeout)
					require.True(t, timeout.Timeout())
					synctest.Wait()
					require.Len(t, record.Attempts, tt.attempts)
					require.Len(t, end.arrivals(), tt.attempts)
					require.Equal(t, resilient.Unknown, record.Outcome)
					if tt.stop != nil {
						require.ErrorIs(t, record.Stop, tt.stop)
					}
				})
			})
		}
	}
}

func overBoth(t *testing.T, test func(t *testing.T, http2 bool, url string)) {
	t.Run("HTTP/1.1", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, false, "http://api.test/") })
	})
	t.Run("HTTP/2", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, true, "https://api.test/") })
	})
}

func TestAttemptTimeoutNeverCutsABodyThatFlows(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool, url string) {
		base := serving(t, http2, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Minute)
			_, _ = w.Write(make([]byte, 512<<10))
		})
		resp, err := overWire(t, base, attemptsOfASecond, func(c *resilient.Config) { c.Timeout = 2 * time.Second }).Do(newRequestTo(t, url))
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.EqualValues(t, 512<<10, n)
		require.NoError(t, resp.Body.Close())
	})
}

func TestBodyIdleTimeoutEndsABodyThatStallsAndNoOther(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool, url string) {
		base := serving(t, http2, func(w http.ResponseWriter, r *http.Request) {
			for range 20 {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(900 * time.Millisecond)
			}
			if r.Method == "POST" {
				<-r.Context().Done()
			}
		})
		client := overWire(t, base, func(c *resilient.Config) { c.BodyIdleTimeout = time.Second })
		require.Equal(t, 200, do(t, client, newRequestTo(t, url)).status, "slow and steady")
		resp, err := client.Do(wireKinds[1].request(t, t.Context(), url))
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.ErrorIs(t, err, resilient.ErrStalled)
		require.Len(t, text, 20)
		resp.Body.Close()
	})
}

func TestServerSentEventsArriveAsTheyAreSent(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool, url string) {
		base := serving(t, http2, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 5 {
				_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Hour)
			}
		})
		start := time.Now()
		resp, err := overWire(t, base, attemptsOfASecond).Do(newRequestTo(t, url))
		require.NoError(t, err)
		events := bufio.NewReader(resp.Body)
		for i := range 5 {
			line, err := events.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
			require.Equal(t, time.Duration(i)*time.Hour, time.Since(start))
			_, _ = events.ReadString('\n')
		}
		require.NoError(t, resp.Body.Close())
	})
}

func TestTrailersArriveBothWaysAlsoOfARepeat(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool, url string) {
		calls := 0
		base := serving(t, http2, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "X-Sum")
			if calls++; calls == 1 {
				w.WriteHeader(503)
			}
			_, _ = io.WriteString(w, "ok")
			w.Header().Set("X-Sum", "echo "+r.Trailer.Get("X-Sum"))
		})
		req, err := http.NewRequestWithContext(t.Context(), "PUT", url, nil)
		require.NoError(t, err)
		req.Trailer = http.Header{"X-Sum": nil}
		req.Body = io.NopCloser(io.MultiReader(strings.NewReader("sum"), setTrailer{req}))
		resp, err := overWire(t, base).Do(req)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.Equal(t, 2, calls)
		require.Equal(t, "echo 42", resp.Trailer.Get("X-Sum"))
		require.NoError(t, resp.Body.Close())
	})
}

// setTrailer knows the sum when it has been read.
type setTrailer struct{ req *http.Request }

func (s setTrailer) Read([]byte) (int, error) {
	s.req.Trailer.Set("X-Sum", "42")
	return 0, io.EOF
}

func TestAnUpgradeGoesThroughAReverseProxyOnTopOfUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := serving(t, false, func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_ = rw.Flush()
			_, _ = io.Copy(conn, rw)
		})
		target := &url.URL{Scheme: "http", Host: "api.test"}
		proxy := &httputil.ReverseProxy{
			Transport: overWire(t, base, attemptsOfASecond).Transport,
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		}
		front := serving(t, false, proxy.ServeHTTP)
		conn, err := front.DialContext(t.Context(), "tcp", "proxy.test")
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: proxy.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		require.NoError(t, err)
		back := bufio.NewReader(conn)
		resp, err := http.ReadResponse(back, nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		time.Sleep(time.Hour)
		_, err = io.WriteString(conn, "hello")
		require.NoError(t, err)
		echo := make([]byte, 5)
		_, err = io.ReadFull(back, echo)
		require.NoError(t, err)
		require.Equal(t, "hello", string(echo))
	})
}

func TestRetriesUseTheConnectionThatBroughtTheRefusal(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool, url string) {
		calls := 0
		base := serving(t, http2, func(w http.ResponseWriter, _ *http.Request) {
			if calls++; calls < 4 {
				w.WriteHeader(503)
			}
			_, _ = w.Write(make([]byte, calls*50<<10)) // what can be set aside, and what must be drained
		})
		client := overWire(t, base)
		var reused []bool
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) { reused = append(reused, info.Reused) },
		})
		require.Equal(t, 200, do(t, client, wireKinds[5].request(t, ctx, url)).status)
		require.Equal(t, []bool{false, true, true, true}, reused)
		client.CloseIdleConnections()
		require.Equal(t, 200, do(t, client, wireKinds[5].request(t, ctx, url)).status)
		require.Equal(t, []bool{false, true, true, true, false}, reused, "CloseIdleConnections reaches Base")
	})
}
