package idempotencytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A serverCase tries one promise.
type serverCase struct {
	name string
	run  func(*probe, context.Context) Finding
}

var serverCases = []serverCase{
	{Duplicate, (*probe).duplicate},
	{Concurrent, (*probe).concurrent},
	{LostAnswer, func(p *probe, ctx context.Context) Finding { return p.cut(ctx, true) }},
	{CallerGone, func(p *probe, ctx context.Context) Finding { return p.cut(ctx, false) }},
	{OtherPayload, (*probe).otherPayload},
	{Failure, (*probe).failure},
	{QuotedKey, (*probe).quotedKey},
	{MissingKey, (*probe).missingKey},
}

// try runs a case, unless an earlier one has shown that it would teach nothing.
func (p *probe) try(ctx context.Context, c serverCase) (f Finding) {
	if p.hopeless != "" {
		f = Finding{Text: p.hopeless}
	} else {
		f = c.run(p, ctx)
	}
	f.Case = c.name
	return f
}

func found(v Verdict, seen, format string, args ...any) Finding {
	return Finding{Verdict: v, Seen: seen, Text: fmt.Sprintf(format, args...)}
}

// alone is said where no effects were counted.
const alone = " Judged by the answers alone."

// duplicate is the first case: it also learns how the service answers.
func (p *probe) duplicate(ctx context.Context) Finding {
	key, count, start := p.NewKey(), p.count(ctx), time.Now()
	first := p.settle(ctx, key, p.Body)
	if !first.accepted() {
		return p.noUse(first)
	}
	p.took = time.Since(start)
	again := p.settle(ctx, key, p.Body)
	n, counted := count()
	p.marks = again.replayed != ""
	p.blind = counted && n == 0
	counted = counted && n > 0
	saw := fmt.Sprintf("The first answer was %v, the repeat's %v.", first, again)
	switch {
	case counted && n > 1:
		return found(Broken, "executed again", "%s %s: a client that repeats after a lost answer does it twice.", saw, effects(n))
	case again.err != nil:
		return found(Unclear, "no answer", "%s A client that lost the first answer never learns it.", saw)
	case again.same(first):
		return p.sameAnswer(ctx, saw, first, n, counted)
	case !again.accepted():
		return found(Broken, "refused", "%s A client that lost the first answer never learns it, and may take the refusal for its own.%s", saw, unless(counted))
	case counted || p.marks:
		return found(Unclear, "answered otherwise", "%s It was executed once, but the repeat brought another answer.%s", saw, unless(counted))
	}
	return found(Broken, "executed again", "%s The answers differ and none is marked as stored: as far as they tell, it was executed twice.%s", saw, alone)
}

// sameAnswer judges a duplicate that brought the first one's answer.
func (p *probe) sameAnswer(ctx context.Context, saw string, first answer, n int, counted bool) Finding {
	if counted {
		return found(Kept, "replayed", "%s %s.", saw, effects(n))
	}
	if p.marks {
		return found(Kept, "replayed", "%s%s%s", saw, p.uncounted(), alone)
	}
	control := p.settle(ctx, p.NewKey(), p.Body)
	p.distinct = control.accepted() && !control.same(first)
	if p.distinct {
		return found(Kept, "replayed", "%s Under another key it was %v: so the repeat's was the stored one.%s%s", saw, control, p.uncounted(), alone)
	}
	return found(Unclear, "same answer", "%s It is not marked as stored, and the answer under another key is no different: "+
		"a service that ignores keys would answer so too. Count effects to know.%s%s", saw, p.uncounted(), alone)
}

// noUse gives up: the service does not accept what all cases begin with.
func (p *probe) noUse(first answer) Finding {
	if e, ok := errors.AsType[*UnreachableError](first.err); ok {
		p.unreachable, p.hopeless = e, e.Error()
		return Finding{}
	}
	if first.err != nil {
		p.hopeless = "The service did not answer the first request of all."
		return found(Unclear, "no answer", "The first request brought %v: nothing can be learnt.", first)
	}
	p.hopeless = "The service refused the first request of all."
	return found(Unclear, "refused", "The first request was answered %v: nothing can be learnt from a request that is not accepted. "+
		"Check URL, Body, Header and the form of the key.", first)
}

