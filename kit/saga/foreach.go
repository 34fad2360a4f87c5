package saga

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// withItems returns a copy of the definition in which each step with ForEach whose items the state has counted is replaced by one step for each item.
func (s *Saga) withItems(state *State) *Saga {
	if !s.forEach {
		return s
	}
	all := *s
	all.steps, all.stages, all.index = nil, make([]stage, len(s.stages)), map[string]int{}
	add := func(st step, name string, item int) {
		if st.fallback > 0 {
			st.fallback = len(all.steps) + 1
		}
		st.name, st.item = name, item
		all.index[name] = len(all.steps)
		all.steps = append(all.steps, st)
	}
	for n, stage := range s.stages {
		all.stages[n] = stage
		all.stages[n].from = len(all.steps)
		for i := stage.from; i < stage.to; i++ {
			st := &s.steps[i]
			p := state.Step(st.name)
			switch {
			case st.forEach == nil || !st.standsIn && (p == nil || p.Items == nil):
				add(*st, st.name, 0)
				continue
			case st.standsIn: // a fallback is added with the items of its step
				if _, there := all.index[s.steps[i-1].name]; there {
					add(*st, st.name, 0)
				}
				continue
			}
			for k := range p.Items {
				add(*st, p.Items[k].Name, k+1)
				if st.fallback > 0 {
					add(s.steps[st.fallback], itemName(s.steps[st.fallback].name, k), k+1)
				}
			}
		}
		all.stages[n].to = len(all.steps)
	}
	return &all
}

// itemName returns the name of item n of a step, counted from 0.
func itemName(step string, n int) string { return step + "#" + strconv.Itoa(n+1) }

// itemOf returns the step of which a name is an item or a repetition; empty: the name is neither.
func itemOf(name string) string { return name[:max(strings.LastIndexByte(name, '#'), 0)] }

// chosen returns the data that the functions of a step get: for an item, the data in which ForEach.Item has selected it.
func (m *machine) chosen(st *step, data json.RawMessage) (json.RawMessage, error) {
	if st.item == 0 {
		return data, nil
	}
	data, err := st.forEach.item(data, st.item-1)
	if err != nil {
		return nil, fmt.Errorf("step %s: %w", st.name, err)
	}
	return data, nil
}

// prepare evaluates the data for steps before any of them starts: it counts the items of steps with ForEach, and computes the keys of steps with
// Await. It returns the steps that start now.
func (m *machine) prepare(steps []string) (taken []string, err error) {
	for _, name := range steps {
		something := true
		switch st := &m.saga.steps[m.find(name)]; {
		case st.forEach != nil:
			something, err = m.countItems(st)
		case st.await != nil && !st.starting:
			something, err = m.correlate(st)
		}
		if err != nil {
			return nil, fmt.Errorf("step %s: %w", name, err)
		}
		if something {
			taken = append(taken, name)
		}
	}
	return taken, nil
}

// countItems counts the items of a step, and tells whether there are any to start. With more than Max, it refuses the step, or reports a retriable step
// as stuck.
func (m *machine) countItems(st *step) (bool, error) {
	name := st.name
	n, err := st.forEach.items(m.state.Data)
	if err != nil {
		return false, err
	}
	switch {
	case n <= st.forEach.max:
		m.record(ItemsCounted{Step: name, Items: max(n, 0)})
		m.saga = m.definition.withItems(&m.state)
		return n > 0, nil
	case st.retriable:
		if err := m.wait(m.find(name), max(m.state.Step(name).Attempts, 1)); err != nil {
			return false, err
		}
		m.stuck(m.state.Step(name), tooMany(name, n, st.forEach.max))
	case !m.state.Compensating:
		m.record(StepRefused{Step: name, Reason: tooMany(name, n, st.forEach.max)})
	}
	return false, nil
}

func tooMany(step string, n, max int) string {
	return fmt.Sprintf("%s: it has %d items, and the most is %d", step, n, max)
}

// recount counts the items of step i again, after there were too many.
func (m *machine) recount(i, attempt int) error {
	name, n := m.saga.steps[i].name, m.saga.steps[i].stage
	m.state.Step(name).Attempts = attempt
	taken, err := m.prepare([]string{name})
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		return m.together(func() error { return m.askAll(taken) })
	}
	if m.busy(n) {
		return nil
	}
	return m.enter(n + 1)
}

// room returns the number of items of a step that may start now.
func (m *machine) room(group string) int {
	st := &m.definition.steps[m.definition.find(group)]
	room := st.forEach.atOnce - m.state.Step(group).inFlight()
	if st.fallback > 0 {
		if instead := m.state.Step(m.definition.steps[st.fallback].name); instead != nil {
			room -= instead.inFlight()
		}
	}
	return room
}

