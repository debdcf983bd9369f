package resilient

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
)

// shortest is the length from which a header value is cut out of a text:
// shorter ones ("1", "gzip") would garble it and are no secrets.
const shortest = 6

// plainURL is u without user, query and fragment.
func plainURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	if u.Opaque != "" { // a target sent as it stands may hold anything
		return u.Scheme + "://" + u.Host
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

// hashKey names a key in logs: enough to match two lines, too little to use.
func hashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:4])
}

// conceal returns err with a text that is free of the request's query, user
// and header values. Most texts are and err comes back as it is.
func conceal(err error, req *http.Request) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if clean := redact(text, req); clean != text {
		return &concealed{clean, err}
	}
	return err
}

type concealed struct {
	text string
	err  error
}

func (c *concealed) Error() string { return c.text }
func (c *concealed) Unwrap() error { return c.err }

func redact(text string, req *http.Request) string {
	for _, secret := range secrets(req) {
		if strings.Contains(text, secret) {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	return redactPeer(redactURLs(text))
}

// secrets are the strings of req that must appear in no text.
func secrets(req *http.Request) []string {
	var all []string
	add := func(s string, least int) {
		if len(s) >= least {
			all = append(all, s)
		}
	}
	if u := req.URL; u != nil {
		add(u.RawQuery, 1)
		for _, values := range u.Query() {
			for _, v := range values {
				add(v, shortest)
				add(url.QueryEscape(v), shortest) // another spelling than RawQuery's
			}
		}
		if u.User != nil {
			add(u.User.String(), 1)
			password, _ := u.User.Password()
			add(password, shortest)
		}
	}
	for _, values := range req.Header {
		for _, v := range values {
			add(v, shortest)
			_, credentials, _ := strings.Cut(v, " ") // of an authentication scheme
			add(credentials, shortest)
			add(strings.Trim(v, `"`), shortest) // %q escapes the quotes
		}
	}
	return all
}

// redactURLs cuts user, query and fragment out of every URL in text: an error
// of a Base's own requests (a token fetch) names other URLs than ours.
func redactURLs(text string) string {
	var out strings.Builder
	for {
		i := strings.Index(text, "://")
		if i < 0 {
			out.WriteString(text)
			return out.String()
		}
		out.WriteString(text[:i+3])
		text = text[i+3:]
		end := strings.IndexAny(text, " \t\n\"'<>")
		if end < 0 {
			end = len(text)
		}
		rest := text[:end]
		if q := strings.IndexAny(rest, "?#"); q >= 0 {
			tail := "…"
			if strings.HasSuffix(rest, ":") { // "Get http://x/?q: EOF"
				tail += ":"
			}
			rest = rest[:q] + tail
		}
		if at := strings.LastIndexByte(rest[:hostEnd(rest)], '@'); at >= 0 {
			rest = "…" + rest[at:]
		}
		out.WriteString(rest)
		text = text[end:]
	}
}

func hostEnd(s string) int {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return i
	}
	return len(s)
}

// redactPeer cuts out what net/http quotes of a malformed response head: it may
// be part of a header value.
func redactPeer(text string) string {
	i := strings.Index(text, "malformed ")
	if i < 0 {
		return text
	}
	if q := strings.IndexByte(text[i:], '"'); q >= 0 {
		return text[:i+q] + "…"
	}
	return text
}
