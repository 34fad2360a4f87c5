package opsui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/saga"
)

// diagram is a drawing of a definition: the steps run down the left side, the compensations up the right side. The path of an instance is highlighted.
type diagram struct {
	Width, Height int
	Boxes         []box
	Lines         []line
	Notes         []note
	Label         string // for screen readers
	Parallel      bool   // some steps are parallel
}

type box struct {
	X, Y, W, H int
	Name       string
	State      string // the text below the name
	Class      string

	NameWidth, StateWidth int // width to which each text is condensed; 0: not condensed
}

type line struct {
	D, Class string // D is an SVG path
}

// Arrow reports whether the line has an arrowhead.
func (l line) Arrow() bool {
	kind, _, _ := strings.Cut(l.Class, " ")
	return kind != "pivot" && kind != "bar" && kind != "rail"
}

type note struct {
	X, Y        int
	Text, Class string
}

// Measures of the diagram in its own units. The diagram is 360 units wide, like the screen of a phone.
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
	barGap       = 7   // between the boxes of a stage of parallel steps and the bars of the stage
	railGap      = 4   // between the edge of a column and the rails of a stage of parallel steps
	exitDown     = 10  // from the middle of a box down to the point where a path leaves an action or enters a compensation
	padding      = 10  // between the texts and the edges of a box
	nameWidth    = 80  // average width of a letter, in tenths
	stateWidth   = 60
	laneGap      = 8 // between the edge of a column and the boxes of a stage of parallel steps
)

// drawing is a diagram while it is drawn. If instance is nil, no path is highlighted.
type drawing struct {
	diagram
	steps    []saga.Outline // without the last command of a compensated saga
	instance *SagaView
}

// drawSaga draws the outline of a definition and highlights the path of the instance v. If v is nil, no path is highlighted.
func drawSaga(name string, outline []saga.Outline, v *SagaView) diagram {
	steps, abort := outline[:len(outline)-1], outline[len(outline)-1]
	p := &drawing{diagram{Width: diagramWidth, Height: (len(steps)+2)*rowHeight + 10}, steps, v}
	// Row 0 is the start on the left, and the last command of a compensated saga on the right.
	p.box(box{X: leftX, Y: top(0), W: leftWidth, H: boxHeight, Name: outline[0].Starts, State: "starts the saga", Class: lit(v != nil, "completed")})
	p.box(box{X: rightX, Y: top(0), W: rightWidth, H: boxHeight, Name: abort.Name, State: text(p.run(abort.Name, false), "ends the compensation"), Class: "back " + p.class(abort.Name, false)})
	bottom := top(0) + boxHeight // bottom of the previous box of the forward path
	for i := 0; i < len(steps); {
		last := p.last(i)
		if steps[i].Parallel {
			p.Parallel = true
			p.fork(i, last, bottom)
			bottom = top(last+1) + boxHeight + barGap
		} else {
			p.line(fmt.Sprintf("M%d %d V%d", spine, bottom, top(i+1)-2), lit(p.run(steps[i].Name, false) != nil, "completed"))
			bottom = top(i+1) + boxHeight
		}
		for ; i <= last; i++ {
			p.step(i, last)
		}
	}
	end := top(len(steps) + 1)
	completed := v != nil && v.State.Status == saga.StatusCompleted
	p.line(fmt.Sprintf("M%d %d V%d", spine, bottom, end-2), lit(completed, "completed"))
	p.box(box{X: leftX, Y: end, W: leftWidth, H: boxHeight, Name: "completed", Class: lit(completed, "completed")})
	p.Label = description(name, outline, v)
	return p.diagram
}

// top is the y coordinate of the boxes of a row.
func top(row int) int { return 8 + row*rowHeight }

func middle(row int) int { return top(row) + boxHeight/2 }

func lit(ok bool, class string) string {
	if ok {
		return "lit " + class
	}
	return ""
}

func (p *drawing) box(b box) {
	b.Name, b.NameWidth = fit(b.Name, nameWidth, b.W-2*padding)
	b.State, b.StateWidth = fit(b.State, stateWidth, b.W-2*padding)
	p.Boxes = append(p.Boxes, b)
}

// fit fits a text into a box with this room. A text that is too wide is condensed, and cut off if it is still too wide. Width is the average width of a
// letter in tenths. The result is the text and its condensed width; 0 means that the text is not condensed.
func fit(text string, width, room int) (string, int) {
	letters := []rune(text)
	wide := len(text) - len(letters) // symbols of two or three bytes, which are wider than letters
	if (len(letters)+wide/2)*width <= 10*room {
		return text, 0
	}
	if most := 14 * room / width; len(letters) > most {
		letters = append(letters[:most-1], '…')
	}
	return string(letters), room
}

func (p *drawing) line(d, class string)           { p.Lines = append(p.Lines, line{d, class}) }
func (p *drawing) note(x, y int, t, class string) { p.Notes = append(p.Notes, note{x, y, t, class}) }

func (p *drawing) run(step string, undo bool) *run {
	if p.instance == nil {
		return nil
	}
	return p.instance.find(step, undo)
}

