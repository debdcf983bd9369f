package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/internal/chromium"
)

// started is a faultproxy in front of a shop, and where it is.
type started struct {
	proxy, page string
	client      *http.Client
}

// start runs the command until the test ends, and waits for its end.
func start(t *testing.T, args ...string) *started {
	t.Helper()
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "charged")
	}))
	t.Cleanup(shop.Close)
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	args = append([]string{"-upstream", shop.URL, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"}, args...)
	go func() {
		ended <- run(ctx, args, in, in)
		in.Close()
	}()
	s := &started{client: &http.Client{Transport: &http.Transport{}}}
	lines := bufio.NewScanner(out)
	for _, word := range []*string{&s.proxy, &s.page} {
		if !lines.Scan() {
			t.Fatal(<-ended)
		}
		*word = strings.Fields(lines.Text())[1]
	}
	go io.Copy(io.Discard, out)
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		stop()
		if code := <-ended; code != 0 {
			t.Error("exit status", code)
		}
	})
	return s
}

func (s *started) do(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, err.Error()
	}
	return resp.StatusCode, string(text)
}

func TestAPlanFromTheCommandLineStrikes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan")
	if err := os.WriteFile(file, []byte("# the second charge\nPOST /charge: pass 503(Retry-After: 2)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, plan := range []string{"POST /charge: pass 503", "@" + file} {
		s := start(t, "-plan", plan)
		for _, want := range []int{200, 503, 200} {
			if code, body := s.do(t, "POST", s.proxy+"/charge", "10 EUR"); code != want {
				t.Error(plan, code, body)
			}
		}
	}
}

func TestWhatIsAskedForWronglyIsExplainedAndExitsWith2(t *testing.T) {
	for want, args := range map[string][]string{
		"-upstream is needed":                      nil,
		"not a URL such as":                        {"-upstream", "shop.test"},
		`"extra" is no flag`:                       {"-upstream", "http://shop.test", "extra"},
		"flag provided but not defined":            {"-nope"},
		"no such file":                             {"-upstream", "http://shop.test", "-plan", "@/nowhere/plan"},
		"column 15: unknown fault":                 {"-upstream", "http://shop.test", "-plan", "POST /charge: lose-responsse(rst)"},
		"lose-responsse(rst)\n\t              ^\n": {"-upstream", "http://shop.test", "-plan", "# one\nPOST /charge: lose-responsse(rst)\n503"},
	} {
		var said strings.Builder
		if code := run(t.Context(), args, io.Discard, &said); code != 2 || !strings.Contains(said.String(), want) {
			t.Errorf("%q: %d %s", args, code, &said)
		}
	}
	var said strings.Builder
	if code := run(t.Context(), []string{"-h"}, io.Discard, &said); code != 0 || !strings.Contains(said.String(), "-admin address") {
		t.Error(code, &said)
	}
	if code := run(t.Context(), []string{"-upstream", "http://shop.test", "-listen", "256.0.0.1:0"}, io.Discard, &said); code != 1 {
		t.Error("an address that cannot be had:", code)
	}
}

func TestFaultsAreArmedAndDisarmedByJSON(t *testing.T) {
	s := start(t)
	code, body := s.do(t, "POST", s.page+"api/arm", `{"pattern":"POST /charge","fault":"503(Retry-After: 2)","times":2}`)
	if want := `{"id":1,"pattern":"POST /charge","fault":"respond(503,\"Retry-After: 2\")","left":2}` + "\n"; code != 201 || body != want {
		t.Fatal(code, body)
	}
	for _, step := range []struct {
		method string
		want   int
	}{{"GET", 200}, {"POST", 503}} {
		if code, _ := s.do(t, step.method, s.proxy+"/charge", ""); code != step.want {
			t.Error(step, code)
		}
	}
	if _, body := s.do(t, "GET", s.page+"api/arm", ""); !strings.Contains(body, `"left":1`) {
		t.Error(body)
	}
	if code, _ := s.do(t, "DELETE", s.page+"api/arm/1", ""); code != 204 {
		t.Error(code)
	}
	if code, _ := s.do(t, "POST", s.proxy+"/charge", ""); code != 200 {
		t.Error("struck after it was disarmed:", code)
	}
	if code, _ := s.do(t, "DELETE", s.page+"api/arm/1", ""); code != 404 {
		t.Error(code)
	}
	s.do(t, "POST", s.page+"api/arm", `{"fault":"stall"}`)
	s.do(t, "DELETE", s.page+"api/arm", "")
	if _, body := s.do(t, "GET", s.page+"api/arm", ""); body != `{"armed":[]}`+"\n" {
		t.Error(body)
	}
}

