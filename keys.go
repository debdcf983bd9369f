package resilient

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-resilient/resilient/internal/httptoken"
	"github.com/google/uuid"
)

const (
	defaultKeyHeader = "Idempotency-Key"
	otherKeyHeader   = "X-Idempotency-Key" // net/http knows both
	firstSentHeader  = "Repeatability-First-Sent"
	defaultKeyTTL    = 5 * time.Minute
	maxKeyLength     = 255
)

// KeyConfig says how idempotency keys are made and sent. The zero KeyConfig
// suits the deployed APIs.
type KeyConfig struct {
	// Header carries the key. Empty means Idempotency-Key.
	Header string
	// Quoted sends minted keys as the Internet-Draft wants them, as an RFC 8941
	// string in double quotes. False means bare, as deployed APIs take them.
	Quoted bool
	// New makes a key. Nil means a random UUID (version 4). It must return 1 to
	// 255 printable ASCII characters and is called by many goroutines.
	New func() string
	// TTL is how long a server is trusted to remember a key: no attempt starts
	// later than this after the key was first sent. Zero means 5 minutes, the
	// shortest that real servers keep them.
	TTL time.Duration
	// SendFirstSent adds the time of the first sending as
	// Repeatability-First-Sent (OASIS Repeatable Requests 1.0), the same on
	// every attempt.
	SendFirstSent bool

	names []string // under which a caller's key may stand in a header map
}

func (c *KeyConfig) complete() error {
	switch {
	case c.Header == "":
		c.Header = defaultKeyHeader
	case !httptoken.Valid(c.Header):
		return fmt.Errorf("resilient: Config.Keys.Header: %q is not a header name", c.Header)
	}
	c.Header = http.CanonicalHeaderKey(c.Header)
	switch c.Header {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
		return fmt.Errorf("resilient: Config.Keys.Header: %s is not sent from the header map", c.Header)
	}
	c.names = nil
	for _, name := range [...]string{c.Header, defaultKeyHeader, otherKeyHeader} {
		if !slices.Contains(c.names, name) {
			c.names = append(c.names, name, strings.ToLower(name))
		}
	}
	if c.TTL < 0 {
		return fmt.Errorf("resilient: Config.Keys.TTL: %v is negative", c.TTL)
	}
	if c.TTL == 0 {
		c.TTL = defaultKeyTTL
	}
	return nil
}

// mint makes a key as it will stand on the wire.
func (c *KeyConfig) mint() (string, error) {
	if c.New == nil {
		return c.format(randomKey()), nil
	}
	key := c.New()
	if key == "" {
		return "", errors.New("resilient: Config.Keys.New returned an empty key")
	}
	key = c.format(key)
	if err := checkKey(key); err != nil {
		return "", fmt.Errorf("resilient: Config.Keys.New: %w", err)
	}
	if i := strings.IndexFunc(key, func(r rune) bool { return r > '~' }); i >= 0 {
		return "", fmt.Errorf("resilient: Config.Keys.New: idempotency key is not ASCII at byte %d", i)
	}
	return key, nil
}

