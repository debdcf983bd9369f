package resilientredis_test

import (
	"context"
	"log"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/resilientredis"
	"github.com/redis/go-redis/v9"
)

func Example() {
	client := redis.NewClient(&redis.Options{
		Addr:                  "localhost:6379",
		ContextTimeoutEnabled: true, // a method ends with its context
		ReadTimeout:           time.Second,
	})
	store, err := resilientredis.New(client, resilientredis.Config{Prefix: "payments:"})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Check(context.Background()); err != nil {
		log.Print(err) // such as: appendfsync is "everysec", not always
	}
	var keys idempotency.Store = store // for whatever keeps idempotency keys
	_ = keys
}