func TestAWishThatCannotBeMeantIsRefusedWithTheReason(t *testing.T) {
	s := start(t)
	for wish, want := range map[string]string{
		`{`:                                    "want JSON",
		`{"fault":"stal"}`:                     "did you mean stall?",
		`{"fault":"503 503"}`:                  "want one fault",
		`{"fault":"random(1,5%)"}`:             "want one fault",
		`{"fault":"pass"}`:                     "pass strikes nothing",
		`{"fault":"nxdomain"}`:                 "strikes where a connection is dialled",
		`{"fault":"stall","pattern":"charge"}`: "is not one of http.ServeMux",
		`{"fault":"stall","times":-1}`:         "times: want 1 to 1000000",
	} {
		if code, body := s.do(t, "POST", s.page+"api/arm", wish); code/100 != 4 || !strings.Contains(body, want) {
			t.Error(wish, code, body)
		}
	}
}

func TestThePlanIsChangedWhileTrafficFlows(t *testing.T) {
	s := start(t, "-plan", "/: 503...")
	if _, body := s.do(t, "GET", s.page+"api/plan", ""); body != "/: 503..." {
		t.Error(body)
	}
	code, body := s.do(t, "PUT", s.page+"api/plan", "GET /: 503\nGET /a: late(1x)")
	if code != 422 || body != `{"error":"expected a time such as 1s, found \"1x\"","line":2,"column":14}`+"\n" {
		t.Error(code, body)
	}
	if code, _ := s.do(t, "GET", s.proxy, ""); code != 503 {
		t.Error("a plan that cannot be read took effect:", code)
	}
	if code, _ := s.do(t, "PUT", s.page+"api/plan", " # all passes"); code != 204 {
		t.Error(code)
	}
	if code, _ := s.do(t, "GET", s.proxy, ""); code != 200 {
		t.Error(code)
	}
	if code, _ := s.do(t, "PUT", s.page+"api/plan", strings.Repeat("#", 1<<20)); code != 413 {
		t.Error(code)
	}
}

func TestTheTrafficShowsNoBodyNoHeaderAndNoQuery(t *testing.T) {
	s := start(t, "-plan", "/: duplicate")
	s.do(t, "POST", s.proxy+"/charge?token=secret1", "secret2", "Authorization", "Bearer secret3", "Cookie", "a=secret4")
	code, body := s.do(t, "GET", s.page+"api/traffic", "")
	if code != 200 || strings.Contains(body, "secret") {
		t.Error(code, body)
	}
	var seen struct{ Deliveries []shown }
	if err := json.Unmarshal([]byte(body), &seen); err != nil {
		t.Fatal(err)
	}
	last := seen.Deliveries[len(seen.Deliveries)-1]
	last.Time, last.Host, last.Conn, last.Seq = "", "", 0, 0
	want := shown{Op: "POST /charge", Nth: 1, Method: "POST", Path: "/charge", Fault: "duplicate", Reach: "applied", Runs: 2, Status: 200, Bytes: 7}
	if last != want {
		t.Errorf("%+v", last)
	}
}

func TestTrafficIsAnEventWhenItComes(t *testing.T) {
	s := start(t)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.page+"api/traffic", nil)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "data: []" { // the stream stands, and nothing is armed
	}
	s.do(t, "GET", s.proxy+"/now", "")
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"path":"/now"`) && strings.Contains(lines.Text(), `"status":200`) {
			return
		}
	}
	t.Error("no event:", lines.Err())
}

func TestThePlansInTheDocumentationCanBeRead(t *testing.T) {
	text, err := os.ReadFile("../../../docs/faultproxy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## The plan\n")
	table, _, _ = strings.Cut(table, "\n## JSON\n")
	plans := 0
	for line := range strings.Lines(table) {
		if code, ok := strings.CutPrefix(line, "| `"); ok {
			plans++
			code, _, _ = strings.Cut(code, "` |")
			if _, err := faultinject.ParsePlan(strings.ReplaceAll(code, "…", "503")); err != nil {
				t.Errorf("%s: %v", code, err)
			}
		}
	}
	if plans < 10 {
		t.Error("plans:", plans)
	}
}

func TestAnExchangeIsToldAgainWhenItHasChangedAndOnlyThen(t *testing.T) {
	a, known, before := &admin{}, make(map[int]shown), ""
	shop := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { before = a.news(known) }))
	defer shop.Close()
	var err error
	if a.proxy, err = faultinject.Proxy(nil, shop.URL, nil); err != nil {
		t.Fatal(err)
	}
	defer a.proxy.Close()
	a.proxy.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	after, later := a.news(known), a.news(known)
	if !strings.Contains(before, `"seq":1`) || strings.Contains(before, "status") || !strings.Contains(after, `"status":200`) || later != "" {
		t.Errorf("%q, %q, %q", before, after, later)
	}
}

func TestOtherSitesCanNeitherWriteNorReadByANameOfTheirs(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		method, header, value string
		want                  int
	}{
		{"PUT", "Sec-Fetch-Site", "cross-site", 403},
		{"PUT", "Origin", "http://evil.test", 403},
		{"PUT", "Sec-Fetch-Site", "same-origin", 204},
		{"GET", "Host", "evil.test", 421},
		{"GET", "Host", "127.0.0.1.evil.test:8475", 421},
		{"GET", "Host", "localhost:1", 200},
		{"GET", "Host", "[::1]", 200},
	} {
		if code, body := s.do(t, c.method, s.page+"api/plan", "", c.header, c.value); code != c.want {
			t.Error(c, code, body)
		}
	}
}

