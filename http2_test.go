package resilient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/stretchr/testify/require"
)

// once strikes the first request and answers all others.
func once(strike func(p *peer, stream uint32)) func(*peer) {
	return struck(func(n int) bool { return n == 1 }, strike)
}

// second does so on a connection that has served before.
func second(strike func(p *peer, stream uint32)) func(*peer) {
	return struck(func(n int) bool { return n == 2 }, strike)
}

// everyStream strikes every request.
func everyStream(strike func(p *peer, stream uint32)) func(*peer) {
	return struck(func(int) bool { return true }, strike)
}

func struck(which func(n int) bool, strike func(p *peer, stream uint32)) func(*peer) {
	return func(p *peer) {
		for ok := p.begin(); ok; {
			stream, n := p.stream()
			switch {
			case stream == 0, n > 100: // or a storm would hang the test
				return
			case which(n):
				strike(p, stream)
			default:
				p.ok(stream)
			}
		}
	}
}

func rstStream(code uint32) func(*peer, uint32) {
	return func(p *peer, stream uint32) { p.rstStream(stream, code) }
}

// goAwayBelow says that the request was not looked at (RFC 9113, section 6.8).
func goAwayBelow(code uint32) func(*peer, uint32) {
	return func(p *peer, stream uint32) { p.goAway(stream-1, code) }
}

// Each cell tells what the caller learns and how many requests arrived; "of"
// stands before the number of attempts reported where that is another one. It
// may be smaller for a GET only, whose first attempt nobody watches.
func TestOverHTTP2NobodyIsChargedTwiceAndEveryRequestIsReported(t *testing.T) {
	const skip = "" // net/http's own storm of safe requests, which never ends
	for _, tt := range []struct {
		name    string
		script  func(*peer)
		used    bool // it happens on a connection that has served before
		refused bool // the protocol itself says that nobody acted
		// In the order of wireKinds.
		get, post, vouched, bare, bareVouched, put, del string
	}{
		{"GOAWAY below our stream", once(goAwayBelow(codeNo)), false, true,
			"200, 2 of 1", "200, 2", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"GOAWAY below our stream on a used connection", second(goAwayBelow(codeNo)), true, true,
			"200, 2 of 1", "200, 2", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"GOAWAY below our stream, every time", everyStream(goAwayBelow(codeNo)), false, true,
			skip, "not sent, 4", "not sent, 4", "unknown, 1", "unknown, 4", "not sent, 4", "unknown, 4"},
		{"GOAWAY above our stream, then the answer", once(func(p *peer, s uint32) { p.goAway(s, codeNo); p.ok(s) }), false, false,
			"200, 1", "200, 1", "200, 1", "200, 1", "200, 1", "200, 1", "200, 1"},
		{"GOAWAY above our stream, then the end", once(func(p *peer, s uint32) { p.goAway(s, codeNo); p.fin() }), false, false,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"GOAWAY for calm on a new connection", once(goAwayBelow(codeCalm)), false, true,
			"200, 2", "200, 2", "200, 2", "200, 2", "200, 2", "200, 2", "200, 2"},
		{"GOAWAY for calm on a used connection", second(goAwayBelow(codeCalm)), true, true,
			"200, 2 of 1", "200, 2", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a refused stream", once(rstStream(codeRefused)), false, true,
			"200, 2 of 1", "200, 2", "200, 2", "200, 2", "200, 2", "200, 2", "200, 2"},
		{"every stream refused", everyStream(rstStream(codeRefused)), false, true,
			"unknown, 11 of 4", "not sent, 4", "not sent, 4", "unknown, 4", "unknown, 4", "not sent, 4", "unknown, 4"},
		{"a stream ended by INTERNAL_ERROR", once(rstStream(codeInternal)), false, false,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a stream ended by CANCEL", once(rstStream(codeCancel)), false, false,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a stream ended by ENHANCE_YOUR_CALM", once(rstStream(codeCalm)), false, false,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a stream ended by HTTP_1_1_REQUIRED", once(rstStream(codeNeedH1)), false, false,
			"unknown, 1", "unknown, 1", "unknown, 1", "unknown, 1", "unknown, 1", "unknown, 1", "unknown, 1"},
		{"a stream ended by PROTOCOL_ERROR", once(rstStream(codeProtocol)), false, false,
			"200, 2 of 1", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"every stream ended by PROTOCOL_ERROR", everyStream(rstStream(codeProtocol)), false, false,
			skip, "unknown, 1", "unknown, 4", "unknown, 1", "unknown, 4", "unknown, 4", "unknown, 4"},
		{"a connection closed over the request", once(func(p *peer, _ uint32) { p.fin() }), false, false,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a connection reset over the request", once(func(p *peer, _ uint32) { p.rst() }), false, false,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"a used connection reset over the request", second(func(p *peer, _ uint32) { p.rst() }), true, false,
			"200, 2", "unknown, 1", "200, 2", "unknown, 1", "200, 2", "200, 2", "200, 2"},
		{"every connection reset over the request", everyStream(func(p *peer, _ uint32) { p.rst() }), false, false,
			"unknown, 4", "unknown, 1", "unknown, 4", "unknown, 1", "unknown, 4", "unknown, 4", "unknown, 4"},
	} {
		for i, want := range []string{tt.get, tt.post, tt.vouched, tt.bare, tt.bareVouched, tt.put, tt.del} {
			k := wireKinds[i]
			if want == skip {
				continue
			}
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end, base := overHTTP2(t, tt.script)
					if tt.used {
						do(t, &http.Client{Transport: base}, newRequestTo(t, "https://api.test/"))
					}
					before := len(end.arrivals())
					got := do(t, overWire(t, base, hasty, k.config), k.request(t, t.Context(), "https://api.test/"))
					synctest.Wait()
					arrived := len(end.arrivals()) - before
					require.Equal(t, want, brief(got, arrived))
					require.True(t, k.method == "GET" || got.attempts >= arrived)
					require.True(t, k.method != "POST" || k.vouched || tt.refused || arrived == 1)
					require.True(t, tt.refused || got.status != 0 || got.outcome == resilient.Unknown)
				})
			})
		}
	}
}

