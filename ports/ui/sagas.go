package ui

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

func (s *Server) sagas() page {
	return page{title: "Sagas", nav: "sagas", template: "sagas", streams: func(*http.Request) []string { return nil }, load: func(r *http.Request) (any, error) {
		before, first, err := cursor(r)
		if err != nil {
			return nil, err
		}
		l := list[saga.State]{Status: r.URL.Query().Get("status"), First: first}
		for _, status := range []saga.Status{saga.Running, saga.Compensating, saga.Stuck, saga.IsCompleted, saga.IsCompensated} {
			l.Statuses = append(l.Statuses, string(status))
		}
		l.Rows, err = cqrs.AskFor(r.Context(), s.Queries, manager.List{Status: saga.Status(l.Status), Page: cqrs.Page{Before: before, Limit: perPage + 1}})
		l.cut(r, func(row saga.State) cqrs.Cursor { return cqrs.Cursor{At: row.StartedAt, ID: row.ID} })
		return l, err
	}}
}

// sagaData is the page of an instance.
type sagaData struct {
	State   saga.State
	Picture picture
	Planned []string // the steps that its start names
	Tries   []try
	Facts   []fact
	Stuck   *saga.StepState // what waits for a person
	Means   string          // where it stands, in a sentence
}

func (d *sagaData) title() string { return "Saga " + short(d.State.ID) }

// try is one step's way forwards or back: all of its attempts.
type try struct {
	Step     string
	Undo     bool
	Class    string // in_progress, completed, refused, timed_out, compensating, compensated
	Says     string
	Started  time.Time
	Took     time.Duration // so far
	Ended    bool
	Attempts int
	Deadline *time.Time
	Commands []string // ids of its messages
	Reason   string
	From, To float64 // its part of the whole time, 0 to 100
}

// fact is a line of the timeline.
type fact struct {
	After time.Duration // since the start
	At    time.Time
	Text  string
	Class string
	ID    string // of the message that it is about
}

func (s *Server) saga() page {
	return page{title: "Saga", nav: "sagas", template: "saga", streams: func(r *http.Request) []string {
		return []string{saga.Category + "/" + r.PathValue("id")}
	}, load: func(r *http.Request) (any, error) {
		history, err := cqrs.AskFor(r.Context(), s.Queries, manager.History{ID: r.PathValue("id")})
		if err != nil {
			return nil, err
		}
		return s.sagaOf(r.PathValue("id"), history), nil
	}}
}

// sagaOf is drawn from the history alone where the version of its definition is not listed any more.
func (s *Server) sagaOf(id string, history []cqrs.Event) *sagaData {
	d := &sagaData{State: saga.Rebuild(id, history)}
	d.tell(history)
	definition := s.Saga(d.State.Definition, d.State.DefVersion)
	outline := []saga.Outline(nil)
	if definition != nil {
		outline = definition.Outline()
	} else {
		outline = outlineOf(d)
	}
	d.Picture = drawSaga(d.State.Definition, outline, d)
	for i := range d.State.Steps {
		if st := &d.State.Steps[i]; d.State.Status == saga.Stuck && (st.Status == saga.InProgress || st.Status == saga.Undoing) {
			d.Stuck = st
		}
	}
	d.Means = meaning(d)
	if definition == nil && !d.State.Status.Ended() {
		d.Means += fmt.Sprintf(" Version %d of its definition is not listed by this instance, so it cannot go on here: list it again in sagas.All.", d.State.DefVersion)
	}
	return d
}

