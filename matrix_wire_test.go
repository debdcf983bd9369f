package resilient_test

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// wire is a server on a network in memory, with net/http's own client and
// server on either side of it.
type wire struct {
	network *faultinject.Network
	server  *faultinject.Server
	base    *http.Transport
}

// newWire strikes dials and requests to http://api.test as plan says.
func newWire(t *testing.T, h http.Handler, plan faultinject.Plan) *wire {
	t.Helper()
	w := &wire{network: faultinject.NewNetwork()}
	w.network.Plan = plan
	listener, err := w.network.Listen("api.test:80")
	require.NoError(t, err)
	w.server = faultinject.Serve(listener, h, plan)
	w.base = w.network.Transport()
	w.base.MaxResponseHeaderBytes = 1 << 14 // or an oversized header is ten megabytes
	t.Cleanup(func() {
		w.base.CloseIdleConnections()
		require.NoError(t, w.server.Close())
		require.NoError(t, w.network.Close())
	})
	return w
}

// arrived is what the server saw of requests to path.
func (w *wire) arrived(path string) []faultinject.Delivery {
	return slices.DeleteFunc(w.server.Deliveries(), func(d faultinject.Delivery) bool { return d.Path != path })
}

// warmUp leaves an idle connection behind.
func (w *wire) warmUp(t *testing.T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.test/warm", nil)
	require.NoError(t, err)
	resp, err := w.base.RoundTrip(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body) // or the connection is not kept
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 2, w.network.Open())
}

// wirePlan strikes dials with dial faults and arrivals with all others; the
// connection that is made beforehand is left alone.
func (c matrixCase) wirePlan() faultinject.Plan {
	strike, skip := c.plan(), 0
	if c.warm {
		skip = 1
	}
	return faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		if x.Path == "/warm" {
			return faultinject.Pass()
		}
		if x.Method == faultinject.MethodDial {
			if x.Nth -= skip; x.Nth < 1 {
				return faultinject.Pass()
			}
		}
		return strike.Decide(x)
	})
}

func TestOverNetHTTPTooTheCallerIsToldTheTruthAndNothingIsDoneTwice(t *testing.T) {
	for _, warm := range []bool{false, true} {
		t.Run(map[bool]string{false: "new connection", true: "used connection"}[warm], func(t *testing.T) {
			matrix(t, func(t *testing.T, c matrixCase) {
				c.wire, c.warm = true, warm
				if c.dials() && warm {
					return // there is nothing to dial
				}
				if c.name() == "hang-up" {
					return // how much of a body net/http has read by then is a race
				}
				s := &shop{honours: c.kind.honours, item: "old"}
				w := newWire(t, s, c.wirePlan())
				if warm {
					w.warmUp(t)
					s.bodies, s.keys = nil, nil
				}
				got := c.do(t, newClient(t, w.base, c.config, func(cfg *resilient.Config) { cfg.BaseIsWire = false }))
				w.server.Settle()
				c.checkWire(t, got, s, w.arrived("/charges"))
			})
		})
	}
}

func (c matrixCase) dials() bool {
	switch c.name() {
	case "refuse-dial", "nxdomain", "dns-timeout", "blackhole":
		return true
	}
	return false
}

// checkWire is check where a server does the counting.
func (c matrixCase) checkWire(t *testing.T, got told, s *shop, seen []faultinject.Delivery) {
	t.Helper()
	attempts, stop := c.attempts()
	mended := attempts > 1 && !c.always
	watched := c.kind.method != http.MethodGet || c.counts
	if c.replayed() && !c.always {
		stop = nil
		if !watched {
			attempts = 1
		}
	}
	if c.name() == "cut-request" && c.body.size > 0 {
		// Whether the client is still writing when the connection is cut is a race.
		require.Equal(t, got.err == nil, got.outcome == resilient.Answered, "%v", c)
		require.NotEqual(t, resilient.NotSent, got.outcome, "%v", c)
	} else {
		require.Equal(t, attempts, got.attempts, "%v: %v %v", c, got.err, got.record.Attempts)
		c.checkTold(t, got, stop, mended, seen)
	}
	if watched {
		require.GreaterOrEqual(t, got.attempts, len(seen), "%v: never fewer than the server saw", c)
	}
	c.checkEffects(t, s, seen)
}

// replayed reports whether net/http sends the request again by itself: one that
// it holds for idempotent, whose reused connection died before the answer's
// first byte (net/http, Request.isReplayable).
func (c matrixCase) replayed() bool {
	if !c.warm || c.body.name != "no body" && (c.body.name != "bytes" || c.kind.method != http.MethodGet) {
		return false
	}
	switch c.name() {
	case "close-idle", "cut-request", "drop-before", "lose-response":
		return c.kind.method == http.MethodGet || c.kind.honours
	}
	return false
}
