package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestThePaymentIsMadeOnceThoughTheFirstAnswerIsLost(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if want := "pi_1 of 4200 eur, made 1 time(s) by the server\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%swant %s", &out, want)
	}
	if n := strings.Count(out.String(), "attempt "); n != 3 {
		t.Errorf("%d attempts, want 3:\n%s", n, &out)
	}
}