// tell makes the timeline out of the facts.
func (d *sagaData) tell(history []cqrs.Event) {
	for _, e := range history {
		at := e.Meta.Time
		switch f := e.Body.(type) {
		case saga.Started:
			d.Planned = f.Steps
			d.add(e, "", "", "began for %s", short(f.Subject))
			d.asked(e, f.Next)
		case saga.StepAsked:
			d.asked(e, &f)
		case saga.StepCompleted:
			d.end(f.Step, false, at, "completed", "done", "")
			d.add(e, "completed", f.CommandID, "%s done", f.Step)
			d.asked(e, f.Next)
		case saga.StepRefused:
			d.end(f.Step, false, at, "refused", "refused", f.Reason)
			d.add(e, "refused", f.CommandID, "%s refused: %s", f.Step, f.Reason)
		case saga.StepTimedOut:
			d.end(f.Step, false, at, "timed_out", "no answer in time", "")
			d.add(e, "timed_out", "", "%s: no answer in time, so it may have happened, and is undone", f.Step)
		case saga.StepCompensated:
			d.end(f.Step, true, at, "compensated", "undone", "")
			d.add(e, "compensated", f.CommandID, "undo %s: done", f.Step)
			d.asked(e, f.Next)
		case saga.CancelRequested:
			d.add(e, "refused", "", "somebody wants it undone: %s", f.Reason)
		case saga.AnswerIgnored:
			d.add(e, "", "", "an answer of %s came too late to change anything", f.Step)
		case saga.GotStuck:
			d.add(e, "stuck", "", "%s is stuck: %s", f.Step, f.Reason)
		case saga.StepRetried:
			d.add(e, "", "", "%s had %s asked again", f.By, f.Step)
		case saga.StepSkipped:
			undo := d.undoing(f.Step)
			d.end(f.Step, undo, at, map[bool]string{false: "completed", true: "compensated"}[undo], "vouched for by "+f.By, f.Reason)
			d.add(e, "completed", "", "%s vouched for %s: %s", f.By, f.Step, f.Reason)
		case saga.Resolved:
			undo := d.undoing(f.Step)
			d.end(f.Step, undo, at, map[bool]string{false: "completed", true: "compensated"}[undo], "resolved by "+f.By, f.Reason)
			d.add(e, "compensated", "", "%s resolved it by hand: %s", f.By, f.Reason)
		case saga.Completed:
			d.add(e, "completed", "", "completed")
		case saga.Compensated:
			d.add(e, "compensated", "", "ended with everything undone: %s", f.Reason)
		}
	}
	d.scale()
}

func (d *sagaData) add(e cqrs.Event, class, id, format string, args ...any) {
	d.Facts = append(d.Facts, fact{e.Meta.Time.Sub(d.State.StartedAt), e.Meta.Time, fmt.Sprintf(format, args...), class, id})
}

// asked tells that a step was asked; nil: none was.
func (d *sagaData) asked(e cqrs.Event, f *saga.StepAsked) {
	if f == nil {
		return
	}
	t := d.try(f.Step, f.Branch == cqrs.Undo)
	if t.Started.IsZero() || t.Ended {
		t.Started, t.Ended = e.Meta.Time, false
	}
	t.Class, t.Says, t.Attempts, t.Deadline = "in_progress", "asked", f.Attempt, &f.Deadline
	if t.Undo {
		t.Class, t.Says = "compensating", "being undone"
	}
	t.Commands = append(t.Commands, f.CommandID)
	again := ""
	if f.Attempt > 1 {
		again = fmt.Sprintf(", attempt %d", f.Attempt)
	}
	if f.InsteadOf != "" {
		again += ", instead of " + f.InsteadOf
	}
	d.add(e, t.Class, f.CommandID, "%s asked%s", t.name(), again)
}

func (t try) name() string {
	if t.Undo {
		return "undo " + t.Step
	}
	return t.Step
}

// Name is what people see.
func (t try) Name() string { return t.name() }

func (d *sagaData) find(step string, undo bool) *try {
	if i := slices.IndexFunc(d.Tries, func(t try) bool { return t.Step == step && t.Undo == undo }); i >= 0 {
		return &d.Tries[i]
	}
	return nil
}

func (d *sagaData) try(step string, undo bool) *try {
	if t := d.find(step, undo); t != nil {
		return t
	}
	d.Tries = append(d.Tries, try{Step: step, Undo: undo})
	return &d.Tries[len(d.Tries)-1]
}

func (d *sagaData) undoing(step string) bool {
	t := d.find(step, true)
	return t != nil && !t.Ended
}