// concurrent sends duplicates at the same time.
func (p *probe) concurrent(ctx context.Context) Finding {
	key, count := p.NewKey(), p.count(ctx)
	answers := p.gather(ctx, key, p.Body, crowd)
	last := p.settle(ctx, key, p.Body)
	n, counted := count()
	counted = counted && n > 0
	c := tally(append(answers, last))
	saw := fmt.Sprintf("Of %d at once, %s. Afterwards it was %v.", crowd, tally(answers), last)
	switch {
	case counted && n > 1:
		return found(Broken, "executed again", "%s %s: two requests at the same time are two effects.", saw, effects(n))
	case c.accepted == 0:
		return found(Unclear, "none accepted", "%s No answer tells what was done.%s", saw, unless(counted))
	case counted && len(c.different) > 1:
		return found(Unclear, "answered otherwise", "%s It was executed once, but the answers differ.", saw)
	case counted:
		return found(Kept, "one effect", "%s %s.", saw, effects(n))
	case len(c.different) > 1:
		return found(Broken, "executed again", "%s The answers that were accepted differ: as far as they tell, it was executed more than once.%s", saw, alone)
	case c.unmarked <= 1:
		return found(Kept, "one effect", "%s All but the first are marked as stored, or were not accepted.%s", saw, alone)
	case p.distinct:
		return found(Kept, "one effect", "%s All accepted ones brought the same answer, and two operations have different ones.%s", saw, alone)
	}
	return found(Unclear, "same answer", "%s Whether it was executed once does not show in the answers. Count effects to know.%s", saw, alone)
}

// counts is what became of a crowd.
type counts struct {
	accepted, unmarked, busy, refused, silent int
	different                                 []answer
}

func tally(answers []answer) (c counts) {
	for _, a := range answers {
		switch {
		case a.err != nil:
			c.silent++
		case a.busy():
			c.busy++
		case !a.accepted():
			c.refused++
		default:
			c.accepted++
			if a.replayed == "" {
				c.unmarked++
			}
			if !slices.ContainsFunc(c.different, a.same) {
				c.different = append(c.different, a)
			}
		}
	}
	return c
}

func (c counts) String() string {
	text := fmt.Sprintf("%d were accepted, %d told to wait", c.accepted, c.busy)
	if c.refused > 0 {
		text += fmt.Sprintf(", %d refused or failed", c.refused)
	}
	if c.silent > 0 {
		text += fmt.Sprintf(", %d not answered", c.silent)
	}
	return text
}

