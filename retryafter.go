package resilient

import (
	"math"
	"net/http"
	"net/textproto"
	"strings"
	"time"
)

// maxDuration is what a wait too long for a [time.Duration] saturates at. One
// that overflowed would come out short, or negative, and send a burst to the
// very server that asked for rest.
const maxDuration = time.Duration(math.MaxInt64)

// retryAfter is how long the answer asks to be left alone; ok says whether it
// asks at all. The wait is never negative, never shorter than asked, and
// saturates at maxDuration. Where several fields or lines ask, the longest wins.
//
// Retry-After and its forms in milliseconds come first, the RateLimit fields
// only where none of them asks (draft-ietf-httpapi-ratelimit-headers gives
// Retry-After precedence). A value that cannot be read asks for nothing, nor
// does a moment that has passed: the schedule decides then, since taking either
// for "at once" would turn a wrong clock into a burst.
func retryAfter(h http.Header, now time.Time) (d time.Duration, ok bool) {
	var l longestWait
	for _, v := range h["Retry-After"] {
		l.add(parseDelayOrDate(v, h, now))
	}
	for _, v := range h["Retry-After-Ms"] {
		l.add(parseDelay(v, time.Millisecond))
	}
	for _, v := range h["X-Ms-Retry-After-Ms"] {
		l.add(parseDelay(v, time.Millisecond))
	}
	if l.ok {
		return l.wait, true
	}
	return rateLimit(h, now)
}

// longestWait keeps the longest of the waits asked for.
type longestWait struct {
	wait time.Duration
	ok   bool
}

func (l *longestWait) add(d time.Duration, ok bool) {
	if ok {
		l.wait, l.ok = max(l.wait, d), true
	}
}

// parseDelayOrDate reads a Retry-After value (RFC 9110, section 10.2.3). Digits
// are a delay and are never tried as a date.
func parseDelayOrDate(v string, h http.Header, now time.Time) (time.Duration, bool) {
	if d, ok := parseDelay(v, time.Second); ok {
		return d, true
	}
	at, ok := httpDate(v)
	if !ok {
		return 0, false
	}
	return untilMoment(at, h, now)
}

// parseDelay reads a number of units: digits alone, as the RFC has it, so a sign
// or a fraction makes the value unreadable.
func parseDelay(v string, unit time.Duration) (time.Duration, bool) {
	n, ok := parseDigits(v)
	if n > int64(maxDuration/unit) {
		return maxDuration, ok
	}
	return time.Duration(n) * unit, ok
}

// parseDigits reads 1*DIGIT, saturating. It reads to the end even then, because
// strconv calls "18446744073709551616x" too large before it sees the x.
func parseDigits(v string) (n int64, ok bool) {
	v = textproto.TrimString(v)
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return 0, false
		}
		digit := int64(v[i] - '0')
		if n > (math.MaxInt64-digit)/10 {
			n = math.MaxInt64
		} else {
			n = n*10 + digit
		}
	}
	return n, v != ""
}

// httpDate reads the three forms of a date (RFC 9110, section 5.6.7). All are in
// GMT, and asctime, the one without a comma, does not say so. time.Parse would
// take another zone for GMT if it does not know it, which may be hours too early.
func httpDate(v string) (time.Time, bool) {
	v = textproto.TrimString(v)
	if !strings.HasSuffix(v, " GMT") && strings.Contains(v, ",") {
		return time.Time{}, false
	}
	at, err := http.ParseTime(v)
	return at, err == nil
}

// untilMoment is the time from the answer's own Date to at: the server's clock
// is measured against itself, so it may be wrong. Without a readable Date it is
// the time from now. Time.Sub saturates.
func untilMoment(at time.Time, h http.Header, now time.Time) (time.Duration, bool) {
	if date := h["Date"]; len(date) > 0 {
		if t, ok := httpDate(date[0]); ok {
			now = t
		}
	}
	d := at.Sub(now)
	return max(d, 0), d >= 0
}

