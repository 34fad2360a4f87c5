package sagatest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Runs sagas of random shape with all kinds of faults. SAGATEST_RUNS sets the number of runs; each has three sagas.
func TestRandomSagas(t *testing.T) {
	runs := 2000
	if testing.Short() {
		runs = 200
	}
	Faults{Runs: runs, Subjects: 3, shape: randomShape}.Run(t)
}

func newChance(seed, n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, n))
}

// The random definitions contain all constructs of the package saga.
func TestRandomShapesHaveAllConstructs(t *testing.T) {
	var seen strings.Builder
	for n := range 300 {
		made := randomShape(&tape{chance: newChance(1, uint64(n))})
		if err := made.sagas[0].Check(); err != nil {
			t.Fatal(err, made.text)
		}
		seen.WriteString(strings.Join(made.text, "\n"))
	}
	for _, construct := range []string{"parallel", "pivot", "retriable", "or else", "skipped", "delay", "until", "signal", "for each", "event in", "reminder", "starts saga", "and also"} {
		if !strings.Contains(seen.String(), construct) {
			t.Errorf("none of them has: %s", construct)
		}
	}
}

// A failure is shrunk to a small definition and a short story.
func TestAFailureOfARandomSagaIsSmall(t *testing.T) {
	f := Faults{Subjects: 1, shape: func(t *tape) shape {
		made := randomShape(t)
		made.play = func(play func(*Environment) Play) func(*Environment) Play {
			return func(w *Environment) Play {
				p := play(w)
				check := p.Check
				p.Check = func() error {
					for _, line := range made.text {
						if strings.Contains(line, "parallel") && w.faults > 0 {
							return fmt.Errorf("a stage, and a fault")
						}
					}
					return check()
				}
				return p
			}
		}(made.play)
		return made
	}}
	var failed result
	for n := uint64(0); failed.err == nil; n++ {
		failed = f.run(&tape{chance: newChance(2, n), rate: 0.05})
	}
	small := shrink(failed.choice, func(choices []int) bool { return f.run(&tape{play: choices}).err != nil })
	again := f.run(&tape{play: small, tell: true})
	if again.err == nil || len(again.short()) > maxStory || len(again.story) > 80 {
		t.Errorf("%v: %d lines\n%s", again.err, len(again.story), strings.Join(again.story, "\n"))
	}
	if story := (result{story: slices.Repeat([]string{"x"}, 1000)}).short(); len(story) != maxStory {
		t.Errorf("%d lines", len(story))
	}
}

// plan is a random definition in the form that the checks of the order of effects use.
type plan struct {
	stages  [][]branch
	arrives []func(w *Environment, subject string) // schedule the awaited events
}

// part is the steps and stages of a definition that is being made.
type part struct {
	steps  []saga.Step[note]
	stages [][]branch
}

type branch struct {
	step, fallback string
	skip           func(subject string) bool // nil: never
	polls          bool                      // the step has no effect; its fallback has
	items          []string                  // suffixes of the names of its items
	atOnce         int                       // 0: the step has no items
	child          [][]branch                // stages of the saga that the step starts
}

// taken tells whether the branch runs for a subject.
func (b branch) taken(subject string) bool { return b.skip == nil || !b.skip(subject) }

// ends returns the suffixes of the names of its items, or one empty suffix.
func (b branch) ends() []string {
	if b.atOnce == 0 {
		return []string{""}
	}
	return b.items
}

// has tells whether a name is that of the step, of its fallback, of one of its items, or of a step of its child.
func (b branch) has(name string) bool {
	name, _, _ = strings.Cut(name, "#")
	return name == b.step || b.fallback != "" && name == b.fallback || stageOf(b.child, name) >= 0
}

// stageOf returns the index of the stage that has a step of this name, or -1.
func stageOf(stages [][]branch, name string) int {
	return slices.IndexFunc(stages, func(all []branch) bool {
		return slices.ContainsFunc(all, func(b branch) bool { return b.has(name) })
	})
}

// snapshot is the set of effects for a subject that took place and were not compensated.
type snapshot struct {
	subject string
	stands  map[string]bool
}