// cut loses the caller, as the answer begins to come or before, and repeats.
func (p *probe) cut(ctx context.Context, atAnswer bool) Finding {
	key, count := p.NewKey(), p.count(ctx)
	status, err := p.abandon(ctx, key, p.Body, atAnswer)
	if err != nil {
		return found(Unclear, "no answer", "The request that was to be cut got no answer to cut (%v).", err)
	}
	done := atAnswer && status < http.StatusBadRequest
	pause(ctx, 50*time.Millisecond) // or the repeat may overtake what was abandoned
	again := p.settle(ctx, key, p.Body)
	later := again
	if !atAnswer { // what was abandoned may be at work still, and be forgotten when it ends
		pause(ctx, min(2*p.took+100*time.Millisecond, p.Patience))
		if later = p.settle(ctx, key, p.Body); !again.accepted() {
			again = later
		}
	}
	n, counted := count()
	counted = counted && n > 0
	saw := fmt.Sprintf("The connection was closed once the request was written; the repeat brought %v.", again)
	if atAnswer {
		saw = fmt.Sprintf("The connection was reset while an answer %d came; the repeat brought %v.", status, again)
	}
	switch {
	case counted && n > 1:
		return found(Broken, "executed again", "%s %s: whoever repeats after a broken connection does it twice.", saw, effects(n))
	case again.err != nil, again.busy() && !done:
		return found(Unclear, "no answer", "%s Its answer did not come within %v. A service may hold a key for longer; Patience waits longer too.%s", saw, p.Patience, unless(counted))
	case !again.accepted() && done:
		return found(Broken, "refused", "%s The answer of what was done never arrives.%s", saw, unless(counted))
	case !again.accepted():
		return found(Unclear, "refused", "%s%s", saw, unless(counted))
	case counted:
		return found(Kept, "one effect", "%s %s, and its answer arrived.", saw, effects(n))
	case later.accepted() && !later.same(again):
		return found(Broken, "executed again", "%s A later one brought %v: as far as the answers tell, it was executed twice.%s", saw, later, alone)
	case again.replayed != "":
		return found(Kept, "replayed", "%s%s", saw, alone)
	case done && p.marks:
		return found(Broken, "executed again", "%s It marks stored answers, and this was none: as far as the answers tell, it was executed twice.%s", saw, alone)
	}
	return found(Unclear, "answered", "%s Whether it was executed twice does not show in it. Count effects to know.%s", saw, alone)
}

// otherPayload uses a key for two things.
func (p *probe) otherPayload(ctx context.Context) Finding {
	if p.OtherBody == nil {
		return found(NotTried, "", "Body is not JSON with a value to change, and there is no OtherBody.")
	}
	key, count := p.NewKey(), p.count(ctx)
	first := p.settle(ctx, key, p.Body)
	if !first.accepted() {
		return found(Unclear, "refused", "The first payload was answered %v.", first)
	}
	mixed := p.exchange(ctx, key, p.OtherBody)
	n, counted := count()
	counted = counted && n > 0
	saw := fmt.Sprintf("The first payload was answered %v, the other under the same key %v.", first, mixed)
	switch {
	case counted && n > 1:
		return found(Broken, "executed", "%s %s: a key is not one operation.", saw, effects(n))
	case mixed.err != nil, mixed.status >= http.StatusInternalServerError:
		return found(Unclear, "no answer", "%s", saw)
	case mixed.accepted() && (mixed.same(first) || mixed.replayed != "" || counted):
		return found(Broken, "replayed", "%s The caller believes that the other payload was carried out, and nothing says otherwise.%s", saw, unless(counted))
	case mixed.accepted():
		return found(Broken, "executed", "%s As far as the answers tell, both were carried out under one key.%s", saw, alone)
	}
	control := p.settle(ctx, p.NewKey(), p.OtherBody)
	if !control.accepted() {
		return found(Unclear, "refused", "%s But under a key of its own it was %v, so it may not be the key that was refused. Give an OtherBody that is accepted.", saw, control)
	}
	if mixed.status != http.StatusUnprocessableEntity {
		saw += " 422 is what the Internet-Draft asks for; clients may read another status otherwise."
	}
	return found(Kept, "refused", "%s Under a key of its own it was accepted, so it was the key.", saw)
}

// failure repeats a request that fails.
func (p *probe) failure(ctx context.Context) Finding {
	if p.FailingBody == nil {
		return found(NotTried, "", "There is no FailingBody.")
	}
	key, count := p.NewKey(), p.count(ctx)
	first := p.exchange(ctx, key, p.FailingBody)
	if first.err != nil || first.accepted() {
		return found(Unclear, "did not fail", "It was answered %v.", first)
	}
	again := p.exchange(ctx, key, p.FailingBody)
	n, counted := count()
	saw := fmt.Sprintf("The failure was answered %v, the repeat %v.", first, again)
	switch {
	case counted && n > 1:
		return found(Broken, "executed again", "%s %s, though both said that it failed.", saw, effects(n))
	case again.err != nil:
		return found(Unclear, "no answer", "%s", saw)
	case again.same(first) && again.replayed != "":
		return found(Kept, "replayed", "%s A client needs a new key to try again.%s", saw, unless(counted))
	case counted:
		return found(Kept, "nothing done twice", "%s %s: replayed or executed again, it does no harm.", saw, effects(n))
	case again.same(first):
		return found(Unclear, "same answer", "%s Replayed or executed again: the answers do not tell. The latter is right only if a failure has done nothing. Count effects to know.%s", saw, alone)
	}
	return found(Unclear, "executed again", "%s It was executed again: right if a failure has done nothing, and a second effect if it has. Count effects to know.%s", saw, alone)
}