func (d *sagaData) end(step string, undo bool, at time.Time, class, says, reason string) {
	t := d.try(step, undo)
	if t.Started.IsZero() {
		t.Started = at // it was not even asked
	}
	t.Ended, t.Took, t.Class, t.Says, t.Reason, t.Deadline = true, at.Sub(t.Started), class, says, reason, nil
}

// scale gives each try its part of the whole time. What is under way takes the rest.
func (d *sagaData) scale() {
	last := d.State.StartedAt
	for _, f := range d.Facts {
		if f.At.After(last) {
			last = f.At
		}
	}
	whole := max(float64(last.Sub(d.State.StartedAt)), 1)
	for i := range d.Tries {
		t := &d.Tries[i]
		t.From = 100 * float64(t.Started.Sub(d.State.StartedAt)) / whole
		t.To = 100.0
		if t.Ended {
			t.To = t.From + 100*float64(t.Took)/whole
		}
		t.From = min(t.From, 99)
		t.To = max(min(t.To, 100), t.From+1)
	}
}

// Width is how broad the bar is.
func (t try) Width() float64 { return t.To - t.From }

func meaning(d *sagaData) string {
	switch d.State.Status {
	case saga.Running:
		return "It is on its way forwards."
	case saga.Compensating:
		return "It cannot be completed (" + d.State.Reason + "), so what was done is being undone, the last thing first."
	case saga.Stuck:
		if d.Stuck != nil {
			return fmt.Sprintf("It is stuck: %q was asked %s in vain. It goes on being asked, and somebody may decide.", d.Stuck.Name, times(d.Stuck.Attempts))
		}
		return "It is stuck, and needs somebody to decide."
	case saga.IsCompleted:
		return "Every step is done."
	case saga.IsCompensated:
		return "It came to nothing (" + d.State.Reason + "); everything that was done is undone."
	}
	return ""
}

func (s *Server) operate(question, sure, notice string, risk bool, input func(by, reason string) saga.Input) action {
	return action{
		risk: risk,
		ask: func(r *http.Request) (string, string) {
			return fmt.Sprintf(question, short(r.PathValue("id"))), sure
		},
		do: func(r *http.Request) (string, string, error) {
			reason, id := strings.TrimSpace(r.PostForm.Get("reason")), r.PathValue("id")
			in := input(cqrs.PrincipalOf(r.Context()).Subject, reason)
			if _, free := in.(saga.Retry); !free && (reason == "" || len(reason) > 500) {
				return "", "", wrong("the reason", "must be 1 to 500 characters")
			}
			return notice, "/ui/sagas/" + url.PathEscape(id), s.Operate(r.Context(), id, in)
		},
	}
}

// actions are what buttons do, by where they send.
func (s *Server) actions() map[string]action {
	all := map[string]action{
		"/ui/orders":             {do: s.placeOrder},
		"/ui/orders/{id}/cancel": s.cancelOrder(),
		"/ui/sagas/{id}/retry": s.operate("Ask again at once in saga %s?", "Ask again", "It is asked again.", false,
			func(by, _ string) saga.Input { return saga.Retry{By: by} }),
		"/ui/sagas/{id}/skip": s.operate("Vouch that the stuck step of saga %s is done, and go on with the next?", "It is done, go on", "The saga goes on.", true,
			func(by, reason string) saga.Input { return saga.Skip{By: by, Reason: reason} }),
		"/ui/sagas/{id}/resolve": s.operate("Say that everything that is left of saga %s was done by hand? Nobody will be asked any more.", "It is all done", "The saga is resolved.", true,
			func(by, reason string) saga.Input { return saga.Resolve{By: by, Reason: reason} }),
		"/ui/dead-letters/{id}/redrive": s.redrive(),
		"/ui/dead-letters/{id}/drop":    s.drop(),
	}
	if len(s.Sandbox) > 0 {
		all["/ui/sandbox/{service}"] = action{do: s.turn}
	}
	return all
}
