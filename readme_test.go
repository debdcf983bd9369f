package resilient

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-resilient/resilient/faultinject"
	"github.com/stretchr/testify/require"
)

// readmeRow is how a row of the README's table is brought about.
type readmeRow struct {
	fault faultinject.Fault
	cfg   Config
	ill   faultinject.Fault // strikes requests before ours, until one is stopped; Pass: there are none
	apart time.Duration     // these requests
}

var readmeRows = map[string]readmeRow{
	"connection refused":            {fault: faultinject.RefuseDial()},
	"connection lost after sending": {fault: faultinject.LoseResponse(faultinject.RST)},
	"attempt timed out":             {fault: faultinject.Stall(), cfg: Config{AttemptTimeout: time.Second}},
	"500":                           {fault: faultinject.Respond(500)},
	"503":                           {fault: faultinject.Respond(503)},
	"429 with `Retry-After: 2`":     {fault: faultinject.Respond(429, "Retry-After: 2")},
	"breaker open":                  {ill: faultinject.RefuseDial(), cfg: Config{FailFast: true}},
	"503, and the budget is spent":  {fault: faultinject.Respond(503), ill: faultinject.Respond(503), cfg: Config{NoBreaker: true}},
	"503, and the host has only failed for a second": {
		fault: faultinject.Respond(503), ill: faultinject.Respond(503), apart: 1500 * time.Millisecond, cfg: Config{NoBreaker: true},
	},
	"lost, and the budget is spent": {fault: faultinject.LoseResponse(faultinject.RST), ill: faultinject.Respond(503), cfg: Config{NoBreaker: true}},
}

// readmeColumns is who asks.
var readmeColumns = []struct {
	title  string
	method string
	honors func(*http.Request) bool
}{
	{"GET", http.MethodGet, nil},
	{"POST to a server that honours keys", http.MethodPost, AnyHost},
	{"POST to any other", http.MethodPost, nil},
}

func TestTheReadmesTableIsWhatHappens(t *testing.T) {
	rows := readmeTable(t, "what happens")
	require.Len(t, rows, len(readmeRows)+1)
	for _, row := range rows {
		how, ok := readmeRows[row[0]]
		for i, column := range readmeColumns {
			if row[0] == "what happens" {
				require.Equal(t, column.title, row[i+1])
				continue
			}
			t.Run(row[0]+", "+column.title, func(t *testing.T) {
				require.True(t, ok, "no test brings this row about")
				synctest.Test(t, func(t *testing.T) {
					cfg := how.cfg
					cfg.HonorsKeys = column.honors
					once := readmeRun(t, cfg, how, column.method, 1)
					always := readmeRun(t, cfg, how, column.method, 1000)
					require.Equal(t, readmeCell(once, always), row[i+1])
				})
			})
		}
	}
}

// readmeEnd is how one operation ended.
type readmeEnd struct {
	status  int
	outcome Outcome
	stop    error
	sent    int // arrivals, refused dials included
	took    time.Duration
}

// readmeRun makes one request whose first arrivals are struck.
func readmeRun(t *testing.T, cfg Config, how readmeRow, method string, struck int) readmeEnd {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") })
	base := faultinject.Handler(answer, faultinject.PlanFunc(func(x faultinject.Exchange) faultinject.Fault {
		switch {
		case x.Path == "/ill":
			return how.ill
		case x.Nth <= struck:
			return how.fault
		}
		return faultinject.Pass()
	}))
	cfg.Base, cfg.BaseIsWire = base, true
	if how.ill != faultinject.Pass() {
		cfg.Backoff = func() Schedule { return readmeAtOnce{} } // or time would fill the budget again
	}
	client, err := NewClient(cfg)
	require.NoError(t, err)
	if how.ill != faultinject.Pass() {
		for stop := error(nil); stop == nil || errors.Is(stop, ErrAttempts); time.Sleep(how.apart) {
			stop = readmeAsk(t, client, http.MethodGet, "/ill").stop
		}
	}
	before, start := len(base.Deliveries()), time.Now()
	end := readmeAsk(t, client, method, "/charges")
	end.sent, end.took = len(base.Deliveries())-before, time.Since(start)
	base.Settle()
	return end
}

type readmeAtOnce struct{}

func (readmeAtOnce) NextBackOff() time.Duration { return 0 }

func readmeAsk(t *testing.T, client *http.Client, method, path string) readmeEnd {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("amount=42")
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://api.test"+path, body)
	require.NoError(t, err)
	resp, err := client.Do(req)
	if e, ok := errors.AsType[*Error](err); ok {
		return readmeEnd{outcome: e.Outcome, stop: e.Stop}
	}
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	op, _ := OperationOf(resp)
	return readmeEnd{status: resp.StatusCode, outcome: op.Outcome, stop: op.Stop}
}

