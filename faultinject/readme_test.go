package faultinject

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// readmePlans are the plans of the README, in its order.
var readmePlans = []Plan{
	Script(LoseResponse(RST), Respond(503), Respond(503)),
	Forever(Pass(), Stall()),
	Every(3, Respond(503)),
	Window(40*time.Second, time.Minute, Forever(Respond(503))),
	Random(1, 0.05),
	Random(1, 0.05, Stall(), Respond(503)),
	Ramp(1, 0, time.Minute, 0, 0.5, Respond(503)),
	Swarm(7, Stall(), Respond(503), Duplicate()),
	Jitter(1, 0, 200*time.Millisecond),
	Match("POST /charge/{id}", Script(Respond(503, "Retry-After: 2"))),
	First(Match("DIAL bank.test/", Forever(RefuseDial())), Match("/", Script(Late(time.Second)))),
}

func TestThePlansOfTheReadmeSayTheSameInGoAndInText(t *testing.T) {
	rows := readmeTable(t, "strikes")
	if len(rows) != len(readmePlans) {
		t.Fatal(len(rows), "rows")
	}
	for i, row := range rows {
		readmeContains(t, "\n\t"+row[1]+",\n", "readme_test.go")
		plan, err := ParsePlan(row[2])
		if err != nil || fmt.Sprint(plan) != fmt.Sprint(readmePlans[i]) {
			t.Errorf("%s is %v, and not %v, %v", row[2], plan, readmePlans[i], err)
		}
	}
}

// readmeRecipes are the recipes of the README that are plans, in its order.
var readmeRecipes = []struct {
	url  string
	plan Plan
}{
	{"http://shop.test", Script(Respond(503, "Retry-After: 30"))},
	{"http://shop.test", Script(Pass(), CloseIdle(FIN))},
	{"http://shop.test", Script(CutBody(100, RST))},
	{"https://shop.test", Script(BadCert(Expired))},
	{"http://shop.test", Script(DNSTimeout())},
	{"https://shop.test", Script(Pass(), GoAway(EnhanceYourCalm))},
	{"http://shop.test", Script(Late(2 * time.Second))},
	{"http://shop.test", Forever(Bandwidth(1000))},
	{"http://shop.test", Window(20*time.Second, 40*time.Second, Forever(Respond(503)))},
}

func TestTheRecipesOfTheReadmeDoWhatItSays(t *testing.T) {
	rows := readmeTable(t, "to test that")
	if len(rows) != len(readmeRecipes)+1 {
		t.Fatal(len(rows), "rows")
	}
	for i, recipe := range readmeRecipes {
		name, code, of, want := rows[i][0], rows[i][1], rows[i][2], rows[i][3]
		t.Run(name, func(t *testing.T) {
			readmeContains(t, ", "+code+"},\n", "readme_test.go")
			synctest.Test(t, func(t *testing.T) {
				n := NewNetwork()
				defer n.Close()
				plans := map[string]Plan{of: recipe.plan}
				n.Plan = plans["network"]
				s := n.NewServer(t, recipe.url, http.HandlerFunc(readmeAnswer), plans["server"])
				if got := readmeThrice(s); got != want {
					t.Errorf("seen: %s; want %s", got, want)
				}
			})
		})
	}
	readmeContains(t, "faultinject."+rows[len(rows)-1][1]+"\n", "../examples/faults/faults_test.go")
}

func readmeAnswer(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 2000)) }

// readmeThrice is what a plain client sees of three POSTs.
func readmeThrice(s *Server) string {
	client := s.Client()
	client.Timeout = 10 * time.Second
	var seen []string
	for range 3 {
		start, before := time.Now(), len(s.Deliveries())
		what := readmeOnce(client, s.URL)
		if len(s.Deliveries())-before == 2 {
			what += " at its second arrival"
		}
		seen = append(seen, what)
		<-time.After(time.Until(start.Add(30 * time.Second)))
	}
	return strings.Join(seen, ", ")
}

