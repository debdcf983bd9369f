package idempotency

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"time"
)

// A Store keeps one record for each key. Its methods are atomic, also towards
// other processes that share the data, and safe for use by many goroutines. A
// lease is measured by the store's clock alone, so that the clocks of the
// machines around it need not agree.
//
// A method may be called again with the same arguments after an error that left
// open whether it took place: the repetition then succeeds and changes nothing.
// What was acknowledged survives what the store says it survives; a store that
// cannot answer returns an error and never guesses.
//
// Package idempotencytest holds the tests that a Store must pass.
type Store interface {
	// Claim takes the key for a run: an Absent key always, an Unknown one with
	// c.TakeOver if the fingerprint is the same. It reports whether it did, and
	// the record as it then stands. A claim whose Token holds the key already
	// has it still, with the same fence and the lease begun anew.
	Claim(ctx context.Context, c Claim) (rec Record, claimed bool, err error)

	// Renew begins the lease anew, also one that has lapsed or was given up and
	// that nobody has taken over. ErrLost means that the key is somebody else's, or settled.
	Renew(ctx context.Context, h Holder, lease, keep time.Duration) error

	// Complete settles the key: from now on the record is Completed with this
	// result. It does so for a lapsed lease too, and for an Unknown record, as
	// long as nobody has taken over; for a record that the same holder has
	// completed it changes nothing. Otherwise it returns ErrLost.
	Complete(ctx context.Context, h Holder, result []byte, keep Keep) error

	// Release forgets the key: nothing was done under it. For an Absent key it
	// changes nothing. ErrLost means that it is somebody else's, or settled.
	Release(ctx context.Context, h Holder) error

	// Abandon makes the record Unknown at once instead of when the lease lapses.
	// ErrLost means that the key is somebody else's, or settled.
	Abandon(ctx context.Context, h Holder, keep time.Duration) error

	// Lookup tells the record of a key as it stands.
	Lookup(ctx context.Context, id ID) (Record, error)
}

// ErrLost is what a Store returns to a holder whose key has been taken over,
// forgotten, or settled otherwise.
var ErrLost = errors.New("idempotency: the lease is lost")

// ErrFull is what a Store with a bound returns to a claim that has no room.
var ErrFull = errors.New("idempotency: the store is full")

// A Claim asks for a key.
type Claim struct {
	// ID is the key's, Fingerprint that of what it is used for.
	ID          ID
	Fingerprint Fingerprint
	// Token is new for each run: whoever shows it holds the key.
	Token Token
	// Lease is for how long the key is held unless renewed.
	Lease time.Duration
	// Keep is how long the record lives if it is never heard of again. Not less
	// than Lease.
	Keep time.Duration
	// TakeOver claims an Unknown record too.
	TakeOver bool
}

// Holder is the claim that this holder made.
func (c Claim) Holder() Holder { return Holder{ID: c.ID, Token: c.Token} }

// A Holder is who claimed a key: only its last one may change the record.
type Holder struct {
	// ID is the key's, Token that of its claim.
	ID    ID
	Token Token
}

// Keep says how long a completed record lives from its completion.
type Keep struct {
	// Result is how long the result is kept. Not more than Key.
	Result time.Duration
	// Key is how long the key is known: from Result on the record is Expired.
	Key time.Duration
}

// A Record is what a store knows of a key.
type Record struct {
	// State is where the key stands.
	State State
	// Fingerprint is what the key was claimed for.
	Fingerprint Fingerprint
	// Fence is 1 or more and grows with every run under the key, so that whatever the run writes
	// to can refuse what an earlier one sends late.
	Fence uint64
	// TakenOver marks a claim that found the record Unknown.
	TakenOver bool
	// Result is what the run left, where State is Completed.
	Result []byte
	// Age is the time since the key was first claimed.
	Age time.Duration
	// Left is what remains of the lease, where State is Running.
	Left time.Duration
}

// State is where a key stands.
type State uint8

const (
	Absent    State = iota // not known: it can be claimed
	Running                // somebody holds the lease
	Completed              // settled, and the result is at hand
	Unknown                // a run ended without telling what it did
	Expired                // settled, and the result is no longer kept
)

// String is the state in a word.
func (s State) String() string {
	switch s {
	case Absent:
		return "absent"
	case Running:
		return "running"
	case Completed:
		return "completed"
	case Unknown:
		return "unknown"
	case Expired:
		return "expired"
	}
	return "State(" + strconv.Itoa(int(s)) + ")"
}

// An ID names the record of one key of one scope: a hash of both, so that
// whoever reads the store cannot use a key.
type ID [32]byte

// String is the ID in hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// A Fingerprint is a hash of what a key was used for.
type Fingerprint [32]byte

// A Token proves a claim. It is random, and no two are the same.
type Token [16]byte
