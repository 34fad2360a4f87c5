package saga

import (
	"fmt"
	"strings"
	"time"
)

// Diagram returns the definition as a Mermaid state diagram with all steps and all compensations. Parallel steps are drawn between a fork and a join.
func (s *Saga) Diagram() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "    "+format+"\n", args...) }
	b.WriteString("stateDiagram-v2\n")
	steps, abort := s.steps[:len(s.steps)-1], s.steps[len(s.steps)-1]
	for _, st := range s.steps {
		label := st.name
		switch {
		case st.pivot:
			label += " (pivot)"
		case st.forEach != nil:
			label += fmt.Sprintf(" (for each, %d at once)", st.forEach.atOnce)
		case st.until != nil:
			label += " (repeated)"
		case st.retriable:
			label += " (retriable)"
		case st.standsIn:
			label += " (fallback)"
		case st.delay != nil:
			label += " (delay)"
		case st.signal != nil:
			label += " (signal)"
		case st.child != nil:
			label += " (saga " + st.child.saga.name + ")"
		case st.await != nil:
			label += " (waits for an event)"
		}
		line("state %q as %s", label, id(st.name))
		if st.undo != nil {
			line("state %q as %s", "undo: "+st.name, undo(st.name))
		}
	}
	for n, stage := range s.stages {
		if stage.branches < 2 {
			continue
		}
		line("state fork_%d <<fork>>", n+1)
		line("state join_%d <<join>>", n+1)
		if s.undoes(n) {
			line("state undo_fork_%d <<fork>>", n+1)
			line("state undo_join_%d <<join>>", n+1)
		}
	}
	for _, start := range s.starts {
		line("[*] --> %s: %s", s.entry(0), start.event)
	}
	for i, st := range steps {
		stage := s.stages[st.stage]
		switch {
		case st.delay != nil:
			line("%s --> %s: the time is up", id(st.name), s.exit(st.stage))
		case st.signal != nil:
			line("%s --> %s: signal %s", id(st.name), s.exit(st.stage), st.signal.name)
		case st.await != nil:
			line("%s --> %s: %s", id(st.name), s.exit(st.stage), st.await.received.event)
		case st.child != nil:
			line("%s --> %s: saga %s is completed", id(st.name), s.exit(st.stage), st.child.saga.name)
		default:
			line("%s --> %s: %s", id(st.name), s.exit(st.stage), st.completed.event)
		}
		if st.forEach != nil {
			line("%s --> %s: there are no items", id(st.name), s.exit(st.stage))
		}
		if st.skipIf != nil {
			line("%s --> %s: skipped by its condition", id(st.name), s.exit(st.stage))
		}
		away := s.back(st.stage - 1) // the next compensation if the step itself needs none
		doubt, undone := undo(st.name), away
		if st.delay != nil {
			continue
		}
		if st.remindAfter > 0 {
			line("%s --> %s: reminder after %s", id(st.name), id(st.name), st.remindAfter)
		}
		if st.waits() {
			s.drawWait(line, &s.steps[i])
			continue
		}
		if st.until != nil {
			line("%s --> %s: asked again every %s until its condition holds", id(st.name), id(st.name), st.until.every)
		}
		if stage.branches > 1 && s.undoes(st.stage) {
			away, doubt, undone = fmt.Sprintf("undo_fork_%d", st.stage+1), fmt.Sprintf("undo_fork_%d", st.stage+1), fmt.Sprintf("undo_join_%d", st.stage+1)
		} else if st.standsIn {
			away, undone = undo(steps[i-1].name), undo(steps[i-1].name)
		}
		for _, r := range st.refused {
			if st.retriable {
				line("%s --> %s: %s, an operator decides", id(st.name), id(st.name), r.event)
				continue
			}
			line("%s --> %s: %s", id(st.name), away, r.event)
		}
		if st.child != nil && !st.retriable {
			line("%s --> %s: saga %s is compensated", id(st.name), away, st.child.saga.name)
		}
		if st.undo != nil {
			line("%s --> %s: no answer in %s, or cancelled", id(st.name), doubt, st.within)
			if st.child != nil {
				line("%s --> %s: saga %s is compensated", undo(st.name), undone, st.child.saga.name)
			} else {
				line("%s --> %s: %s", undo(st.name), undone, st.undone.event)
			}
			line("%s --> %s: asked again", undo(st.name), undo(st.name))
			st.detours(func(from, why string) { line("%s --> %s: %s", from, id(steps[st.fallback].name), why) })
		} else if st.until == nil || st.retriable {
			line("%s --> %s: asked again after %s", id(st.name), id(st.name), st.within)
		} else {
			line("%s --> %s: its condition does not hold after %d attempts, or cancelled", id(st.name), away, st.until.attempts)
			st.detours(func(_, why string) { line("%s --> %s: %s", id(st.name), id(steps[st.fallback].name), why) })
		}
	}
	for n, stage := range s.stages {
		if stage.branches < 2 {
			continue
		}
		undoes := s.undoes(n)
		for _, st := range steps[stage.from:stage.to] {
			if !st.standsIn {
				line("fork_%d --> %s", n+1, id(st.name))
			}
			if st.undo != nil {
				line("undo_fork_%d --> %s: completed, or in doubt", n+1, undo(st.name))
			}
		}
		line("join_%d --> %s: all completed", n+1, s.after(n))
		if undoes {
			line("undo_join_%d --> %s: all undone", n+1, s.back(n-1))
		}
	}
	line("%s --> [*]: %s", id(abort.name), abort.completed.event)
	line("%s --> %s: asked again after %s", id(abort.name), id(abort.name), abort.within)
	return b.String()
}

