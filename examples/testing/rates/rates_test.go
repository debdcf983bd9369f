package rates

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
)

// newClient returns a client on which those faults strike, one request each.
// What comes after them passes.
func newClient(t *testing.T, faults ...faultinject.Fault) (*http.Client, *faultinject.Transport) {
	server := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "1.25") })
	network := faultinject.Handler(server, faultinject.Script(faults...))
	client, err := resilient.NewClient(resilient.Config{
		Base:           network,
		BaseIsWire:     true, // faultinject shows what net/http would
		AttemptTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client, network
}

func TestTheRateIsFoundThoughTheServiceFails(t *testing.T) {
	for name, faults := range map[string][]faultinject.Fault{
		"refused, then reset": {faultinject.RefuseDial(), faultinject.LoseResponse(faultinject.RST)},
		"overloaded":          {faultinject.Respond(503, "Retry-After: 30")},
		"hangs":               {faultinject.Stall(), faultinject.Stall()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // half a minute here takes no time
				client, network := newClient(t, faults...)
				rate, err := Latest(t.Context(), client, "http://rates.test", "GBP")
				if rate != 1.25 || err != nil {
					t.Errorf("got %v, %v", rate, err)
				}
				if n := len(network.Deliveries()); n != len(faults)+1 {
					t.Errorf("%d attempts for %d faults", n, len(faults))
				}
			})
		})
	}
}

func TestACallerWithLittleTimeIsNotKeptWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := newClient(t, faultinject.Respond(503, "Retry-After: 30"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := Latest(ctx, client, "http://rates.test", "GBP"); err == nil {
			t.Error("there is no rate to be had in time")
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v to know that 30s do not fit into 10s", took)
		}
	})
}

func TestEveryKindOfFaultEndsInTheRateOrAnError(t *testing.T) {
	for _, fault := range faultinject.Catalogue() {
		if fault.Name() == "corrupt-body" {
			continue // a flipped bit makes another rate: only a checksum could tell
		}
		t.Run(fault.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, network := newClient(t, fault)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				rate, err := Latest(ctx, client, "http://rates.test", "GBP")
				if err == nil && rate != 1.25 {
					t.Errorf("took %v for the rate", rate)
				}
				if e, ok := errors.AsType[*resilient.Error](err); ok && len(e.Attempts) == 0 {
					t.Error("an error that names no attempt")
				}
				network.Settle()
			})
		})
	}
}
