package faultinject

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ask sends one request to a handler. A header is written as on the wire.
func ask(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	h.ServeHTTP(w, r)
	return w
}

func TestALedgerAnswersAsAServerWould(t *testing.T) {
	type step struct {
		method, path, body string
		header             string
		status             int
		answer             string
	}
	for _, tt := range []struct {
		name   string
		honour bool
		steps  []step
	}{
		{"every POST is an effect where keys are ignored", false, []step{
			{"POST", "/pay", "a", "Idempotency-Key: k1", 200, "effect 1 of k1"},
			{"POST", "/pay", "a", "Idempotency-Key: k1", 200, "effect 2 of k1"},
			{"POST", "/pay", "a", "", 200, "effect 1 of POST /pay"},
		}},
		{"a key is one effect, however it is spelt", true, []step{
			{"POST", "/pay", "a", "Idempotency-Key: k1", 200, "effect 1 of k1"},
			{"POST", "/pay", "a", "idempotency-key: k1", 200, "effect 1 of k1"},
			{"POST", "/pay", "b", "Idempotency-Key: k1", 422, "this key belongs to another request"},
			{"POST", "/refund", "a", "Idempotency-Key: k1", 422, "this key belongs to another request"},
			{"POST", "/pay", "a", "", 200, "effect 1 of POST /pay"},
			{"POST", "/pay", "a", "", 200, "effect 2 of POST /pay"},
		}},
		{"what is put is read, and gone when deleted", false, []step{
			{"GET", "/x", "", "", 404, "nothing here"},
			{"PUT", "/x", "v1", "", 200, "effect 1 of PUT /x"},
			{"GET", "/x", "", "", 200, "v1"},
			{"DELETE", "/x", "", "", 200, "effect 1 of DELETE /x"},
			{"DELETE", "/x", "", "", 200, "effect 2 of DELETE /x"},
		}},
		{"a receipt can be looked up", false, []step{
			{"POST", "/pay", "a", "", 200, "effect 1 of POST /pay"},
			{"GET", "/pay", "", "", 200, "effect 1 of POST /pay"},
		}},
		{"preconditions hold back what came too late", false, []step{
			{"PUT", "/x", "v1", "If-Match: *", 412, "changed meanwhile"},
			{"PUT", "/x", "v1", "If-None-Match: *", 200, "effect 1 of PUT /x"},
			{"PUT", "/x", "v2", "If-None-Match: *", 412, "changed meanwhile"},
			{"PUT", "/x", "v2", `If-Match: "0000", ` + etag([]byte("v1")), 200, "effect 2 of PUT /x"},
			{"PUT", "/x", "v3", "If-Match: " + etag([]byte("v1")), 412, "changed meanwhile"},
			{"GET", "/x", "", "", 200, "v2"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &Ledger{HonourKeys: tt.honour}
			for i, s := range tt.steps {
				var header []string
				if s.header != "" {
					header = append(header, s.header)
				}
				w := ask(l, s.method, s.path, s.body, header...)
				if got := strings.TrimSpace(w.Body.String()); w.Code != s.status || got != s.answer {
					t.Errorf("step %d: %d %q, want %d %q", i+1, w.Code, got, s.status, s.answer)
				}
			}
		})
	}
}

func TestALedgerTellsWhatWasDoneTwice(t *testing.T) {
	var l Ledger
	for range 3 {
		ask(&l, "POST", "/pay", "a", "Idempotency-Key: k1")
		ask(&l, "PUT", "/x", "v")
	}
	ask(&l, "POST", "/pay", "a", "Idempotency-Key: k2")
	if got := l.Doubled(); !slices.Equal(got, []string{"k1"}) {
		t.Error(got)
	}
	if got := fmt.Sprint(l.Effects()); got != "map[PUT /x:3 k1:3 k2:1]" {
		t.Error(got)
	}
	if got := l.Receipts(); len(got) != 7 || got[6] != "effect 1 of k2" {
		t.Error(got)
	}
	if state, found := l.State("/x"); !found || string(state) != "v" {
		t.Errorf("%q %v", state, found)
	}
}

func TestWhoComesWhileAKeyIsDoneWaitsForItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Ledger
		var wait sync.WaitGroup
		request := func(ctx context.Context) *http.Request {
			r := httptest.NewRequestWithContext(ctx, "POST", "/pay", nil)
			r.Header.Set("Idempotency-Key", "k1")
			return r
		}
		for range 5 {
			wait.Go(func() {
				got := l.Once(request(t.Context()), func() []byte { <-time.After(time.Second); return []byte("paid") })
				if string(got) != "paid" {
					t.Errorf("%q", got)
				}
			})
		}
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if got := l.Once(request(impatient), func() []byte { t.Error("ran"); return nil }); got != nil {
			t.Errorf("%q", got)
		}
		wait.Wait()
		if got := l.Effects()["k1"]; got != 1 {
			t.Error("effects:", got)
		}
	})
}

func TestAKeyIsFreeAgainWhenWhoHadItFailed(t *testing.T) {
	var l Ledger
	r := httptest.NewRequest("POST", "/pay", nil)
	r.Header.Set("Idempotency-Key", "k1")
	func() {
		defer func() { _ = recover() }()
		l.Once(r, func() []byte { panic(http.ErrAbortHandler) })
	}()
	if got := l.Effects()["k1"]; got != 0 {
		t.Error("effects:", got)
	}
	if got := l.Once(r, func() []byte { return []byte{} }); got == nil || l.Effects()["k1"] != 1 {
		t.Errorf("%q", got)
	}
	if got := l.Once(r, func() []byte { t.Error("ran again"); return nil }); got == nil {
		t.Error("no answer")
	}
}