// askItems sends the commands of the next items of a step, in order, as many as may be in flight.
func (m *machine) askItems(group string) error {
	p := m.state.Step(group)
	waiting := p.Counts[StepStatusWaiting]
	first := len(p.Items) - waiting
	for n := range min(m.room(group), waiting) {
		if err := m.ask(m.find(itemName(group, first+n)), cqrs.BranchAction, 1); err != nil {
			return err
		}
	}
	return nil
}

func (st *StepState) inFlight() int {
	return st.Counts[StepStatusInProgress] + st.Counts[StepStatusCompensating]
}

// Branches iterates over the steps in order, with the items of a step with ForEach in place of the step.
func (s *State) Branches() iter.Seq[*StepState] {
	return func(yield func(*StepState) bool) {
		for i := range s.Steps {
			if s.Steps[i].Items == nil {
				if !yield(&s.Steps[i]) {
					return
				}
				continue
			}
			for n := range s.Steps[i].Items {
				if !yield(&s.Steps[i].Items[n]) {
					return
				}
			}
		}
	}
}

// locate returns the state of a step or of an item, and for an item also the step that it belongs to. It returns nil if there is none.
func (s *State) locate(name string) (step, of *StepState) {
	for i := range s.Steps {
		if s.Steps[i].Name == name {
			return &s.Steps[i], nil
		}
	}
	group := itemOf(name)
	if group == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(name[len(group)+1:])
	if err != nil {
		return nil, nil
	}
	for i := range s.Steps {
		if p := &s.Steps[i]; p.Name == group && n > 0 && n <= len(p.Items) {
			return &p.Items[n-1], p
		}
	}
	return nil, nil
}

// insert adds a fallback after its step, with its items if the step has items. Without insteadOf it appends the step of OnCompensated.
func (s *State) insert(name, insteadOf string) (step, of *StepState) {
	first, group := s.locate(insteadOf)
	st := StepState{Name: name, InsteadOf: insteadOf}
	switch {
	case first == nil:
		s.Steps = append(s.Steps, st)
		return &s.Steps[len(s.Steps)-1], nil
	case group != nil:
		first, st.Name, st.InsteadOf = group, itemOf(name), group.Name
	}
	st.Stage = first.Stage
	if group != nil {
		st.makeItems(len(group.Items), group.Name)
	}
	place := slices.IndexFunc(s.Steps, func(st StepState) bool { return st.Name == first.Name }) + 1
	s.Steps = slices.Insert(s.Steps, place, st)
	return s.locate(name)
}

// makeItems creates the items of a step. InsteadOf names the step whose fallback it is; empty: the step is no fallback.
func (st *StepState) makeItems(n int, insteadOf string) {
	st.Items, st.Counts = make([]StepState, n), map[StepStatus]int{StepStatusWaiting: n}
	for k := range st.Items {
		st.Items[k] = StepState{Name: itemName(st.Name, k), Status: StepStatusWaiting, Stage: st.Stage}
		if insteadOf != "" {
			st.Items[k].InsteadOf = itemName(insteadOf, k)
		}
	}
	st.Status, st.Wait, st.Deadline = StepStatusWaiting, false, nil
	if n == 0 {
		st.Status = StepStatusSkipped
	}
}

// count updates the counts of a step when the status of one of its items changes. On nil it does nothing: the changed step is no item.
func (st *StepState) count(before, after StepStatus, at time.Time) {
	if st == nil {
		return
	}
	st.Counts[before]--
	st.Counts[after]++
	if st.StartedAt == nil {
		st.StartedAt = &at
	}
	st.Status, st.EndedAt = st.overall(), nil
	if !st.InFlight() {
		st.EndedAt = &at
	}
}

// overall computes the status of a step with ForEach from the counts of its items.
func (st *StepState) overall() StepStatus {
	switch {
	case st.Counts[StepStatusCompensating] > 0:
		return StepStatusCompensating
	case st.Counts[StepStatusInProgress] > 0, st.Counts[StepStatusCompleted] > 0 && st.Counts[StepStatusWaiting] > 0 && st.InsteadOf == "": // a fallback does not run for every item
		return StepStatusInProgress
	}
	for _, status := range [...]StepStatus{StepStatusCompleted, StepStatusCompensated, StepStatusRefused, StepStatusTimedOut, StepStatusCancelled} {
		if st.Counts[status] > 0 {
			return status
		}
	}
	return StepStatusWaiting
}

// cloneSteps copies the states of the steps, so that a reaction does not change the state that it was given.
func cloneSteps(steps []StepState) []StepState {
	steps = slices.Clone(steps)
	for i := range steps {
		if steps[i].Items != nil {
			steps[i].Items, steps[i].Counts = slices.Clone(steps[i].Items), maps.Clone(steps[i].Counts)
		}
	}
	return steps
}