// complete tells whether all effects of a stage are in place, for the item of the parent that end names.
func (s snapshot) complete(stage []branch, end string) bool {
	for _, b := range stage {
		for _, item := range b.ends() {
			if !s.whole(b, end+item) {
				return false
			}
		}
	}
	return true
}

func (s snapshot) whole(b branch, end string) bool {
	instead := b.fallback != "" && s.stands[b.fallback+end]
	switch {
	case !b.taken(s.subject):
		return s.empty([]branch{b}, end)
	case b.polls: // completed by the step, or by its fallback
		return true
	case b.child == nil:
		return s.stands[b.step+end] != instead
	case instead:
		return !slices.ContainsFunc(b.child, func(stage []branch) bool { return !s.empty(stage, end) })
	}
	return !slices.ContainsFunc(b.child, func(stage []branch) bool { return !s.complete(stage, end) })
}

// empty tells whether no effect of a stage is in place, for the item of the parent that end names.
func (s snapshot) empty(stage []branch, end string) bool {
	for name, stand := range s.stands {
		_, items, _ := strings.Cut(name, "#")
		if stand && strings.HasPrefix("#"+items+"#", end+"#") && slices.ContainsFunc(stage, func(b branch) bool { return b.has(name) }) {
			return false
		}
	}
	return true
}

// order checks an effect: the effects of the stages before must be in place, and when it is compensated those of later stages must not be.
func (s snapshot) order(stages [][]branch, e effect, end string) error {
	n := stageOf(stages, e.step)
	for other, stage := range stages {
		switch {
		case !e.undo && other < n && !s.complete(stage, end):
			return fmt.Errorf("%s took effect while stage %d did not stand", e.step, other+1)
		case e.undo && other > n && !s.empty(stage, end):
			return fmt.Errorf("%s was undone while stage %d stood", e.step, other+1)
		}
	}
	for _, b := range stages[n] {
		base, items, _ := strings.Cut(e.step, "#")
		if stageOf(b.child, base) < 0 {
			continue
		}
		if b.atOnce > 0 { // the item
			item := "#" + strings.Split(items, "#")[strings.Count(end, "#")]
			return s.order(b.child, e, end+item)
		}
		return s.order(b.child, e, end)
	}
	return nil
}

