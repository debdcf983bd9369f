//go:build unix

package privateserver

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPrometheusAnswersQueries(t *testing.T) {
	p := Prometheus(t, t.TempDir(), "global: {scrape_interval: 1s}\n")
	resp, err := http.Get(p.URL() + "/api/v1/query?query=1%2B1")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Contains(t, string(body), `"2"`)
}
