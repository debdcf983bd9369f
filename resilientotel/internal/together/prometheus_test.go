//go:build unix

package together

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-resilient/resilient/internal/privateserver"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
)

// hurry makes minutes of the alerts seconds, so that a test lives to see them.
var hurry = []struct {
	old *regexp.Regexp
	new string
}{
	{regexp.MustCompile(`\[\d+m\]`), "[5s]"},
	{regexp.MustCompile(`offset \d+m`), "offset 5s"},
	{regexp.MustCompile(`for: \d+m`), "for: 1s"},
}

const config = `
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: shop
    static_configs: [{targets: ["TARGET"]}]
`

func TestAnOutageIsOnTheDashboardAndItsAlertsComeAndGo(t *testing.T) {
	s := newService(t)
	metrics := httptest.NewServer(promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	t.Cleanup(metrics.Close)
	dir := t.TempDir()
	rules, err := os.ReadFile(dashboards + "alerts.yml")
	require.NoError(t, err)
	for _, h := range hurry {
		require.Regexp(t, h.old, string(rules))
		rules = h.old.ReplaceAll(rules, []byte(h.new))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alerts.yml"), rules, 0o600))
	p := api{t, privateserver.Prometheus(t, dir, strings.ReplaceAll(config, "TARGET", metrics.Listener.Addr().String())).URL()}

	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.run(ctx)
	}()
	defer func() {
		cancel()
		<-stopped
	}()
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5s", "$job", ".+", "$server", ".*").Replace(target.Expr)
			p.until(panel.Title+" has data", func() bool { return p.query(expr) > 0 })
		}
	}
	var all []string
	for _, group := range readAlerts(t).Groups {
		for _, rule := range group.Rules {
			all = append(all, rule.Alert)
		}
	}
	slices.Sort(all)
	p.until("every alert fires", func() bool { return slices.Equal(all, p.firing()) })
	s.trouble.Store(false)
	p.until("no alert fires", func() bool { return len(p.firing()) == 0 })
}

// api is Prometheus' own.
type api struct {
	t   *testing.T
	url string
}

// until asks again and again: how long it takes is the machine's affair, within
// a limit that only a fault reaches.
func (p api) until(what string, done func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-ctx.Done():
			p.t.Fatalf("not so: %s; firing: %v", what, p.firing())
		}
	}
}

// query tells how many series expr has, those without a number left out.
func (p api) query(expr string) (n int) {
	var answer struct {
		Result []struct{ Value [2]any }
	}
	p.get("/api/v1/query?query="+url.QueryEscape(expr), &answer)
	for _, series := range answer.Result {
		if series.Value[1] != "NaN" {
			n++
		}
	}
	return n
}

// firing are the names of the alerts that do, sorted.
func (p api) firing() []string {
	var answer struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	p.get("/api/v1/alerts", &answer)
	var names []string
	for _, a := range answer.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels["alertname"])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (p api) get(path string, data any) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+path, nil)
	require.NoError(p.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	require.NoError(p.t, json.NewDecoder(resp.Body).Decode(&answer))
	require.Equal(p.t, "success", answer.Status, answer.Error)
	require.NoError(p.t, json.Unmarshal(answer.Data, data))
}
