//go:build unix

package endtoend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/idempotency"
)

// telling is what a caller learns from one operation of our client.
type telling struct {
	status  int    // 0: no answer
	body    string // of an answer, or
	problem string // the name of its problem
	replay  bool
	patient bool // it named a time to ask again
	err     error
	op      resilient.Operation
}

// meaning is what a telling says about the effect.
type meaning uint8

const (
	unsure  meaning = iota // there may be one
	done                   // there is one
	nothing                // there is none, unless an earlier sending is still under way
)

func (t telling) is(m meaning) bool { return t.meaning() == m }

func (t telling) meaning() meaning {
	switch {
	case t.err != nil && t.op.Outcome == resilient.NotSent:
		return nothing
	case t.err != nil:
		return unsure
	case t.status == http.StatusCreated:
		return done
	case t.problem != "":
		if t.problem == "store-unavailable" || t.problem == "not-applied" {
			return nothing
		}
		return unsure
	case t.body == "nothing done":
		return nothing
	case strings.HasPrefix(t.body, "receipt "):
		return done
	}
	return unsure
}

func (t telling) String() string {
	if t.err != nil {
		return fmt.Sprintf("%v: %v", t.op.Outcome, t.err)
	}
	text := t.body
	if t.problem != "" {
		text = t.problem
	}
	if t.replay {
		text += " (again)"
	}
	return fmt.Sprintf("%d %s", t.status, text)
}

// send makes one operation, of a key that was sent before unless resume is nil.
func send(ctx context.Context, client *http.Client, url string, o order, resume *resilient.Key) (got telling) {
	if resume != nil {
		ctx = resilient.WithKey(ctx, *resume)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(o.String()))
	if err != nil {
		return telling{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	got.do(client, req)
	return got
}

func (t *telling) do(client *http.Client, req *http.Request) {
	resp, err := client.Do(req)
	if err != nil {
		t.err = err
		if e, ok := errors.AsType[*resilient.Error](err); ok {
			t.op = e.Operation
		}
		return
	}
	defer func() { _ = resp.Body.Close() }()
	t.op, _ = resilient.OperationOf(resp)
	text, err := io.ReadAll(resp.Body)
	if err != nil { // a status is a promise only with all that belongs to it
		t.err, t.op.Outcome = err, resilient.Unknown
		return
	}
	t.status, t.body = resp.StatusCode, strings.TrimSpace(string(text))
	t.replay = resp.Header.Get("Idempotent-Replayed") == "true"
	t.patient = resp.Header.Get("Retry-After") != ""
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		var p struct{ Type string }
		_ = json.Unmarshal(text, &p) // then it has no type
		t.problem = strings.TrimPrefix(p.Type, strings.TrimSuffix(idempotency.ProblemInProgress, "in-progress"))
	}
}