// drawWait draws the transitions of a step whose signal or event does not arrive.
func (s *Saga) drawWait(line func(format string, args ...any), st *step) {
	thing := "event"
	if st.signal != nil {
		thing = "signal"
	}
	to, what := s.back(st.stage-1), fmt.Sprintf("no %s in %s, or cancelled", thing, st.within)
	switch {
	case st.optional:
		line("%s --> %s: no %s in %s", id(st.name), s.exit(st.stage), thing, st.within)
		return
	case st.fallback > 0:
		line("%s --> %s: no %s in %s", id(st.name), id(s.steps[st.fallback].name), thing, st.within)
		what = "cancelled"
	}
	if s.stages[st.stage].branches > 1 && s.undoes(st.stage) {
		to = fmt.Sprintf("undo_fork_%d", st.stage+1)
	}
	line("%s --> %s: %s", id(st.name), to, what)
}

// undoes tells whether a step of a stage has a compensation.
func (s *Saga) undoes(n int) bool {
	for _, st := range s.steps[s.stages[n].from:s.stages[n].to] {
		if st.undo != nil {
			return true
		}
	}
	return false
}

// entry returns the node at which a stage begins.
func (s *Saga) entry(n int) string {
	if s.stages[n].branches > 1 {
		return fmt.Sprintf("fork_%d", n+1)
	}
	return id(s.steps[s.stages[n].from].name)
}

// after returns the node that follows a stage.
func (s *Saga) after(n int) string {
	if n+1 == len(s.stages)-1 {
		return "[*]"
	}
	return s.entry(n + 1)
}

// exit returns the node that follows a completed step of a stage.
func (s *Saga) exit(n int) string {
	if s.stages[n].branches > 1 {
		return fmt.Sprintf("join_%d", n+1)
	}
	return s.after(n)
}

// back returns the node of the first compensation to run at stage n or before it.
func (s *Saga) back(n int) string {
	for ; n >= 0; n-- {
		for i := s.stages[n].to - 1; i >= s.stages[n].from; i-- {
			switch {
			case s.steps[i].undo == nil:
			case s.stages[n].branches > 1:
				return fmt.Sprintf("undo_fork_%d", n+1)
			default:
				return undo(s.steps[i].name)
			}
		}
	}
	return id(s.steps[len(s.steps)-1].name)
}

// detours calls way for each transition from a step to its fallback.
func (d *step) detours(way func(from, why string)) {
	if d.whenOpen {
		way(id(d.name), "not asked, its breaker is open")
	}
	for _, reason := range d.whenRefused {
		way(id(d.name), "refused, "+reason)
	}
	if d.whenTimedOut {
		way(undo(d.name), "undone, as it was in doubt")
	}
}

func id(name string) string   { return strings.ReplaceAll(strings.ReplaceAll(name, " ", "_"), "-", "_") }
func undo(name string) string { return "undo_" + id(name) }

// Outline describes a step of a definition, without its functions.
type Outline struct {
	Name         string
	Starts       string // only of the first step: the events that start the saga, joined by "or" or "and"
	Completed    string // the Go type of the event that completes the step
	Refused      []string
	Compensation bool
	Compensated  string
	Timeout      time.Duration
	Pivot        bool
	Retriable    bool
	Alternative  bool          // the step is the fallback of the step before it
	Stage        int           // number of the step's stage, from 1
	Parallel     bool          // the stage has other steps
	Signal       string        // name of the signal that the step waits for
	Roles        []string      // roles that may send the signal
	Event        string        // Go type of the event that the step waits for
	Child        string        // name of the saga that the step starts
	Optional     bool          // the saga continues when the timeout is over
	Reminder     time.Duration // time after which the reminder of a waiting step is sent; 0: no reminder
	Delay        bool          // the step only waits
	Every        time.Duration // interval at which the command is repeated until a condition holds; 0: it is not repeated
	Attempts     int           // greatest number of repeated commands
	SkipIf       bool          // the step has a condition to be skipped
	AtOnce       int           // the step runs for each item of a list, at most so many in flight; 0: it runs once
	MaxItems     int           // greatest number of items
}

// Outline returns a description of each step, each fallback after its step, and the step of OnCompensated last.
func (s *Saga) Outline() []Outline {
	out := make([]Outline, len(s.steps))
	for i, st := range s.steps {
		out[i] = Outline{
			Name: st.name, Compensation: st.undo != nil, Timeout: st.within,
			Pivot: st.pivot, Retriable: st.retriable, Alternative: st.standsIn, Stage: st.stage + 1, Parallel: s.stages[st.stage].branches > 1,
			SkipIf: st.skipIf != nil, Delay: st.delay != nil,
		}
		out[i].Optional, out[i].Reminder = st.optional, st.remindAfter
		if st.child != nil {
			out[i].Child = st.child.saga.name
		}
		if st.await != nil {
			out[i].Event = st.await.received.event.String()
		}
		if st.signal != nil {
			out[i].Signal, out[i].Roles = st.signal.name, st.signal.roles
		}
		if st.forEach != nil {
			out[i].AtOnce, out[i].MaxItems = st.forEach.atOnce, st.forEach.max
		}
		if st.until != nil {
			out[i].Every, out[i].Attempts = st.until.every, st.until.attempts
		}
		if st.completed.event != nil {
			out[i].Completed = st.completed.event.String()
		}
		for _, r := range st.refused {
			out[i].Refused = append(out[i].Refused, r.event.String())
		}
		if st.undone.event != nil {
			out[i].Compensated = st.undone.event.String()
		}
	}
	for i, start := range s.starts {
		switch {
		case i == 0:
		case start.step != "":
			out[0].Starts += " and "
		default:
			out[0].Starts += " or "
		}
		out[0].Starts += start.event.String()
	}
	return out
}