// readmeCell puts into words what happened when the fault struck the first
// arrival, and when it struck them all.
func readmeCell(once, always readmeEnd) string {
	end := fmt.Sprintf("the %d", always.status)
	if always.status == 0 {
		end = map[Outcome]string{NotSent: "`NotSent`", Unknown: "`Unknown`"}[always.outcome]
	}
	switch {
	case always.sent == 0:
		return "not sent: " + end + ", " + readmeStop(always.stop)
	case once.sent == 1:
		return "sent once: " + end + ", " + readmeStop(always.stop)
	case once.status != http.StatusOK || always.sent != defaultMaxAttempts || !errors.Is(always.stop, ErrAttempts):
		return fmt.Sprintf("neither sent once nor repeated: %+v, %+v", once, always)
	case once.took >= 2*time.Second && once.sent == 2:
		return "repeated after 2 s or more; at last " + end
	}
	return "repeated; at last " + end
}

func readmeStop(stop error) string {
	for name, err := range map[string]error{
		"ErrUnsafe": ErrUnsafe, "ErrOpen": ErrOpen, "ErrBudget": ErrBudget, "ErrAttempts": ErrAttempts,
	} {
		if errors.Is(stop, err) {
			return "`" + name + "`"
		}
	}
	return fmt.Sprint(stop)
}

func TestTheReadmeTellsEveryDefault(t *testing.T) {
	transport, err := NewTransport(Config{})
	require.NoError(t, err)
	want := make(map[string]string)
	readmeDefaults(want, "", reflect.ValueOf(transport.cfg))
	told := make(map[string]string)
	for _, row := range readmeTable(t, "field")[1:] {
		for name := range strings.SplitSeq(row[0], ", ") {
			told[strings.Trim(name, "`")] = row[1]
		}
	}
	for name, value := range want {
		require.Contains(t, told, name)
		if value != "" {
			require.Equal(t, value, told[name], name)
		}
	}
	require.Len(t, told, len(want), "the README knows a field that Config does not")
}

// readmeDefaults writes down the numbers and switches of a completed Config as
// the README has them. Of functions and interfaces only the name counts.
func readmeDefaults(into map[string]string, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		name, field := prefix+v.Type().Field(i).Name, v.Field(i)
		if !v.Type().Field(i).IsExported() {
			continue
		}
		switch value := field.Interface().(type) {
		case KeyConfig:
			readmeDefaults(into, "Keys.", field)
		case time.Duration:
			into[name] = readmeDuration(value)
		case bool:
			into[name] = map[bool]string{false: "no", true: "yes"}[value]
		case string:
			into[name] = "`" + value + "`"
		case int64:
			into[name] = map[int64]string{0: "none", 1 << 20: "1 MiB"}[value]
		case int:
			into[name] = strings.Replace(fmt.Sprint(value), "0000", "0,000", 1)
		default:
			into[name] = ""
		}
	}
}

func readmeDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "none"
	case d > time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%g s", d.Seconds())
}

func TestGoInTheDocumentsIsPartOfAnExample(t *testing.T) {
	var examples strings.Builder
	for _, pattern := range []string{"example_test.go", "*/example_test.go", "examples/*/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			examples.WriteString(regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(string(text), ""))
		}
	}
	for _, page := range readmePages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, block := range regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindAllSubmatch(text, -1) {
			code := regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(string(block[1]), "")
			require.Contains(t, examples.String(), code, page)
		}
	}
}

func TestNoLinkInTheDocumentsIsDead(t *testing.T) {
	for _, page := range readmePages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\B\[[^\]]+\]\(([^):]+)\)`).FindAllSubmatch(text, -1) {
			path, anchor, _ := strings.Cut(string(link[1]), "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			_, err := os.Stat(target)
			require.NoError(t, err, page)
			if anchor != "" {
				require.Contains(t, readmeAnchors(t, target), anchor, page)
			}
		}
	}
}

// readmeAnchors is where a link can lead to within a page, as GitHub makes them of the headings.
func readmeAnchors(t *testing.T, page string) (anchors []string) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		words := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors = append(anchors, strings.ReplaceAll(words, " ", "-"))
	}
	return anchors
}

func TestTheStandardBaseIsAsTheDocumentsSay(t *testing.T) {
	base := newStandard()
	require.Equal(t, 64, base.MaxIdleConnsPerHost)
	require.Equal(t, 15*time.Second, base.HTTP2.SendPingTimeout)
}

func readmePages(t *testing.T) []string {
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	return append(pages, "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/payments-server/README.md")
}

// readmeTable is the table of the README whose head begins with that word.
func readmeTable(t *testing.T, head string) (rows [][]string) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	table := regexp.MustCompile(`(?m)^\| ` + head + ` \|.*\n(\|.*\n)+`).FindString(string(text))
	require.NotEmpty(t, table, "no table begins with %q", head)
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if !strings.HasPrefix(cells[0], "-") {
			rows = append(rows, cells)
		}
	}
	return rows
}