// randomShape makes a definition. It is the smaller the more choices are 0.
func randomShape(t *tape) shape {
	var p plan
	d := saga.Definition[note]{
		Name: "random", Version: 1, AlertAfter: 3, Start: saga.On(func(d *note, e requested) { d.ID = e.ID }),
		OnCompensated: saga.FinalStep[note]{
			Name: "close", Timeout: time.Second, Completed: saga.Event[closed, note](),
			Action: func(d note, why string) cqrs.Keyed { return end{d.ID, why} },
		},
	}
	text, names, depth, children := []string{}, 0, 0, []*saga.Saga{}
	var stage func(to *part, pivot, after bool)
	// child makes a step that starts another saga. After the pivot, the child must have no effect when it is refused, because a retry starts it again.
	child := func(pivot, after bool) (saga.Step[note], branch, string) {
		depth++
		defer func() { depth-- }()
		name := fmt.Sprint("step ", names)
		var inner part
		text = append(text, name+" starts saga {")
		other := d
		other.Name, other.Start = fmt.Sprint("child-", names), saga.ByParent(func(d *note, e toChild) { d.ID, d.Of = e.ID, e.Of })
		if !after {
			for range 1 + t.pick(2) {
				stage(&inner, false, false)
			}
		}
		if after || pivot && t.pick(2) == 1 {
			stage(&inner, true, after)
			for range t.pick(2) {
				stage(&inner, false, true)
			}
		}
		text = append(text, "} "+name)
		other.Steps = inner.steps
		st := saga.Step[note]{Name: name, Child: saga.ChildOf(other, func(d note, _ int) toChild { return toChild{d.ID, d.item()} }, nil)}
		children = append(children, st.Child.Saga())
		return st, branch{step: name, child: inner.stages}, name + " (starts saga)"
	}
	step := func(pivot, after bool) (saga.Step[note], branch, string) {
		names++
		if !pivot && t.pick(8) == 7 {
			long := time.Duration(t.pick(4)) * 1500 * time.Millisecond
			name := fmt.Sprint("step ", names)
			delay := saga.Step[note]{Name: name, Delay: func(note) time.Duration { return long }}
			return delay, branch{step: name, skip: func(string) bool { return true }}, fmt.Sprintf("%s (delay of %s)", name, long)
		}
		if !pivot && t.pick(6) >= 4 {
			name := fmt.Sprint("step ", names)
			optional := t.pick(2) == 1 || after
			waits := saga.Step[note]{Name: name, Timeout: time.Duration(1+t.pick(3)) * time.Second, Signal: &saga.Signal[note]{
				Name: fmt.Sprint("signal-", names), Roles: []string{"operator"}, Received: saga.Event[closed, note](), Optional: optional,
			}}
			line := fmt.Sprintf("%s (signal in %s, optional %v)", name, waits.Timeout, optional)
			if n := len(p.arrives); n < len(awaits) && t.pick(3) > 0 {
				waits.Signal, waits.Await = nil, awaits[n].step(name)
				waits.Await.Optional = optional
				line = fmt.Sprintf("%s (event in %s, optional %v)", name, waits.Timeout, optional)
				p.arrives = append(p.arrives, func(w *Environment, subject string) {
					switch when := t.pick(4); when {
					case 0: // before the saga waits for the event, or has started
						w.arrive(awaits[n].come(subject), 0)
					case 3: // never
					default:
						w.arrive(awaits[n].come(subject), time.Duration(when)*1100*time.Millisecond)
					}
				})
			}
			if t.pick(3) == 2 {
				which := t.pick(len(participants))
				waits.Reminder = &saga.Reminder[note]{After: 600 * time.Millisecond, Action: participants[which].poll(name+" reminder", true).Action}
				line += fmt.Sprintf(", reminder (p%d)", which)
			}
			b := branch{step: name, polls: true}
			if !optional && t.pick(3) == 2 {
				names++
				instead := t.pick(len(participants))
				other := participants[instead].step(fmt.Sprint("step ", names), false)
				waits.Fallback = &saga.Fallback[note]{
					Name: other.Name, Action: other.Action, Completed: other.Completed, Refused: other.Refused, Compensation: other.Compensation, Compensated: other.Compensated,
					Timeout: time.Second, WhenTimedOut: true,
				}
				b.fallback = other.Name
				line += fmt.Sprintf(" or else %s (p%d)", other.Name, instead)
			}
			return waits, b, line
		}
		which := t.pick(len(participants))
		st := participants[which].step(fmt.Sprint("step ", names), after)
		polls := !pivot && t.pick(6) == 5
		if polls {
			st = participants[which].poll(fmt.Sprint("step ", names), after)
			name := st.Name
			st.Until = &saga.Until[note]{
				Holds: func(d note) bool { return slices.Contains(d.Yes, name+d.item()) }, Every: time.Duration(1+t.pick(4)) * 700 * time.Millisecond, Attempts: 1 + t.pick(3),
			}
		}
		b := branch{step: st.Name}
		line := fmt.Sprintf("%s (p%d)", st.Name, which)
		if depth < 2 && t.pick(6) == 5 {
			st, b, line = child(pivot, after)
			polls = false
		}
		st.Timeout = time.Duration(1+t.pick(3)) * time.Second
		skipped := ""
		switch t.pick(8) {
		case 6:
			b.skip, skipped = func(subject string) bool { return subject != "s0" }, ", skipped for all but s0"
		case 7:
			b.skip, skipped = func(string) bool { return true }, ", skipped"
		}
		if b.skip != nil {
			st.SkipIf = func(d note) bool { return b.skip(d.ID) }
		}
		line += fmt.Sprintf(" in %s", st.Timeout)
		if !pivot && t.pick(5) == 4 {
			items := t.pick(5)
			each := &saga.ForEach[note]{
				Items: func(note) int { return items }, Item: func(d note, n int) note { d.Item = n + 1; return d }, AtOnce: 1 + t.pick(2), Max: 3,
			}
			if after {
				each.Max = 4
			}
			st.ForEach, b.atOnce = each, each.AtOnce
			for n := range items {
				b.items = append(b.items, fmt.Sprintf("#%d", n+1))
			}
			line += fmt.Sprintf(" for each of %d, %d at once", items, each.AtOnce)
		}
		switch {
		case pivot:
			st.Pivot, st.Compensation, st.Compensated = true, nil, saga.Expected[note]{}
			line += " pivot"
		case after:
			st.Retriable, st.Compensation, st.Compensated = true, nil, saga.Expected[note]{}
			line += " retriable"
		case t.pick(4) == 3:
			names++
			instead := t.pick(len(participants))
			other := participants[instead].step(fmt.Sprint("step ", names), false)
			when := 1 + t.pick(7)
			st.Fallback = &saga.Fallback[note]{
				Name: other.Name, Action: other.Action, Completed: other.Completed, Refused: other.Refused, Compensation: other.Compensation, Compensated: other.Compensated,
				Timeout: time.Second, WhenOpen: when&1 > 0, WhenTimedOut: when&2 > 0,
			}
			if when&4 > 0 {
				st.Fallback.WhenRefused = []string{"full"}
			}
			b.fallback = other.Name
			line += fmt.Sprintf(" or else %s (p%d; open %v, timed out %v, refused %v)", other.Name, instead, when&1 > 0, when&2 > 0, when&4 > 0)
		}
		if polls {
			line += fmt.Sprintf(", until it says yes, every %s, %d attempts", st.Until.Every, st.Until.Attempts)
			b.polls = true
		}
		return st, b, line + skipped
	}
	stage = func(to *part, pivot, after bool) {
		branches := 1
		if !pivot {
			branches += max(t.pick(5)-2, 0) // 1 to 3
		}
		var made saga.Step[note]
		var all []branch
		for range branches {
			st, b, line := step(pivot, after)
			all = append(all, b)
			if branches == 1 {
				made = st
				text = append(text, fmt.Sprintf("stage %d: %s", len(to.stages)+1, line))
				break
			}
			made.Parallel = append(made.Parallel, st)
			text = append(text, fmt.Sprintf("stage %d, parallel: %s", len(to.stages)+1, line))
		}
		to.steps = append(to.steps, made)
		to.stages = append(to.stages, all)
	}
	var whole part
	for range 1 + t.pick(3) {
		stage(&whole, false, false)
	}
	if t.pick(2) == 1 {
		stage(&whole, true, false)
		for range t.pick(3) {
			stage(&whole, false, true)
		}
	}
	d.Steps, p.stages = whole.steps, whole.stages
	if t.pick(5) == 4 {
		d.StartAll = &saga.StartAll[note]{Timeout: 2 * time.Second, Events: []saga.Expected[note]{
			d.Start, saga.OnSubject(func(e also) string { return e.ID }, func(d *note, e also) { d.ID = e.ID }),
		}}
		d.Start = saga.Expected[note]{}
		text = append(text, "starts with its event and also another one")
		p.arrives = append(p.arrives, func(w *Environment, subject string) {
			w.arrive(also{subject}, time.Duration(t.pick(4))*900*time.Millisecond)
		})
	}
	return shape{append([]*saga.Saga{saga.New(d)}, children...), text, p.play}
}

