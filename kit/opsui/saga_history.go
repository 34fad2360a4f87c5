package opsui

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// read makes the runs and the history from the events of an instance.
func (v *SagaView) read(events []cqrs.Event) {
	for _, e := range events {
		at := e.Meta.Time
		switch f := e.Body.(type) {
		case saga.Started:
			v.planned = f.Steps
			v.add(at, "", "started for %s", Short(f.Subject))
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
		case saga.RepeatScheduled:
			r := v.run(f.Step, false)
			r.Result, r.Deadline = "waiting", &f.At
			v.add(at, "in_progress", "%s: its condition does not hold yet, repeated at %s", f.Step, f.At.UTC().Format(time.DateTime))
		case saga.WaitStarted:
			r := v.run(f.Step, false)
			r.Started, r.Class, r.Result, r.Deadline = at, "in_progress", "waiting", &f.Deadline
			what := ""
			if f.Signal != "" {
				what = " for the signal " + f.Signal
			}
			v.add(at, r.Class, "%s: waits%s until %s", f.Step, what, f.Deadline.UTC().Format(time.DateTime))
		case saga.SignalReceived:
			v.end(f.Step, false, at, "completed", "signal of "+f.By, string(f.Payload))
			v.add(at, "completed", "%s sent the signal %s: %s", f.By, f.Signal, f.Payload)
			v.sent(at, f.Next)
		case saga.WaitsCancelled:
			for _, step := range f.Steps {
				v.end(step, false, at, "cancelled", "cancelled", "")
				v.add(at, "cancelled", "%s is cancelled", step)
			}
		case saga.StepCompleted:
			v.end(f.Step, false, at, "completed", "completed", "")
			v.add(at, "completed", "%s completed", f.Step)
			v.sent(at, f.Next)
		case saga.StepRefused:
			v.end(f.Step, false, at, "refused", "refused", f.Reason)
			v.add(at, "refused", "%s refused: %s", f.Step, f.Reason)
		case saga.StepTimedOut:
			v.end(f.Step, false, at, "timed_out", "timed out", "")
			switch {
			case f.GoesOn:
				v.add(at, "timed_out", "%s timed out, and the saga goes on", f.Step)
			case v.State.Step(f.Step).Wait:
				v.add(at, "timed_out", "%s timed out", f.Step)
			default:
				v.add(at, "timed_out", "%s timed out: its result is unknown, so it is compensated", f.Step)
			}
		case saga.StepCompensated:
			v.end(f.Step, true, at, "compensated", "compensated", "")
			v.add(at, "compensated", "%s compensated", f.Step)
			v.sent(at, f.Next)
		case saga.CancelRequested:
			v.add(at, "refused", "cancellation requested: %s", f.Reason)
		case saga.AnswerIgnored:
			v.add(at, "", "late answer of %s ignored", f.Step)
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
}

func (v *SagaView) add(at time.Time, class, format string, args ...any) {
	v.History = append(v.History, entry{at.Sub(v.State.StartedAt), at, fmt.Sprintf(format, args...), class})
}

// sent records that the command of a step was sent; nil: no command was sent.
func (v *SagaView) sent(at time.Time, f *saga.CommandSent) {
	if f == nil {
		return
	}
	r := v.run(f.Step, f.Branch == cqrs.BranchCompensation)
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
	v.add(at, r.Class, "%s: command sent%s", r.Name(), more)
}

func (v *SagaView) run(step string, compensate bool) *run {
	if r := v.find(step, compensate); r != nil {
		return r
	}
	v.Runs = append(v.Runs, run{Step: step, Compensate: compensate})
	return &v.Runs[len(v.Runs)-1]
}

func (v *SagaView) end(step string, compensate bool, at time.Time, class, result, reason string) {
	r := v.run(step, compensate)
	if r.Started.IsZero() {
		r.Started = at // no command was sent
	}
	r.Ended, r.Took, r.Class, r.Result, r.Reason, r.Deadline = true, at.Sub(r.Started), class, result, reason, nil
}

// endByHand ends what an operator has vouched for: the compensation if it is active, and the action otherwise.
func (v *SagaView) endByHand(step string, at time.Time, result, reason string) {
	if r := v.find(step, true); r != nil && !r.Ended {
		v.end(step, true, at, "compensated", result, reason)
		return
	}
	v.end(step, false, at, "completed", result, reason)
}
