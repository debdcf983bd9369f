package main

import (
	"net/http"

	"github.com/go-resilient/resilient/faultinject"
)

// listed is a fault that can be armed.
type listed struct {
	Fault string `json:"fault"`
	Truth string `json:"truth"`
	Sees  string `json:"sees"`
}

func (a *admin) serveFaults(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"faults": listing()})
}

// listing is the catalogue without what cannot strike here.
func listing() (all []listed) {
	for _, f := range faultinject.Catalogue() {
		if f.Strikes() != faultinject.AtDial {
			all = append(all, listed{f.String(), f.Truth().String(), sees(f.Name())})
		}
	}
	return all
}

// sees says what a client meets.
func sees(name string) string {
	return map[string]string{
		"hang-up":          "A new connection ends before anything is read from it.",
		"close-idle":       "The connection is gone when the request is written on it. Go sends some requests again by itself.",
		"cut-request":      "The connection breaks while the request is being sent.",
		"drop-before":      "The connection ends instead of an answer. The upstream was not asked.",
		"respond":          "An answer of this status. The upstream was not asked.",
		"lose-response":    "The connection ends instead of the upstream's answer.",
		"mask-response":    "An answer of this status in place of the upstream's own.",
		"malformed-status": "An answer that is not HTTP in place of the upstream's own.",
		"malformed-chunk":  "An answer whose body breaks the chunked coding.",
		"oversized-header": "A header without end in place of the upstream's own.",
		"interim":          "An interim answer before the upstream's own.",
		"late":             "No answer. The upstream is asked after the client has given up.",
		"delay":            "The upstream's answer, later.",
		"stall":            "No answer, though the upstream gave one, until the client gives up.",
		"cut-body":         "The answer's body breaks off.",
		"stall-body":       "The answer's body stops coming, until the client gives up.",
		"corrupt-body":     "The answer's body with one bit flipped.",
		"trickle-body":     "The answer's body in small pieces, with pauses.",
		"bandwidth":        "The answer's body, slowly.",
		"duplicate":        "The second of two answers: the upstream is asked twice.",
	}[name]
}