// play sets up a run with the definition.
func (p plan) play(w *Environment) Play {
	b := &book{stands: map[string]bool{}, undone: map[string]bool{}, refused: map[string]string{}}
	subjects := NewStore(w, "subjects", func(history []any) *ledger {
		l := &ledger{}
		l.Replay(func(any) {}, history)
		return l
	})
	play := Play{Handlers: cqrs.ForAggregate("subjects", cqrs.Handle("End", func(ctx context.Context, c end) error {
		return subjects.Update(ctx, c.ID, func(l *ledger) error { l.add(closed{c.Why}); return nil })
	}))}
	for _, each := range participants {
		play.Handlers = append(play.Handlers, each.handler(w, b)...)
	}
	play.Start = func(ctx context.Context, n int) error {
		id := fmt.Sprint("s", n)
		for _, arrive := range p.arrives {
			arrive(w, id)
		}
		return subjects.Update(ctx, id, func(l *ledger) error { l.add(requested{id}); return nil })
	}
	play.Check = func() error {
		for _, id := range subjects.IDs() {
			history := w.streams[saga.Category+"/"+saga.ID("random", id)]
			if err := p.bounds(history); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			state := saga.Rebuild("", history)
			for _, k := range w.waits.kept {
				for step, c := range state.Awaits {
					if slices.Contains(k.by, c) && !k.at.After(*state.Step(step).EndedAt) {
						return fmt.Errorf("%s: %s came, and %q did not get it: %+v", id, c.Event, step, *state.Step(step))
					}
				}
			}
			if err := p.check(id, state, effects(w, b, id)); err != nil {
				return fmt.Errorf("%s, %s: %w", id, state.Status, err)
			}
		}
		return nil
	}
	return play
}

