package pay

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The README of faultinject shows what happens here.

func TestTheFirstVersionChargesTwiceAndTheTestFindsIt(t *testing.T) {
	readme := read(t, "../../faultinject/README.md")
	found, passed := goTest(t, "testdata/before", "")
	if passed || !strings.Contains(figures.ReplaceAllString(readme, "N"), indented(found)) {
		t.Errorf("not in the README:\n%s", found)
	}
	schedule := regexp.MustCompile(`FAULTINJECT_SCHEDULE='(.*)' go test`).FindStringSubmatch(found)
	if schedule == nil {
		t.Fatalf("no schedule:\n%s", found)
	}
	if again, passed := goTest(t, "testdata/before", schedule[1]); passed || !strings.Contains(again, "effects=2, more than 1") {
		t.Errorf("the schedule does not repeat it:\n%s", again)
	}
	if fixed, passed := goTest(t, ".", schedule[1]); !passed {
		t.Errorf("the fix does not help:\n%s", fixed)
	}
}

// goTest runs the test of the package in dir as a reader would.
func goTest(t *testing.T, dir, schedule string) (output string, passed bool) {
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^TestAnOrderIsPaidOnce$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "FAULTINJECT_SEED=", "FAULTINJECT_SCHEDULE="+schedule)
	out, err := cmd.Output()
	return string(out), err == nil
}

// figures are what differs from run to run: seconds that passed, and which of the
// schedules was the first of those that ran at once.
var figures = regexp.MustCompile(`\d+\.\d{2,3}s\b|schedule \d+`)

func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(figures.ReplaceAllString(text, "N")), "\n", "\n    ")
}

func TestTheFixIsTheOnlyDifference(t *testing.T) {
	if read(t, "pay_test.go") != read(t, "testdata/before/pay_test.go") {
		t.Error("the tests differ")
	}
	fixed := read(t, "pay.go")
	for _, line := range []string{"\t\"crypto/rand\"\n", "\treq.Header.Set(\"Idempotency-Key\", rand.Text())\n"} {
		fixed = strings.Replace(fixed, line, "", 1)
	}
	if fixed != read(t, "testdata/before/pay.go") {
		t.Error("the client differs in something else")
	}
	before, after := "", ""
	for line := range strings.Lines(regexp.MustCompile("(?ms)^```diff\n(.*?)^```").FindStringSubmatch(read(t, "../../faultinject/README.md"))[1]) {
		if line[0] != '+' {
			before += line[1:]
		}
		after += line[1:]
	}
	if !strings.Contains(read(t, "pay.go"), after) || !strings.Contains(read(t, "testdata/before/pay.go"), before) {
		t.Error("the README shows another fix")
	}
}

func read(t *testing.T, file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
