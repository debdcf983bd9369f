package debug

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-resilient/resilient"
)

//go:embed page.html
var page []byte

const (
	mostStreams = 16               // pages open at once
	heartbeat   = 15 * time.Second // or a page would not notice that nobody answers, nor we that it has left
	patience    = 5 * time.Second  // with a page that does not read
)

// Handler returns the page of t's hosts, without operations: see
// [Recorder.Handler] for both.
func Handler(t *resilient.Transport) http.Handler { return newHandler(t, nil) }

// Handler returns the page of t's hosts and of the operations that r records.
// It is to be mounted at any path that ends in a slash, such as
// /debug/resilient/, on a listener that only those can reach who may see it. A
// nil t shows operations alone. At most 16 pages are served at once.
func (r *Recorder) Handler(t *resilient.Transport) http.Handler { return newHandler(t, r) }

type handler struct {
	source  source
	policy  string
	streams atomic.Int64
}

func newHandler(t *resilient.Transport, r *Recorder) *handler {
	return &handler{source: source{transport: t, recorder: r}, policy: contentPolicy(page)}
}

// contentPolicy lets the page run the script and the style that are in it, by
// their hashes, connect to where it came from, and nothing else.
func contentPolicy(page []byte) string {
	hash := func(element string) string {
		_, rest, _ := strings.Cut(string(page), "<"+element+">")
		inside, _, _ := strings.Cut(rest, "</"+element+">")
		sum := sha256.Sum256([]byte(inside))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; connect-src 'self'; img-src data:; script-src " + hash("script") + "; style-src " + hash("style") +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
}

// ServeHTTP answers by the last element of the path, whatever stands before it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", h.policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "this page can only be looked at", http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:] {
	case "":
		header.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page) // a browser that has left is no concern of ours
	case "state.json":
		h.serveState(w, r)
	case "events":
		h.serveEvents(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (h *handler) serveState(w http.ResponseWriter, r *http.Request) {
	f := newFilter(r.URL.Query())
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(view{time.Now().UTC(), h.source.viewHosts(f), h.source.viewOperations(f, 0)})
}

// serveEvents sends what is new, at most every half second, until the viewer
// leaves or reads too slowly.
func (h *handler) serveEvents(w http.ResponseWriter, r *http.Request) {
	if h.streams.Add(1) > mostStreams {
		h.streams.Add(-1)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer h.streams.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // or nginx would hold events back
	if r.Method == http.MethodHead {
		return
	}
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	s := stream{h: h, filter: newFilter(r.URL.Query()), to: w, control: http.NewResponseController(w)}
	for s.update() == nil {
		select {
		case <-r.Context().Done():
			return
		case <-ticks.C:
		}
	}
}

// stream is one viewer and what he has seen.
type stream struct {
	h       *handler
	filter  filter
	to      http.ResponseWriter
	control *http.ResponseController

	hosts, counts string // as sent
	seen          uint64
	wrote         time.Time
}

// update sends what has changed, or now and then that nothing has.
func (s *stream) update() error {
	var (
		text = ": still here\n\n"
		now  = time.Now()
		v    = view{now.UTC(), s.h.source.viewHosts(s.filter), s.h.source.viewOperations(s.filter, s.seen)}
	)
	s.seen = max(s.seen, v.Operations.Troubled)
	hosts, counts := encode(v.Hosts), encode(v.Operations.Troubled)
	switch {
	case hosts != s.hosts || counts != s.counts:
		s.hosts, s.counts = hosts, counts
		text = "data: " + encode(v) + "\n\n"
	case now.Sub(s.wrote) < heartbeat:
		return nil
	}
	s.wrote = now
	_ = s.control.SetWriteDeadline(now.Add(patience)) // where it cannot be set, the server's own holds
	if _, err := s.to.Write([]byte(text)); err != nil {
		return err
	}
	if err := s.control.Flush(); err != nil {
		return err
	}
	_ = s.control.SetWriteDeadline(time.Time{}) // HTTP/2 would end the stream by it though nothing is being written
	return nil
}

// encode escapes <, > and & too, and has no line breaks.
func encode(v any) string {
	text, _ := json.Marshal(v) // strings, numbers and times: nothing that can fail
	return string(text)
}
