package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

type service struct {
	charges ledger
	slow    time.Duration
}

// newHandler is the service: first who asks, then once for each key, then the charge.
func newHandler(s *storage, slow time.Duration, observer idempotency.Observer) (http.Handler, error) {
	keys, err := idempotency.New(idempotency.Config{
		Store:       s.keys,
		OnUnknown:   s.onUnknown,
		Scope:       account,
		KeyRequired: true,
		Lease:       lease,
		RunLimit:    runLimit,
		Wait:        2 * time.Second, // for a run under way, before a 409
		MaxBody:     64 << 10,
		Observer:    observer,
	})
	if err != nil {
		return nil, err
	}
	service := &service{charges: s.charges, slow: slow}
	mux := http.NewServeMux()
	mux.Handle("POST /charges", keys(http.HandlerFunc(service.charge)))
	mux.HandleFunc("GET /charges/{id}", service.show)
	return authenticated(mux), nil
}

// tokens is who may ask. A service of yours has them elsewhere, and more of them.
var tokens = map[string]string{"alice-token": "alice", "bob-token": "bob"}

type accountKey struct{}

// authenticated stands in front of everything: the scope of a key must be
// somebody whom the service knows, and not what a request says of itself.
func authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		name, ok := tokens[token]
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accountKey{}, name)))
	})
}

// account is who asks: the scope of its keys.
func account(r *http.Request) string {
	name, _ := r.Context().Value(accountKey{}).(string)
	return name
}

// A charge is what the service makes.
type charge struct {
	ID       string `json:"id"`
	Account  string `json:"account"`
	Amount   int64  `json:"amount"` // in the smallest unit of the currency
	Currency string `json:"currency"`
}

// A ledger keeps charges. Its methods may be called by many goroutines.
type ledger interface {
	// add keeps c, unless it is there already. An error that is
	// idempotency.ErrNotApplied says that c is not kept, any other leaves that
	// open. A ledger that has the keys as well stores the answer with c.
	add(ctx context.Context, c charge, answer idempotency.Answer) error
	find(ctx context.Context, id string) (c charge, ok bool, err error)
}

// errCharged is for a key so old that only the ledger remembers what it was for.
var errCharged = fmt.Errorf("%w: this key was used for another charge", idempotency.ErrNotApplied)

// chargeID is made from the key, so that the ledger can be asked what became of
// a run, and cannot hold two charges for one key.
func chargeID(account, key string) string {
	sum := sha256.Sum256([]byte(account + "\n" + key))
	return "ch_" + hex.EncodeToString(sum[:12])
}

// charge runs once for each key.
func (s *service) charge(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	owner, key, _ := idempotency.Key(ctx)
	c := charge{ID: chargeID(owner, key), Account: owner}
	if err := parse(r, &c); err != nil {
		idempotency.NotApplied(ctx) // so that it can be sent again, corrected, under the same key
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := answerFor(c)
	if err := s.charges.add(ctx, c, answer); err != nil {
		s.fail(ctx, w, err)
		return
	}
	pause(ctx, s.slow)
	w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
	w.Header().Set("Location", answer.Header.Get("Location"))
	w.WriteHeader(answer.Status)
	w.Write(answer.Body)
}

func parse(r *http.Request, c *charge) error {
	var order struct {
		Amount   int64
		Currency string
	}
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		return errors.New("the body is not JSON with an amount and a currency")
	}
	if order.Amount <= 0 || len(order.Currency) != 3 {
		return errors.New(`"amount" must be more than 0, and "currency" have three letters`)
	}
	c.Amount, c.Currency = order.Amount, order.Currency
	return nil
}

// answerFor is what a caller is told of c, now or later.
func answerFor(c charge) idempotency.Answer {
	body, _ := json.Marshal(c) // strings and a number: cannot fail
	return idempotency.Answer{
		Status: http.StatusCreated,
		Header: http.Header{"Content-Type": {"application/json"}, "Location": {"/charges/" + c.ID}},
		Body:   append(body, '\n'),
	}
}

// fail says whether anything was done: the key is free again only if not.
func (s *service) fail(ctx context.Context, w http.ResponseWriter, err error) {
	slog.ErrorContext(ctx, "charge", "err", err)
	switch {
	case errors.Is(err, errCharged):
		idempotency.NotApplied(ctx)
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.Is(err, idempotency.ErrNotApplied):
		idempotency.NotApplied(ctx)
		http.Error(w, "not charged; try again", http.StatusServiceUnavailable)
	default:
		idempotency.OutcomeUnknown(ctx) // a repetition asks the ledger
		http.Error(w, "perhaps charged; ask again under the same key", http.StatusServiceUnavailable)
	}
}

func (s *service) show(w http.ResponseWriter, r *http.Request) {
	c, ok, err := s.charges.find(r.Context(), r.PathValue("id"))
	switch {
	case err != nil:
		slog.ErrorContext(r.Context(), "show", "err", err)
		http.Error(w, "the ledger cannot be read", http.StatusServiceUnavailable)
	case !ok || c.Account != account(r):
		http.NotFound(w, r)
	default:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(c)
	}
}

// pause waits, and ends with ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
