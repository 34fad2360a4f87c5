package opsui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/saga"
)

// maxItems limits the items of a step, and the folded lines of the history, that a page shows, because a step can have thousands of items.
const maxItems = 50

// urgency has the classes of items and their names in counts. Apart from the first two, which are finished, the classes are in the order in which a page
// lists their items.
var urgency = []struct{ class, words string }{
	{"completed", "completed"}, {"compensated", "compensated"}, {"stuck", "stuck"}, {"refused", "refused"}, {"timed_out", "timed out"}, {"in_doubt", "in doubt"},
	{"in_progress", "in flight"}, {"compensating", "in flight"}, {"cancelled", "cancelled"}, {"skipped", "skipped"},
}

// rank is the position of an item in the list of a row. Finished items, and items of a class that urgency does not have, are last.
func rank(class string) int {
	i := slices.IndexFunc(urgency, func(u struct{ class, words string }) bool { return u.class == class })
	if i < 2 { // finished or unknown
		return len(urgency)
	}
	return i
}

// markStuck shows the run of a step that needs an operator as stuck.
func (r *run) markStuck(st *saga.StepState) {
	if st.Stuck && r.Compensate == (st.Status == saga.StepStatusCompensating) {
		r.Class, r.Result, r.Reason = "stuck", "stuck", st.Reason
	}
}

// foldItems combines the runs of a step's items into one row: their times, a common status and counts.
func (v *SagaView) foldItems() {
	for _, r := range v.Runs {
		switch st := v.State.Step(r.Step); {
		case st == nil:
		case r.items == nil:
			r.markStuck(st)
		default:
			v.foldRun(r, st)
		}
	}
}

func (v *SagaView) foldRun(r *run, st *saga.StepState) {
	counts := map[string]int{}
	runs := make([]*run, 0, len(r.items))
	r.Ended, r.Deadline, r.Attempts = true, nil, 0
	var end time.Time
	for i := range st.Items {
		item := r.items[st.Items[i].Name]
		if item == nil {
			continue
		}
		item.markStuck(&st.Items[i])
		counts[item.Class]++
		runs = append(runs, item)
		if r.Started.IsZero() || item.Started.Before(r.Started) {
			r.Started = item.Started
		}
		r.Ended = r.Ended && item.Ended
		if e := item.Started.Add(item.Took); e.After(end) {
			end = e
		}
	}
	total, waiting := len(runs), v.notBegun(r, st)
	over := v.State.Compensating || v.State.Status.Ended()
	if r.Compensate || st.InsteadOf == "" {
		total += waiting
	} else {
		waiting = 0 // a fallback runs for some items only
	}
	r.Ended = r.Ended && (waiting == 0 || over && !r.Compensate)
	r.Took = end.Sub(r.Started)
	r.Class = overall(counts, st, r, waiting > 0 && !r.Ended)
	r.count(counts, total, waiting, over)
	slices.SortStableFunc(runs, func(a, b *run) int { return cmp.Compare(rank(a.Class), rank(b.Class)) })
	r.More = max(len(runs)-maxItems, 0)
	r.Items = runs[:len(runs)-r.More]
}

// notBegun is the number of items whose action or compensation has not started yet.
func (v *SagaView) notBegun(r *run, st *saga.StepState) (n int) {
	if !r.Compensate {
		return st.Counts[saga.StepStatusWaiting]
	}
	if v.State.Compensating && !v.State.Status.Ended() {
		return st.Counts[saga.StepStatusCompleted]
	}
	return 0
}

// overall is the class of a row. Refused items that have a fallback do not make the whole row refused.
func overall(counts map[string]int, st *saga.StepState, r *run, more bool) string {
	active, done := "in_progress", "completed"
	if r.Compensate {
		active, done = "compensating", "compensated"
	}
	switch {
	case counts["stuck"] > 0:
		return "stuck"
	case more, counts[active] > 0:
		return active
	}
	replaced := 0
	for i := range st.Items {
		if st.Items[i].Fallback != "" {
			replaced++
		}
	}
	for _, class := range []string{"refused", "timed_out", "in_doubt"} {
		if counts[class] > 0 && counts["refused"]+counts["timed_out"]+counts["in_doubt"] > replaced {
			return class
		}
	}
	if counts[done] == 0 && counts["cancelled"] > 0 {
		return "cancelled"
	}
	return done
}