func (p *drawing) class(step string, undo bool) string {
	if r := p.run(step, undo); r != nil {
		return r.Class
	}
	return "waiting"
}

// last is the index of the last step of the stage that begins with step i, including fallbacks.
func (p *drawing) last(i int) int {
	for n := i + 1; n < len(p.steps); n++ {
		same := p.steps[i].Parallel && p.steps[n].Stage == p.steps[i].Stage
		if !same && !p.steps[n].Alternative {
			return n - 1
		}
	}
	return len(p.steps) - 1
}

// target is the y coordinate of the end of a path that runs up to the compensation of step i or, if it has none, of the last earlier step with one.
func (p *drawing) target(i int) int {
	for ; i >= 0; i-- {
		switch {
		case p.steps[i].Compensation && p.steps[i].Parallel:
			return top(p.last(i)+1) + boxHeight + barGap
		case p.steps[i].Compensation:
			return top(i+1) + boxHeight
		}
	}
	return top(0) + boxHeight
}

// aside is the y coordinate of the end of a path that runs from the left to the same compensation as target.
func (p *drawing) aside(i int) int {
	y := p.target(i)
	for i >= 0 && !p.steps[i].Compensation {
		i--
	}
	if i >= 0 && p.steps[i].Parallel {
		return y
	}
	return y - boxHeight/2 + 8
}

// fork draws the bars and the rails of the stage of parallel steps between the indexes from and to. Each row of the stage has an action on the left and a
// compensation on the right.
func (p *drawing) fork(from, to, bottom int) {
	above, below := top(from+1)-barGap, top(to+1)+boxHeight+barGap
	begun, done := p.run(p.steps[from].Name, false) != nil, p.instance != nil
	for _, st := range p.steps[from : to+1] {
		if !st.Alternative {
			forward := p.run(st.Name, false)
			begun = begun || forward != nil
		}
	}
	for _, st := range p.instanceSteps(from, to) {
		done = done && !st.InFlight() && st.Status != saga.StepStatusWaiting
	}
	done = done && begun && !p.instance.State.Compensating
	p.line(fmt.Sprintf("M%d %d V%d", spine, bottom, above-2), lit(begun, "completed"))
	p.line(fmt.Sprintf("M%d %d H%d", leftX, above, leftX+leftWidth), "bar "+lit(begun, "completed"))
	lowest := to // the last step of the stage that is no fallback
	for p.steps[lowest].Alternative {
		lowest--
	}
	p.line(fmt.Sprintf("M%d %d V%d", leftX+railGap, above, middle(lowest+1)), "rail "+lit(begun, "completed"))
	p.line(fmt.Sprintf("M%d %d V%d", leftX+leftWidth-railGap, middle(from+1)+exitDown, below), "rail "+lit(done, "completed"))
	p.line(fmt.Sprintf("M%d %d H%d", leftX, below, leftX+leftWidth), "bar "+lit(done, "completed"))
	p.note(leftX+laneGap+4, top(from+2)-rowHeight+boxHeight+(rowHeight-boxHeight)/2-1, "in parallel", "")
	if slices.ContainsFunc(p.steps[from:to+1], func(st saga.Outline) bool { return st.Compensation }) {
		undoing, undone := false, true
		for _, st := range p.steps[from : to+1] {
			if undo := p.run(st.Name, true); undo != nil {
				undoing, undone = true, undone && undo.Ended
			}
		}
		p.line(fmt.Sprintf("M%d %d H%d", rightX, below, rightX+rightWidth), "bar "+lit(undoing, "compensating"))
		p.line(fmt.Sprintf("M%d %d V%d", rightX+railGap, middle(from+1)+exitDown, below), "rail "+lit(undoing, "compensating"))
		lowest := to // the last step of the stage that has a compensation
		for !p.steps[lowest].Compensation {
			lowest--
		}
		p.line(fmt.Sprintf("M%d %d V%d", rightX+rightWidth-railGap, middle(lowest+1), p.target(from-1)+2), lit(undoing && undone, "compensated"))
	}
}

// instanceSteps returns the states of the steps between the indexes from and to.
func (p *drawing) instanceSteps(from, to int) (all []saga.StepState) {
	if p.instance == nil {
		return nil
	}
	for _, st := range p.steps[from : to+1] {
		if state := p.instance.State.Step(st.Name); state != nil {
			all = append(all, *state)
		}
	}
	return all
}

