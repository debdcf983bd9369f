package idempotency

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var tableStart = time.Unix(1_700_000_000, 0)

func tableAt(d time.Duration) time.Time { return tableStart.Add(d) }

// tableClaim is a claim of key n with token n, for a lease of 10s and a keep of 60s.
func tableClaim(n, token byte) Claim {
	return Claim{ID: ID{n}, Fingerprint: Fingerprint{n}, Token: Token{token}, Lease: 10 * time.Second, Keep: time.Minute}
}

func (t *table) mustClaim(tb testing.TB, at time.Duration, c Claim) Record {
	rec, claimed, ch := t.claim(tableAt(at), c)
	require.True(tb, claimed)
	t.apply(ch)
	return rec
}

func TestATimeThatGoesBackDoesNotReviveALease(t *testing.T) {
	var tab table
	tab.mustClaim(t, 0, tableClaim(1, 1))
	require.Equal(t, Unknown, tab.lookup(tableAt(10*time.Second), ID{1}).State)
	require.Equal(t, Unknown, tab.lookup(tableAt(time.Second), ID{1}).State)
}

func TestALeaseLapsesAndARecordIsForgottenToTheNanosecond(t *testing.T) {
	var tab table
	c := tableClaim(1, 1)
	tab.mustClaim(t, 0, c)
	require.Equal(t, time.Nanosecond, tab.lookup(tableAt(c.Lease-1), c.ID).Left)
	require.Equal(t, Unknown, tab.lookup(tableAt(c.Lease), c.ID).State)
	require.Equal(t, c.Keep-1, tab.lookup(tableAt(c.Keep-1), c.ID).Age)
	require.Zero(t, tab.lookup(tableAt(c.Keep), c.ID))
}

func TestAKeepShorterThanTheLeaseDoesNotFreeTheKeyBelowItsHolder(t *testing.T) {
	var tab table
	c := tableClaim(1, 1)
	c.Keep = time.Second
	tab.mustClaim(t, 0, c)
	_, claimed, _ := tab.claim(tableAt(5*time.Second), tableClaim(1, 2))
	require.False(t, claimed)
}

func TestALeaseTooLongForTheClockNeverLapses(t *testing.T) {
	var tab table
	c := tableClaim(1, 1)
	c.Lease, c.Keep = math.MaxInt64, math.MaxInt64
	tab.mustClaim(t, 0, c)
	require.Equal(t, Running, tab.lookup(tableAt(1000*time.Hour), c.ID).State)
}

func TestWhatWasDecidedTakesPlaceOnlyWhenApplied(t *testing.T) {
	var tab table
	_, claimed, _ := tab.claim(tableStart, tableClaim(1, 1))
	require.True(t, claimed)
	require.Zero(t, tab.lookup(tableStart, ID{1}))
	require.EqualValues(t, 1, tab.mustClaim(t, 0, tableClaim(1, 2)).Fence, "no fence is given for a claim that was not applied")
}

func TestTheFenceGrowsOverEverythingThatForgetsTheKey(t *testing.T) {
	var tab table
	c := tableClaim(1, 1)
	require.EqualValues(t, 1, tab.mustClaim(t, 0, c).Fence)
	ch, err := tab.release(tableStart, c.Holder())
	require.NoError(t, err)
	tab.apply(ch)
	require.EqualValues(t, 2, tab.mustClaim(t, 0, c).Fence)
	require.EqualValues(t, 3, tab.mustClaim(t, time.Hour, c).Fence, "after it was forgotten")

	var again table
	for ch := range tab.all(tableAt(2 * time.Hour)) { // no record is left
		again.apply(ch)
	}
	require.Empty(t, again.records)
	require.EqualValues(t, 4, again.mustClaim(t, 0, c).Fence, "after the log began anew")
}

