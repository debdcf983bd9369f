package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

func quick() settings {
	return settings{charges: 100, workers: 10, seed: 1, rate: 0.4, pause: 10 * time.Millisecond, progress: io.Discard}
}

func TestNobodyIsChargedTwiceOrToldAnUntruth(t *testing.T) {
	var out bytes.Buffer
	ok, err := run(t.Context(), quick(), &out)
	if err != nil || !ok {
		t.Errorf("ok %v, error %v", ok, err)
	}
	if !strings.Contains(out.String(), "charged twice or more") {
		t.Error("there is no table")
	}
	t.Log(out.String())
}

func TestTheLedgerFindsOutALoopWithoutKeys(t *testing.T) {
	r, err := quick().contest(t.Context(), loop, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.twice == 0 || r.sound() {
		t.Errorf("a loop without keys was found sound: %+v", r)
	}
}