// step draws the row of a step: its action, its compensation, and the paths between both. Last is the index of the last step of its stage.
func (p *drawing) step(i, last int) {
	st, row := p.steps[i], i+1
	forward := p.run(st.Name, false)
	b := box{X: leftX, Y: top(row), W: leftWidth, H: boxHeight, Name: st.Name, State: text(forward, about(st)), Class: p.class(st.Name, false)}
	if st.Parallel {
		b.X, b.W = b.X+laneGap, b.W-2*laneGap
	}
	if st.Alternative {
		p.fallback(&b, i, forward)
	}
	if st.Parallel {
		if !st.Alternative {
			p.line(fmt.Sprintf("M%d %d H%d", leftX+railGap, middle(row), b.X-2), lit(forward != nil, "completed"))
		}
		p.line(fmt.Sprintf("M%d %d H%d", b.X+b.W, middle(row)+exitDown, leftX+leftWidth-railGap), "rail "+lit(forward != nil && forward.Class == "completed", "completed"))
	}
	p.box(b)
	switch {
	case st.Compensation:
		p.compensation(i, b)
	case st.Pivot:
		p.note(rightX, middle(row)-12, "pivot: no compensation", "pivot")
		p.note(rightX, middle(row)+3, "after this point", "pivot")
		p.line(fmt.Sprintf("M%d %d H%d", leftX, top(row)+boxHeight+(rowHeight-boxHeight)/2, diagramWidth-leftX), "pivot")
	case st.Retriable:
		p.note(rightX, middle(row)+4, "retried until it succeeds", "")
	}
	if len(st.Refused) > 0 {
		to := p.aside(i - 1)
		if st.Parallel && st.Compensation {
			to = top(last+1) + boxHeight + barGap
		}
		refused := forward != nil && forward.Class == "refused"
		p.line(fmt.Sprintf("M%d %d H%d V%d H%d", b.X+b.W, middle(row)-8, gap, to, rightX-2), "turn "+lit(refused, "refused"))
	}
}

// fallback places the box of a fallback and draws the paths to and from the box.
func (p *drawing) fallback(b *box, i int, forward *run) {
	b.X, b.W, b.Class = leftX+indent, b.X+b.W-leftX-indent, b.Class+" standsin"
	kind := "fallback"
	if p.steps[i].AtOnce > 0 {
		kind += ", for each"
	}
	b.State = text(forward, kind)
	x := leftX + leftWidth - 30
	p.line(fmt.Sprintf("M%d %d V%d", x, top(i)+boxHeight, top(i+1)-2), "detour "+lit(forward != nil, "in_progress"))
	if n := following(p.steps, i); n >= 0 && !p.steps[i].Parallel {
		to := top(n+1) - 2
		if p.steps[n].Parallel {
			to -= barGap
		}
		p.line(fmt.Sprintf("M%d %d V%d", x, top(i+1)+boxHeight, to), "detour "+lit(p.run(p.steps[n].Name, false) != nil && forward != nil, "completed"))
	}
}

// compensation draws the compensation of step i, whose action is drawn in box b.
func (p *drawing) compensation(i int, b box) {
	st, row := p.steps[i], i+1
	undo := p.run(st.Name, true)
	back := box{X: rightX, Y: top(row), W: rightWidth, H: boxHeight, Name: st.Name, State: text(undo, "compensation"), Class: "back " + p.class(st.Name, true)}
	done := undo != nil && undo.Ended
	if st.Parallel {
		back.X, back.W = back.X+laneGap, back.W-2*laneGap
		p.line(fmt.Sprintf("M%d %d H%d", rightX+railGap, middle(row)+exitDown, back.X-2), lit(undo != nil, "compensating"))
		p.line(fmt.Sprintf("M%d %d H%d", back.X+back.W, middle(row), rightX+rightWidth-railGap), "rail "+lit(done, "compensated"))
	} else {
		p.line(fmt.Sprintf("M%d %d V%d", rightX+rightWidth/2, top(row), p.target(i-1)+2), lit(done, "compensated"))
	}
	p.box(back)
	p.line(fmt.Sprintf("M%d %d H%d", b.X+b.W, middle(row), back.X-2), "turn "+lit(undo != nil, "compensating"))
}

// about describes the kind of a step in a text that fits into its box.
func about(st saga.Outline) string {
	kind := within(st.Timeout)
	switch {
	case st.Delay:
		kind = "delay"
	case st.Signal != "":
		kind = "signal " + st.Signal
	case st.Event != "":
		kind = "event " + st.Event[strings.LastIndexByte(st.Event, '.')+1:]
	case st.AtOnce > 0:
		kind = atOnce(st)
	case st.Child != "":
		kind = "saga " + st.Child
	case st.Every > 0:
		kind = "repeated every " + span(st.Every)
	}
	if st.SkipIf {
		kind += ", conditional"
	}
	return kind
}

func atOnce(st saga.Outline) string { return fmt.Sprintf("for each, %d at once", st.AtOnce) }

// within is the text for the timeout of a step; empty if there is none.
func within(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return "timeout " + span(d)
}

// following is the index of the next step that is no fallback; -1 if there is none.
func following(steps []saga.Outline, i int) int {
	for n := i + 1; n < len(steps); n++ {
		if !steps[n].Alternative {
			return n
		}
	}
	return -1
}

// text is the second line of a box: the result of a run, or otherwise if there is no run.
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
			case st.Parallel:
				part += fmt.Sprintf(" (parallel, stage %d)", st.Stage)
			}
			if st.AtOnce > 0 && !st.Alternative {
				part += " (" + atOnce(st) + ")"
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
