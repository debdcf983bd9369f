package main

import (
	"context"
	"net/http"
	"time"

	"github.com/PuerkitoBio/rehttp"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/gojek/heimdall/v7"
	"github.com/gojek/heimdall/v7/httpclient"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/ybbus/httpretry"
	"resty.dev/v3"
)

var retryable = Peer{
	Name:   "go-retryablehttp",
	Module: "github.com/hashicorp/go-retryablehttp",
	Setup:  `c := retryablehttp.NewClient(); c.HTTPClient.Transport = base; c.Logger = nil; c.StandardClient()`,
	Why:    "README, its way to a stdlib `*http.Client`; all else is its default (4 retries, 1 s to 30 s)",
	New: func(e Env) (Client, error) {
		c := retryablehttp.NewClient()
		c.HTTPClient.Transport, c.Logger = e.Base, nil
		return standard{e, c.StandardClient()}, nil
	},
}

var failsafeRetry = Peer{
	Name:   "failsafe-go, retry",
	Module: "github.com/failsafe-go/failsafe-go",
	Setup:  `failsafehttp.NewRoundTripper(base, failsafehttp.NewRetryPolicyBuilder().WithBackoff(time.Second, 30*time.Second).WithMaxRetries(3).Build())`,
	Why:    "its documentation of HTTP support, to the letter",
	New: func(e Env) (Client, error) {
		rt := failsafehttp.NewRoundTripper(e.Base, failsafeRetryPolicy())
		return standard{e, &http.Client{Transport: rt}}, nil
	},
}

var failsafeBreaker = Peer{
	Name:   "failsafe-go, retry and breaker",
	Module: "github.com/failsafe-go/failsafe-go",
	Setup: `failsafehttp.NewRoundTripper(base, failsafehttp.NewRetryPolicyBuilder().WithBackoff(time.Second, 30*time.Second).WithMaxRetries(3).Build(), ` +
		`circuitbreaker.NewBuilder[*http.Response]().HandleIf(err != nil, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500).` +
		`WithFailureRateThreshold(0.6, 10, 10*time.Second).WithDelay(time.Second).Build())`,
	Why: "the same with a breaker; the composition is that of its documentation; the breaker's limits are those of the client by hand",
	New: func(e Env) (Client, error) {
		breaker := circuitbreaker.NewBuilder[*http.Response]().
			HandleIf(func(resp *http.Response, err error) bool {
				return err != nil || resp != nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500)
			}).
			WithFailureRateThreshold(0.6, 10, 10*time.Second).
			WithDelay(time.Second).
			Build()
		rt := failsafehttp.NewRoundTripper(e.Base, failsafeRetryPolicy(), breaker)
		return standard{e, &http.Client{Transport: rt}}, nil
	},
}

func failsafeRetryPolicy() failsafe.Policy[*http.Response] {
	return failsafehttp.NewRetryPolicyBuilder().WithBackoff(time.Second, 30*time.Second).WithMaxRetries(3).Build() //nolint:bodyclose // a policy about responses, none of which is here
}

var rehttpPeer = Peer{
	Name:   "rehttp",
	Module: "github.com/PuerkitoBio/rehttp",
	Setup: `rehttp.NewTransport(base, rehttp.RetryAll(rehttp.RetryMaxRetries(3), rehttp.RetryAny(rehttp.RetryTimeoutErr(), ` +
		`rehttp.RetryStatusInterval(500, 600), rehttp.RetryStatuses(http.StatusTooManyRequests))), rehttp.ExpJitterDelay(100*time.Millisecond, 10*time.Second))`,
	Why: "its package comment: RetryMaxRetries and some other condition, combined by RetryAll; of errors it favours RetryTimeoutErr, " +
		"so that a refused or broken connection is not repeated",
	New: func(e Env) (Client, error) {
		rt := rehttp.NewTransport(e.Base, rehttp.RetryAll(rehttp.RetryMaxRetries(3), rehttp.RetryAny(
			rehttp.RetryTimeoutErr(), rehttp.RetryStatusInterval(500, 600), rehttp.RetryStatuses(http.StatusTooManyRequests))),
			rehttp.ExpJitterDelay(100*time.Millisecond, 10*time.Second))
		return standard{e, &http.Client{Transport: rt}}, nil
	},
}

var httpretryPeer = Peer{
	Name:   "httpretry",
	Module: "github.com/ybbus/httpretry",
	Setup:  `httpretry.NewCustomClient(&http.Client{Transport: base})`,
	Why:    "README; all else is its default (5 retries, 1 s to 30 s)",
	New: func(e Env) (Client, error) {
		return standard{e, httpretry.NewCustomClient(&http.Client{Transport: e.Base})}, nil
	},
}

var heimdallPeer = Peer{
	Name:   "heimdall",
	Module: "github.com/gojek/heimdall/v7",
	Setup: `httpclient.NewClient(httpclient.WithHTTPClient(&http.Client{Transport: base, Timeout: 10*time.Second}), httpclient.WithRetryCount(4), ` +
		`httpclient.WithRetrier(heimdall.NewRetrier(heimdall.NewExponentialBackoff(100*time.Millisecond, 10*time.Second, 2, 100*time.Millisecond))))`,
	Why: "README, with waits of the usual length in place of its 2 ms to 9 ms, and 10 s in place of its time-out of 1 s",
	New: func(e Env) (Client, error) {
		pause := heimdall.NewExponentialBackoff(100*time.Millisecond, 10*time.Second, 2, 100*time.Millisecond)
		return standard{e, httpclient.NewClient(
			httpclient.WithHTTPClient(&http.Client{Transport: e.Base, Timeout: attemptTimeout}),
			httpclient.WithRetrier(heimdall.NewRetrier(pause)),
			httpclient.WithRetryCount(4),
		)}, nil
	},
}

var restyPeer = Peer{
	Name:   "resty",
	Module: "resty.dev/v3",
	Setup: `resty.New().SetTransport(base).SetBaseURL(url).SetRetryCount(3).AddRetryConditions(resty.RetryConditionStatusTooManyRequests, ` +
		`resty.RetryConditionStatus5XX, resty.RetryConditionStatusZero).SetCircuitBreaker(resty.NewCircuitBreakerRatio(0.6, 10, time.Second))`,
	Why: "all of its retry conditions, and its circuit breaker, with the limits of the client by hand; its window is as long as it stays open",
	New: func(e Env) (Client, error) {
		c := resty.New().SetTransport(e.Base).SetBaseURL(e.URL).SetRetryCount(3).
			AddRetryConditions(resty.RetryConditionStatusTooManyRequests, resty.RetryConditionStatus5XX, resty.RetryConditionStatusZero).
			SetCircuitBreaker(resty.NewCircuitBreakerRatio(0.6, 10, time.Second))
		return restyClient{c}, nil
	},
}

type restyClient struct{ *resty.Client }

// Send asks for the body: resty itself reads it only where it has no decoder.
func (r restyClient) Send(ctx context.Context, c Call) (Answer, error) {
	req := r.R().SetContext(ctx)
	if c.Body != nil {
		req.SetBody(c.Body)
	}
	for name, value := range c.header() {
		req.SetHeader(name, value)
	}
	resp, err := req.Execute(c.Method, c.Path)
	if err != nil {
		return Answer{}, err
	}
	_ = resp.Bytes() // and closes it
	return Answer{Status: resp.StatusCode()}, nil
}
