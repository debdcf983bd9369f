package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stripe/stripe-go/v85"
)

var azurePeer = Peer{
	Name:   "azcore",
	Module: "github.com/Azure/azure-sdk-for-go/sdk/azcore",
	Setup:  `runtime.NewPipeline("bench", "v1", runtime.PipelineOptions{}, &policy.ClientOptions{Transport: &http.Client{Transport: base}})`,
	Why:    "its package comment; the retry policy's defaults (3 retries, 0.8 s to 60 s)",
	New: func(e Env) (Client, error) {
		return azure{e, runtime.NewPipeline("bench", "v1", runtime.PipelineOptions{}, &policy.ClientOptions{
			Transport: &http.Client{Transport: e.Base},
		})}, nil
	},
}

type azure struct {
	env      Env
	pipeline runtime.Pipeline
}

// Send leaves the reading of the body to the pipeline, which does it inside the attempt.
func (a azure) Send(ctx context.Context, c Call) (Answer, error) {
	req, err := runtime.NewRequest(ctx, c.Method, a.env.URL+c.Path)
	if err != nil {
		return Answer{}, err
	}
	if c.Body != nil {
		if err := req.SetBody(streaming.NopCloser(bytes.NewReader(c.Body)), "application/json"); err != nil {
			return Answer{}, err
		}
	}
	if c.Key != "" {
		req.Raw().Header.Set("Idempotency-Key", c.Key)
	}
	resp, err := a.pipeline.Do(req)
	if err != nil {
		if resp != nil { // it may return both
			_ = resp.Body.Close()
		}
		return Answer{}, err
	}
	return read(resp)
}

var awsPeer = Peer{
	Name:   "aws-sdk-go-v2",
	Module: "github.com/aws/aws-sdk-go-v2",
	Beside: "github.com/aws/smithy-go",
	Setup:  `stack.Finalize.Add(retry.NewAttemptMiddleware(retry.NewStandard(), smithyhttp.RequestCloner), middleware.After); smithyhttp.NewClientHandlerWithOptions(&http.Client{Transport: base})`, //nolint:misspell // their name
	Why:    "a smithy stack as generated clients have it; retry.NewStandard's defaults (2 retries, up to 20 s, 500 tokens); signing, resolving and API error codes are left out",
	New: func(e Env) (Client, error) {
		return amazon{e, retry.NewStandard(), &http.Client{Transport: e.Base}}, nil
	},
}

type amazon struct {
	env     Env
	retryer *retry.Standard
	client  *http.Client
}

// Send builds a stack for each operation, as generated clients do.
func (a amazon) Send(ctx context.Context, c Call) (Answer, error) {
	stack := middleware.NewStack("bench", smithyhttp.NewStackRequest)
	err := errors.Join(
		stack.Serialize.Add(middleware.SerializeMiddlewareFunc("request", a.build(c)), middleware.After),      //nolint:misspell // their name
		stack.Finalize.Add(retry.NewAttemptMiddleware(a.retryer, smithyhttp.RequestCloner), middleware.After), //nolint:misspell // their name
		stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("answer", take), middleware.After),
	)
	if err != nil {
		return Answer{}, err
	}
	handler := middleware.DecorateHandler(smithyhttp.NewClientHandlerWithOptions(a.client), stack)
	out, _, err := handler.Handle(ctx, nil)
	if refused, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && refused.Response != nil {
		return Answer{Status: refused.Response.StatusCode}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	answer, ok := out.(Answer)
	if !ok {
		return Answer{}, fmt.Errorf("the stack made a %T", out)
	}
	return answer, nil
}

type builder = func(context.Context, middleware.SerializeInput, middleware.SerializeHandler) (middleware.SerializeOutput, middleware.Metadata, error)

func (a amazon) build(c Call) builder {
	return func(ctx context.Context, in middleware.SerializeInput, next middleware.SerializeHandler) (middleware.SerializeOutput, middleware.Metadata, error) {
		fail := func(err error) (middleware.SerializeOutput, middleware.Metadata, error) {
			return middleware.SerializeOutput{}, middleware.Metadata{}, err
		}
		plain, err := a.env.request(ctx, Call{Method: c.Method, Path: c.Path, Key: c.Key})
		if err != nil {
			return fail(err)
		}
		req, ok := in.Request.(*smithyhttp.Request)
		if !ok {
			return fail(fmt.Errorf("the stack began with a %T", in.Request))
		}
		req.Request = plain
		if c.Body != nil {
			if req, err = req.SetStream(bytes.NewReader(c.Body)); err != nil {
				return fail(err)
			}
			req.ContentLength = int64(len(c.Body))
			req.Header.Set("Content-Type", "application/json")
		}
		in.Request = req
		return next.HandleSerialize(ctx, in)
	}
}

func take(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
	out, meta, err := next.HandleDeserialize(ctx, in)
	if err != nil {
		return out, meta, err
	}
	resp, ok := out.RawResponse.(*smithyhttp.Response)
	if !ok {
		return out, meta, fmt.Errorf("the stack answered with a %T", out.RawResponse)
	}
	answer, err := read(resp.Response)
	out.Result = answer
	if err == nil && answer.Status >= 300 {
		err = &smithyhttp.ResponseError{Response: resp, Err: errStatus}
	}
	return out, meta, err
}

var stripePeer = Peer{
	Name:   "stripe-go",
	Module: "github.com/stripe/stripe-go/v85",
	Setup: `stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{HTTPClient: &http.Client{Transport: base}, URL: stripe.String(url), ` +
		`LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull}}).(stripe.RawRequestBackend).RawRequest`,
	Why: "its defaults (2 retries, 0.5 s to 5 s); a key of its own on each write; made for one service, whose error documents it does not meet here",
	New: func(e Env) (Client, error) {
		backend, ok := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
			HTTPClient:    &http.Client{Transport: e.Base},
			URL:           stripe.String(e.URL),
			LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
		}).(stripe.RawRequestBackend)
		if !ok {
			return nil, errors.New("stripe: the backend takes no raw requests")
		}
		return stripeClient{backend}, nil
	},
}

type stripeClient struct{ stripe.RawRequestBackend }

// Send makes a raw request. An answer that refuses is an error there.
func (s stripeClient) Send(ctx context.Context, c Call) (Answer, error) {
	params := &stripe.RawParams{Params: stripe.Params{Context: ctx}}
	if c.Key != "" {
		params.IdempotencyKey = stripe.String(c.Key)
	}
	resp, err := s.RawRequest(c.Method, c.Path, "sk_test_123", string(c.Body), params)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Status: resp.StatusCode}, nil
}
