package saga

import (
	"fmt"
	"strings"
	"time"
)

// Diagram is the definition as a Mermaid state diagram: the way forwards, and every way back.
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
		case st.retriable:
			label += " (retriable)"
		case st.standsIn:
			label += " (fallback)"
		}
		line("state %q as %s", label, id(st.name))
		if st.undo != nil {
			line("state %q as %s", "undo: "+st.name, undo(st.name))
		}
	}
	line("[*] --> %s: %s", id(s.steps[0].name), s.start.event)
	back := func(i int) string { // where the way back goes on below step i
		for ; i >= 0; i-- {
			if steps[i].undo != nil {
				return undo(steps[i].name)
			}
		}
		return id(abort.name)
	}
	for i, st := range steps {
		next := "[*]"
		for n := i + 1; n < len(steps) && next == "[*]"; n++ {
			if !steps[n].standsIn {
				next = id(steps[n].name)
			}
		}
		line("%s --> %s: %s", id(st.name), next, st.completed.event)
		for _, r := range st.refused {
			line("%s --> %s: %s", id(st.name), back(i-1), r.event)
		}
		if st.undo != nil {
			line("%s --> %s: no answer in %s, or cancelled", id(st.name), back(i), st.within)
			line("%s --> %s: %s", undo(st.name), back(i-1), st.undone.event)
			line("%s --> %s: asked again", undo(st.name), undo(st.name))
			st.detours(func(from, why string) { line("%s --> %s: %s", from, id(steps[st.fallback].name), why) })
		} else {
			line("%s --> %s: asked again after %s", id(st.name), id(st.name), st.within)
		}
	}
	line("%s --> [*]: %s", id(abort.name), abort.completed.event)
	line("%s --> %s: asked again after %s", id(abort.name), id(abort.name), abort.within)
	return b.String()
}

// detours tells each way from a step to its fallback.
func (d step) detours(way func(from, why string)) {
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

// Outline is what there is to know of a step without its functions.
type Outline struct {
	Name         string
	Starts       string // of the first step: the event that begins the saga
	Completed    string // the event that ends it well
	Refused      []string
	Compensation bool
	Compensated  string
	Timeout      time.Duration
	Pivot        bool
	Retriable    bool
	Alternative  bool // it is the fallback of the step before it
}

// Outline lists the steps, each fallback after the step that it stands in for, and the abort step last.
func (s *Saga) Outline() []Outline {
	out := make([]Outline, len(s.steps))
	for i, st := range s.steps {
		out[i] = Outline{
			Name: st.name, Completed: st.completed.event.String(), Compensation: st.undo != nil, Timeout: st.within,
			Pivot: st.pivot, Retriable: st.retriable, Alternative: st.standsIn,
		}
		for _, r := range st.refused {
			out[i].Refused = append(out[i].Refused, r.event.String())
		}
		if st.undone.event != nil {
			out[i].Compensated = st.undone.event.String()
		}
	}
	out[0].Starts = s.start.event.String()
	return out
}
