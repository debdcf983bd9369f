// Package pay is a client of a payment service, written by hand as many services
// have one: a loop, a pause that doubles, a key so that nobody pays twice. What
// there is to see are its tests, which use faultinject and nothing else of this
// repository. In testdata/before is the client as it was at first, with a bug, and
// the test that found it.
package pay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// ErrDeclined says that the service does not want the payment: nothing was charged.
var ErrDeclined = errors.New("declined")

// A Client pays orders. Safe for concurrent use.
type Client struct {
	HTTP     *http.Client
	URL      string        // of the service, without a path
	Attempts int           // at most, the first included
	Timeout  time.Duration // of one attempt
	Pause    time.Duration // before the second attempt; each later one is twice as long
}

// Pay charges an order and returns the receipt. After any error but ErrDeclined
// the order may or may not have been charged.
func (c *Client) Pay(ctx context.Context, order string, cents int) (receipt []byte, err error) {
	body := fmt.Appendf(nil, `{"cents":%d}`, cents)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/orders/"+order+"/payment", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for n := 1; ; n++ {
		receipt, wait, err := c.attempt(req)
		if err == nil || n >= c.Attempts || errors.Is(err, ErrDeclined) {
			return receipt, err
		}
		select {
		case <-time.After(max(wait, c.Pause<<(n-1))):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// attempt sends the request once. The wait is what the service asked for.
func (c *Client) attempt(req *http.Request) (receipt []byte, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(req.Context(), c.Timeout)
	defer cancel()
	req = req.Clone(ctx)
	if req.Body, err = req.GetBody(); err != nil {
		return nil, 0, err
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests || status >= 500:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, time.Duration(seconds) * time.Second, errors.New(resp.Status)
	case status >= 300:
		return nil, 0, fmt.Errorf("%w: %s", ErrDeclined, resp.Status)
	}
	receipt, err = io.ReadAll(resp.Body)
	return receipt, 0, err
}