// count writes the counts of a row as text: all counts for the timeline, the first two for the box of the diagram.
func (r *run) count(counts map[string]int, total, waiting int, over bool) {
	var words []string
	done := "completed"
	if r.Compensate {
		done = "compensated"
	}
	for _, u := range urgency {
		if n := counts[u.class]; n > 0 && u.class != done {
			words = append(words, fmt.Sprint(n, " ", u.words))
		}
	}
	r.Result = strings.Join(append([]string{fmt.Sprintf("%d of %d", counts[done], total)}, words[:min(len(words), 1)]...), ", ")
	switch {
	case waiting == 0:
	case over && !r.Compensate:
		words = append(words, fmt.Sprint(waiting, " not taken"))
	default:
		words = append(words, fmt.Sprint(waiting, " waiting"))
	}
	r.Counts = strings.Join(append([]string{fmt.Sprintf("for each: %d of %d %s", counts[done], total, done)}, words...), ", ")
}

// inFlight lists what a saga waits for, one text for each step. Several items of one step share one text.
func (v *SagaView) inFlight() (all []string) {
	for i := range v.State.Steps {
		st := &v.State.Steps[i]
		if st.Items == nil {
			if st.InFlight() {
				all = append(all, v.waitsFor(st))
			}
			continue
		}
		var items []*saga.StepState
		for n := range st.Items {
			if st.Items[n].InFlight() {
				items = append(items, &st.Items[n])
			}
		}
		switch len(items) {
		case 0:
		case 1:
			all = append(all, v.waitsFor(items[0]))
		default:
			all = append(all, fmt.Sprintf("the results of %d items of %q", len(items), st.Name))
		}
	}
	return all
}

// waitsFor says what a step in flight, or an item in flight, waits for.
func (v *SagaView) waitsFor(st *saga.StepState) string {
	until := v.until(st.Name, st.Attempts, *st.Deadline)
	signal, event := v.State.Signals[st.Name], v.State.Awaits[st.Name]
	switch {
	case signal != "" && st.Status == saga.StepStatusInProgress:
		return fmt.Sprintf("the signal %q, until %s", signal, until)
	case event.Event != "" && st.Status == saga.StepStatusInProgress:
		return fmt.Sprintf("the event %s of %s, until %s", event.Event, event.Key, until)
	case st.Wait || st.Scheduled:
		return fmt.Sprintf("%q, until %s", st.Name, until)
	}
	return fmt.Sprintf("the result of %q", st.Name)
}

// stuckSentence names the stuck steps, with the number of stuck items of each step.
func (v *SagaView) stuckSentence() string {
	var sentences []string
	for i := range v.State.Steps {
		st := &v.State.Steps[i]
		stuck := slices.DeleteFunc(slices.Clone(v.Stuck), func(s saga.StepState) bool { return s.Name != st.Name && v.steps[s.Name] != st.Name })
		switch len(stuck) {
		case 0:
		case 1:
			sentences = append(sentences, fmt.Sprintf("%q is not completed after %s.", stuck[0].Name, attempts(stuck[0].Attempts)))
		default:
			sentences = append(sentences, fmt.Sprintf("%d items of %q are not completed.", len(stuck), st.Name))
		}
	}
	return strings.Join(sentences, " ")
}

// itemsByStatus is a text with the numbers of a step's items by status; empty if the step is no for-each step.
func itemsByStatus(st saga.StepState) string {
	var words []string
	for _, status := range []saga.StepStatus{
		saga.StepStatusCompleted, saga.StepStatusCompensated, saga.StepStatusRefused, saga.StepStatusTimedOut, saga.StepStatusCancelled, saga.StepStatusInProgress, saga.StepStatusCompensating, saga.StepStatusWaiting,
	} {
		if n := st.Counts[status]; n > 0 {
			words = append(words, fmt.Sprint(n, " ", strings.ReplaceAll(string(status), "_", " ")))
		}
	}
	return strings.Join(words, ", ")
}

// stepStatus is the status of a step, or "stuck" if the step or one of its items needs an operator.
func stepStatus(st saga.StepState) string {
	if st.Stuck || slices.ContainsFunc(st.Items, func(item saga.StepState) bool { return item.Stuck }) {
		return "stuck"
	}
	return string(st.Status)
}
