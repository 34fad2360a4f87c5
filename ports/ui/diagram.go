package ui

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/saga"
)

// picture is a definition, drawn: the way forwards down its left side, the way back up its right side; of an instance, its own way is
// lit.
type picture struct {
	Width, Height int
	Boxes         []box
	Lines         []line
	Notes         []note
	Says          string // for those who don't see it
}

type box struct {
	X, Y, W, H int
	Name       string
	State      string // what is said below the name
	Class      string
}

type line struct {
	D, Class string // an SVG path
}

type note struct {
	X, Y        int
	Text, Class string
}

// Measures of the picture, in its own units; it is 360 wide, as a telephone is.
const (
	pictureWidth = 360
	rowHeight    = 74
	boxHeight    = 46
	leftX        = 8
	leftWidth    = 164
	rightX       = 200
	rightWidth   = 152
	spine        = 24 // where the way forwards runs beside fallbacks
	indent       = 30
	gap          = 186 // where turning back runs
)

// drawSaga draws the outline of a definition; with d, the way of an instance through it.
func drawSaga(name string, outline []saga.Outline, d *sagaData) picture {
	steps, abort := outline[:len(outline)-1], outline[len(outline)-1]
	p := picture{Width: pictureWidth, Height: (len(steps)+2)*rowHeight + 10}
	y := func(row int) int { return 8 + row*rowHeight }
	middle := func(row int) int { return y(row) + boxHeight/2 }
	lit := func(ok bool, class string) string {
		if ok {
			return "lit " + class
		}
		return ""
	}
	find := func(step string, undo bool) *try {
		if d == nil {
			return nil
		}
		return d.find(step, undo)
	}
	class := func(step string, undo bool) string {
		if t := find(step, undo); t != nil {
			return t.Class
		}
		return "waiting"
	}
	// Row 0 is the beginning on the left, and the end of the way back on the right.
	p.Boxes = append(p.Boxes, box{leftX, y(0), leftWidth, boxHeight, outline[0].Starts, "begins it", lit(d != nil, "completed")})
	p.Boxes = append(p.Boxes, box{rightX, y(0), rightWidth, boxHeight, abort.Name, says(find(abort.Name, false), "ends it, all undone"), "back " + class(abort.Name, false)})
	target := func(i int) int { // the row of what is undone next below row i
		for ; i >= 0; i-- {
			if steps[i].Undo {
				return i + 1
			}
		}
		return 0
	}
	previous := -1
	for i, st := range steps {
		row := i + 1
		forward, undo := find(st.Name, false), find(st.Name, true)
		b := box{leftX, y(row), leftWidth, boxHeight, st.Name, says(forward, within(st.Within)), class(st.Name, false)}
		from := y(0) + boxHeight
		if previous >= 0 {
			from = y(previous+1) + boxHeight
		}
		if st.StandsIn {
			b.X, b.W, b.Class = leftX+indent, leftWidth-indent, b.Class+" standsin"
			b.State = says(forward, "fallback")
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
		case st.Undo:
			p.Boxes = append(p.Boxes, box{rightX, y(row), rightWidth, boxHeight, st.Name, says(undo, "undo"), "back " + class(st.Name, true)})
			done := undo != nil && undo.Ended
			p.Lines = append(p.Lines,
				line{fmt.Sprintf("M%d %d V%d", rightX+rightWidth/2, y(row), y(target(i-1))+boxHeight+2), lit(done, "compensated")},
				line{fmt.Sprintf("M%d %d H%d", b.X+b.W, middle(row), rightX-2), "turn " + lit(undo != nil, "compensating")})
		case st.Pivot:
			p.Notes = append(p.Notes, note{rightX, middle(row) - 6, "no way back from here on", "pivot"})
			p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d H%d", leftX, y(row)+boxHeight+(rowHeight-boxHeight)/2, pictureWidth-leftX), "pivot"})
		case st.Retriable:
			p.Notes = append(p.Notes, note{rightX, middle(row) + 4, "asked until it is done", ""})
		}
		if len(st.Refused) > 0 {
			to := target(i - 1)
			refused := forward != nil && (forward.Class == "refused")
			p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d H%d V%d H%d", b.X+b.W, middle(row)-8, gap, middle(to)+8, rightX-2), "turn " + lit(refused, "refused")})
		}
	}
	end := y(len(steps) + 1)
	completed := d != nil && d.State.Status == saga.IsCompleted
	p.Lines = append(p.Lines, line{fmt.Sprintf("M%d %d V%d", spine, y(previous+1)+boxHeight, end-2), lit(completed, "completed")})
	p.Boxes = append(p.Boxes, box{leftX, end, leftWidth, boxHeight, "completed", "", lit(completed, "completed")})
	p.Says = description(name, outline, d)
	return p
}

// within is how long a step may take, if the outline knows it.
func within(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return "within " + span(d)
}

// outlineOf is as much of a definition as the history of one of its instances tells: the steps in their order, with the compensations and
// the fallbacks that were really taken. Where the pivot was is not in it.
func outlineOf(d *sagaData) []saga.Outline {
	var steps []saga.Outline
	abort := saga.Outline{Name: "tell " + d.State.Subject, Retriable: true}
	planned := map[string]bool{}
	for _, name := range d.Planned {
		planned[name] = true
	}
	for _, st := range d.State.Steps {
		o := saga.Outline{Name: st.Name, Undo: d.find(st.Name, true) != nil, StandsIn: st.InsteadOf != ""}
		if !planned[st.Name] && !o.StandsIn {
			abort.Name = st.Name
			continue
		}
		steps = append(steps, o)
	}
	if len(steps) == 0 {
		steps = []saga.Outline{{Name: "started"}}
	}
	steps[0].Starts = "started"
	return append(steps, abort)
}

// following is the next step that is no fallback; -1: there is none.
func following(steps []saga.Outline, i int) int {
	for n := i + 1; n < len(steps); n++ {
		if !steps[n].StandsIn {
			return n
		}
	}
	return -1
}

// says is what a box tells below its name.
func says(t *try, otherwise string) string {
	if t == nil {
		return otherwise
	}
	out := mark(t.Class) + " " + t.Says
	if t.Attempts > 1 {
		out += fmt.Sprintf(", %d times", t.Attempts)
	}
	if t.Ended && t.Took > 0 {
		out += ", " + span(t.Took)
	}
	return out
}

// mark tells statuses apart for those who do not see colours.
func mark(class string) string {
	return map[string]string{
		"in_progress": "▶", "completed": "✓", "refused": "✕", "timed_out": "⏱", "compensating": "◀", "compensated": "↩", "stuck": "!", "running": "▶",
		"confirmed": "✓", "cancelled": "↩", "pending": "▶", "open": "✕", "closed": "✓", "half-open": "▶",
	}[class]
}

func description(name string, outline []saga.Outline, d *sagaData) string {
	var parts []string
	if d == nil {
		for _, st := range outline[:len(outline)-1] {
			part := st.Name
			switch {
			case st.StandsIn:
				part += " (fallback)"
			case st.Pivot:
				part += " (no way back from there)"
			}
			parts = append(parts, part)
		}
		return fmt.Sprintf("Diagram of %s: %s. Each step before the point of no return has a compensation; they are carried out in reverse order.", name, strings.Join(parts, ", "))
	}
	for _, t := range d.Tries {
		parts = append(parts, t.name()+" "+t.Says)
	}
	return fmt.Sprintf("Diagram of this saga, %s: %s.", d.State.Status, strings.Join(parts, ", "))
}

func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	default:
		return strings.TrimSuffix(d.Round(time.Second).String(), "0s")
	}
}
