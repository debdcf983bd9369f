package pay

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

// newClient returns a client of three attempts: of 5 s each, 1 s and 2 s apart.
func newClient(c *http.Client, url string) *Client {
	return &Client{HTTP: c, URL: url, Attempts: 3, Timeout: 5 * time.Second, Pause: time.Second}
}

func TestTheOrderIsPaidOnceWhateverBefallsTheFirstAttempts(t *testing.T) {
	for name, tt := range map[string]struct {
		faults []faultinject.Fault
		took   time.Duration // of virtual time
	}{
		"nobody listens at first":           {[]faultinject.Fault{faultinject.RefuseDial()}, 1 * time.Second},
		"told to come back later":           {[]faultinject.Fault{faultinject.Respond(503, "Retry-After: 30")}, 30 * time.Second},
		"charged, and the answer is lost":   {[]faultinject.Fault{faultinject.LoseResponse(faultinject.RST), faultinject.MaskResponse(504)}, 3 * time.Second},
		"charged, and the answer is late":   {[]faultinject.Fault{faultinject.Stall()}, 6 * time.Second},
		"charged, when nobody waits for it": {[]faultinject.Fault{faultinject.Late(2 * time.Second)}, 6 * time.Second},
		"charged, and the receipt is cut":   {[]faultinject.Fault{faultinject.CutBody(3, faultinject.FIN)}, 1 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ledger := &faultinject.Ledger{HonourKeys: true}
				service := faultinject.Handler(ledger, faultinject.Script(tt.faults...))
				client := newClient(&http.Client{Transport: service}, "http://pay.test")

				start := time.Now()
				receipt, err := client.Pay(t.Context(), "17", 4200)
				if took := time.Since(start); err != nil || took != tt.took {
					t.Errorf("%v after %v, want a receipt after %v", err, took, tt.took)
				}
				service.Settle() // what is late comes now
				if all := ledger.Receipts(); len(all) != 1 || all[0] != string(receipt) {
					t.Errorf("charged %q, told %q: %v", all, receipt, service.Deliveries())
				}
			})
		})
	}
}

func TestADialThatNobodyAnswersCostsOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := faultinject.NewNetwork()
		defer network.Close() // ends the dial that hangs
		network.Plan = faultinject.Script(faultinject.Blackhole())
		ledger := &faultinject.Ledger{HonourKeys: true}
		server := network.NewServer(t, "https://pay.test", ledger, nil)

		start := time.Now()
		_, err := newClient(server.Client(), server.URL).Pay(t.Context(), "17", 4200)
		if took := time.Since(start); err != nil || took != 6*time.Second {
			t.Errorf("%v after %v, want a receipt after 6 s", err, took)
		}
		if dials, paid := network.Dials(), ledger.Entries(); len(dials) != 2 || len(paid) != 1 {
			t.Errorf("dials: %v; payments: %v", dials, paid)
		}
	})
}

func TestAHundredOrdersAtOnceArePaidOnceEach(t *testing.T) {
	e := faultinject.Exploration{HonourKeys: true, Vague: true, Seeds: 10}
	result := faultinject.Simulate(t, e, func(r *faultinject.Run) {
		client := newClient(r.Client, r.URL)
		client.Attempts = r.Attempts
		for i := range 100 {
			r.Go(i, func() {
				order := fmt.Sprint(i)
				receipt, err := client.Pay(r.Context(), order, 4200)
				r.Report("/orders/"+order+"/payment", told(err), receipt)
			})
		}
	})
	t.Log(result)
	if len(result.Unmet) > 0 {
		t.Error("these faults have not struck:", result.Unmet)
	}
}

func TestTheOrderIsPaidOnceThroughAProxyThatFails(t *testing.T) {
	ledger := &faultinject.Ledger{HonourKeys: true}
	service := httptest.NewServer(ledger) // or your own, in a container
	defer service.Close()
	plan := faultinject.Script(faultinject.DropBefore(faultinject.FIN), faultinject.LoseResponse(faultinject.RST))
	proxy := faultinject.NewProxy(t, service.URL, plan)
	client := newClient(proxy.Client(), proxy.URL)
	client.Timeout, client.Pause = time.Minute, 1 // time is real here, and nothing may depend on it

	if _, err := client.Pay(t.Context(), "17", 4200); err != nil {
		t.Error(err)
	}
	var reached []faultinject.Reach
	for _, d := range proxy.Deliveries() {
		reached = append(reached, d.Reach())
	}
	if want := []faultinject.Reach{faultinject.Delivered, faultinject.Applied, faultinject.Applied}; !slices.Equal(reached, want) {
		t.Errorf("the attempts were %v, want %v", reached, want)
	}
	if paid := ledger.Entries(); len(paid) != 1 {
		t.Errorf("paid %d times: %v", len(paid), paid)
	}
}
