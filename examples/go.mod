module github.com/go-resilient/resilient/examples

go 1.26.0

replace github.com/go-resilient/resilient => ../

require (
	github.com/go-resilient/resilient v0.0.0
	github.com/stripe/stripe-go/v85 v85.0.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/sony/gobreaker/v2 v2.4.0 // indirect
)