// rateLimit is how long until the quota that ran out is filled again, from the
// draft's RateLimit field and the two older families that are still in use.
func rateLimit(h http.Header, now time.Time) (time.Duration, bool) {
	var l longestWait
	if v := h["Ratelimit"]; len(v) > 0 {
		l.add(exhaustedFor(strings.Join(v, ",")))
	}
	addResets(&l, h["Ratelimit-Remaining"], h["Ratelimit-Reset"], h, now)
	addResets(&l, h["X-Ratelimit-Remaining"], h["X-Ratelimit-Reset"], h, now)
	return l.wait, l.ok
}

// addResets adds the resets of one older family if it says that nothing remains.
// A reset alone asks for nothing: many servers put one on every answer, and on a
// 503 that has nothing to do with quotas it would park the caller until the
// window's end.
func addResets(l *longestWait, remaining, reset []string, h http.Header, now time.Time) {
	for _, r := range remaining {
		if n, ok := parseDigits(r); !ok || n > 0 {
			continue
		}
		for _, v := range reset {
			l.add(parseReset(v, h, now))
		}
		return
	}
}

// parseReset reads a reset, which no standard ever fixed: seconds from now, a
// moment in seconds or milliseconds since 1970, or a date. The size tells them
// apart, under both families' names (GitLab puts a moment in RateLimit-Reset):
// 1e9 seconds from now would be 31 years.
func parseReset(v string, h http.Header, now time.Time) (time.Duration, bool) {
	switch n, ok := parseDigits(v); {
	case ok && n > 1e12:
		return untilMoment(time.UnixMilli(n), h, now)
	case ok && n > 1e9:
		return untilMoment(time.Unix(n, 0), h, now)
	default:
		return parseDelayOrDate(v, h, now)
	}
}

// exhaustedFor reads the draft's field, a list of policies such as
// `"burst";r=0;t=7, "daily";r=12`, and is the longest t of those with r=0. A
// malformed list is ignored as a whole (RFC 9651, section 4.2), a policy whose
// r or t is no count for itself.
func exhaustedFor(field string) (time.Duration, bool) {
	var l longestWait
	s := strings.Trim(field, " ")
	for {
		r, t, rest, ok := cutPolicy(s)
		if !ok {
			return 0, false
		}
		if left, ok := parseDigits(r); ok && left == 0 {
			l.add(parseDelay(t, time.Second))
		}
		s = strings.TrimLeft(rest, " \t")
		if s == "" {
			return l.wait, l.ok
		}
		if s[0] != ',' {
			return 0, false
		}
		s = strings.TrimLeft(s[1:], " \t")
	}
}

// cutPolicy cuts one item off a structured list: a string and its parameters,
// of which r and t are wanted. The last of several by one name counts.
func cutPolicy(s string) (r, t, rest string, ok bool) {
	_, s, ok = cutString(s)
	for ok && strings.HasPrefix(s, ";") {
		var name, value string
		name, s = cutRun(strings.TrimLeft(s[1:], " "), isParamKey)
		value, s, ok = cutValue(s)
		switch name {
		case "":
			return "", "", "", false
		case "r":
			r = value
		case "t":
			t = value
		}
	}
	return r, t, s, ok
}

// cutValue cuts a parameter's value, without interpreting it. A parameter
// without one is a true boolean, which is no count: "" stands for it.
func cutValue(s string) (value, rest string, ok bool) {
	s, has := strings.CutPrefix(s, "=")
	if !has {
		return "", s, true
	}
	if strings.HasPrefix(s, `"`) {
		return cutString(s)
	}
	value, rest = cutRun(s, isParamValue)
	return value, rest, value != ""
}

// cutString cuts a quoted string, which it returns with its quotes so that no
// string passes for a number.
func cutString(s string) (quoted, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[:i+1], s[i+1:], true
		case c == '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", "", false
			}
		case c < ' ' || c > '~':
			return "", "", false
		}
	}
	return "", "", false
}

// cutRun cuts the longest prefix made of in's characters.
func cutRun(s string, in func(rune) bool) (run, rest string) {
	rest = strings.TrimLeftFunc(s, in)
	return s[:len(s)-len(rest)], rest
}

func isParamKey(c rune) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.ContainsRune("_-.*", c)
}

// isParamValue accepts what numbers, tokens, booleans, dates and byte sequences
// are made of.
func isParamValue(c rune) bool {
	return '!' <= c && c <= '~' && !strings.ContainsRune(`",;\()[]{}<>`, c)
}
