package opsui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// read makes the runs and the history of the view from the events of an instance.
func (v *SagaView) read(events []cqrs.Event) {
	for _, e := range events {
		at := e.Meta.Time
		switch f := e.Body.(type) {
		case saga.Started:
			v.planned = f.Steps
			of := ""
			if f.Parent != nil {
				of = fmt.Sprintf(" by the step %s of saga %s", f.Parent.Step, Short(f.Parent.SagaID))
			}
			v.add(at, "", "started for %s%s", Short(f.Subject), of)
			v.sent(at, f.Next)
		case saga.CommandSent:
			v.sent(at, &f)
		case saga.CommandsSent:
			for i := range f.Sent {
				v.sent(at, &f.Sent[i])
			}
		case saga.SkippedByCondition:
			for _, step := range f.Steps {
				v.end(step, false, at, "skipped", "skipped", "")
				v.add(at, "", "%s skipped by its condition", step)
			}
			v.sent(at, f.Next)
		case saga.ItemsCounted:
			if f.Items == 0 {
				v.end(f.Step, false, at, "skipped", "skipped", "")
				v.add(at, "", "%s: no items, so it is skipped", f.Step)
			} else {
				v.add(at, "", "%s: %s", f.Step, counted(f.Items, "item"))
			}
			v.sent(at, f.Next)
		case saga.RepeatScheduled:
			r := v.run(f.Step, false)
			r.Result, r.Deadline, r.repeated = "waiting", &f.At, true
			v.plain(f.Step, "not yet as required", at, "in_progress", "%s: its condition does not hold yet, repeated at %s", f.Step, f.At.UTC().Format(time.DateTime))
		case saga.WaitStarted:
			r := v.run(f.Step, false)
			end, _ := v.deadline(f.Step, f.Attempt, f.Deadline)
			r.Started, r.Class, r.Result, r.Deadline = at, "in_progress", "waiting", &end
			what := ""
			switch {
			case f.Signal != "":
				what = " for the signal " + f.Signal
			case f.Event != "":
				what = fmt.Sprintf(" for the event %s of %s", f.Event, f.Key)
			}
			v.add(at, r.Class, "%s: waits%s until %s", f.Step, what, v.until(f.Step, f.Attempt, f.Deadline))
		case saga.SignalReceived:
			v.end(f.Step, false, at, "completed", "signal of "+f.By, string(f.Payload))
			v.add(at, "completed", "%s sent the signal %s: %s", f.By, f.Signal, f.Payload)
			v.sent(at, f.Next)
		case saga.EventReceived:
			v.end(f.Step, false, at, "completed", "event received", "message "+f.MessageID)
			v.plain(f.Step, "completed", at, "completed", "%s: the event %s has come", f.Step, f.Event)
			v.sent(at, f.Next)
		case saga.ReminderSent:
			v.run(f.Step, false).Deadline = &f.Deadline
			v.plain(f.Step, "reminded", at, "in_progress", "%s: reminder sent, waits until %s", f.Step, f.Deadline.UTC().Format(time.DateTime))
		case saga.WaitsCancelled:
			for _, step := range f.Steps {
				v.end(step, false, at, "cancelled", "cancelled", "")
				v.plain(step, "cancelled", at, "cancelled", "%s is cancelled", step)
			}
		case saga.StepCompleted:
			v.end(f.Step, false, at, "completed", "completed", "")
			v.plain(f.Step, "completed", at, "completed", "%s completed", f.Step)
			v.sent(at, f.Next)
		case saga.StepRefused:
			v.end(f.Step, false, at, "refused", "refused", f.Reason)
			if f.Fallback == "" {
				v.add(at, "refused", "%s refused: %s", f.Step, f.Reason)
			} else {
				v.notable(f.Step, "refused", at, "refused", "%s refused: %s", f.Step, f.Reason)
			}
		case saga.StepTimedOut:
			v.end(f.Step, false, at, "timed_out", "timed out", "")
			switch {
			case f.GoesOn:
				v.notable(f.Step, "timed out", at, "timed_out", "%s timed out, and the saga goes on", f.Step)
			case v.State.Step(f.Step).Wait:
				v.notable(f.Step, "timed out", at, "timed_out", "%s timed out", f.Step)
			default:
				v.notable(f.Step, "timed out", at, "timed_out", "%s timed out: its result is unknown, so it is compensated", f.Step)
			}
		case saga.StepCompensated:
			v.end(f.Step, true, at, "compensated", "compensated", "")
			v.plain(f.Step, "compensated", at, "compensated", "%s compensated", f.Step)
			v.sent(at, f.Next)
		case saga.CancelRequested:
			v.add(at, "refused", "cancellation requested: %s", f.Reason)
		case saga.AnswerIgnored:
			v.notable(f.Step, "answered late", at, "", "late answer of %s ignored", f.Step)
		case saga.NeedsIntervention:
			v.add(at, "stuck", "%s is stuck: %s", f.Step, f.Reason)
		case saga.StepRetried:
			v.add(at, "", "%s retried %s", f.By, f.Step)
		case saga.StepSkipped:
			v.endByHand(f.Step, at, "skipped by hand", f.Reason)
			v.add(at, "completed", "%s skipped %s: %s", f.By, f.Step, f.Reason)
		case saga.Resolved:
			v.endByHand(f.Step, at, "resolved by hand", f.Reason)
			v.add(at, "completed", "%s resolved the saga by hand: %s", f.By, f.Reason)
		case saga.Completed:
			v.add(at, "completed", "saga completed")
		case saga.Compensated:
			v.add(at, "compensated", "saga compensated: %s", f.Reason)
		}
	}
	v.unfold()
}