// effects returns the effects for a subject, in the order in which they took place.
func effects(w *Environment, b *book, subject string) []effect {
	all := slices.DeleteFunc(slices.Clone(b.log), func(e effect) bool { return e.subject != subject })
	for _, category := range []string{"p0", "p1", "p2"} {
		for _, e := range w.streams[category+"/"+subject] {
			if x, ok := e.Body.(interface{ effect() (string, bool) }); ok {
				step, undo := x.effect()
				all = append(all, effect{e.Meta.ID, subject, step, undo})
			}
		}
	}
	slices.SortFunc(all, func(a, b effect) int { return number(a.id) - number(b.id) })
	return all
}

func number(id string) (n int) {
	_, _ = fmt.Sscanf(id, "m-%d", &n)
	return n
}

func (e acted[P]) effect() (string, bool)    { return e.Step, false }
func (e reversed[P]) effect() (string, bool) { return e.Step, true }

// bounds replays a history and checks that at most AtOnce items of a step are in flight at any time.
func (p plan) bounds(history []cqrs.Event) error {
	var state saga.State
	for _, e := range history {
		state.Fold(e.Body.(saga.HistoryEvent), e.Meta.Time)
		for _, b := range slices.Concat(p.stages...) {
			busy := 0
			for _, name := range []string{b.step, b.fallback} {
				if st := state.Step(name); st != nil && st.Items != nil {
					busy += st.Counts[saga.StepStatusInProgress] + st.Counts[saga.StepStatusCompensating]
				}
			}
			if busy > b.atOnce {
				return fmt.Errorf("%d items of %s are in flight, and %d may be", busy, b.step, b.atOnce)
			}
		}
	}
	return nil
}

// check replays the effects of one saga and of its children. Each effect takes place and is compensated at most once. A stage takes effect only while all
// stages before it are complete, and is compensated only when no effect of a later stage is in place. At the end, either each branch has its effect,
// by its step or its fallback, or there is no effect at all.
func (p plan) check(subject string, state saga.State, all []effect) error {
	now, seen := snapshot{subject, map[string]bool{}}, map[effect]bool{}
	var story []string
	for _, e := range all {
		story = append(story, fmt.Sprintf("%s undo=%v", e.step, e.undo))
		once := effect{step: e.step, undo: e.undo}
		switch {
		case seen[once]:
			return fmt.Errorf("%s took effect twice (undo: %v): %v", e.step, e.undo, story)
		case e.undo && !now.stands[e.step]:
			return fmt.Errorf("%s was undone, and did not stand: %v", e.step, story)
		}
		if err := now.order(p.stages, e, ""); err != nil {
			return fmt.Errorf("%w: %v", err, story)
		}
		seen[once], now.stands[e.step] = true, !e.undo
	}
	for n, stage := range p.stages {
		switch {
		case state.Status == saga.StatusCompleted && !now.complete(stage, ""), state.Status == saga.StatusCompensated && !now.empty(stage, ""):
			return fmt.Errorf("stage %d at the end: %v", n+1, story)
		}
	}
	return nil
}
