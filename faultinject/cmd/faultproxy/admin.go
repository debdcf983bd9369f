package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/go-resilient/resilient/faultinject"
)

//go:embed page.html
var page []byte

// admin is the page and what it speaks to.
type admin struct {
	proxy    *faultinject.Server
	board    *board
	upstream string
}

func newAdmin(proxy *faultinject.Server, o options, at net.Addr) http.Handler {
	a := &admin{proxy: proxy, board: o.board, upstream: o.upstream}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.servePage)
	mux.HandleFunc("GET /api/traffic", a.serveTraffic)
	mux.HandleFunc("GET /api/faults", a.serveFaults)
	mux.HandleFunc("GET /api/plan", a.servePlan)
	mux.HandleFunc("PUT /api/plan", a.changePlan)
	mux.HandleFunc("GET /api/arm", a.serveArmed)
	mux.HandleFunc("POST /api/arm", a.arm)
	mux.HandleFunc("DELETE /api/arm", a.disarm)
	mux.HandleFunc("DELETE /api/arm/{id}", a.disarm)
	// Other sites may neither write here nor, by a name that they point to this
	// address, read.
	return ownNames(at, http.NewCrossOriginProtection().Handler(guarded(mux)))
}

// guarded sets what a browser is told about all answers, and limits requests.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; img-src data:; "+
			"style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		next.ServeHTTP(w, r)
	})
}

// ownNames refuses requests that ask a loopback address for another host.
func ownNames(at net.Addr, next http.Handler) http.Handler {
	local := isLoopback(at.String())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if local && !isLoopback(r.Host) {
			http.Error(w, "faultproxy: this is not "+strconv.Quote(r.Host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = strings.Trim(hostPort, "[]")
	}
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}

func (a *admin) servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(page) // a browser that has left is no concern of ours
}

func (a *admin) servePlan(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, a.board.planText())
}

func (a *admin) changePlan(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, complaint{Error: "a plan has at most 64 KiB"})
		return
	}
	err = a.board.setPlan(string(text))
	var at *faultinject.PlanError
	if errors.As(err, &at) {
		refuse(w, http.StatusUnprocessableEntity, complaint{at.Reason, at.Line, at.Column})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *admin) serveArmed(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"armed": a.board.list()})
}

func (a *admin) arm(w http.ResponseWriter, r *http.Request) {
	var wish struct {
		Pattern, Fault string
		Times          int
	}
	if err := json.NewDecoder(r.Body).Decode(&wish); err != nil {
		refuse(w, http.StatusBadRequest, complaint{Error: `want JSON such as {"pattern": "POST /charge", "fault": "stall", "times": 1}`})
		return
	}
	t, err := a.board.arm(wish.Pattern, wish.Fault, wish.Times)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, complaint{Error: err.Error()})
		return
	}
	answer(w, http.StatusCreated, t)
}

func (a *admin) disarm(w http.ResponseWriter, r *http.Request) {
	id, err := 0, error(nil)
	if text := r.PathValue("id"); text != "" {
		if id, err = strconv.Atoi(text); err != nil || id < 1 {
			id = -1
		}
	}
	if !a.board.disarm(id) {
		refuse(w, http.StatusNotFound, complaint{Error: fmt.Sprintf("no fault %q is armed", r.PathValue("id"))})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// complaint is the body of a refusal. Line and Column, from 1, are those of a
// plan.
type complaint struct {
	Error  string `json:"error"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func refuse(w http.ResponseWriter, status int, c complaint) { answer(w, status, c) }

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
