package faultinject

import (
	"context"
	"net"
	"net/http/httptrace"
	"sync"
	"time"
)

// A Dialer strikes dials to real hosts by the faults that strike [AtDial], with the
// errors and the httptrace events that a [Network] has for them. A dial that passes
// has the events of its Base. The zero Dialer dials TCP and strikes nothing; set the
// fields before the first dial. Safe for concurrent use.
type Dialer struct {
	// Plan decides each dial, as [Network.Plan] does. Nil lets all dials pass.
	Plan Plan
	// Base makes the connections. Nil means a zero net.Dialer.
	Base func(ctx context.Context, network, addr string) (net.Conn, error)

	first sync.Once
	dials journal
}

// DialContext dials, or strikes. It fits http.Transport.DialContext.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d.first.Do(func() { d.dials.born = time.Now() })
	f := d.dials.arrive(d.Plan, dialled(addr), "").Fault
	if f.Strikes() == AtDial {
		done := func(error) {}
		if f.kind != slowDial { // whose dial follows, with events of its own
			done = traceDial(httptrace.ContextClientTrace(ctx), f, addr)
		}
		if err := strikeDial(ctx, f, addr, 0, nil); err != nil {
			done(err)
			return nil, err
		}
	}
	if d.Base != nil {
		return d.Base(ctx, network, addr)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// Keep limits the record to the last n dials, as [Transport.Keep] does.
func (d *Dialer) Keep(n int) { d.dials.Keep(n) }

// Dials returns the record of all dials, in their order.
func (d *Dialer) Dials() []Delivery { return d.dials.Deliveries() }