// An HTTP/2 request can be on the wire before net/http's trace says so: its
// WroteHeaders fires when the Write returns, and this one returns late.
func TestAnHTTP2RequestWhoseTimeRanOutIsNeverToldNotSent(t *testing.T) {
	for _, k := range []wireKind{{"POST", "POST", "amount=1", false}, {"bodyless POST", "POST", "", false}} {
		t.Run(k.name, func(t *testing.T) {
			heard, late := make(chan struct{}, 1), make(chan struct{})
			end, base := overHTTP2(t, func(p *peer) {
				p.begin()
				stream, _ := p.stream()
				p.ok(stream)
				if stream, _ = p.headers(); stream != 0 {
					heard <- struct{}{}
				}
				p.stream() // says nothing, until the client goes away
			})
			var slow atomic.Bool
			base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := end.dial(ctx, network, address)
				return &lateConn{conn, &slow, late}, err
			}
			client := overWire(t, base, hasty)
			require.Equal(t, 200, do(t, client, newRequestTo(t, "https://api.test/")).status)
			slow.Store(true)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-heard; cancel() }()
			got := do(t, client, k.request(t, ctx, "https://api.test/"))
			require.Equal(t, "unknown, 1", brief(got, len(end.arrivals())-1))
			require.ErrorIs(t, got.err, context.Canceled)
			close(late)
		})
	}
}

// lateConn delivers at once, and returns from Write when late is closed.
type lateConn struct {
	net.Conn
	slow *atomic.Bool
	late chan struct{}
}

func (c *lateConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.slow.Load() {
		<-c.late
	}
	return n, err
}

func TestAWatchedGetIsNotSentWithoutEnd(t *testing.T) {
	for name, strike := range map[string]func(*peer, uint32){
		"GOAWAY below our stream, every time":  goAwayBelow(codeNo),
		"every stream ended by PROTOCOL_ERROR": rstStream(codeProtocol),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, base := overHTTP2(t, everyStream(strike))
				got := do(t, overWire(t, base, hasty, func(c *resilient.Config) { c.CountReplays = true }),
					newRequestTo(t, "https://api.test/"))
				synctest.Wait()
				require.LessOrEqual(t, len(end.arrivals()), 4)
				require.GreaterOrEqual(t, got.attempts, len(end.arrivals()))
				require.Equal(t, resilient.Unknown, got.outcome)
			})
		})
	}
}

func TestAnAnswerGivenInTheMiddleOfAnHTTP2UploadIsTheAnswer(t *testing.T) {
	for _, tt := range []struct {
		method   string
		status   int
		attempts int
	}{
		{"POST", 413, 1}, {"PUT", 413, 1}, {"POST", 503, 1}, {"PUT", 503, 4},
	} {
		t.Run(fmt.Sprint(tt.method, tt.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := serving(t, true, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tt.status) })
				req, err := http.NewRequestWithContext(t.Context(), tt.method, "https://api.test/", bytes.NewReader(make([]byte, upload)))
				require.NoError(t, err)
				got := do(t, overWire(t, base, hasty), req)
				require.Equal(t, tt.status, got.status)
				require.Equal(t, tt.attempts, got.attempts)
			})
		})
	}
}

