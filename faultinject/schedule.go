package faultinject

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A schedule is what makes a run repeatable, as text: of an exploration the
// faults in the order of the choices that were met,
//
//	level=network attempts=2 pass respond(503) pass lose-response(rst)
//
// and of a simulation its seed and the exchanges that were struck,
//
//	level=network attempts=3 seed=0x9f3a go=1,4 "k1"#2=lose-response(rst)
//
// in either case without the healthy rest. After go= are the numbers of
// [Run.Go] that are begun, where not all are.
type schedule struct {
	level    Level
	attempts int
	faults   []Fault
	seeded   bool
	seed     uint64
	struck   chosen
	begun    []int // nil: all
}

// String returns the schedule as parseSchedule reads it.
func (s schedule) String() string {
	words := []string{"level=" + s.level.String(), "attempts=" + strconv.Itoa(s.attempts)}
	if s.seeded {
		words = append(words, fmt.Sprintf("seed=%#x", s.seed))
	}
	if s.begun != nil {
		words = append(words, "go="+joinInts(s.begun))
	}
	if s.seeded {
		for _, id := range slices.Sorted(maps.Keys(s.struck)) {
			words = append(words, id+"="+s.struck[id].String())
		}
	}
	for _, f := range s.faults {
		words = append(words, f.String())
	}
	return strings.Join(words, " ")
}

// number is how many faults strike.
func (s schedule) number() int {
	n := len(s.struck)
	for _, f := range s.faults {
		if f != Pass() {
			n++
		}
	}
	return n
}

// trial is the run that repeats the schedule.
func (s schedule) trial() trial {
	t := trial{attempts: s.attempts, seeded: s.seeded, seed: s.seed, only: s.begun, decider: s.struck}
	if !s.seeded {
		t.decider = &ordered{faults: s.faults}
	}
	return t
}

// schedule returns the schedule that a run has followed.
func (r *Run) schedule() schedule {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := schedule{level: r.search.Level, attempts: r.Attempts, seeded: r.seeded, seed: r.Seed, begun: r.only}
	if s.seeded {
		s.struck = make(chosen)
	}
	for i, d := range r.decisions {
		switch {
		case d.fault == Pass():
		case s.seeded:
			s.struck[label(d.Exchange)] = d.fault
		default:
			for len(s.faults) < i {
				s.faults = append(s.faults, Pass())
			}
			s.faults = append(s.faults, d.fault)
		}
	}
	return s
}

func parseSchedule(text string) (s schedule, err error) {
	s.struck = make(chosen)
	for _, word := range splitWords(text) {
		if err = s.read(word); err != nil {
			return schedule{}, fmt.Errorf("faultinject: in schedule %q: %w", text, err)
		}
	}
	if s.attempts < 1 {
		return schedule{}, fmt.Errorf("faultinject: schedule %q names no attempts", text)
	}
	if !s.seeded && len(s.struck) > 0 {
		return schedule{}, fmt.Errorf("faultinject: schedule %q names exchanges and no seed", text)
	}
	return s, nil
}

func (s *schedule) read(word string) error {
	name, value, _ := strings.Cut(word, "=")
	switch name {
	case "level":
		i := slices.Index(levelNames[:], value)
		if i < 0 {
			return fmt.Errorf("unknown level %q", value)
		}
		s.level = Level(i)
		return nil
	case "attempts":
		n, err := strconv.Atoi(value)
		s.attempts = n
		return err
	case "seed":
		n, err := strconv.ParseUint(value, 0, 64)
		s.seeded, s.seed = true, n
		return err
	}
	if name == "go" {
		return s.readBegun(value)
	}
	id, text := splitIdentity(word)
	f, err := ParseFault(text)
	switch {
	case err != nil:
		return err
	case id == "":
		s.faults = append(s.faults, f)
	default:
		s.struck[id] = f
	}
	return nil
}

func (s *schedule) readBegun(list string) error {
	s.begun = []int{}
	for text := range strings.SplitSeq(list, ",") {
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		s.begun = append(s.begun, n)
	}
	return nil
}

func joinInts(numbers []int) string {
	var words []string
	for _, n := range numbers {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ",")
}

// splitIdentity parts `"k1"#2=stall` at the sign of equality.
func splitIdentity(word string) (id, fault string) {
	quoted, err := strconv.QuotedPrefix(word)
	if err != nil {
		return "", word
	}
	number, fault, _ := strings.Cut(word[len(quoted):], "=")
	return quoted + number, fault
}

// splitWords splits at spaces outside of quotes.
func splitWords(text string) (words []string) {
	var word strings.Builder
	for text != "" {
		if quoted, err := strconv.QuotedPrefix(text); err == nil {
			word.WriteString(quoted)
			text = text[len(quoted):]
			continue
		}
		if text[0] != ' ' {
			word.WriteByte(text[0])
		} else if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
		text = text[1:]
	}
	if word.Len() > 0 {
		words = append(words, word.String())
	}
	return words
}

// The variables that repeat a run.
const (
	scheduleVariable = "FAULTINJECT_SCHEDULE" // one schedule, whatever found it
	seedVariable     = "FAULTINJECT_SEED"     // one seed of a simulation
	checkVariable    = "FAULTINJECT_CHECK"    // 1: each seed twice
)

// command is the line that sets a variable and runs one test.
func command(variable, value, test string) string {
	elements := strings.Split(test, "/")
	for i, e := range elements {
		elements[i] = "^" + regexp.QuoteMeta(e) + "$"
	}
	return fmt.Sprintf("%s=%s go test -run %s", variable, shellQuote(value), shellQuote(strings.Join(elements, "/")))
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
