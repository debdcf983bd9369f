package resilient

import (
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// noon is the instant at which the answers of these tests arrive, by our clock.
var noon = time.Date(2026, time.March, 4, 12, 0, 0, 0, time.UTC)

// headerOf is the header of an answer with these lines, given as name, value.
func headerOf(lines ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(lines); i += 2 {
		h.Add(lines[i], lines[i+1])
	}
	return h
}

// noWait stands for an answer that asks for nothing.
const noWait time.Duration = -1

// An askRow is an answer's header, and the wait that it asks for.
type askRow struct {
	name  string
	lines []string
	want  time.Duration
}

func (r askRow) check(t *testing.T) {
	d, ok := retryAfter(headerOf(r.lines...), noon)
	if r.want == noWait {
		require.False(t, ok, "asked for %v", d)
		require.Zero(t, d)
		return
	}
	require.True(t, ok)
	require.Equal(t, r.want, d)
}

func TestAnAnswerSaysHowLongToLeaveTheServerAlone(t *testing.T) {
	rows := []askRow{
		{"silence asks for nothing", nil, noWait},
		{"seconds are waited", []string{"Retry-After", "120"}, 2 * time.Minute},
		{"zero seconds are a request, for no time", []string{"Retry-After", "0"}, 0},
		{"leading zeros are digits too", []string{"Retry-After", "007"}, 7 * time.Second},
		{"blanks around the value do not hide it", []string{"Retry-After", " 7\t"}, 7 * time.Second},
		{"120 is two minutes, not the year", []string{"Retry-After", "120", "Date", "Wed, 04 Mar 2026 12:00:00 GMT"}, 2 * time.Minute},
		{"a negative delay is ignored", []string{"Retry-After", "-5"}, noWait},
		{"a signed delay is ignored", []string{"Retry-After", "+5"}, noWait},
		{"a fraction is ignored", []string{"Retry-After", "1.5"}, noWait},
		{"hexadecimal is ignored", []string{"Retry-After", "0x10"}, noWait},
		{"digit groups are ignored", []string{"Retry-After", "1_000"}, noWait},
		{"an exponent is ignored", []string{"Retry-After", "1e3"}, noWait},
		{"a unit is ignored", []string{"Retry-After", "5s"}, noWait},
		{"digits of another script are ignored", []string{"Retry-After", "\u0665"}, noWait},
		{"an empty value is ignored", []string{"Retry-After", ""}, noWait},
		{"two values in one line are ignored", []string{"Retry-After", "5, 10"}, noWait},
		{"the longest delay that fits is exact", []string{"Retry-After", "9223372036"}, 9223372036 * time.Second},
		{"one second more saturates", []string{"Retry-After", "9223372037"}, maxDuration},
		{"a delay that overflows to 290 ms saturates", []string{"Retry-After", "18446744074"}, maxDuration},
		{"the largest int64 saturates", []string{"Retry-After", "9223372036854775807"}, maxDuration},
		{"a delay beyond uint64 saturates", []string{"Retry-After", "18446744073709551616"}, maxDuration},
		{"a delay of 400 digits saturates", []string{"Retry-After", strings.Repeat("9", 400)}, maxDuration},
		{"a huge number with a letter behind it is ignored", []string{"Retry-After", "18446744073709551616x"}, noWait},
		{"400 zeros are zero", []string{"Retry-After", strings.Repeat("0", 400)}, 0},

		{"a date is waited for", []string{"Retry-After", "Wed, 04 Mar 2026 12:00:07 GMT"}, 7 * time.Second},
		{"an RFC 850 date is waited for", []string{"Retry-After", "Wednesday, 04-Mar-26 12:00:07 GMT"}, 7 * time.Second},
		{"an asctime date is waited for", []string{"Retry-After", "Wed Mar  4 12:00:07 2026"}, 7 * time.Second},
		{"a date that has come asks for no time", []string{"Retry-After", "Wed, 04 Mar 2026 12:00:00 GMT"}, 0},
		{"a date that has passed asks for nothing", []string{"Retry-After", "Wed, 04 Mar 2026 11:59:59 GMT"}, noWait},
		{"a date long past asks for nothing", []string{"Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"}, noWait},
		{"the year 0 asks for nothing", []string{"Retry-After", "Sat, 01 Jan 0000 00:00:00 GMT"}, noWait},
		{"the year 9999 saturates", []string{"Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"}, maxDuration},
		{"a zone other than GMT is ignored, not read hours early", []string{"Retry-After", "Wednesday, 04-Mar-26 12:00:07 PST"}, noWait},
		{"an offset from GMT is ignored", []string{"Retry-After", "Wednesday, 04-Mar-26 12:00:07 GMT-8"}, noWait},
		{"an ISO date is ignored", []string{"Retry-After", "2026-03-04T12:00:07Z"}, noWait},

		{"a server an hour ahead is measured by its own clock",
			[]string{"Date", "Wed, 04 Mar 2026 13:00:00 GMT", "Retry-After", "Wed, 04 Mar 2026 13:00:07 GMT"}, 7 * time.Second},
		{"a server an hour behind is measured by its own clock",
			[]string{"Date", "Wed, 04 Mar 2026 11:00:00 GMT", "Retry-After", "Wed, 04 Mar 2026 11:00:07 GMT"}, 7 * time.Second},
		{"a date past by the server's clock asks for nothing, although ours disagrees",
			[]string{"Date", "Wed, 04 Mar 2026 13:00:00 GMT", "Retry-After", "Wed, 04 Mar 2026 12:30:00 GMT"}, noWait},
		{"an unreadable Date leaves our clock to measure by",
			[]string{"Date", "yesterday", "Retry-After", "Wed, 04 Mar 2026 12:00:07 GMT"}, 7 * time.Second},
		{"Date does not touch a delay in seconds",
			[]string{"Date", "Wed, 04 Mar 2026 13:00:00 GMT", "Retry-After", "7"}, 7 * time.Second},

		{"of two lines the longer wins", []string{"Retry-After", "5", "Retry-After", "10"}, 10 * time.Second},
		{"of two lines the longer wins in either order", []string{"Retry-After", "10", "Retry-After", "5"}, 10 * time.Second},
		{"a delay and a date compare", []string{"Retry-After", "5", "Retry-After", "Wed, 04 Mar 2026 12:00:07 GMT"}, 7 * time.Second},
		{"an unreadable line does not hide the readable one", []string{"Retry-After", "soon", "Retry-After", "5"}, 5 * time.Second},
		{"a past date does not hide the delay", []string{"Retry-After", "5", "Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"}, 5 * time.Second},

		{"milliseconds are waited", []string{"retry-after-ms", "1500"}, 1500 * time.Millisecond},
		{"x-ms milliseconds are waited", []string{"x-ms-retry-after-ms", "250"}, 250 * time.Millisecond},
		{"milliseconds shorter than the seconds do not shorten them", []string{"retry-after-ms", "400", "Retry-After", "1"}, time.Second},
		{"milliseconds longer than the seconds win", []string{"retry-after-ms", "1400", "Retry-After", "1"}, 1400 * time.Millisecond},
		{"the longer of the two milliseconds forms wins", []string{"retry-after-ms", "400", "x-ms-retry-after-ms", "900"}, 900 * time.Millisecond},
		{"a fraction of a millisecond is ignored", []string{"retry-after-ms", "1.5"}, noWait},
		{"a date is no number of milliseconds", []string{"retry-after-ms", "Wed, 04 Mar 2026 12:00:07 GMT"}, noWait},
		{"milliseconds saturate too", []string{"x-ms-retry-after-ms", "9223372036855"}, maxDuration},
	}
	for _, tt := range rows {
		t.Run(tt.name, tt.check)
	}
}

func TestAnExhaustedQuotaIsLeftAloneUntilItsReset(t *testing.T) {
	rows := []askRow{
		{"an empty quota is waited for", []string{"RateLimit", `"default";r=0;t=7`}, 7 * time.Second},
		{"blanks after the semicolons are allowed", []string{"RateLimit", `"100-in-1min"; r=0; t=51`}, 51 * time.Second},
		{"a quota with something left asks for nothing", []string{"RateLimit", `"default";r=50;t=30`}, noWait},
		{"an empty quota without a time asks for nothing", []string{"RateLimit", `"default";r=0`}, noWait},
		{"a time without what remains asks for nothing", []string{"RateLimit", `"default";t=7`}, noWait},
		{"of several empty quotas the slowest counts", []string{"RateLimit", `"a";r=0;t=7, "b";r=0;t=60,"c";r=0;t=1`}, time.Minute},
		{"a slower quota that is not empty does not count", []string{"RateLimit", `"a";r=0;t=7, "day";r=3;t=86400`}, 7 * time.Second},
		{"lists over several lines are one list", []string{"RateLimit", `"a";r=0;t=7`, "RateLimit", `"b";r=0;t=9`}, 9 * time.Second},
		{"a partition key is passed over", []string{"RateLimit", `"a";r=0;pk=:cHsdsRa894==:;t=7`}, 7 * time.Second},
		{"other parameters are passed over", []string{"RateLimit", `"a";x="r=9;t=99, \"b\"";flag;d=1.5;k=a/b:c;r=0;t=7`}, 7 * time.Second},
		{"a policy named like a list is one policy", []string{"RateLimit", `"a\",\\;r=0;t=99, b";r=1;t=7`}, noWait},
		{"the last of two equal parameters counts", []string{"RateLimit", `"a";r=5;r=0;t=1;t=7`}, 7 * time.Second},
		{"a count of text is no count", []string{"RateLimit", `"a";r="0";t=7`}, noWait},
		{"a time of text is no time", []string{"RateLimit", `"a";r=0;t="7"`}, noWait},
		{"a fraction is no count", []string{"RateLimit", `"a";r=0;t=1.5`}, noWait},
		{"a negative time is no time", []string{"RateLimit", `"a";r=0;t=-7`}, noWait},
		{"a policy with a bad time does not hide its neighbour", []string{"RateLimit", `"a";r=0;t=1.5, "b";r=0;t=7`}, 7 * time.Second},
		{"a huge time saturates", []string{"RateLimit", `"a";r=0;t=18446744074`}, maxDuration},
		{"a time of 400 digits saturates", []string{"RateLimit", `"a";r=0;t=` + strings.Repeat("9", 400)}, maxDuration},

		{"an empty field is ignored", []string{"RateLimit", ""}, noWait},
		{"a policy without quotes is malformed", []string{"RateLimit", `a;r=0;t=7`}, noWait},
		{"an open quote is malformed", []string{"RateLimit", `"a;r=0;t=7`}, noWait},
		{"a bad escape is malformed", []string{"RateLimit", `"a\n";r=0;t=7`}, noWait},
		{"an escape at the end is malformed", []string{"RateLimit", `"a\`}, noWait},
		{"a character beyond ASCII is malformed", []string{"RateLimit", `"ä";r=0;t=7`}, noWait},
		{"a trailing comma is malformed", []string{"RateLimit", `"a";r=0;t=7,`}, noWait},
		{"a missing comma is malformed", []string{"RateLimit", `"a";r=0;t=7 "b";r=0;t=8`}, noWait},
		{"another character for the comma is malformed", []string{"RateLimit", `"a";r=0;t=7 /"b";r=0;t=8`}, noWait},
		{"a missing value is malformed", []string{"RateLimit", `"a";r=0;t=7;x=`}, noWait},
		{"a missing name is malformed", []string{"RateLimit", `"a";r=0;t=7;`}, noWait},
		{"an upper-case name is malformed", []string{"RateLimit", `"a";r=0;t=7;X=1`}, noWait},
		{"one malformed member spoils the list", []string{"RateLimit", `"a";r=0;t=7, b`}, noWait},

		{"an older empty quota is waited for", []string{"RateLimit-Remaining", "0", "RateLimit-Reset", "7"}, 7 * time.Second},
		{"the X- form is waited for", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "7"}, 7 * time.Second},
		{"a reset is ignored while something remains", []string{"X-RateLimit-Remaining", "3", "X-RateLimit-Reset", "7"}, noWait},
		{"a reset alone is ignored", []string{"X-RateLimit-Reset", "7", "RateLimit-Reset", "7"}, noWait},
		{"an unreadable remainder is not zero", []string{"X-RateLimit-Remaining", "none", "X-RateLimit-Reset", "7"}, noWait},
		{"the two families are not mixed", []string{"X-RateLimit-Remaining", "0", "RateLimit-Reset", "7"}, noWait},
		{"an empty quota without a reset asks for nothing", []string{"X-RateLimit-Remaining", "0"}, noWait},
		{"one empty quota of two is enough", []string{"X-RateLimit-Remaining", "5", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "7", "X-RateLimit-Reset", "9"}, 9 * time.Second},
		{"the later of the families' resets wins",
			[]string{"RateLimit-Remaining", "0", "RateLimit-Reset", "7", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9", "RateLimit", `"a";r=0;t=8`}, 9 * time.Second},

		{"a reset of 1e9 is still seconds", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1000000000"}, 1e9 * time.Second},
		{"a reset in epoch seconds is a moment", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", epoch(noon.Add(7 * time.Second).Unix())}, 7 * time.Second},
		{"so it is under the name without X", []string{"RateLimit-Remaining", "0", "RateLimit-Reset", epoch(noon.Add(7 * time.Second).Unix())}, 7 * time.Second},
		{"a reset in epoch milliseconds is a moment", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", epoch(noon.Add(1500 * time.Millisecond).UnixMilli())}, 1500 * time.Millisecond},
		{"a reset may be a date", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "Wed, 04 Mar 2026 12:00:07 GMT"}, 7 * time.Second},
		{"a past moment asks for nothing", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", epoch(noon.Add(-time.Second).Unix())}, noWait},
		{"a moment is measured by the server's clock",
			[]string{"Date", "Wed, 04 Mar 2026 13:00:00 GMT", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", epoch(noon.Add(time.Hour + 7*time.Second).Unix())}, 7 * time.Second},
		{"a moment beyond all time saturates", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", strings.Repeat("9", 400)}, maxDuration},
		{"a fraction of a reset is ignored", []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1.5"}, noWait},

		{"Retry-After takes precedence, shorter as it may be", []string{"RateLimit", `"a";r=0;t=60`, "Retry-After", "5"}, 5 * time.Second},
		{"so does its form in milliseconds", []string{"RateLimit", `"a";r=0;t=60`, "retry-after-ms", "5"}, 5 * time.Millisecond},
		{"an unreadable Retry-After does not hide the quota", []string{"RateLimit", `"a";r=0;t=60`, "Retry-After", "soon"}, time.Minute},
		{"nor does one that has passed", []string{"RateLimit", `"a";r=0;t=60`, "Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"}, time.Minute},
	}
	for _, tt := range rows {
		t.Run(tt.name, tt.check)
	}
}

// time.Parse shows a date in GMT by the program's own zone where that knows GMT,
// as London's summer does under another name.
func TestADateIsReadAlikeWhereverTheClientRuns(t *testing.T) {
	const london = "Europe/London"
	if os.Getenv("TZ") != london { // in a process of its own: to set time.Local here would race with all that runs
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		again.Env = append(os.Environ(), "TZ="+london)
		out, err := again.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	zone, _ := time.Date(2026, time.July, 4, 12, 0, 0, 0, time.Local).Zone()
	require.Equal(t, "BST", zone)

	for _, date := range []string{
		"Sat, 04 Jul 2026 12:00:07 GMT", "Saturday, 04-Jul-26 12:00:07 GMT", "Sat Jul  4 12:00:07 2026",
	} {
		d, ok := retryAfter(headerOf("Retry-After", date), time.Date(2026, time.July, 4, 12, 0, 0, 0, time.UTC))
		require.True(t, ok, date)
		require.Equal(t, 7*time.Second, d, date)
	}
	_, ok := retryAfter(headerOf("Retry-After", "Saturday, 04-Jul-26 13:00:07 BST"), noon)
	require.False(t, ok, "BST is not GMT")
}

func epoch(n int64) string { return strconv.FormatInt(n, 10) }

func TestAnAnswerThatAsksForNothingCostsNothing(t *testing.T) {
	h := headerOf("Content-Type", "text/plain", "Date", "Wed, 04 Mar 2026 12:00:00 GMT")
	require.Zero(t, testing.AllocsPerRun(100, func() { retryAfter(h, noon) }))
	require.Zero(t, testing.AllocsPerRun(100, func() { retryAfter(nil, noon) }))
}

// waitAsked is a number of units without the parser's arithmetic: what a caller may
// never be let back before. ok is false for anything but digits.
func waitAsked(digits string, unit time.Duration) (d time.Duration, ok bool) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, _ := new(big.Int).SetString(digits, 10)
	n.Mul(n, big.NewInt(int64(unit)))
	if !n.IsInt64() {
		return maxDuration, true
	}
	return time.Duration(n.Int64()), true
}

// requireSaneWait fails on what no answer may lead to.
func requireSaneWait(t *testing.T, d time.Duration, ok bool) {
	require.GreaterOrEqual(t, d, time.Duration(0))
	if !ok {
		require.Zero(t, d, "a wait nobody asked for")
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{
		"-5", "0", "1.5", "7", "9223372036", "9223372037", "18446744074", "18446744073709551616", "18446744073709551616x",
		strings.Repeat("9", 400), "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT",
		"Wednesday, 04-Mar-26 12:00:07 GMT", "Wed Mar  4 12:00:07 2026", "Wednesday, 04-Mar-26 12:00:07 GMT-8",
	} {
		f.Add(v, "")
		f.Add(v, "Wed, 04 Mar 2026 13:00:00 GMT")
		f.Add("5", v)
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		h := headerOf("Retry-After", value, "Date", date)
		d, ok := retryAfter(h, noon)
		requireSaneWait(t, d, ok)

		trimmed := strings.Trim(value, " \t\r\n")
		if want, digits := waitAsked(trimmed, time.Second); digits {
			require.True(t, ok)
			require.Equal(t, want, d)
		} else if ok {
			_, err := http.ParseTime(trimmed)
			require.NoError(t, err, "neither digits nor a date")
		}

		ms, msOK := retryAfter(headerOf("Retry-After-Ms", value), noon)
		requireSaneWait(t, ms, msOK)
		want, digits := waitAsked(trimmed, time.Millisecond)
		require.Equal(t, digits, msOK)
		require.Equal(t, want, ms)

		h.Add("Retry-After", "9")
		both, ok := retryAfter(h, noon)
		require.True(t, ok)
		require.Equal(t, max(d, 9*time.Second), both, "another line may only lengthen the wait")
	})
}

func FuzzRateLimit(f *testing.F) {
	for _, v := range []string{
		`"default";r=0;t=7`, `"a";r=0;t=7, "b";r=1;t=60`, `"a\"";r=0;pk=:cHs=:;t=7`, `"a`, `"a";r=0;t=`, `a;r=0;t=7`,
		"0", "0 0", "7", "1.5", "1772625607", "1772625607000", "18446744074", "18446744073709551616x", strings.Repeat("9", 400),
		"Wed, 04 Mar 2026 12:00:07 GMT",
	} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		d, ok := retryAfter(headerOf("RateLimit", value), noon)
		requireSaneWait(t, d, ok)
		more, ok2 := retryAfter(headerOf("RateLimit", value, "RateLimit", `"x";r=0;t=9`), noon)
		if ok {
			require.True(t, ok2)
			require.Equal(t, max(d, 9*time.Second), more, "another policy may only lengthen the wait")
		}

		d, ok = retryAfter(headerOf("RateLimit", `"x";r=0;t=`+value), noon)
		requireSaneWait(t, d, ok)
		if want, digits := waitAsked(value, time.Second); digits {
			require.True(t, ok)
			require.Equal(t, want, d)
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)
		if d, ok = retryAfter(headerOf("RateLimit", `"`+quoted+`";r=0;t=7`), noon); ok {
			require.Equal(t, 7*time.Second, d, "a policy's name changed its time")
		}

		for _, family := range []string{"RateLimit-", "X-RateLimit-"} {
			d, ok = retryAfter(headerOf(family+"Remaining", "0", family+"Reset", value), noon)
			requireSaneWait(t, d, ok)
			if want, digits := waitAsked(strings.Trim(value, " \t\r\n"), time.Second); digits && want <= 1e9*time.Second {
				require.True(t, ok)
				require.Equal(t, want, d)
			}
			d, ok = retryAfter(headerOf(family+"Remaining", value, family+"Reset", "7"), noon)
			requireSaneWait(t, d, ok)
			left, digits := waitAsked(strings.Trim(value, " \t\r\n"), 1)
			require.Equal(t, digits && left == 0, ok, "only zero is exhausted")
		}
	})
}

// What every refusal costs before its wait is known: nothing, if it names none.
func BenchmarkRetryAfter(b *testing.B) {
	rows := []struct {
		name string
		h    http.Header
	}{
		{"empty", http.Header{}},
		{"seconds", headerOf("Retry-After", "120")},
		{"date", headerOf("Retry-After", "Wed, 04 Mar 2026 12:00:07 GMT", "Date", "Wed, 04 Mar 2026 12:00:00 GMT")},
	}
	for _, row := range rows {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				retryAfter(row.h, noon)
			}
		})
	}
}

func BenchmarkRateLimit(b *testing.B) {
	rows := []struct {
		name string
		h    http.Header
	}{
		{"empty", http.Header{}},
		{"two policies", headerOf("RateLimit", `"burst";r=0;t=7, "daily";r=12;t=8000`)},
		{"older", headerOf("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1772625607")},
	}
	for _, row := range rows {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rateLimit(row.h, noon)
			}
		})
	}
}
