package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-resilient/resilient/faultinject"
)

// recent is how many exchanges are remembered.
const recent = 1000

// shown is what may be seen of an exchange: no body, no header, no query.
type shown struct {
	Seq    int    `json:"seq"`
	Time   string `json:"time"`
	Op     string `json:"op"`
	Nth    int    `json:"nth"`
	Conn   int    `json:"conn,omitempty"`
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"`
	Fault  string `json:"fault"`
	Reach  string `json:"reach"`
	Runs   int    `json:"runs"`
	Status int    `json:"status,omitempty"`
	Bytes  int    `json:"bytes"`
}

func show(d faultinject.Delivery) shown {
	return shown{
		Seq: d.Seq, Time: d.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"),
		Op: d.Op, Nth: d.Nth, Conn: d.Conn, Method: d.Method, Host: d.Host, Path: d.Path,
		Fault: d.Fault.String(), Reach: d.Reach().String(), Runs: d.Runs, Status: d.Status, Bytes: d.Length,
	}
}

func (a *admin) serveTraffic(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		a.streamTraffic(w, r)
		return
	}
	all := []shown{}
	for _, d := range a.proxy.Deliveries() {
		all = append(all, show(d))
	}
	answer(w, http.StatusOK, map[string]any{"proxy": a.proxy.URL, "upstream": a.upstream, "deliveries": all})
}

// streamTraffic sends each exchange when it arrives, and again whenever its
// record has changed, and the list of armed faults in the same manner.
func (a *admin) streamTraffic(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	known, armed := make(map[int]shown), ""
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	for n := 0; ; n++ {
		text := a.news(known)
		if now := event("armed", a.board.list()); now != armed {
			text, armed = text+now, now
		}
		if text == "" && n%50 == 0 {
			text = ": still here\n\n" // else nobody would notice that the browser has left
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return
		}
		if text != "" && http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticks.C:
		}
	}
}

// news is the events for what is not known yet, which it then is.
func (a *admin) news(known map[int]shown) string {
	var text strings.Builder
	all := a.proxy.Deliveries()
	for _, d := range all {
		if s := show(d); s != known[d.Seq] {
			known[d.Seq] = s
			text.WriteString(event("delivery", s))
		}
	}
	for seq := range known {
		if seq < all[0].Seq {
			delete(known, seq)
		}
	}
	return text.String()
}

func event(name string, data any) string {
	text, err := json.Marshal(data)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("event: %s\ndata: %s\n\n", name, text)
}
