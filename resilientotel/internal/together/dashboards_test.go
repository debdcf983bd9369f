package together

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const dashboards = "../../dashboards/"

// dashboard is what matters of Grafana's JSON.
type dashboard struct {
	Panels []struct {
		ID          int
		Title       string
		Description string
		Datasource  struct{ Type, UID string }
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr, LegendFormat string }
	}
	Templating struct {
		List []struct {
			Name  string
			Query json.RawMessage
		}
	}
}

type alerts struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr         string
			Labels, Annotations map[string]string
		}
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	text, err := os.ReadFile(dashboards + "resilient.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &d))
	return d
}

func readAlerts(t *testing.T) (a alerts) {
	text, err := os.ReadFile(dashboards + "alerts.yml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &a))
	return a
}

// expressions are all that the dashboard and the alerts ask Prometheus.
func expressions(t *testing.T) []string {
	var all []string
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, group := range readAlerts(t).Groups {
		for _, rule := range group.Rules {
			all = append(all, rule.Expr)
		}
	}
	require.Greater(t, len(all), 20)
	return all
}

var (
	labelList  = regexp.MustCompile(`\bby \(([^)]*)\)`)
	selector   = regexp.MustCompile(`\{[^}]*\}`)
	metricName = regexp.MustCompile(`\b(resilient|http_client)_\w+`)
	labelMatch = regexp.MustCompile(`(\w+)(=~|!~|!=|=)"`)
)

func TestWhatTheDashboardAndTheAlertsAskForIsExported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s.run(ctx)
		families, err := s.registry.Gather()
		require.NoError(t, err)
		names, labels := exported(families)
		unused := maps.Clone(names)
		for _, expr := range expressions(t) {
			for _, name := range metricName.FindAllString(labelList.ReplaceAllString(selector.ReplaceAllString(expr, ""), ""), -1) {
				require.Contains(t, names, name, expr)
				delete(unused, strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum"))
			}
			for _, label := range labelsOf(expr) {
				require.Contains(t, labels, label, expr)
			}
		}
		for name := range unused {
			require.Regexp(t, `_(bucket|count|sum)$`, name, "nobody looks at it")
		}
	})
}

// exported are the names and labels of what is exported, as Prometheus has them.
func exported(families []*dto.MetricFamily) (names, labels map[string]bool) {
	names, labels = make(map[string]bool), map[string]bool{"job": true, "le": true}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "resilient_") && !strings.HasPrefix(f.GetName(), "http_client_") {
			continue
		}
		names[f.GetName()] = true
		if f.GetType() == dto.MetricType_HISTOGRAM {
			for _, part := range []string{"_bucket", "_count", "_sum"} {
				names[f.GetName()+part] = true
			}
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = true
			}
		}
	}
	return names, labels
}

func labelsOf(expr string) []string {
	var all []string
	for _, m := range labelList.FindAllStringSubmatch(expr, -1) {
		all = append(all, strings.Split(m[1], ", ")...)
	}
	for _, m := range labelMatch.FindAllStringSubmatch(expr, -1) {
		all = append(all, m[1])
	}
	return all
}

func TestTheDashboardIsWhole(t *testing.T) {
	d := readDashboard(t)
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	require.Equal(t, []string{"datasource", "job", "server"}, variables)
	ids := make(map[int]bool)
	type cell struct{ x, y int }
	taken := make(map[cell]string)
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "two panels with one id")
		ids[p.ID] = true
		require.NotEmpty(t, p.Description, p.Title)
		require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := cell{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, taken[at], "%s lies over another panel", p.Title)
				taken[at] = p.Title
			}
		}
		for _, target := range p.Targets {
			for _, s := range selector.FindAllString(target.Expr, -1) {
				require.True(t, strings.HasPrefix(s, `{job=~"$job", server_address=~"$server"`), "%s: %s", p.Title, target.Expr)
			}
			require.NotEmpty(t, target.LegendFormat, p.Title)
		}
	}
}

func TestThePartsOfEachAlertAreThere(t *testing.T) {
	var names []string
	for _, group := range readAlerts(t).Groups {
		for _, rule := range group.Rules {
			names = append(names, rule.Alert)
			require.NotEmpty(t, rule.Labels["severity"], rule.Alert)
			require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
			require.NotEmpty(t, rule.Annotations["description"], rule.Alert)
		}
	}
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), len(names))
}

func TestPromtoolAcceptsTheAlertsAndTheirTests(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool here: apt-get install prometheus")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = dashboards
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