func TestEveryFaultThatCanBeArmedIsExplained(t *testing.T) {
	for _, f := range listing() {
		if f.Sees == "" || f.Truth == "" {
			t.Error(f)
		}
		if got, err := armable(f.Fault); err != nil || got.Strikes() == faultinject.AtDial {
			t.Error(f, err)
		}
	}
}

func TestAnArmedFaultStrikesOnlyWhatItCan(t *testing.T) {
	b := &board{}
	if _, err := b.arm("", "stall", 1); err != nil {
		t.Fatal(err)
	}
	accept := faultinject.Exchange{Nth: 1, Method: faultinject.MethodAccept, Host: "a.test"}
	request := faultinject.Exchange{Nth: 1, Method: "GET", Host: "a.test", Path: "/"}
	for i, want := range []faultinject.Fault{faultinject.Pass(), faultinject.Stall(), faultinject.Pass()} {
		if got := b.Decide([]faultinject.Exchange{accept, request, request}[i]); got != want {
			t.Error(i, got)
		}
	}
	for range maxArmed {
		b.arm("", "hang-up(rst)", 1)
	}
	if _, err := b.arm("", "stall", 1); err == nil {
		t.Error("no bound")
	}
	if b.Decide(accept) != faultinject.HangUp(faultinject.RST) {
		t.Error("a connection was not struck")
	}
}

func TestThePageShowsTrafficAndArmsFaultsInABrowser(t *testing.T) {
	b := chromium.New(t)
	s := start(t)
	b.Open(s.page, `$("fault") && $("fault").options.length`)
	b.Look(1100, "light")
	s.do(t, "POST", s.proxy+"/charge?token=secret", "10 EUR", "Idempotency-Key", "<b>k1</b>")
	row := b.Eval(`return (await until(() => [...$("traffic").rows].find(r => r.textContent.includes("200")))).innerText`)
	if !strings.Contains(row, "/charge") || !strings.Contains(row, "<b>k1</b>") || strings.Contains(row, "secret") || !strings.Contains(row, "applied") {
		t.Errorf("%q", row)
	}
	truth := b.Eval(`fill("fault", "drop-before(rst)"); return $("truth").textContent`)
	if !strings.Contains(truth, "delivered, not handled") {
		t.Error(truth)
	}
	b.Eval(`fill("pattern", "POST /charge"); fill("times", "2"); $("arm").querySelector("button").click();
		await until(() => $("armed").textContent.includes("POST /charge: drop-before(rst) × 2"))`)
	if code, text := s.do(t, "POST", s.proxy+"/charge", "10 EUR"); code != 0 {
		t.Error("not struck:", code, text)
	}
	b.Eval(`await until(() => document.querySelector("tr.struck td.fault")); await until(() => $("armed").textContent.includes("× 1"))`)
	b.Eval(`$("armed").querySelector("button").click(); await until(() => !$("armed").children.length)`)
	if code, text := s.do(t, "POST", s.proxy+"/charge", "10 EUR"); code != 200 {
		t.Error("struck though disarmed:", code, text)
	}

	said := b.Eval(`fill("plan", "GET /: 503\nGET /ü: stal"); $("planning").querySelector("button").click();
		await until(() => $("plan-said").textContent.includes("column"));
		return $("plan-said").textContent + $("plan").value.slice($("plan").selectionStart)`)
	if said != "line 2, column 9: unknown fault \"stal\": did you mean stall?stal" {
		t.Error(said)
	}
	b.Eval(`fill("plan", "GET /: 503..."); $("planning").querySelector("button").click();
		await until(() => $("plan-said").textContent === "applied")`)
	if code, _ := s.do(t, "GET", s.proxy+"/orders", ""); code != 503 {
		t.Error("the plan was not applied:", code)
	}
	b.Eval(`await until(() => $("traffic").textContent.includes("not asked"))`)
	pictures(b)
	for _, width := range []int{390, 1100} {
		b.Look(width, "dark")
		if wide := b.Eval(`return String(document.documentElement.scrollWidth)`); wide != fmt.Sprint(width) {
			t.Error("in a window of", width, "the page is wide", wide)
		}
	}
}

// pictures are for people to look at: FAULTPROXY_PICTURES names a directory.
func pictures(b *chromium.Browser) {
	dir := os.Getenv("FAULTPROXY_PICTURES")
	if dir == "" {
		return
	}
	for _, width := range []int{390, 1100} {
		for _, scheme := range []string{"light", "dark"} {
			b.Look(width, scheme)
			b.Eval(`await new Promise(requestAnimationFrame); await new Promise(r => setTimeout(r, 700))`)
			b.Screenshot(filepath.Join(dir, fmt.Sprintf("%d-%s.png", width, scheme)))
		}
	}
}