// quotedKey tells how the service reads the two forms that keys are sent in.
func (p *probe) quotedKey(ctx context.Context) Finding {
	key, count := p.NewKey(), p.count(ctx)
	form, turned := "quoted", `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key)+`"`
	if len(key) > 2 && key[0] == '"' && key[len(key)-1] == '"' {
		form, turned = "bare", strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(key[1:len(key)-1])
	}
	first := p.settle(ctx, key, p.Body)
	if !first.accepted() {
		return found(Unclear, "refused", "The first request was answered %v.", first)
	}
	again := p.settle(ctx, turned, p.Body)
	n, counted := count()
	counted = counted && n > 0
	saw := fmt.Sprintf("The first answer was %v, that to the same key sent %s %v.", first, form, again)
	switch {
	case again.err != nil || again.status >= http.StatusInternalServerError || again.busy():
		return found(Unclear, "no answer", "%s", saw)
	case !again.accepted():
		return found(Kept, form+" refused", "%s All clients must send it in one form.", saw)
	case counted && n > 1, !counted && !again.same(first) && again.replayed == "":
		return found(Kept, "two keys", "%s A client must not change the form between a request and its repeat; a proxy or another SDK that does causes a second effect.%s", saw, unless(counted))
	case counted, again.replayed != "", p.distinct:
		return found(Kept, "one key", "%s%s", saw, unless(counted))
	}
	return found(Unclear, "same answer", "%s Whether they are one key does not show in the answers.%s", saw, alone)
}

// missingKey tells whether a key is required.
func (p *probe) missingKey(ctx context.Context) Finding {
	a := p.exchange(ctx, "", p.Body)
	switch {
	case a.err != nil, a.status >= http.StatusInternalServerError, a.busy():
		return found(Unclear, "no answer", "Without a key it was %v.", a)
	case a.accepted():
		return found(Kept, "not required", "Without a key it was %v: a client that forgets the key is served, and not protected.", a)
	}
	return found(Kept, "required", "Without a key it was %v: no client can forget it.", a)
}

func effects(n int) string {
	if n == 1 {
		return "It had one effect"
	}
	return fmt.Sprintf("It had %d effects", n)
}

func unless(counted bool) string {
	if counted {
		return ""
	}
	return alone
}

func (p *probe) uncounted() string {
	if p.blind {
		return " Effects counted none, so it is not believed."
	}
	return ""
}

// change returns v with the first value changed that one does change; names are
// gone through in their order.
func change(v any, one func(any) (any, bool)) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if w, ok := change(v[name], one); ok {
				v = maps.Clone(v)
				v[name] = w
				return v, true
			}
		}
	case []any:
		for i := range v {
			if w, ok := change(v[i], one); ok {
				v = slices.Clone(v)
				v[i] = w
				return v, true
			}
		}
	}
	return one(v)
}

// changeNumber makes a number one that is as likely to be accepted.
func changeNumber(v any) (any, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return v, false
	}
	if i, err := n.Int64(); err == nil && i < 1<<53 {
		return i + 1, true
	}
	if f, err := n.Float64(); err == nil && f+1 != f {
		return f + 1, true
	}
	return v, false
}

func changeString(v any) (any, bool) {
	s, ok := v.(string)
	return s + "x", ok
}

func changeBool(v any) (any, bool) {
	b, ok := v.(bool)
	return !b, ok
}
