package resilientredis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Check asks the server, or every master of a cluster, for the settings without
// which it may lose what it acknowledged, and returns one joined error that
// names each setting that is wrong and what follows from it. Nil means that
// none is. Where the server keeps appendfsync to itself (managed services forbid
// CONFIG) Check passes over it. It tells nothing of replication.
//
// It is meant for the start of a program. What to do about a warning is up to
// the program; a server that cannot be asked is an error too.
func (s *Store) Check(ctx context.Context) error {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return named("check", check(ctx, s.client))
	}
	var (
		mu   sync.Mutex
		errs []error
	)
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		if err := check(ctx, node); err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("%s: %w", node.Options().Addr, err))
		}
		return nil // the other nodes are asked as well
	})
	return named("check", errors.Join(append(errs, err)...))
}

func check(ctx context.Context, server redis.Cmdable) error {
	text, err := server.Info(ctx).Result()
	if err != nil {
		return err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	var errs []error
	if policy := info["maxmemory_policy"]; policy != "noeviction" {
		errs = append(errs, fmt.Errorf("maxmemory-policy is %q, not noeviction: a server short of memory forgets keys, and what ran under them runs again", policy))
	}
	if info["aof_enabled"] != "1" {
		errs = append(errs, errors.New("appendonly is not on: a restart forgets keys, and what ran under them runs again"))
		return errors.Join(errs...)
	}
	config, err := server.ConfigGet(ctx, "appendfsync").Result()
	if _, refused := errors.AsType[redis.Error](err); err != nil && !refused {
		errs = append(errs, err)
	}
	if fsync, told := config["appendfsync"]; told && fsync != "always" {
		errs = append(errs, fmt.Errorf("appendfsync is %q, not always: a crash forgets the latest claims and results", fsync))
	}
	return errors.Join(errs...)
}
