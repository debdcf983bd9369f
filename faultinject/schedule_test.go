package faultinject

import (
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

func TestAScheduleIsReadAsItIsWritten(t *testing.T) {
	for _, text := range []string{
		"level=network attempts=1",
		"level=warm-network attempts=3 pass respond(503) pass lose-response(rst) refuse-dial",
		`level=transport attempts=2 respond(429,"Retry-After: 1","X: it's \"so\"")`,
		"level=http2 attempts=2 seed=0x0",
		`level=network attempts=2 seed=0x9f3a go=1,20 "POST /a"#1=stall "dial shop.test:80"#2=refuse-dial "k\"=1"#3=respond(429,"Retry-After: 1")`,
	} {
		s, err := parseSchedule(text)
		if err != nil || s.String() != text {
			t.Errorf("%v, %v\n%s", s, err, text)
		}
	}
}

func TestAScheduleThatCannotBeMeantIsRefusedWithTheWord(t *testing.T) {
	for text, word := range map[string]string{
		"":                                  "attempts",
		"pass stall":                        "attempts",
		"attempts=0":                        "attempts",
		"attempts=x":                        `"x"`,
		"attempts=1 level=moon":             `"moon"`,
		"attempts=1 explode":                `"explode"`,
		"attempts=1 seed=-1":                `"-1"`,
		"attempts=1 go=1,x":                 `"x"`,
		`attempts=1 "k1"#1=stall`:           "seed",
		`attempts=1 seed=1 "k1"#1`:          `""`,
		`attempts=1 respond(429,"Retry-Aft`: "Retry-Aft",
	} {
		if s, err := parseSchedule(text); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
}

func FuzzAScheduleFromAStranger(f *testing.F) {
	f.Add("level=network attempts=2 pass respond(503)")
	f.Add(`attempts=2 seed=0x9f3a go=1,20 "POST /a"#1=stall`)
	f.Add(`attempts=1 respond(429,"Retry-After: 1"`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSchedule(text)
		if err != nil {
			return
		}
		again, err := parseSchedule(s.String())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%#v\n%#v\n%v", s, again, err)
		}
	})
}

func TestAShellReadsTheCommandAsItWasMeant(t *testing.T) {
	value := `respond(429,"X: it's $HOME \ *")`
	text := command("VARIABLE", value, "TestX/it's_a_$(sub)_*")
	text = strings.Replace(text, "go test -run", "sh -c 'printf \"%s|%s\" \"$VARIABLE\" \"$1\"' sh", 1)
	out, err := exec.CommandContext(t.Context(), "sh", "-c", text).CombinedOutput()
	if want := value + `|^TestX$/^it's_a_\$\(sub\)_\*$`; err != nil || string(out) != want {
		t.Errorf("%s, %v\nwant %s", out, err, want)
	}
}
