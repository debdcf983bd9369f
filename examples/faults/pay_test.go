package pay

import (
	"errors"
	"testing"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

func TestAnOrderIsPaidOnce(t *testing.T) {
	e := faultinject.Exploration{HonourKeys: true, Vague: true}
	faultinject.Explore(t, e, func(r *faultinject.Run) {
		client := Client{HTTP: r.Client, URL: r.URL, Attempts: r.Attempts, Timeout: 5 * time.Second, Pause: time.Second}
		receipt, err := client.Pay(r.Context(), "17", 4200)
		r.Report("17", told(err), receipt)
	})
}

func told(err error) faultinject.Told {
	switch {
	case err == nil:
		return faultinject.OK
	case errors.Is(err, ErrDeclined):
		return faultinject.NotApplied
	}
	return faultinject.Unknown
}
