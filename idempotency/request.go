package idempotency

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	maxKeyLength = 255
	inMemory     = 1 << 20 // of a request's body; the rest goes to a file
	// maxSkew is how far a caller's clock may be ahead of ours.
	maxSkew = 5 * time.Minute
)

// parseKey reads the key from the lines of its field. Deployed clients send it
// bare; the Internet-Draft (draft-ietf-httpapi-idempotency-key-header, section
// 2.1) wants a string in quotes (RFC 9651, section 3.3.3). Both name one key.
func parseKey(lines []string) (string, error) {
	if len(lines) > 1 {
		return "", fmt.Errorf("there are %d of them", len(lines))
	}
	text := strings.Trim(lines[0], " \t")
	key := text
	if strings.HasPrefix(text, `"`) {
		var err error
		if key, err = unquote(text); err != nil {
			return "", err
		}
	}
	switch {
	case key == "":
		return "", errors.New("it is empty")
	case len(key) > maxKeyLength:
		return "", fmt.Errorf("it has %d bytes: at most %d", len(key), maxKeyLength)
	}
	for i := range len(key) {
		if c := key[i]; c < ' ' || c > '~' {
			return "", fmt.Errorf("byte %d is %#02x: printable ASCII only", i, c)
		}
	}
	return key, nil
}

// unquote: RFC 9651, section 4.2.5. Parameters are for whoever knows them; the
// draft defines none, and one ignored could be one that mattered.
func unquote(text string) (string, error) {
	var key strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; c {
		case '\\':
			i++
			if i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", errors.New(`only \" and \\ are escapes in a quoted key`)
			}
			key.WriteByte(text[i])
		case '"':
			if i != len(text)-1 {
				return "", errors.New("something follows the quoted key")
			}
			return key.String(), nil
		default:
			key.WriteByte(c)
		}
	}
	return "", errors.New("the closing quote is missing")
}

// ageOf returns how long ago the request says that its key was first sent (OASIS
// Repeatable Requests 1.0), 0 if it does not say.
func ageOf(h http.Header, now func() time.Time) (time.Duration, error) {
	lines := h["Repeatability-First-Sent"]
	if len(lines) == 0 {
		return 0, nil
	}
	if len(lines) > 1 {
		return 0, fmt.Errorf("there are %d of them", len(lines))
	}
	sent, err := http.ParseTime(lines[0])
	if err != nil {
		return 0, errors.New("it is not an HTTP date (RFC 9110, section 5.6.7)")
	}
	// A clock that is ahead would make the key look younger than it is.
	if age := now().Sub(sent); age >= -maxSkew {
		return max(age, 0), nil
	}
	return 0, errors.New("it is in the future")
}

// errNoRoom is what spool returns for a body that there is no room for.
var errNoRoom = errors.New("idempotency: no room for a request's body")

// body is a request's body, read to its end.
type body struct {
	bytes.Reader          // what fits in memory
	data         []byte   // the same
	file         *os.File // all of it, where it does not fit
	sum          [sha256.Size]byte
	src          io.LimitedReader // where it comes from
	small        [208]byte        // for data
}

// spool reads all of a request's body: it can be hashed only then, and a body
// that ends early must not have done half of something. One above the limit is an
// *http.MaxBytesError, as it is above a limit of the server's.
func (b *body) spool(req *http.Request, limit int64) error {
	if req.Body == nil || req.Body == http.NoBody {
		b.sum = sha256.Sum256(nil)
		return nil
	}
	if req.ContentLength > limit {
		return &http.MaxBytesError{Limit: limit}
	}
	b.src = io.LimitedReader{R: req.Body, N: limit + 1}
	start, err := b.readStart(req.ContentLength)
	switch {
	case err != nil:
		return err
	case len(start) >= inMemory:
		return b.toFile(start, &b.src, limit)
	case int64(len(start)) > limit:
		return &http.MaxBytesError{Limit: limit}
	}
	b.data, b.sum = start, sha256.Sum256(start)
	return nil
}

// readStart reads what is kept in memory: less than inMemory bytes if that is all.
func (b *body) readStart(length int64) ([]byte, error) {
	if length < 0 || length >= inMemory {
		return io.ReadAll(io.LimitReader(&b.src, inMemory))
	}
	start := b.small[:]
	if length >= int64(len(start)) {
		start = make([]byte, length+1)
	}
	n, err := io.ReadFull(&b.src, start[:length+1]) // one more, to see the end
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		err = nil
	}
	if err == nil && int64(n) < length {
		err = io.ErrUnexpectedEOF
	}
	return start[:n], err
}

// toFile keeps the body in a file that has no name any more, where the system
// allows that.
func (b *body) toFile(start []byte, rest io.Reader, limit int64) (err error) {
	if b.file, err = os.CreateTemp("", "idempotency-*"); err != nil {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	_ = os.Remove(b.file.Name())
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(spoolFile{b.file}, h), io.MultiReader(bytes.NewReader(start), rest))
	if err == nil && n > limit {
		err = &http.MaxBytesError{Limit: limit}
	}
	h.Sum(b.sum[:0])
	return err
}

// spoolFile marks its errors: they are not the caller's.
type spoolFile struct{ *os.File }

func (f spoolFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return n, err
}

// rewind goes back to the beginning.
func (b *body) rewind() {
	b.Reset(b.data)
	if b.file != nil {
		_, _ = b.file.Seek(0, io.SeekStart)
	}
}

// Read is for the handler.
func (b *body) Read(p []byte) (int, error) {
	if b.file != nil {
		return b.file.Read(p)
	}
	return b.Reader.Read(p)
}

// Close is the handler's, and changes nothing: net/http lets it read no more,
// and what it has not read is gone with the request.
func (b *body) Close() error { return nil }

// close is ours.
func (b *body) close() {
	if b.file != nil {
		_ = b.file.Close()
		_ = os.Remove(b.file.Name()) // on systems that keep the name of an open file
	}
}

// fingerprint is of what a key is used for: method, target, content type and the
// bytes of the body. The target is as the client sent it, since a router in front
// may have cut it. The version comes first, so that a change of this list is one
// that can be seen.
func fingerprint(req *http.Request, body [sha256.Size]byte) Fingerprint {
	target := req.RequestURI
	if target == "" { // the request did not come by net/http
		target = req.URL.RequestURI()
	}
	b := append(make([]byte, 0, 256), 1)
	for _, part := range [...]string{req.Method, target, req.Header.Get("Content-Type")} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return sha256.Sum256(append(b, body[:]...))
}
