package storm

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Live runs a situation in a bubble of its own.
type Live func(Situation, Policy, uint64) (*Run, error)

// Medians runs a situation with seeds from 0.
func (live Live) Medians(s Situation, p Policy, seeds uint64) (Figures, error) {
	all := make([]Figures, seeds)
	for seed := range seeds {
		run, err := live(s, p, seed)
		if err != nil {
			return Figures{}, err
		}
		all[seed] = run.Figures()
	}
	return Median(all), nil
}

// Compare is a table of the policies in one situation, medians of three runs.
func (live Live) Compare(s Situation) (string, error) {
	var b strings.Builder
	b.WriteString("| | on the wire | peak | done in it % | failed after % | back after |\n|---|---|---|---|---|---|\n")
	for _, p := range Policies() {
		f, err := live.Medians(s, p, 3)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "| %s | %.2f | %.1f | %.1f | %.2f | %s |\n", p.Name, f.Wire, f.Peak, f.During, f.Failed, s.back(f.Recovery))
	}
	return b.String(), nil
}

// Compared are the tables that are soon made, by name.
func (live Live) Compared() (map[string]string, error) {
	tables := make(map[string]string)
	for name, s := range map[string]Situation{"one client": Rows()[0].Situation, "fleet of 20": Rows()[1].Situation} {
		table, err := live.Compare(s)
		if err != nil {
			return nil, err
		}
		tables[name] = table
	}
	return tables, nil
}

// Draw is a table of the policies in one situation, of one run each, and its
// chart.
func (live Live) Draw(s Situation) (table, chart string, err error) {
	var b strings.Builder
	var panels []Panel
	b.WriteString("| | on the wire | peak | at the end | done in it % | failed after % | back after |\n|---|---|---|---|---|---|---|\n")
	for _, p := range Policies() {
		run, err := live(s, p, 0)
		if err != nil {
			return "", "", err
		}
		f := run.Figures()
		fmt.Fprintf(&b, "| %s | %.2f | %.1f | %.2f | %.1f | %.1f | %s |\n", p.Name, f.Wire, f.Peak, f.Late, f.During, f.Failed, s.back(f.Recovery))
		panels = append(panels, Panel{p.Name, run.Seconds()})
	}
	return b.String(), Chart(s, panels), nil
}

// back tells a recovery; none within the run is one within its last tenth too,
// when there is too little left to tell.
func (s *Situation) back(d time.Duration) string {
	if d > s.After*9/10 {
		return "never"
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// Held is the table of what the client as it ships is held to.
func (live Live) Held(rows []Row) (string, error) {
	var b strings.Builder
	b.WriteString("| | on the wire | peak | done in it % | refused in it % | failed after % | back after | 99 % within, after |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		f, err := live.Medians(r.Situation, AsItShips, r.Seeds)
		if err != nil {
			return "", err
		}
		b.WriteString(r.Line(f))
	}
	return b.String(), nil
}

// Line is the row's in that table, with its limits in brackets.
func (r *Row) Line(f Figures) string {
	limit := func(most float64) string {
		if most == 0 {
			return ""
		}
		return fmt.Sprintf(" (%g)", most)
	}
	return fmt.Sprintf("| %s | %.3f%s | %.1f | %.1f%s | %.1f | %.2f%s | %.1f s%s | %.2f s |\n", r.Name, f.Wire, limit(r.Wire), f.Peak,
		f.During, limit(r.Limits.During), f.Refused, f.Failed, limit(r.Failed), f.Recovery.Seconds(), limit(r.Recovery.Seconds()), f.P99.Seconds())
}

// Rewrite puts the tables between their markers, <!-- name --> and <!-- end -->.
func Rewrite(page string, tables map[string]string) (string, error) {
	for name, table := range tables {
		place, found := between(page, name)
		if !found {
			return "", fmt.Errorf("no place for %q", name)
		}
		page = strings.Replace(page, place, marked(name, table), 1)
	}
	return page, nil
}

// Table is what stands between the markers of that name.
func Table(page, name string) string {
	place, _ := between(page, name)
	return strings.TrimSuffix(strings.TrimPrefix(place, marker(name)), endMarker)
}

const endMarker = "<!-- end -->"

func marker(name string) string { return "<!-- " + name + " -->\n" }

func marked(name, table string) string { return marker(name) + table + endMarker }

func between(page, name string) (string, bool) {
	place := regexp.MustCompile(`(?s)` + regexp.QuoteMeta(marker(name)) + `.*?` + regexp.QuoteMeta(endMarker)).FindString(page)
	return place, place != ""
}