func TestClaimsClearAwayWhatIsDueAndLittleAtATime(t *testing.T) {
	var tab table
	const n = 200
	for i := range byte(n) {
		c := tableClaim(i, 1)
		tab.mustClaim(t, 0, c)
		ch, err := tab.complete(tableStart, c.Holder(), make([]byte, 10), Keep{Result: time.Second, Key: time.Minute})
		require.NoError(t, err)
		tab.apply(ch)
	}
	require.Equal(t, 10*n, tab.bytes)

	c := tableClaim(n, 1) // claimed again and again, it is always the same record
	for i := 1; tab.bytes > 0; i++ {
		tab.mustClaim(t, time.Second, c)
		require.Equal(t, 10*max(0, n-i*sweptByClaim), tab.bytes)
	}
	require.Len(t, tab.records, n+1)
	for i := 1; len(tab.records) > 1; i++ {
		tab.mustClaim(t, time.Minute, c)
		require.Len(t, tab.records, max(0, n-i*sweptByClaim)+1)
	}
	require.Len(t, tab.due, 1)
}

func TestALogThatBeginsAnewHasNoResultThatExpired(t *testing.T) {
	var tab, again table
	c := tableClaim(1, 1)
	tab.mustClaim(t, 0, c)
	ch, err := tab.complete(tableStart, c.Holder(), []byte("done"), Keep{Result: time.Second, Key: time.Minute})
	require.NoError(t, err)
	tab.apply(ch)
	for ch := range tab.all(tableAt(time.Second)) {
		again.apply(ch)
	}
	require.Equal(t, Expired, again.lookup(tableAt(time.Second), c.ID).State)
	require.Zero(t, again.bytes)
}

// Random calls, with times that jump and come back: the log of the changes and
// what all tells make a table that answers the same, and no count is off.
func TestALogAppliedAgainMakesTheSameTable(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		var tab, replayed, snapshot table
		at := time.Duration(0)
		for range 300 {
			at += time.Duration(r.IntN(2000)-200) * time.Millisecond
			ch := tableStep(&tab, r, tableAt(at))
			tab.apply(ch)
			replayed.apply(ch)
			tableCheck(t, &tab)
		}
		for ch := range tab.all(tableAt(at)) {
			snapshot.apply(ch)
		}
		for range 20 {
			for n := range byte(4) {
				want := tab.lookup(tableAt(at), ID{n})
				require.Equal(t, want, replayed.lookup(tableAt(at), ID{n}))
				require.Equal(t, want, snapshot.lookup(tableAt(at), ID{n}))
			}
			at += 4 * time.Second
		}
		require.Equal(t, tab.fence, replayed.fence)
		require.Equal(t, tab.fence, snapshot.fence)
	}
}

func tableStep(tab *table, r *rand.Rand, at time.Time) (ch change) {
	c := tableClaim(byte(r.IntN(4)), byte(r.IntN(3)))
	c.TakeOver = r.IntN(2) == 0
	switch r.IntN(6) {
	case 0, 1:
		_, _, ch = tab.claim(at, c)
	case 2:
		ch, _ = tab.renew(at, c.Holder(), c.Lease, c.Keep)
	case 3:
		keep := Keep{Result: time.Duration(r.IntN(20)) * time.Second, Key: time.Duration(r.IntN(40)) * time.Second}
		ch, _ = tab.complete(at, c.Holder(), make([]byte, r.IntN(3)), keep)
	case 4:
		ch, _ = tab.release(at, c.Holder())
	case 5:
		ch, _ = tab.abandon(at, c.Holder(), c.Keep)
	}
	return ch
}

// tableCheck counts what the table counts, and looks into its heap.
func tableCheck(t *testing.T, tab *table) {
	bytes := 0
	for id, e := range tab.records {
		require.Equal(t, id, e.id)
		require.Equal(t, e.deadline(), tab.due[e.index])
		bytes += len(e.result)
	}
	require.Equal(t, bytes, tab.bytes)
	require.Len(t, tab.due, len(tab.records))
	for _, d := range tab.due {
		require.GreaterOrEqual(t, d.at, tab.due[0].at)
	}
}
