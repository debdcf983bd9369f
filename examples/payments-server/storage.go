package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/resilientredis"
	"github.com/redis/go-redis/v9"
)

// storage is where keys and charges are, and what to do about a key whose
// outcome is unknown, which depends on that.
type storage struct {
	keys      idempotency.Store
	charges   ledger
	onUnknown idempotency.Policy
	close     func()
}

func openStorage(ctx context.Context, s settings) (*storage, error) {
	switch scheme, _, _ := strings.Cut(s.store, "://"); scheme {
	case "":
		return openFiles(s.data)
	case "postgres", "postgresql":
		return openPostgres(ctx, s.store)
	case "redis", "rediss":
		return openRedis(ctx, s.store, s.data)
	}
	return nil, fmt.Errorf("-store: %q is neither postgres://… nor redis://…", s.store)
}

// openFiles keeps keys and charges in files of one process.
func openFiles(dir string) (*storage, error) {
	charges, err := openLedger(dir)
	if err != nil {
		return nil, err
	}
	keys, err := idempotency.OpenFile(filepath.Join(dir, "keys"), idempotency.FileConfig{})
	if err != nil {
		return nil, err
	}
	slog.Info("keys and charges are kept in files", "directory", dir)
	return &storage{
		keys: keys, charges: charges, onUnknown: idempotency.Recover(lookUp(charges)),
		close: func() {
			if err := keys.Close(); err != nil {
				slog.Error("closing the keys", "err", err)
			}
		},
	}, nil
}

// openRedis keeps the keys in Redis, and the charges in files.
func openRedis(ctx context.Context, url, dir string) (*storage, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("-store: %w", err)
	}
	options.ContextTimeoutEnabled, options.ReadTimeout = true, time.Second
	charges, err := openLedger(dir)
	if err != nil {
		return nil, err
	}
	client := redis.NewClient(options)
	keys, err := resilientredis.New(client, resilientredis.Config{Prefix: "payments:"})
	if err != nil {
		return nil, err
	}
	if err := keys.Check(ctx); err != nil {
		slog.Warn("Redis may forget keys", "err", err)
	}
	slog.Info("keys are kept in Redis, charges in files", "directory", dir)
	return &storage{
		keys: keys, charges: charges, onUnknown: idempotency.Recover(lookUp(charges)),
		close: func() { client.Close() },
	}, nil
}

// lookUp settles a run that left nothing behind but, perhaps, its charge.
func lookUp(l ledger) idempotency.RecoverFunc {
	return func(ctx context.Context, u idempotency.Unresolved) (idempotency.Answer, error) {
		c, ok, err := l.find(ctx, chargeID(u.Scope, u.Key))
		switch {
		case err != nil:
			return idempotency.Answer{}, err
		case !ok:
			return idempotency.Answer{}, idempotency.ErrNotApplied
		}
		return answerFor(c), nil
	}
}
