package resilientredis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/redis/go-redis/v9"
)

// Config is the settings of a [Store]. The zero Config is ready to use.
type Config struct {
	// Prefix begins the name of every key in Redis, so that a server can be
	// shared. Stores with one prefix share their records. It must not contain
	// braces, which Redis Cluster gives a meaning. Empty means "idempotency:".
	Prefix string
}

// A Store keeps records in Redis. It is safe for use by many goroutines, and
// costs one round trip for each method.
type Store struct {
	client redis.UniversalClient
	prefix string
}

var _ idempotency.Store = (*Store)(nil)

// New returns a store on a client that stays the caller's: nothing is sent yet,
// and closing the client is up to the caller.
//
// A client that does not end with its caller's context is refused, and so is a
// redis.Ring: while one of its servers is away it looks for that server's keys
// on another, finds none, and a run would be repeated.
func New(client redis.UniversalClient, c Config) (*Store, error) {
	if err := usable(client); err != nil {
		return nil, err
	}
	if strings.ContainsAny(c.Prefix, "{}") {
		return nil, fmt.Errorf("resilientredis: Config.Prefix: %q contains a brace", c.Prefix)
	}
	if c.Prefix == "" {
		c.Prefix = "idempotency:"
	}
	return &Store{client: client, prefix: c.Prefix}, nil
}

func usable(client redis.UniversalClient) error {
	ends := true
	switch client := client.(type) {
	case nil:
		return errors.New("resilientredis: the client is nil")
	case *redis.Ring:
		return errors.New("resilientredis: the client is a redis.Ring, which forgets keys while a server is away")
	case *redis.Client:
		ends = client.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		ends = client.Options().ContextTimeoutEnabled
	}
	if !ends {
		return errors.New("resilientredis: the client's option ContextTimeoutEnabled is off: it would outlive its caller's context")
	}
	return nil
}

// Claim is [idempotency.Store.Claim]. It returns [idempotency.ErrFull] where
// Redis has reached its maxmemory.
func (s *Store) Claim(ctx context.Context, c idempotency.Claim) (idempotency.Record, bool, error) {
	takeOver := 0
	if c.TakeOver {
		takeOver = 1
	}
	rec, claimed, err := s.record(ctx, claimScript, c.ID, c.Token[:], c.Fingerprint[:], us(c.Lease), us(c.Keep), takeOver)
	if redis.IsOOMError(err) {
		err = fmt.Errorf("%w: %w", idempotency.ErrFull, err)
	}
	return rec, claimed, named("claim", err)
}

// Renew is [idempotency.Store.Renew].
func (s *Store) Renew(ctx context.Context, h idempotency.Holder, lease, keep time.Duration) error {
	return named("renew", s.change(ctx, renewScript, h, us(lease), us(keep)))
}

// Complete is [idempotency.Store.Complete]. It succeeds even where Redis has
// reached its maxmemory.
func (s *Store) Complete(ctx context.Context, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	return named("complete", s.change(ctx, completeScript, h, us(keep.Result), us(keep.Key), result))
}

// Release is [idempotency.Store.Release].
func (s *Store) Release(ctx context.Context, h idempotency.Holder) error {
	return named("release", s.change(ctx, releaseScript, h))
}

// Abandon is [idempotency.Store.Abandon].
func (s *Store) Abandon(ctx context.Context, h idempotency.Holder, keep time.Duration) error {
	return named("abandon", s.change(ctx, abandonScript, h, us(keep)))
}

// Lookup is [idempotency.Store.Lookup].
func (s *Store) Lookup(ctx context.Context, id idempotency.ID) (idempotency.Record, error) {
	rec, _, err := s.record(ctx, lookupScript, id)
	return rec, named("lookup", err)
}

func named(method string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("resilientredis: %s: %w", method, err)
}

// change runs a script that tells whether the holder still had the key.
func (s *Store) change(ctx context.Context, script *redis.Script, h idempotency.Holder, args ...any) error {
	held, err := s.run(ctx, script, h.ID, append([]any{h.Token[:]}, args...)...).Int()
	if err == nil && held == 0 {
		return idempotency.ErrLost
	}
	return err
}

// record runs a script that tells the record.
func (s *Store) record(ctx context.Context, script *redis.Script, id idempotency.ID, args ...any) (rec idempotency.Record, claimed bool, err error) {
	told, err := s.run(ctx, script, id, args...).Slice()
	if err != nil {
		return idempotency.Record{}, false, err
	}
	if len(told) != 8 {
		return idempotency.Record{}, false, errors.New("the server's answer is not the script's")
	}
	r := reply(told)
	rec.State = idempotency.State(r.int(1))
	if rec.State == idempotency.Absent {
		return rec, false, nil
	}
	copy(rec.Fingerprint[:], r.string(2))
	rec.Fence = uint64(r.int(3))
	rec.TakenOver = r.int(4) == 1
	rec.Age = time.Duration(r.int(5)) * time.Microsecond
	rec.Left = time.Duration(r.int(6)) * time.Microsecond
	if rec.State == idempotency.Completed {
		rec.Result = []byte(r.string(7))
	}
	return rec, r.int(0) == 1, nil
}

// run hands both keys of a record to a script. Braces make Redis Cluster keep
// them on one node.
func (s *Store) run(ctx context.Context, script *redis.Script, id idempotency.ID, args ...any) *redis.Cmd {
	key := s.prefix + "{" + id.String() + "}"
	return script.Run(ctx, s.client, []string{key, key + ":result"}, args...)
}

// A reply is what a script returned.
type reply []any

func (r reply) int(i int) int64 {
	n, _ := r[i].(int64)
	return n
}

func (r reply) string(i int) string {
	s, _ := r[i].(string)
	return s
}

// forever is 142 years in microseconds. Lua counts in floating point, and this
// is far enough from where that loses digits.
const forever = 1 << 52

// us is a length of time as the scripts have it, and rather longer than shorter.
func us(d time.Duration) int64 {
	n := int64(d / time.Microsecond)
	if d%time.Microsecond > 0 {
		n++
	}
	return min(n, forever)
}
