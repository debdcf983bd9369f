package idempotency_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/go-resilient/resilient/idempotency"
	"github.com/stretchr/testify/require"
)

func TestUploadedFilesAreRemovedWithTheRequest(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	file, err := parts.CreateFormFile("file", "f")
	require.NoError(t, err)
	_, err = file.Write(make([]byte, 1<<16))
	require.NoError(t, err)
	require.NoError(t, parts.Close())
	server := httptest.NewServer(guard(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.NoError(t, r.ParseMultipartForm(1))
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	})))
	req := keyed(t, server.URL, "k", &form)
	req.Header.Set("Content-Type", parts.FormDataContentType())
	resp, _ := send(t, server.Client(), req)
	require.Equal(t, 200, resp.StatusCode)
	server.Close()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestABodyThatTheServerLimitsIsSaidToBeTooLarge(t *testing.T) {
	service := &till{}
	h := http.MaxBytesHandler(guard(t, service), 10)
	for _, length := range []int64{20, -1} {
		req := post("k", "01234567890123456789")
		req.ContentLength = length
		a := ask(h, req)
		require.Equal(t, 413, a.status)
		require.Equal(t, "body-too-large", a.problem())
	}
	require.Zero(t, service.charged.Load())
}

func TestABodyOfAnySizeMayBeAllowed(t *testing.T) {
	h := guard(t, &till{then: func(w http.ResponseWriter, r *http.Request, _ int) { _, _ = io.Copy(w, r.Body) }},
		func(c *idempotency.Config) { c.MaxBody = math.MaxInt64 })
	for _, length := range []int64{4, -1} {
		req := post(fmt.Sprint("k", length), "body")
		req.ContentLength = length
		require.Equal(t, "body", ask(h, req).body)
	}
}

func TestTheTargetIsThatOfTheClient(t *testing.T) {
	keys := guard(t, &till{})
	mux := http.NewServeMux()
	mux.Handle("/eu/", http.StripPrefix("/eu", keys))
	mux.Handle("/us/", http.StripPrefix("/us", keys))
	to := func(target string) *http.Request {
		req := httptest.NewRequest(http.MethodPost, target, nil)
		req.Header.Set("Idempotency-Key", "k")
		return req
	}
	require.Equal(t, 201, ask(mux, to("/eu/charges")).status)
	require.Equal(t, "key-reused", ask(mux, to("/us/charges")).problem())
	require.True(t, ask(mux, to("/eu/charges")).replayed())
}
