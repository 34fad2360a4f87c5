package saga

import (
	"fmt"
	"strings"
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
		if i+1 < len(steps) {
			next = id(steps[i+1].name)
		}
		line("%s --> %s: %s", id(st.name), next, st.completed.event)
		for _, r := range st.refused {
			line("%s --> %s: %s", id(st.name), back(i-1), r.event)
		}
		if st.undo != nil {
			line("%s --> %s: no answer in %s, or cancelled", id(st.name), back(i), st.within)
			line("%s --> %s: %s", undo(st.name), back(i-1), st.undone.event)
			line("%s --> %s: asked again", undo(st.name), undo(st.name))
		} else {
			line("%s --> %s: asked again after %s", id(st.name), id(st.name), st.within)
		}
	}
	line("%s --> [*]: %s", id(abort.name), abort.completed.event)
	line("%s --> %s: asked again after %s", id(abort.name), id(abort.name), abort.within)
	return b.String()
}

func id(name string) string   { return strings.ReplaceAll(strings.ReplaceAll(name, " ", "_"), "-", "_") }
func undo(name string) string { return "undo_" + id(name) }
