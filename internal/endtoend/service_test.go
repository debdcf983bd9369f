//go:build unix

package endtoend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/idempotency"
	"github.com/go-resilient/resilient/resilientpg"
	"github.com/go-resilient/resilient/resilientredis"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// specVariable is the environment variable that makes a service of the test binary.
const specVariable = "RESILIENT_ENDTOEND_SERVICE"

const (
	lease        = 300 * time.Millisecond
	storeTimeout = 200 * time.Millisecond
)

// spec is what a service is told when it starts.
type spec struct {
	Name  string
	Addr  string
	Bank  string
	Store place
	// Policy is block, reexecute or recover.
	Policy string
	// Wait is idempotency.Config's.
	Wait time.Duration
	// Next is the service that it calls; empty where it has the effect itself.
	Next string
	// Tx has the effect in the store's own database, and the answer with it.
	Tx bool
	// Broken names what is broken on purpose; see breakStore.
	Broken string
}

// place is a store: a file, or a part of a server.
type place struct{ Kind, At, Name string }

// serviceMain runs a service until it is killed or the test has died.
func serviceMain(text string) int {
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		err = s.serve(context.Background())
	}
	fmt.Fprintln(os.Stderr, s.Name, err)
	return 1
}

func (s spec) serve(ctx context.Context) error {
	store, err := s.Store.open(ctx)
	if err != nil {
		return err
	}
	h, err := s.handler(store)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		return err
	}
	return (&http.Server{Handler: h}).Serve(listener) //nolint:gosec // a test's
}

func (p place) open(ctx context.Context) (idempotency.Store, error) {
	switch p.Kind {
	case "file":
		return idempotency.OpenFile(p.At, idempotency.FileConfig{})
	case "redis":
		client := redis.NewClient(&redis.Options{Addr: p.At, ContextTimeoutEnabled: true})
		return resilientredis.New(client, resilientredis.Config{Prefix: p.Name})
	case "postgres":
		pool, err := pgxpool.New(ctx, p.At)
		if err != nil {
			return nil, err
		}
		return resilientpg.New(pool, resilientpg.Config{Table: p.Name})
	}
	return idempotency.NewMemory(idempotency.MemoryConfig{})
}

// service is what is behind the middleware.
type service struct {
	spec
	bank   teller
	client *http.Client // of the next service
	store  idempotency.Store
	pool   *pgxpool.Pool // where the effect is, with Tx
}

func (s spec) handler(store idempotency.Store) (http.Handler, error) {
	v := &service{spec: s, store: store, bank: teller{s.Bank, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 50}}}}
	var err error
	if s.Tx {
		if v.pool, err = pgxpool.New(context.Background(), s.Store.At); err != nil {
			return nil, err
		}
	}
	v.client, err = resilient.NewClient(resilient.Config{
		HonorsKeys: resilient.AnyHost, MaxAttempts: 3, NoBreaker: true, NoBudget: true,
		AttemptTimeout: lease, Backoff: func() resilient.Schedule { return new(short) },
	})
	if err != nil {
		return nil, err
	}
	policy := idempotency.Block()
	switch s.Policy {
	case "reexecute":
		policy = idempotency.Reexecute()
	case "recover":
		policy = idempotency.Recover(v.recover)
	}
	wrap, err := idempotency.New(idempotency.Config{
		Store: broken(store, s.Broken), Scope: idempotency.OneScope, KeyRequired: true,
		Lease: lease, RunLimit: 4 * lease, Wait: s.Wait, StoreTimeout: storeTimeout, OnUnknown: policy,
	})
	if err != nil {
		return nil, err
	}
	return wrap(v), nil
}

// short is a row of short pauses.
type short struct{}

func (short) NextBackOff() time.Duration { return 5*time.Millisecond + rand.N(20*time.Millisecond) }

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	_, key, _ := idempotency.Key(ctx)
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		idempotency.NotApplied(ctx)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch {
	case o.Do == refuse:
		idempotency.NotApplied(ctx)
		http.Error(w, "nothing done", http.StatusInternalServerError)
	case s.Next != "":
		s.forward(w, r, o, key)
	case s.Tx:
		s.insert(ctx, o, key)
	default:
		s.charge(w, r, o, key)
	}
}

