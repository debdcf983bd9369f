// Package rates is a small client of a currency service. Its test is what there
// is to see here.
package rates

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// Latest asks the service at url what one euro costs.
func Latest(ctx context.Context, client *http.Client, url, currency string) (rate float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/latest/"+currency, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("rate of %s: %w", currency, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("rate of %s: %s", currency, resp.Status)
	}
	err = json.NewDecoder(resp.Body).Decode(&rate)
	return rate, err
}
