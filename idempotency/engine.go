package idempotency

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"time"
)

// An Engine runs functions, each key's once. It is what a middleware made by
// [New] works with, for whoever has no HTTP requests: consumers of messages,
// jobs. Its methods may be called by many goroutines.
type Engine struct {
	cfg    Config
	keeps  func(name string) string
	renews bool // leases
}

// NewEngine makes an Engine. A bad Config is an error that names the field, and
// so is one that only requests have a use for.
func NewEngine(cfg Config) (*Engine, error) {
	if err := cfg.refuseHTTP(); err != nil {
		return nil, err
	}
	return newEngine(cfg)
}

func newEngine(cfg Config) (*Engine, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	_, inMemory := cfg.Store.(*Memory)
	return &Engine{cfg: cfg, keeps: keeper(cfg.KeepHeaders), renews: !inMemory}, nil
}

// lease is for how long a claim is made. A holder does not die before the memory
// that he is noted in, so there it is for as long as a run may take, and need not
// be renewed.
func (e *Engine) lease() time.Duration {
	switch {
	case e.renews:
		return e.cfg.Lease
	case e.cfg.RunLimit < 0:
		return maxDuration
	}
	return e.cfg.RunLimit + e.cfg.Lease
}

// FingerprintOf is the fingerprint of these parts, in this order.
func FingerprintOf(parts ...[]byte) Fingerprint {
	h := sha256.New()
	var length [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(length[:], uint64(len(p)))
		h.Write(length[:])
		h.Write(p)
	}
	return Fingerprint(h.Sum(nil))
}

// idOf hashes scope and key, by HMAC if there is a secret.
func (e *Engine) idOf(scope, key string) ID {
	b := binary.AppendUvarint(make([]byte, 0, 128), uint64(len(scope)))
	b = append(append(b, scope...), key...)
	if len(e.cfg.Secret) > 0 {
		return hmacOf(e.cfg.Secret, string(b))
	}
	return sha256.Sum256(b)
}

func hmacOf(secret []byte, text string) ID {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(text))
	return ID(h.Sum(nil))
}

func (e *Engine) newClaim(id ID, f Fingerprint) Claim {
	c := Claim{
		ID: id, Fingerprint: f, Lease: e.lease(),
		// What is unknown is kept as long as what is known.
		Keep: e.lease() + e.cfg.keep().Key, TakeOver: e.cfg.OnUnknown.takesOver(),
	}
	// It has to be unique, not secret: who could show it can write to the store anyway.
	binary.NativeEndian.PutUint64(c.Token[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(c.Token[8:], rand.Uint64())
	return c
}