// add adds a line to the history.
func (v *SagaView) add(at time.Time, class, format string, args ...any) {
	clear(v.folds)
	v.History = append(v.History, v.line(at, class, format, args...))
}

func (v *SagaView) line(at time.Time, class, format string, args ...any) *entry {
	return &entry{After: at.Sub(v.State.StartedAt), At: at, Text: fmt.Sprintf(format, args...), Class: class}
}

// plain adds a line that is folded if it is about an item: successive plain lines of one step become one line with counts. What is the word under which
// the line is counted.
func (v *SagaView) plain(step, what string, at time.Time, class, format string, args ...any) {
	of := v.steps[step]
	if of == "" {
		v.add(at, class, format, args...)
		return
	}
	fold, line := v.folds[of], v.line(at, class, format, args...)
	if fold == nil {
		fold = &entry{After: line.After, At: at, Text: of}
		v.folds[of] = fold
		v.History = append(v.History, fold)
	}
	fold.Class, fold.Last = class, line.After
	if len(fold.Lines) < maxItems {
		fold.Lines = append(fold.Lines, line)
	} else {
		fold.More++
	}
	i := slices.IndexFunc(fold.Tally, func(t tally) bool { return t.what == what })
	if i < 0 {
		i = len(fold.Tally)
		fold.Tally = append(fold.Tally, tally{what: what})
	}
	fold.Tally[i].n++
}

// notable adds a line about an item that an operator may look for. It is not folded, unless the step has more than maxItems such lines.
func (v *SagaView) notable(step, what string, at time.Time, class, format string, args ...any) {
	of := v.steps[step]
	if v.noted[of]++; of != "" && v.noted[of] > maxItems {
		v.plain(step, what, at, class, format, args...)
		return
	}
	v.add(at, class, format, args...)
}

// unfold writes the text of folded lines with their counts. A fold of one line becomes that line.
func (v *SagaView) unfold() {
	for _, e := range v.History {
		switch len(e.Lines) {
		case 0:
			continue
		case 1:
			*e = *e.Lines[0]
			continue
		}
		words := make([]string, len(e.Tally))
		for i, t := range e.Tally {
			words[i] = fmt.Sprint(t.n, " ", t.what)
		}
		e.Text = fmt.Sprintf("%s, for each: %s", e.Text, strings.Join(words, ", "))
		if e.Last > e.After {
			e.Text += fmt.Sprintf(", until +%.3f s", e.Last.Seconds())
		}
	}
}

// sent records that the command of a step was sent; nil: no command was sent.
func (v *SagaView) sent(at time.Time, f *saga.CommandSent) {
	if f == nil {
		return
	}
	r := v.run(f.Step, f.Branch == cqrs.BranchCompensation)
	if action := v.find(f.Step, false); r.Compensate && action != nil && !action.Ended {
		v.end(f.Step, false, at, "in_doubt", "in doubt", "")
	}
	if r.Started.IsZero() || r.Ended {
		r.Started, r.Ended = at, false
	}
	r.Class, r.Result, r.Attempts, r.Deadline = "in_progress", "in progress", f.Attempt, &f.Deadline
	if r.Compensate {
		r.Class, r.Result = "compensating", "compensating"
	}
	r.Commands = append(r.Commands, f.CommandID)
	more := ""
	if f.Attempt > 1 {
		more = fmt.Sprintf(", attempt %d", f.Attempt)
	}
	if f.InsteadOf != "" {
		more += ", instead of " + f.InsteadOf
	}
	switch {
	case f.Attempt > 1 && !r.repeated:
		v.notable(f.Step, "sent again", at, r.Class, "%s: command sent%s", r.Name(), more)
	case r.Compensate:
		v.plain(f.Step, "compensating", at, r.Class, "%s: command sent%s", r.Name(), more)
	default:
		v.plain(f.Step, "sent", at, r.Class, "%s: command sent%s", r.Name(), more)
	}
	r.repeated = false
}

// run returns the run of a step or of an item. It creates the run if there is none.
func (v *SagaView) run(step string, compensate bool) *run {
	if r := v.find(step, compensate); r != nil {
		return r
	}
	r := &run{Step: step, Compensate: compensate}
	of := v.steps[step]
	if of == "" {
		v.Runs = append(v.Runs, r)
		return r
	}
	all := v.run(of, compensate)
	if all.items == nil {
		all.items = map[string]*run{}
	}
	all.items[step] = r
	return r
}

func (v *SagaView) end(step string, compensate bool, at time.Time, class, result, reason string) {
	r := v.run(step, compensate)
	if r.Started.IsZero() {
		r.Started = at // no command was sent
	}
	r.Ended, r.Took, r.Class, r.Result, r.Reason, r.Deadline = true, at.Sub(r.Started), class, result, reason, nil
}

// endByHand ends the run of a step that an operator has skipped or resolved: the compensation if it is active, otherwise the action.
func (v *SagaView) endByHand(step string, at time.Time, result, reason string) {
	if r := v.find(step, true); r != nil && !r.Ended {
		v.end(step, true, at, "compensated", result, reason)
		return
	}
	v.end(step, false, at, "completed", result, reason)
}
