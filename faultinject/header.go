package faultinject

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// httpHeader is the header of f as it is sent now.
func (f Fault) httpHeader(now time.Time) http.Header {
	h := make(http.Header)
	for _, line := range f.lines() {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, expand(value, now))
	}
	return h
}

// interimHeader leaves out the fields that an interim answer must not have (RFC
// 9110, section 8.6; RFC 9112, section 6.1).
func (f Fault) interimHeader(now time.Time) http.Header {
	h := f.httpHeader(now)
	h.Del("Content-Length")
	h.Del("Transfer-Encoding")
	return h
}

// expand puts times in the place of the braces that can be read.
func expand(value string, now time.Time) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(value, "{")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		inner, after, closed := strings.Cut(rest, "}")
		text, ok := moment(inner, now)
		if closed && ok {
			out.WriteString(text)
			value = after
			continue
		}
		out.WriteByte('{')
		value = rest
	}
}

// moment reads "now+2s" and "unix-1m".
func moment(s string, now time.Time) (text string, ok bool) {
	s, date := strings.CutPrefix(s, "now")
	if !date {
		if s, ok = strings.CutPrefix(s, "unix"); !ok {
			return "", false
		}
	}
	if s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || s[0] != '+' && s[0] != '-' {
			return "", false
		}
		now = now.Add(d)
	}
	if date {
		return now.UTC().Format(http.TimeFormat), true
	}
	return strconv.FormatInt(now.Unix(), 10), true
}
