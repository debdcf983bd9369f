module github.com/go-resilient/resilient/internal/linear

go 1.26.0

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/go-resilient/resilient v0.0.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/sony/gobreaker/v2 v2.4.0 // indirect
)

replace github.com/go-resilient/resilient => ../..