// charge has its effect at the bank.
func (s *service) charge(w http.ResponseWriter, r *http.Request, o order, key string) {
	ctx := r.Context()
	s.say(ctx, o, key)
	if o.Do == slow {
		pause(ctx, 2*lease)
	}
	status, receipt, err := s.bank.ask(ctx, http.MethodPost, "/effect", entry(key, s.fence(ctx)))
	switch {
	case err != nil:
		idempotency.OutcomeUnknown(ctx)
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	case status != http.StatusOK: // a later run has been there
		idempotency.OutcomeUnknown(ctx)
		http.Error(w, "too late", http.StatusConflict)
		return
	}
	if r.Header.Get("Finale") != "" {
		o.Do = plain
	}
	switch o.Do {
	case slow:
		pause(ctx, lease/2)
	case failAfter:
		http.Error(w, receipt, http.StatusInternalServerError)
		return
	case fall:
		panic(http.ErrAbortHandler)
	case hang:
		<-ctx.Done()
		pause(context.WithoutCancel(ctx), 2*lease)
	}
	w.WriteHeader(http.StatusCreated)
	if o.Do == stream {
		_ = http.NewResponseController(w).Flush()
	}
	_, _ = io.WriteString(w, receipt)
}

func (s *service) fence(ctx context.Context) uint64 {
	if s.Broken == "fence" {
		return 1 << 62
	}
	return idempotency.Fence(ctx)
}

// say leaves a note of the key that an order came with.
func (s *service) say(ctx context.Context, o order, key string) {
	q := url.Values{"service": {s.Name}, "order": {strconv.Itoa(o.ID)}, "key": {key}}
	_, _, _ = s.bank.ask(ctx, http.MethodPost, "/seen", q)
}

// forward has no effect but that of the next service, called under a key derived
// from its own.
func (s *service) forward(w http.ResponseWriter, r *http.Request, o order, key string) {
	ctx := r.Context()
	s.say(ctx, o, key)
	if s.Broken == "key" {
		ctx = resilient.WithParentKey(ctx, resilient.Key{Value: strconv.Itoa(rand.Int())})
	}
	got := send(ctx, s.client, s.Next, o, nil)
	switch {
	case got.is(done):
		w.WriteHeader(got.status)
		_, _ = io.WriteString(w, got.body)
	case got.is(nothing) && !got.op.EarlierUnknown():
		// Of this run; it cannot know what an earlier one has sent.
		idempotency.NotApplied(r.Context())
		http.Error(w, "not sent", http.StatusServiceUnavailable)
	default:
		idempotency.OutcomeUnknown(r.Context())
		http.Error(w, got.String(), http.StatusBadGateway)
	}
}

// insert has its effect in the transaction that stores the answer.
func (s *service) insert(ctx context.Context, o order, key string) {
	store, _ := s.store.(*resilientpg.Store)
	s.say(ctx, o, key)
	// Of any error it says nothing: the middleware looks whether it was committed.
	_ = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var receipt int64
		sql := "INSERT INTO effects (key, fence) VALUES ($1, $2) RETURNING id"
		if err := tx.QueryRow(ctx, sql, key, int64(idempotency.Fence(ctx))).Scan(&receipt); err != nil {
			return err
		}
		if o.Do == slow {
			pause(ctx, 2*lease)
		}
		answer := idempotency.Answer{Status: http.StatusCreated, Body: fmt.Appendf(nil, "receipt %d", receipt)}
		return store.CompleteTx(ctx, tx, answer)
	})
}

// recover asks the bank what became of an earlier run.
func (s *service) recover(ctx context.Context, u idempotency.Unresolved) (idempotency.Answer, error) {
	fence := u.Fence
	if s.Broken == "fence" {
		fence = 0
	}
	status, receipt, err := s.bank.ask(ctx, http.MethodGet, "/effect", entry(u.Key, fence))
	switch {
	case err != nil:
		return idempotency.Answer{}, err
	case status == http.StatusNotFound:
		return idempotency.Answer{}, idempotency.ErrNotApplied
	case status != http.StatusOK:
		return idempotency.Answer{}, errors.New(receipt)
	}
	return idempotency.Answer{Status: http.StatusCreated, Body: []byte(receipt)}, nil
}
