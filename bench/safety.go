package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

// Charging is a crowd of payments at a server while faults strike.
type Charging struct {
	Name    string
	Honours bool // the server acts once for each key
	Keyed   bool // the caller sets a key of its own
	Struck  float64
}

// Requests and dials are struck in these parts of struckBefore and so on.
const everyday, grave = 0.25, 1

var chargings = []Charging{
	{Name: "keys honoured, one arrival in ten struck", Honours: true, Struck: everyday},
	{Name: "keys ignored, one arrival in ten struck", Struck: everyday},
	{Name: "keys honoured, four in ten struck", Honours: true, Struck: grave},
	{Name: "keys ignored, four in ten struck", Struck: grave},
	{Name: "the caller's key honoured, four in ten struck", Honours: true, Keyed: true, Struck: grave},
}

// Tally is what came of them.
type Tally struct {
	Operations int
	Fates      [fates]int
	Told       [5]int // by Said
	FailedDone int    // told no more than an error, and done
	RefusedYet int    // answered by an error status, and done
	Untrue     int    // told Done and not done, or NotSent and done
	Requests   int    // that reached the server
}

// What became of an operation; each has one of these.
const (
	once    = iota // done once, and its caller knows
	doubled        // done more than once
	hidden         // done once, and its caller has an error or an error status
	unsure         // its caller was told that nobody knows
	undone         // not done, and its caller has an error or an error status
	fates
)

// A share of the requests is struck before the server acts, another after it; a
// share of the dials is refused.
const (
	struckBefore, struckAfter, dialsRefused = 0.15, 0.25, 0.10

	chargeEvery    = 23 * time.Millisecond
	chargePatience = time.Minute
	way            = 500 * time.Microsecond
)

var (
	faultsBefore = []faultinject.Fault{
		faultinject.DropBefore(faultinject.RST), faultinject.DropBefore(faultinject.FIN),
		faultinject.Respond(http.StatusServiceUnavailable), faultinject.Respond(http.StatusTooManyRequests, "Retry-After: 1"),
	}
	faultsAfter = []faultinject.Fault{
		faultinject.LoseResponse(faultinject.RST), faultinject.LoseResponse(faultinject.FIN),
		faultinject.MaskResponse(http.StatusGatewayTimeout),
	}
)

// strike decides by seed, operation and number of arrival, so that all clients
// meet the same.
func (s Charging) strike(seed uint64) faultinject.Plan {
	return faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		if x.Method != http.MethodPost {
			return faultinject.Pass()
		}
		var operation uint64
		if _, err := fmt.Sscanf(x.Path, chargePath, &operation); err != nil {
			return faultinject.Pass()
		}
		chance := rand.New(rand.NewPCG(seed<<32|operation, uint64(x.Nth)))
		switch u := chance.Float64() / s.Struck; {
		case u < struckBefore:
			return faultsBefore[chance.IntN(len(faultsBefore))]
		case u < struckBefore+struckAfter:
			return faultsAfter[chance.IntN(len(faultsAfter))]
		}
		return faultinject.Pass()
	})
}

const chargePath = "/v1/charges/%d"

// run is to be called in a bubble of testing/synctest: net/http is real, the
// network and the time are not.
func (s Charging) run(p Peer, seed uint64, operations int) (t Tally, err error) {
	network := faultinject.NewNetwork()
	network.Up, network.Down = way, way
	network.Plan = faultinject.Random(seed, s.Struck*dialsRefused, faultinject.RefuseDial())
	defer func() { err = errors.Join(err, network.Close()) }()
	ledger := &faultinject.Ledger{HonourKeys: s.Honours}
	server, err := network.Serve("http://pay.test", ledger, s.strike(seed))
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	base := network.Transport()
	defer base.CloseIdleConnections()
	client, err := p.New(Env{Base: base, URL: server.URL, Honours: s.Honours})
	if err != nil {
		return t, err
	}
	told := make([]Said, operations)
	var running sync.WaitGroup
	for i := range told {
		running.Go(func() { told[i] = s.charge(client, i) })
		<-time.After(chargeEvery)
	}
	running.Wait()
	server.Settle()
	return s.tally(told, ledger.Entries(), len(server.Deliveries())), nil
}

func (s Charging) charge(client Client, i int) Said {
	ctx, cancel := context.WithTimeout(context.Background(), chargePatience)
	defer cancel()
	c := Call{Method: http.MethodPost, Path: fmt.Sprintf(chargePath, i), Body: post.Body}
	if s.Keyed {
		c.Key = fmt.Sprintf("order-%d", i)
	}
	return said(client.Send(ctx, c))
}

// tally holds what callers were told against what was done.
func (s Charging) tally(told []Said, entries []faultinject.Entry, requests int) Tally {
	t := Tally{Operations: len(told), Requests: requests}
	effects := make(map[string]int)
	for _, e := range entries {
		effects[e.Path]++
	}
	for i, said := range told {
		n := effects[fmt.Sprintf(chargePath, i)]
		t.Told[said]++
		t.Fates[fate(said, n)]++
		t.FailedDone += count(said == Failed && n > 0)
		t.RefusedYet += count(said == Refused && n > 0)
		t.Untrue += count(said == Done && n == 0 || said == NotSent && n > 0)
	}
	return t
}

func fate(said Said, effects int) int {
	switch {
	case effects > 1:
		return doubled
	case said == Done:
		return once
	case said == Unknown:
		return unsure
	case effects == 1:
		return hidden
	}
	return undone
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// add joins the tallies of two seeds.
func (t *Tally) add(u Tally) {
	t.Operations, t.Requests, t.Untrue = t.Operations+u.Operations, t.Requests+u.Requests, t.Untrue+u.Untrue
	t.FailedDone, t.RefusedYet = t.FailedDone+u.FailedDone, t.RefusedYet+u.RefusedYet
	for i, n := range u.Told {
		t.Told[i] += n
	}
	for i, n := range u.Fates {
		t.Fates[i] += n
	}
}

// percent is a part of the operations.
func (t *Tally) percent(n int) float64 { return 100 * float64(n) / float64(max(1, t.Operations)) }
