// Package idempotencytest holds the tests that every idempotency.Store must
// pass. It needs the standard library only.
package idempotencytest

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/go-resilient/resilient/idempotency"
)

// An Instance is a store under test.
type Instance struct {
	// Store is the store. It may hold records of other tests: each case makes
	// keys of its own.
	Store idempotency.Store
	// Reopen returns a second handle on the data, as another process has it or
	// this one after a crash: Store is not closed before, and not used after.
	// Nil, where the data do not outlive the process, leaves out the cases of
	// crashes.
	Reopen func() idempotency.Store
}

// Store runs each case of the contract as a subtest on what open returns for
// it, in real time: some seconds at most, unless a call takes long. No case
// fails because the machine is slow. What open opened is closed by t.Cleanup.
func Store(t *testing.T, open func(t *testing.T) Instance) {
	run(t, open, func(t *testing.T, f func(*testing.T)) { f(t) })
}

// StoreInBubble does the same in virtual time, each case in a bubble of its own
// (see package testing/synctest), for stores whose clock is time.Now.
func StoreInBubble(t *testing.T, open func(t *testing.T) Instance) {
	run(t, open, synctest.Test)
}

func run(t *testing.T, open func(*testing.T) Instance, within func(*testing.T, func(*testing.T))) {
	survives := false
	t.Run("a store opens", func(t *testing.T) {
		within(t, func(t *testing.T) {
			in := open(t)
			if in.Store == nil {
				t.Fatal("Instance.Store is nil")
			}
			survives = in.Reopen != nil
		})
	})
	all := slices.Concat(claims, holders, times, crowds)
	if survives {
		all = append(all, crashes...)
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				in := open(t)
				c.run(&trial{T: t, store: in.Store, reopen: in.Reopen})
			})
		})
	}
}

// A rule is one sentence of the contract, as a test.
type rule struct {
	name string
	run  func(*trial)
}
