package idempotencytest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-resilient/resilient/idempotency"
)

// What an author of a store may get wrong, and the rule that has to find it.
var brokenStores = []struct {
	is, found string
	store     func() *broken
}{
	{"no token is checked on Complete", "a running key is nobody else's, not with TakeOver either", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			return b.rightComplete(b.last(h), result, keep)
		}}
	}},
	{"no token is checked on Release", "another token has no say over an unknown key", func() *broken {
		return &broken{release: func(b *broken, h idempotency.Holder) error { return b.forgets(h.ID) }}
	}},
	{"no token is checked on Renew", "after a takeover the old holder has lost the key for good", func() *broken {
		return &broken{renew: func(b *broken, h idempotency.Holder, lease, keep time.Duration) error {
			return b.Store.Renew(context.Background(), b.last(h), lease, keep)
		}}
	}},
	{"no token is checked on Abandon", "another token has no say over an unknown key", func() *broken {
		return &broken{abandon: func(b *broken, h idempotency.Holder, keep time.Duration) error {
			return b.Store.Abandon(context.Background(), b.last(h), keep)
		}}
	}},
	{"whoever once claimed may complete", "after a takeover and a release the old holder has lost the key for good", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			if err := b.rightComplete(b.last(h), result, keep); err != nil && b.stands(h.ID).State != idempotency.Absent {
				return err
			}
			return nil
		}}
	}},
	{"a lost lease is renewed without a word", "a key that nobody claimed has no holder", func() *broken {
		return &broken{renew: func(b *broken, h idempotency.Holder, lease, keep time.Duration) error {
			_ = b.Store.Renew(context.Background(), h, lease, keep)
			return nil
		}}
	}},
	{"a lapsed lease is not renewed", "a lapsed lease is begun anew while nobody has taken over", func() *broken {
		return &broken{renew: func(b *broken, h idempotency.Holder, lease, keep time.Duration) error {
			if b.stands(h.ID).State == idempotency.Unknown {
				return idempotency.ErrLost
			}
			return b.Store.Renew(context.Background(), h, lease, keep)
		}}
	}},
	{"an abandoned lease is not renewed", "an abandoned lease is a lapsed one: its holder may begin it anew", func() *broken {
		return &broken{renew: func(b *broken, h idempotency.Holder, lease, keep time.Duration) error {
			if b.gaveUp(h) {
				return idempotency.ErrLost
			}
			return b.Store.Renew(context.Background(), h, lease, keep)
		}}
	}},
	{"Renew does nothing", "the holder begins the lease anew as often as it likes", func() *broken {
		return &broken{renew: func(b *broken, h idempotency.Holder, _, keep time.Duration) error {
			return b.Store.Renew(context.Background(), h, max(b.stands(h.ID).Left, time.Nanosecond), keep)
		}}
	}},
	{"Renew does not lengthen the keep", "to claim, to renew, to abandon and to complete is each to keep the key from then on", func() *broken {
		return &broken{see: forgottenAfterItsFirstKeep}
	}},
	{"the fence is constant", "the fence grows with every run", func() *broken {
		return &broken{see: func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
			rec.Fence = min(rec.Fence, 1)
			return rec
		}}
	}},
	{"the fence grows with a repeated claim too", "a claim repeated by its token has the key still, with the same fence and the lease anew", func() *broken {
		return &broken{see: func(b *broken, id idempotency.ID, rec idempotency.Record) idempotency.Record {
			rec.Fence += uint64(len(b.claims[id]))
			return rec
		}}
	}},
	{"the fence begins anew after a release", "a released key stays forgotten after a crash, and its fence grows", func() *broken {
		from := make(map[idempotency.ID]uint64)
		return &broken{
			release: func(b *broken, h idempotency.Holder) error {
				if rec := b.stands(h.ID); b.held(h) {
					from[h.ID] = max(from[h.ID], rec.Fence)
				}
				return b.Store.Release(context.Background(), h)
			},
			see: func(_ *broken, id idempotency.ID, rec idempotency.Record) idempotency.Record {
				if rec.State != idempotency.Absent {
					rec.Fence -= min(rec.Fence, from[id])
				}
				return rec
			},
		}
	}},
	{"the fingerprint is ignored by a takeover", "a claim for something else gets the record and never the key", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			if rec := b.stands(c.ID); c.TakeOver && rec.State == idempotency.Unknown {
				c.Fingerprint = rec.Fingerprint
			}
			return b.rightClaim(c)
		}}
	}},
	{"the fingerprint told is the claim's", "a claim for something else gets the record and never the key", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			rec, claimed, err := b.rightClaim(c)
			rec.Fingerprint = c.Fingerprint
			return rec, claimed, err
		}}
	}},
	{"a running key is taken over", "a running key is nobody else's, not with TakeOver either", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			if c.TakeOver && b.stands(c.ID).State == idempotency.Running {
				_ = b.Store.Abandon(context.Background(), b.last(c.Holder()), time.Hour)
			}
			return b.rightClaim(c)
		}}
	}},
	{"an unknown key is claimed without TakeOver", "an unknown key is not claimed without TakeOver", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			c.TakeOver = true
			return b.rightClaim(c)
		}}
	}},
	{"an unknown key is never claimed", "an unknown key is taken over with TakeOver, and again by the same token", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			c.TakeOver = false
			return b.rightClaim(c)
		}}
	}},
	{"a lapsed lease frees the key", "a lease lapses to unknown, and not before its time", func() *broken {
		return &broken{see: func(b *broken, id idempotency.ID, rec idempotency.Record) idempotency.Record {
			if rec.State == idempotency.Unknown {
				return idempotency.Record{}
			}
			return rec
		}}
	}},
	{"a lease never lapses", "a lease lapses to unknown, and not before its time", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			c.Lease = time.Hour
			return b.rightClaim(c)
		}}
	}},
	{"a lease is in thousandths", "what is left of a lease is told, and grows less", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			c.Lease /= 1000
			return b.rightClaim(c)
		}}
	}},
	{"TakenOver is never told", "an unknown key is taken over with TakeOver, and again by the same token", func() *broken {
		return &broken{see: func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
			rec.TakenOver = false
			return rec
		}}
	}},
	{"TakenOver is what was asked for", "to claim an absent key with TakeOver is to claim it", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			rec, claimed, err := b.rightClaim(c)
			rec.TakenOver = claimed && c.TakeOver
			return rec, claimed, err
		}}
	}},
	{"a key claimed after a release is taken over", "a released key is forgotten at once, as often as it is released", func() *broken {
		return &broken{see: func(b *broken, id idempotency.ID, rec idempotency.Record) idempotency.Record {
			rec.TakenOver = len(b.claims[id]) > 0 && rec.State == idempotency.Running
			return rec
		}}
	}},
	{"the age begins anew with a takeover", "the age is counted from the first claim, through everything but a release", func() *broken {
		return &broken{see: func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
			if rec.TakenOver {
				rec.Age = 0
			}
			return rec
		}}
	}},
	{"the age outlives a release", "the age is counted from the first claim, through everything but a release", func() *broken {
		return &broken{see: func(b *broken, id idempotency.ID, rec idempotency.Record) idempotency.Record {
			if rec.State != idempotency.Absent {
				rec.Age = time.Since(b.begun[id]) + time.Minute*time.Duration(min(len(b.claims[id]), 1))
			}
			return rec
		}}
	}},
	{"the lease left is told of every state", "an abandoned key is unknown at once, as often as it is abandoned", func() *broken {
		return &broken{see: func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
			rec.Left = time.Minute
			return rec
		}}
	}},
	{"a claim repeated by its token is refused", "a claim repeated by its token has the key still, with the same fence and the lease anew", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			if rec := b.stands(c.ID); rec.State == idempotency.Running {
				return rec, false, nil
			}
			return b.rightClaim(c)
		}}
	}},
	{"a claim repeated late by its token is refused", "a claim repeated by its token has the key still after the lease has lapsed", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			if rec := b.stands(c.ID); rec.State == idempotency.Unknown && !c.TakeOver {
				return rec, false, nil
			}
			return b.rightClaim(c)
		}}
	}},
	{"a claim repeated by its token has also what is settled", "a claim repeated by its token gets the record if it was completed meanwhile", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			rec, claimed, err := b.rightClaim(c)
			return rec, claimed || b.held(c.Holder()), err
		}}
	}},
	{"a completed key is taken over", "a completed key is not claimed again, and tells its result", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			rec, claimed, err := b.rightClaim(c)
			return rec, claimed || c.TakeOver && rec.State == idempotency.Completed, err
		}}
	}},
	{"an expired key is claimed", "a key is known for longer than its result", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			rec, claimed, err := b.rightClaim(c)
			return rec, claimed || rec.State == idempotency.Expired, err
		}}
	}},
	{"a late Complete is refused", "a lapsed lease is completed late by the holder that let it lapse", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			if b.stands(h.ID).State == idempotency.Unknown {
				return idempotency.ErrLost
			}
			return b.rightComplete(h, result, keep)
		}}
	}},
	{"an abandoned key is not completed", "an abandoned key is completed late by the holder that abandoned it", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			if b.gaveUp(h) {
				return idempotency.ErrLost
			}
			return b.rightComplete(h, result, keep)
		}}
	}},
	{"a repeated Complete is refused", "a completion repeated after its result expired changes nothing", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			if state := b.stands(h.ID).State; state == idempotency.Completed || state == idempotency.Expired {
				return idempotency.ErrLost
			}
			return b.rightComplete(h, result, keep)
		}}
	}},
	{"a repeated Complete replaces the result", "a completion repeated by the same holder changes nothing", func() *broken {
		return &broken{
			complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
				return b.leaves(h, bytes.Clone(result), keep)
			},
			see: left,
		}
	}},
	{"the result is the caller's slice", "who left a result may use its buffer again", func() *broken {
		return &broken{
			complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
				return b.leaves(h, result, keep)
			},
			see: left,
		}
	}},
	{"the result is text", "the result comes back to the byte", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			return b.rightComplete(h, bytes.ToValidUTF8(result, []byte("?")), keep)
		}}
	}},
	{"the result ends at 64 KiB", "a completed key and its result survive a crash", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			return b.rightComplete(h, result[:min(len(result), 1<<16)], keep)
		}}
	}},
	{"the result is not told to a claim", "many keys at once do not get mixed up", func() *broken {
		return &broken{see: func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
			rec.Result = nil
			return rec
		}}
	}},
	{"the result outlives its keep", "a result that is not to be kept at all is expired at once", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			return b.rightComplete(h, result, idempotency.Keep{Result: keep.Key, Key: keep.Key})
		}}
	}},
	{"the key goes with its result", "a key is known for longer than its result", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			return b.rightComplete(h, result, idempotency.Keep{Result: keep.Result, Key: keep.Result})
		}}
	}},
	{"a completed key is never forgotten", "a key that was kept for its time is forgotten and can be claimed anew", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			keep.Key = time.Hour
			return b.rightComplete(h, result, keep)
		}}
	}},
	{"a run is never forgotten", "a run that is never heard of again is unknown, and then forgotten", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			c.Keep = time.Hour
			return b.rightClaim(c)
		}}
	}},
	{"an abandoned key is never forgotten", "an abandoned key is forgotten in the end", func() *broken {
		return &broken{abandon: func(b *broken, h idempotency.Holder, _ time.Duration) error {
			return b.Store.Abandon(context.Background(), h, time.Hour)
		}}
	}},
	{"a takeover does not lengthen the keep", "to take over is to keep the key from then on", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			if c.TakeOver {
				c.Lease, c.Keep = short, short
			}
			return b.rightClaim(c)
		}}
	}},
	{"a released key may not be released again", "a released key is forgotten at once, as often as it is released", func() *broken {
		return &broken{release: func(b *broken, h idempotency.Holder) error {
			if b.stands(h.ID).State == idempotency.Absent {
				return idempotency.ErrLost
			}
			return b.Store.Release(context.Background(), h)
		}}
	}},
	{"an unknown key may not be released", "an unknown key is released by its holder", func() *broken {
		return &broken{release: func(b *broken, h idempotency.Holder) error {
			if b.stands(h.ID).State == idempotency.Unknown {
				return idempotency.ErrLost
			}
			return b.Store.Release(context.Background(), h)
		}}
	}},
	{"a settled key is released without a word", "what is settled is altered by nobody, its holder included", func() *broken {
		return &broken{release: func(b *broken, h idempotency.Holder) error {
			if b.stands(h.ID).State == idempotency.Completed && b.held(h) {
				return nil
			}
			return b.Store.Release(context.Background(), h)
		}}
	}},
	{"Abandon does nothing", "an abandoned key is unknown at once, as often as it is abandoned", func() *broken {
		return &broken{abandon: func(*broken, idempotency.Holder, time.Duration) error { return nil }}
	}},
	{"an absent key has a state", "a key that nobody claimed is absent", func() *broken {
		return &broken{see: func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
			rec.Age++
			return rec
		}}
	}},
	{"a claim is said to be made, and is not", "an absent key is claimed and then running", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			rec, claimed, err := b.rightClaim(c)
			if claimed {
				err = b.Store.Release(context.Background(), c.Holder())
			}
			return rec, claimed, err
		}}
	}},
	{"a claim is a look and then a write", "of many that claim a key at once one has it", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			free := b.stands(c.ID).State == idempotency.Absent
			time.Sleep(time.Millisecond) // the others look meanwhile
			rec, claimed, err := b.rightClaim(c)
			return rec, claimed || free, err
		}}
	}},
	{"a takeover is a look and then a write", "of many that take a key over at once one has it", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			free := c.TakeOver && b.stands(c.ID).State == idempotency.Unknown
			runtime.Gosched()
			time.Sleep(time.Millisecond)
			rec, claimed, err := b.rightClaim(c)
			return rec, claimed || free, err
		}}
	}},
	{"Complete is a look and then a write", "of many that run, take over and complete one settles the key", func() *broken {
		return &broken{complete: func(b *broken, h idempotency.Holder, result []byte, keep idempotency.Keep) error {
			mine := b.held(h)
			time.Sleep(time.Millisecond)
			if err := b.rightComplete(h, result, keep); !mine {
				return err
			}
			return b.rightComplete(b.last(h), result, keep)
		}}
	}},
	{"a key is cut", "keys that differ by one bit are two keys", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			c.ID[31] &= 0x7f
			return b.rightClaim(c)
		}}
	}},
	{"a key is text that ends at a zero", "keys and tokens are bytes, whichever", func() *broken {
		return &broken{claim: func(b *broken, c idempotency.Claim) (idempotency.Record, bool, error) {
			if n := bytes.IndexByte(c.ID[:], 0); n >= 0 {
				clear(c.ID[n:])
			}
			return b.rightClaim(c)
		}}
	}},
	{"what a context ended is said to be done", "a context that has ended leaves nothing half done", func() *broken {
		return &broken{heeds: true}
	}},
	{"a crash loses everything", "a running key survives a crash and is still its holder's", func() *broken {
		return &broken{reopen: func(*broken) idempotency.Store { return newMemory() }}
	}},
	{"a crash lets leases lapse", "a lease begun anew survives a crash", func() *broken {
		return &broken{reopen: func(b *broken) idempotency.Store {
			for id := range b.claims {
				_ = b.Store.Abandon(context.Background(), b.last(idempotency.Holder{ID: id}), time.Hour)
			}
			return b
		}}
	}},
	{"a crash begins leases anew", "the age goes on through a crash", func() *broken {
		return &broken{reopen: func(b *broken) idempotency.Store {
			for id, all := range b.claims {
				_ = b.Store.Renew(context.Background(), b.last(idempotency.Holder{ID: id}), all[0].Lease, time.Hour)
			}
			return b
		}}
	}},
	{"a crash makes running what was unknown", "an unknown key survives a crash", func() *broken {
		return &broken{reopen: func(b *broken) idempotency.Store {
			for id := range b.claims {
				_ = b.Store.Renew(context.Background(), b.last(idempotency.Holder{ID: id}), time.Hour, time.Hour)
			}
			return b
		}}
	}},
	{"a crash frees what was unknown", "the lease of who crashed lapses, and not before its time", func() *broken {
		return &broken{reopen: func(b *broken) idempotency.Store {
			b.see = func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
				if rec.State == idempotency.Unknown {
					return idempotency.Record{}
				}
				return rec
			}
			return b
		}}
	}},
	{"a crash forgets the keys without a result", "an expired key survives a crash", func() *broken {
		return &broken{reopen: func(b *broken) idempotency.Store {
			b.see = func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
				if rec.State == idempotency.Expired {
					return idempotency.Record{}
				}
				return rec
			}
			return b
		}}
	}},
	{"a crash forgets takeovers", "a takeover survives a crash", func() *broken {
		return &broken{reopen: func(b *broken) idempotency.Store {
			b.see = func(_ *broken, _ idempotency.ID, rec idempotency.Record) idempotency.Record {
				rec.TakenOver = false
				return rec
			}
			return b
		}}
	}},
}