// format is the key as it stands on the wire: bare, or by RFC 8941, section 4.1.6.
func (c *KeyConfig) format(key string) string {
	if !c.Quoted {
		return key
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

// randomKey is a UUID of version 4 (RFC 9562, section 5.4): it tells neither
// when nor where it was made. uuid.NewRandom would be the same with an error
// that crypto/rand no longer has, and an allocation.
func randomKey() string {
	var id uuid.UUID
	_, _ = rand.Read(id[:]) // never fails
	return stamp(id, 4).String()
}

// stamp makes id a UUID of that version.
func stamp(id uuid.UUID, version byte) uuid.UUID {
	id[6] = id[6]&0x0f | version<<4
	id[8] = id[8]&0x3f | 0x80 // the variant of RFC 9562
	return id
}

// checkKey refuses what no server can take and what could split a header.
func checkKey(key string) error {
	if len(key) > maxKeyLength {
		return fmt.Errorf("idempotency key of %d bytes: at most %d", len(key), maxKeyLength)
	}
	return checkCharacters(key)
}

func checkCharacters(key string) error {
	for i := range len(key) {
		if c := key[i]; c < ' ' || c == 0x7f {
			return fmt.Errorf("idempotency key has control character %#02x at byte %d", c, i)
		}
	}
	return nil
}

// keySource says whose word a key is.
type keySource uint8

const (
	noKey     keySource = iota
	mintedKey           // ours: counts where the server is declared to honour keys
	wishedKey           // the caller's, by WithKey
	headerKey           // the caller's, in the header map
)

// opKey is the idempotency key of one operation, as it stands on the wire.
type opKey struct {
	value     string
	source    keySource
	firstSent time.Time
	resumed   bool // it was sent before this operation, and the server may have acted
}

// resume takes over since when an earlier operation, or process, has sent it.
func (k *opKey) resume(firstSent time.Time) {
	k.firstSent, k.resumed = firstSent, !firstSent.IsZero()
}

// callers reports whether the key is the caller's own word.
func (k opKey) callers() bool { return k.source == wishedKey || k.source == headerKey }

// added reports whether the key is ours to put into the header map.
func (k opKey) added() bool { return k.source == mintedKey || k.source == wishedKey }

// date notes that the key is sent now, unless it was before.
func (k *opKey) date(now time.Time) bool {
	if k.value == "" || !k.firstSent.IsZero() {
		return false
	}
	k.firstSent = now
	return true
}

// expired reports whether by then the server may have forgotten the key that
// makes the repeat harmless. The longer of two clocks counts: the one that only
// runs may stand still while the machine sleeps, the one on the wall may be set back.
func (k *opKey) expired(then time.Time, ttl time.Duration) bool {
	age := max(then.Sub(k.firstSent), then.Round(0).Sub(k.firstSent.Round(0)))
	return !k.firstSent.IsZero() && age > ttl
}

// callerKey finds a key that stands in the header map. A present entry without
// a value is the caller's word too, and sends nothing: net/http documents it
// for [http.Transport]. A long one went through before us, so its length is the
// server's to judge.
func (c *KeyConfig) callerKey(h http.Header) (key opKey, err error) {
	for _, name := range c.names {
		values, ok := h[name]
		if !ok {
			continue
		}
		key.source = headerKey
		for _, v := range values {
			if err := checkCharacters(v); err != nil {
				return key, fmt.Errorf("resilient: %s: %w", name, err)
			}
		}
		if len(values) > 0 {
			key.value = values[0]
		}
		return key, nil
	}
	return key, nil
}

// mintsFor reports whether a request of this method gets a key of ours.
func mintsFor(method string) bool { return method == http.MethodPost || method == http.MethodPatch }

// isSafe: RFC 9110, section 9.2.1.
func isSafe(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// isIdempotent: RFC 9110, section 9.2.2. What is not registered there is not.
func isIdempotent(method string) bool {
	return isSafe(method) || method == http.MethodPut || method == http.MethodDelete
}

// Hosts declares servers that honour idempotency keys, for Config.HonorsKeys.
// Each is a host, with a port if it is not 443, and means https alone:
// "api.example.com", "api.example.com:8443". A server reached over http must be
// written out: "http://127.0.0.1:8080". What is neither matches nothing.
func Hosts(servers ...string) func(*http.Request) bool {
	origins := make(map[hostKey]bool, len(servers))
	for _, s := range servers {
		if !strings.Contains(s, "://") {
			s = "https://" + s
		}
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			origins[hostKeyOf(u)] = true
		}
	}
	return func(req *http.Request) bool { return origins[hostKeyOf(req.URL)] }
}

// serverName names u's server as Hosts takes it.
func serverName(u *url.URL) string {
	if u.Scheme == "https" {
		return u.Host
	}
	return u.Scheme + "://" + u.Host
}

// AnyHost declares, for Config.HonorsKeys, that every server the client talks
// to honours idempotency keys.
func AnyHost(*http.Request) bool { return true }

// DeriveKey makes the key of one step of an operation from the operation's own:
// the same for the same key and step, different for any other. A service so
// carries its caller's operation on to the services behind it. The key is a
// UUID of version 8 over SHA-256 (RFC 9562, sections 5.5 and 5.8).
func DeriveKey(key, step string) string {
	h := sha256.New()
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(key)))
	h.Write(length[:])
	h.Write([]byte(key))
	h.Write([]byte(step))
	return stamp(uuid.UUID(h.Sum(nil)[:16]), 8).String()
}