func readmeOnce(client *http.Client, url string) string {
	start := time.Now()
	resp, err := client.Post(url, "", strings.NewReader("amount=42"))
	if err != nil {
		return readmeError(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Sprint(resp.StatusCode, " and a broken body")
	}
	if took := time.Since(start).Round(time.Second); took > 0 {
		return fmt.Sprint(resp.StatusCode, " after ", took)
	}
	return fmt.Sprint(resp.StatusCode)
}

func readmeError(err error) string {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return "dial failed"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "certificate refused"
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.Is(err, io.EOF):
		return "EOF"
	}
	return err.Error()
}

func TestTheTablesOfTheReadmeAreThoseOfTheComments(t *testing.T) {
	tables := readmeTables(t, "fault")
	for i, file := range []string{"catalogue.go", "tls.go", "http2.go"} { // in the README's order
		if told := readmeComments(t, file, 3)[1:]; fmt.Sprintf("%q", tables[i]) != fmt.Sprintf("%q", told) {
			t.Errorf("the README has %q, %s %q", tables[i], file, told)
		}
	}
	if page, told := readmeTable(t, "there"), readmeComments(t, "catalogue.go", 2); fmt.Sprintf("%q", page) != fmt.Sprintf("%q", told) {
		t.Errorf("the README has %q, catalogue.go %q", page, told)
	}
	var page, told []string
	for _, row := range readmeTable(t, "rule") {
		page = append(page, row[0])
	}
	for _, rule := range regexp.MustCompile(`//   - ([a-z, -]+):`).FindAllStringSubmatch(readmeFile(t, "explore.go"), -1) {
		told = append(told, strings.ReplaceAll(rule[1], ", ", "`, `"))
	}
	if !slices.Equal(page, told) {
		t.Errorf("rules of the README: %q, of Explore: %q", page, told)
	}
}

func TestGoInTheReadmeIsPartOfAnExampleThatRuns(t *testing.T) {
	for _, block := range regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindAllStringSubmatch(readmeFile(t, "README.md"), -1) {
		code, err := filepath.Glob("../examples/faults/*_test.go")
		if err != nil || !slices.ContainsFunc(code, func(file string) bool { return strings.Contains(readmeFile(t, file), block[1]) }) {
			t.Errorf("not in examples/faults:\n%s", block[1])
		}
	}
}

func TestNoLinkInTheReadmeIsDead(t *testing.T) {
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(readmeFile(t, "README.md"), -1) {
		if _, err := os.Stat(link[1]); err != nil {
			t.Error(err)
		}
	}
}

func readmeFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func readmeContains(t *testing.T, code, file string) {
	t.Helper()
	if !strings.Contains(readmeFile(t, file), code) {
		t.Errorf("%s has no %s", file, strings.TrimSpace(code))
	}
}

// readmeTable is the rows of the first table whose head begins with that word.
func readmeTable(t *testing.T, head string) [][]string {
	t.Helper()
	return readmeTables(t, head)[0]
}

func readmeTables(t *testing.T, head string) (tables [][][]string) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^\| `+head+` \|.*\n\|[-|]+\n((?:\|.*\n)+)`).FindAllStringSubmatch(readmeFile(t, "README.md"), -1)
	if found == nil {
		t.Fatalf("no table begins with %q", head)
	}
	for _, table := range found {
		var rows [][]string
		for line := range strings.Lines(table[1]) {
			row := strings.Split(strings.Trim(line, "|\n"), "|")
			for i, cell := range row {
				row[i] = strings.Trim(cell, " `")
			}
			rows = append(rows, row)
		}
		tables = append(tables, rows)
	}
	return tables
}

// readmeComments is the lines of tables in a file's comments that have so many
// columns.
func readmeComments(t *testing.T, file string, columns int) (rows [][]string) {
	t.Helper()
	for _, line := range regexp.MustCompile(`(?m)^//\t(\S.*)$`).FindAllStringSubmatch(readmeFile(t, file), -1) {
		if row := regexp.MustCompile(`\s{2,}`).Split(line[1], -1); len(row) == columns {
			rows = append(rows, row)
		}
	}
	return rows
}
