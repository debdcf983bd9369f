package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
)

func TestTheServiceAnswersThoughItsUpstreamFails(t *testing.T) {
	before := http.DefaultClient
	t.Cleanup(func() { http.DefaultClient = before })
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"Leeds: 15 degrees\n", "Cork: 14 degrees\n", "Lyon: 14 degrees\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, &out)
		}
	}
}
