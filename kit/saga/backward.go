package saga

import "github.com/millrace/millrace/kit/cqrs"

// away continues after step i was refused or has timed out. A step in doubt is compensated first. Then its fallback runs, if it has one for this
// case; else the saga is compensated.
func (m *machine) away(i int) error {
	switch st := m.state.Step(m.saga.steps[i].name); {
	case m.state.Compensating:
		return m.backward(m.saga.steps[i].stage)
	case m.saga.steps[i].undo != nil && st.undoable():
		return m.ask(i, cqrs.BranchCompensation, 1)
	}
	return m.ask(m.saga.steps[i].fallback, cqrs.BranchAction, 1)
}

// undoable tells whether something of step i is, or may be, there to undo.
func (m *machine) undoable(i int) bool {
	st := m.state.Step(m.saga.steps[i].name)
	return st != nil && m.saga.steps[i].undo != nil && st.undoable()
}

// undoable tells whether something of the step is, or may be, there to undo.
func (st *StepState) undoable() bool {
	switch st.Status {
	case StepStatusCompleted, StepStatusTimedOut, StepStatusInProgress:
		return true
	case StepStatusRefused:
		return st.InDoubt
	case StepStatusWaiting, StepStatusCompensating, StepStatusCompensated, StepStatusSkipped, StepStatusCancelled:
	}
	return false
}

// backward undoes the steps of the last stage that are done or in doubt and not undone yet; when there is none, and none is being undone, it
// does so with the stage before, and in the end it tells the subject.
func (m *machine) backward(n int) error {
	m.cancelWaits(n)
	for ; n >= 0; n-- {
		switch undo := m.nextToUndo(m.saga.stages[n]); {
		case len(undo) == 1:
			return m.ask(undo[0], cqrs.BranchCompensation, 1)
		case len(undo) > 1:
			return m.together(func() error {
				for _, i := range undo {
					if err := m.ask(i, cqrs.BranchCompensation, 1); err != nil {
						return err
					}
				}
				return nil
			})
		case m.busy(n):
			return nil
		}
	}
	return m.ask(m.abort(), cqrs.BranchAction, 1)
}

// nextToUndo are the steps of a stage whose compensations are sent now, the last one first: all of them, but of a step that is taken for each no
// more items than may be in flight. Those in flight are in doubt: each keeps its place.
func (m *machine) nextToUndo(stage stage) (all []int) {
	room := map[string]int{}
	for i := stage.to - 1; i >= stage.from; i-- {
		if !m.undoable(i) {
			continue
		}
		def := &m.saga.steps[i]
		switch left, known := room[def.group]; {
		case !stage.parallel:
			return []int{i}
		case def.item == 0, m.state.Step(def.name).InFlight():
		default:
			if !known {
				left = m.room(def.group)
			}
			room[def.group] = left - 1
			if left <= 0 {
				continue
			}
		}
		all = append(all, i)
	}
	return all
}

// cancelWaits ends what waits in a stage that is compensated.
func (m *machine) cancelWaits(n int) {
	if n < 0 {
		return
	}
	var waits []string
	for i := m.saga.stages[n].from; i < m.saga.stages[n].to; i++ {
		if st := m.state.Step(m.saga.steps[i].name); st != nil && st.Status == StepStatusInProgress && m.saga.steps[i].undo == nil {
			waits = append(waits, st.Name)
		}
	}
	if len(waits) > 0 {
		m.record(WaitsCancelled{waits})
	}
}

func (m *machine) cancel(in Cancel) error {
	if m.state.CancelRequested {
		return nil // a repeated request gets the same answer, at any time
	}
	if m.state.Status != StatusRunning || m.beyond() {
		return ErrTooLate
	}
	m.record(CancelRequested(in))
	return m.compensateAll() // a fallback is not taken now
}

// beyond tells whether the pivot was sent.
func (m *machine) beyond() bool {
	for i := range m.saga.steps[:m.abort()] {
		if st := m.state.Step(m.saga.steps[i].name); m.saga.steps[i].pivot && st != nil && st.Status != StepStatusWaiting {
			return true
		}
	}
	return false
}

// compensateAll compensates from the last stage on of which something was begun.
func (m *machine) compensateAll() error {
	last := -1
	for i := range m.saga.steps[:m.abort()] {
		def := &m.saga.steps[i]
		st := m.state.Step(def.name)
		if st == nil || st.Status == StepStatusWaiting {
			continue
		}
		last = def.stage
	}
	return m.backward(last)
}
