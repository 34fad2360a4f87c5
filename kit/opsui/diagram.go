package opsui

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/saga"
)

// diagram is a drawn definition: the steps down the left side, the compensations up the right side. The path of an instance is highlighted.
type diagram struct {
	Width, Height int
	Boxes         []box
	Lines         []line
	Notes         []note
	Label         string // for screen readers
}

type box struct {
	X, Y, W, H int
	Name       string
	State      string // the text below the name
	Class      string
}

type line struct {
	D, Class string // an SVG path
}

type note struct {
	X, Y        int
	Text, Class string
}

// Measures of the diagram in its own units. It is 360 wide, like the screen of a phone.
const (
	diagramWidth = 360
	rowHeight    = 74
	boxHeight    = 46
	leftX        = 6
	leftWidth    = 162
	rightX       = 192
	rightWidth   = 162
	spine        = 22 // x of the forward path beside fallbacks
	indent       = 30
	gap          = 179 // x of the path from a refused step to the compensations
)

// drawSaga draws the outline of a definition, and highlights the path of the instance v. Nil: there is no instance.
func drawSaga(name string, outline []saga.Outline, v *SagaView) diagram {
	steps, abort := outline[:len(outline)-1], outline[len(outline)-1]
	p := diagram{Width: diagramWidth, Height: (len(steps)+2)*rowHeight + 10}
	y := func(row int) int { return 8 + row*rowHeight }
	middle := func(row int) int { return y(row) + boxHeight/2 }
	lit := func(ok bool, class string) string {
		if ok {
			return "lit " + class
		}
		return ""
	}
	find := func(step string, undo bool) *run {
		if v == nil {
			return nil
		}
		return v.find(step, undo)
	}
	class := func(step string, undo bool) string {
		if r := find(step, undo); r != nil {
			return r.Class
		}
		return "waiting"
	}
	// Row 0 is the start on the left, and the last command of a compensated saga on the right.
	p.Boxes = append(p.Boxes, box{leftX, y(0), leftWidth, boxHeight, outline[0].Starts, "starts the saga", lit(v != nil, "completed")})
	p.Boxes = append(p.Boxes, box{rightX, y(0), rightWidth, boxHeight, abort.Name, text(find(abort.Name, false), "ends the compensation"), "back " + class(abort.Name, false)})
	target := func(i int) int { // the row of the next compensation below row i
		for ; i >= 0; i-- {
			if steps[i].Compensation {
				return i + 1
			}
		}
		return 0
	}
	previous := -1
	for i, st := range steps {
		row := i + 1
		forward, undo := find(st.Name, false), find(st.Name, true)
		b := box{leftX, y(row), leftWidth, boxHeight, st.Name, text(forward, within(st.Timeout)), class(st.Name, false)}
		from := y(0) + boxHeight
		if previous >= 0 {
			from = y(previous+1) + boxHeight
		}
		if st.Alternative {
			b.X, b.W, b.Class = leftX+indent, leftWidth-indent, b.Class+" standsin"
			b.State = text(forward, "fallback")
			p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d V%d", leftX+leftWidth-30, y(i)+boxHeight, y(row)-2), "detour " + lit(forward != nil, "in_progress")})
			if n := following(steps, i); n >= 0 {
				p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d V%d", leftX+leftWidth-30, y(row)+boxHeight, y(n+1)-2), "detour " + lit(find(steps[n].Name, false) != nil && forward != nil, "completed")})
			}
		} else {
			p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d V%d", spine, from, y(row)-2), lit(forward != nil, "completed")})
			previous = i
		}
		p.Boxes = append(p.Boxes, b)
		switch {
		case st.Compensation:
			p.Boxes = append(p.Boxes, box{rightX, y(row), rightWidth, boxHeight, st.Name, text(undo, "compensation"), "back " + class(st.Name, true)})
			done := undo != nil && undo.Ended
			p.Lines = append(p.Lines,
				line{fmt.Sprintf("M%d %d V%d", rightX+rightWidth/2, y(row), y(target(i-1))+boxHeight+2), lit(done, "compensated")},
				line{fmt.Sprintf("M%d %d H%d", b.X+b.W, middle(row), rightX-2), "turn " + lit(undo != nil, "compensating")})
		case st.Pivot:
			p.Notes = append(p.Notes, note{rightX, middle(row) - 12, "pivot: no compensation", "pivot"}, note{rightX, middle(row) + 3, "after this point", "pivot"})
			p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d H%d", leftX, y(row)+boxHeight+(rowHeight-boxHeight)/2, diagramWidth-leftX), "pivot"})
		case st.Retriable:
			p.Notes = append(p.Notes, note{rightX, middle(row) + 4, "retried until it succeeds", ""})
		}
		if len(st.Refused) > 0 {
			to := target(i - 1)
			refused := forward != nil && (forward.Class == "refused")
			p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d H%d V%d H%d", b.X+b.W, middle(row)-8, gap, middle(to)+8, rightX-2), "turn " + lit(refused, "refused")})
		}
	}
	end := y(len(steps) + 1)
	completed := v != nil && v.State.Status == saga.IsCompleted
	p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d V%d", spine, y(previous+1)+boxHeight, end-2), lit(completed, "completed")})
	p.Boxes = append(p.Boxes, box{leftX, end, leftWidth, boxHeight, "completed", "", lit(completed, "completed")})
	p.Label = description(name, outline, v)
	return p
}

// within is the timeout of a step, if the outline has it.
func within(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return "timeout " + span(d)
}

// following is the next step that is no fallback; -1: there is none.
func following(steps []saga.Outline, i int) int {
	for n := i + 1; n < len(steps); n++ {
		if !steps[n].Alternative {
			return n
		}
	}
	return -1
}

// text is the second line of a box.
func text(r *run, otherwise string) string {
	if r == nil {
		return otherwise
	}
	out := mark(r.Class) + " " + r.Result
	if r.Attempts > 1 {
		return fmt.Sprintf("%s (%d×)", out, r.Attempts)
	}
	if r.Ended && r.Took > 0 {
		out += ", " + span(r.Took)
	}
	return out
}

func description(name string, outline []saga.Outline, v *SagaView) string {
	var parts []string
	if v == nil {
		for _, st := range outline[:len(outline)-1] {
			part := st.Name
			switch {
			case st.Alternative:
				part += " (fallback)"
			case st.Pivot:
				part += " (pivot)"
			}
			parts = append(parts, part)
		}
		return fmt.Sprintf("Diagram of %s: %s. Each step before the pivot has a compensation; compensations run in reverse order.", name, strings.Join(parts, ", "))
	}
	for _, r := range v.Runs {
		parts = append(parts, r.Name()+" "+r.Result)
	}
	return fmt.Sprintf("Diagram of this saga, %s: %s.", v.State.Status, strings.Join(parts, ", "))
}
