package saga

import "github.com/millrace/millrace/kit/cqrs"

// away continues after step i was refused or has timed out. A step in doubt is compensated first. Then the step's fallback runs, if it has one for this
// case; otherwise the saga is compensated.
func (m *machine) away(i int) error {
	switch st := m.state.Step(m.saga.steps[i].name); {
	case m.state.Compensating:
		return m.backward(m.saga.steps[i].stage)
	case m.saga.steps[i].undo != nil && st.undoable():
		return m.ask(i, cqrs.BranchCompensation, 1)
	}
	return m.ask(m.saga.steps[i].fallback, cqrs.BranchAction, 1)
}

// undoable tells whether step i has a compensation, and has or may have an effect to compensate.
func (m *machine) undoable(i int) bool {
	st := m.state.Step(m.saga.steps[i].name)
	return st != nil && m.saga.steps[i].undo != nil && st.undoable()
}

// undoable tells whether the step has or may have an effect to compensate.
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

// backward compensates the steps of stage n that are completed or in doubt. While their compensations are in flight it does nothing more; when the
// stage has no step left to compensate, it continues with the stage before, and after the first stage it sends the command of OnCompensated.
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

// nextToUndo returns the steps of a stage whose compensations are sent now, the last step first: all of them if the stage is parallel, and at most
// ForEach.AtOnce items of a step. An item whose action is in flight counts already, so its compensation takes no further place.
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

// cancelWaits cancels the steps in flight that have no compensation, in a stage that is compensated: waits and steps with Until.
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
		return nil // a repeated request succeeds, even after the saga has ended
	}
	if m.state.Status != StatusRunning || m.beyond() {
		return ErrTooLate
	}
	m.record(CancelRequested(in))
	return m.compensateAll() // no fallback runs now
}

// beyond tells whether the command of the pivot was sent, or the pivot was skipped.
func (m *machine) beyond() bool {
	for i := range m.saga.steps[:m.abort()] {
		if st := m.state.Step(m.saga.steps[i].name); m.saga.steps[i].pivot && st != nil && st.Status != StepStatusWaiting {
			return true
		}
	}
	return false
}

// compensateAll compensates the saga, beginning with the last stage in which a step was started.
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