// net/http would send all of these again itself. It cannot, since we keep their
// bodies from it, so what holds us back elsewhere must not hold them.
func TestAServerThatLetsItsConnectionsGoInOrderLosesNobody(t *testing.T) {
	t.Run("however many requests one of them bears", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const requests = 25
			_, base := overHTTP2(t, func(p *peer) {
				for ok := p.begin(); ok; {
					switch stream, n := p.stream(); {
					case stream == 0:
						return
					case n == 1 || n > requests+1:
						p.ok(stream)
					case n == requests+1:
						p.goAway(1, codeNo)
					}
				}
			})
			client := overWire(t, base, steady)
			do(t, client, newRequestTo(t, "https://api.test/"))
			start := time.Now()
			var all sync.WaitGroup
			for range requests {
				all.Go(func() {
					got := do(t, client, wireKinds[1].request(t, t.Context(), "https://api.test/"))
					if got.status != 200 || got.attempts != 2 {
						t.Errorf("%d after %d attempts: %v", got.status, got.attempts, got.err)
					}
				})
			}
			all.Wait()
			require.Zero(t, time.Since(start))
		})
	})
	for _, tt := range []struct {
		name  string
		apart time.Duration // the errors before
	}{
		{"although the budget is spent", 0},
		{"although it has only failed of late", 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failing, leaving := true, true
				_, base := overHTTP2(t, everyStream(func(p *peer, stream uint32) {
					switch {
					case failing:
						p.frame(frameHeaders, flagEndHeaders|flagEndStream, stream, 0x8e) // 500
					case leaving:
						leaving = false
						goAwayBelow(codeNo)(p, stream)
					default:
						p.ok(stream)
					}
				}))
				client := overWire(t, base, hasty, func(c *resilient.Config) { c.NoBreaker = true })
				for stop := error(nil); !errors.Is(stop, resilient.ErrBudget); time.Sleep(tt.apart) {
					got := do(t, client, wireKinds[5].request(t, t.Context(), "https://api.test/"))
					require.Equal(t, 500, got.status)
					stop = got.stop
				}
				failing = false
				got := do(t, client, wireKinds[1].request(t, t.Context(), "https://api.test/"))
				require.Equal(t, 200, got.status, "%v", got.err)
				require.Equal(t, resilient.Unsent, got.record.Attempts[0].Verdict)
			})
		})
	}
}

// fewStreams is the script of a server that answers after a second, so many
// requests at once on each connection, and refuses what is more.
func fewStreams(limit uint32) func(*peer) {
	return func(p *peer) {
		var open atomic.Int32
		for ok := p.begin(3, limit); ok; { // SETTINGS_MAX_CONCURRENT_STREAMS
			stream, _ := p.stream()
			switch {
			case stream == 0:
				return
			case open.Add(1) > int32(limit):
				open.Add(-1)
				p.rstStream(stream, codeRefused)
			default:
				time.AfterFunc(time.Second, func() {
					open.Add(-1)
					p.ok(stream)
				})
			}
		}
	}
}

// Before it knows better, net/http puts 100 requests on a connection. It sends
// those that were too many again by itself, but not those whose body we keep.
func TestABurstAtAServerOfFewStreamsLosesNobody(t *testing.T) {
	const requests, streams = 50, 10
	for name, clientOver := range map[string]func(*http.Transport) *http.Client{
		"net/http alone": func(base *http.Transport) *http.Client { return &http.Client{Transport: base} },
		"ours":           func(base *http.Transport) *http.Client { return overWire(t, base) },
	} {
		for _, k := range []wireKind{wireKinds[1], wireKinds[5]} {
			t.Run(name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, base := overHTTP2(t, fewStreams(streams))
					client := clientOver(base)
					var all sync.WaitGroup
					for range requests {
						all.Go(func() {
							resp, err := client.Do(k.request(t, t.Context(), "https://api.test/"))
							if err != nil {
								t.Error(err)
								return
							}
							_ = resp.Body.Close()
						})
					}
					all.Wait()
				})
			})
		}
	}
}

func TestEachConnectionMayRefuseOnceForFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, base := overHTTP2(t, func(p *peer) {
			for ok := p.begin(); ok; {
				switch stream, _ := p.stream(); {
				case stream == 0:
					return
				case p.n < 2:
					p.rstStream(stream, codeRefused)
					p.goAway(stream, codeNo) // the next request is for another connection
				default:
					p.ok(stream)
				}
			}
		})
		client := overWire(t, base, hasty)
		got := do(t, client, wireKinds[5].request(t, t.Context(), "https://api.test/"))
		require.Equal(t, 200, got.status)
		require.Equal(t, 3, got.attempts)
		require.InDelta(t, 10, stateOf(t, client).Balance, 0)
	})
}

// A connection may refuse once for not having told its limit, and no more.
func TestAServerThatRefusesEveryStreamIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const operations = 1000
		end, base := overHTTP2(t, func(p *peer) {
			for ok := p.begin(); ok; {
				stream, _ := p.stream()
				if stream == 0 {
					return
				}
				p.rstStream(stream, codeRefused)
			}
		})
		client := overWire(t, base)
		var all sync.WaitGroup
		for range operations {
			all.Go(func() { do(t, client, wireKinds[5].request(t, t.Context(), "https://api.test/")) })
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		require.Less(t, len(end.arrivals()), operations/10)
	})
}
