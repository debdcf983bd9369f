package resilientotel

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-resilient/resilient"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Observe adds what the transport remembers of its hosts to the metrics, until
// stop is called. attrs tell transports apart that call the same hosts: without
// them their counts are added up, and the balance and the cool-down are those of
// one of them. A host that resilient.Config.HostKey made up
// stands as server.address; hosts above Config.MaxServers are taken together, by
// the sum of their counts, the lowest balance and the longest cool-down.
func (t *Telemetry) Observe(transport *resilient.Transport, attrs ...attribute.KeyValue) (stop func() error, err error) {
	if transport == nil {
		return nil, errors.New("resilientotel: Observe: transport is nil")
	}
	g, err := makeGauges(t.meter)
	if err != nil {
		return nil, err
	}
	var others growing
	registration, err := t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for s, h := range t.summary(transport.Hosts()) {
			if s.address == otherServer {
				h.trips = others.after(h.trips)
			}
			g.observe(o, append(attrs[:len(attrs):len(attrs)], s.attributes()...), h)
		}
		return nil
	}, g.balance, g.state, g.trips, g.cooldown, g.active)
	if err != nil {
		return nil, refused("resilient.host", err)
	}
	return registration.Unregister, nil
}

// growing makes a counter of a sum that falls when a host in it is forgotten: a
// counter that falls is read as one that began again, and all it holds as new.
type growing struct {
	mu         sync.Mutex
	sum, total int64
}

func (g *growing) after(sum int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total += max(0, sum-g.sum)
	g.sum = sum
	return g.total
}

// hostFigures are those of one host, or of several taken together.
type hostFigures struct {
	balance, cooldown float64
	trips, active     int64
	states            [3]int64 // by resilient.BreakerState
}

func (t *Telemetry) summary(hosts []resilient.HostState) map[server]*hostFigures {
	all := make(map[server]*hostFigures, len(hosts))
	for _, h := range hosts {
		s := server{address: otherServer}
		if h.Host != resilient.OtherHosts {
			s = t.servers.bound(serverOf(h.Host))
		}
		f := all[s]
		if f == nil {
			f = &hostFigures{balance: h.Balance}
			all[s] = f
		}
		f.balance = min(f.balance, h.Balance)
		f.trips += int64(h.Trips)
		f.active += int64(h.InFlight)
		if int(h.Breaker) < len(f.states) {
			f.states[h.Breaker]++
		}
		if !h.CoolUntil.IsZero() {
			f.cooldown = max(f.cooldown, time.Until(h.CoolUntil).Seconds())
		}
	}
	return all
}

type gauges struct {
	balance, cooldown metric.Float64ObservableGauge
	state, active     metric.Int64ObservableUpDownCounter
	trips             metric.Int64ObservableCounter
}

func makeGauges(m metric.Meter) (gauges, error) {
	var (
		g    gauges
		errs [5]error
	)
	g.balance, errs[0] = m.Float64ObservableGauge("resilient.host.budget.balance", metric.WithUnit("{retry}"),
		metric.WithDescription("Retries that the host's budget would pay for now."))
	g.state, errs[1] = m.Int64ObservableUpDownCounter("resilient.host.breaker.state", metric.WithUnit("{host}"),
		metric.WithDescription("1 for the state of the host's breaker, 0 for the other two."))
	g.trips, errs[2] = m.Int64ObservableCounter("resilient.host.breaker.trips", metric.WithUnit("{trip}"),
		metric.WithDescription("How often the host's breaker has opened."))
	g.cooldown, errs[3] = m.Float64ObservableGauge("resilient.host.cooldown", metric.WithUnit("s"),
		metric.WithDescription("How much longer the host has asked to be left alone."))
	g.active, errs[4] = m.Int64ObservableUpDownCounter("resilient.host.active_operations", metric.WithUnit("{operation}"),
		metric.WithDescription("Operations in flight, those that wait included."))
	return g, refused("resilient.host", errors.Join(errs[:]...))
}

func (g gauges) observe(o metric.Observer, attrs []attribute.KeyValue, h *hostFigures) {
	host := metric.WithAttributeSet(attribute.NewSet(attrs...))
	o.ObserveFloat64(g.balance, h.balance, host)
	o.ObserveFloat64(g.cooldown, max(0, h.cooldown), host)
	o.ObserveInt64(g.trips, h.trips, host)
	o.ObserveInt64(g.active, h.active, host)
	for state, name := range [...]string{"closed", "open", "half_open"} {
		in := append(attrs[:len(attrs):len(attrs)], attribute.String("resilient.breaker.state", name))
		o.ObserveInt64(g.state, h.states[state], metric.WithAttributeSet(attribute.NewSet(in...)))
	}
}
