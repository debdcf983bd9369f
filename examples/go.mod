module github.com/go-resilient/resilient/examples

go 1.26.0

replace (
	github.com/go-resilient/resilient => ../
	github.com/go-resilient/resilient/resilientpg => ../resilientpg
	github.com/go-resilient/resilient/resilientredis => ../resilientredis
)

require (
	github.com/go-resilient/resilient v0.0.0
	github.com/go-resilient/resilient/resilientpg v0.0.0
	github.com/go-resilient/resilient/resilientredis v0.0.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/redis/go-redis/v9 v9.23.0
	github.com/stripe/stripe-go/v85 v85.0.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/sony/gobreaker/v2 v2.4.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)