// forgottenAfterItsFirstKeep makes a record absent when the keep of the first claim is over.
func forgottenAfterItsFirstKeep(b *broken, id idempotency.ID, rec idempotency.Record) idempotency.Record {
	if all := b.claims[id]; len(all) > 0 && time.Since(b.begun[id]) >= all[0].Keep {
		return idempotency.Record{}
	}
	return rec
}

// leaves keeps the result of a Complete that is right, as it came.
func (b *broken) leaves(h idempotency.Holder, result []byte, keep idempotency.Keep) error {
	err := b.rightComplete(h, result, keep)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.results[h.ID] = result
	}
	return err
}

func left(b *broken, id idempotency.ID, rec idempotency.Record) idempotency.Record {
	if rec.State == idempotency.Completed {
		rec.Result = b.results[id]
	}
	return rec
}

// inChild is set in a process of its own, whose tests are to fail.
const inChild = "IDEMPOTENCYTEST_BROKEN"

func TestBroken(t *testing.T) {
	if os.Getenv(inChild) == "" {
		return // TestTheSuiteFindsWhatIsWrongWithAStore looks at it from outside
	}
	for _, b := range brokenStores {
		t.Run(b.is, func(t *testing.T) {
			StoreInBubble(t, func(*testing.T) Instance { return b.store().open() })
		})
	}
}

func TestTheSuiteFindsWhatIsWrongWithAStore(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$")
	cmd.Env = append(os.Environ(), inChild+"=1")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		t.Fatalf("error %v, want tests that fail:\n%s", err, out)
	}
	failed := make(map[string][]string) // rules by store, as package testing writes them
	for _, f := range regexp.MustCompile(`(?m)^ +--- FAIL: TestBroken/([^/\n]+)/(.+) \(`).FindAllStringSubmatch(string(out), -1) {
		failed[f[1]] = append(failed[f[1]], f[2])
	}
	written := func(name string) string { return strings.ReplaceAll(name, " ", "_") }
	for _, b := range brokenStores {
		if found := failed[written(b.is)]; !slices.Contains(found, written(b.found)) {
			t.Errorf("a store where %s was not found by %q, but by %q", b.is, b.found, found)
		}
	}
	rules := slices.Concat(slices.Collect(maps.Values(failed))...)
	for _, r := range slices.Concat(claims, holders, times, crowds, crashes) {
		if !slices.Contains(rules, written(r.name)) {
			t.Errorf("the rule that %q finds nothing wrong with any store", r.name)
		}
	}
}
