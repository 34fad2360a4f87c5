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
	case StepDone, TimedOut, InProgress:
		return true
	case StepIsRefused:
		return st.InDoubt
	case Waiting, Undoing, IsUndone, IsSkipped, IsCancelled:
	}
	return false
}

// backward undoes the steps of the last stage that are done or in doubt and not undone yet; when there is none, and none is being undone, it
// does so with the stage before, and in the end it tells the subject.
func (m *machine) backward(n int) error {
	m.cancelWaits(n)
	for ; n >= 0; n-- {
		stage, asks := m.saga.stages[n], 0
		for i := stage.to - 1; i >= stage.from; i-- {
			if m.undoable(i) {
				asks++
				if !stage.parallel {
					return m.ask(i, cqrs.BranchCompensation, 1)
				}
			}
		}
		if asks > 0 {
			return m.together(func() error { return m.undoAll(stage) })
		}
		if m.busy(n) {
			return nil
		}
	}
	return m.ask(m.abort(), cqrs.BranchAction, 1)
}

// cancelWaits ends what waits in a stage that is compensated.
func (m *machine) cancelWaits(n int) {
	if n < 0 {
		return
	}
	var waits []string
	for i := m.saga.stages[n].from; i < m.saga.stages[n].to; i++ {
		if st := m.state.Step(m.saga.steps[i].name); st != nil && st.Status == InProgress && m.saga.steps[i].undo == nil {
			waits = append(waits, st.Name)
		}
	}
	if len(waits) > 0 {
		m.record(WaitsCancelled{waits})
	}
}

// undoAll undoes the steps of a stage that are done or in doubt.
func (m *machine) undoAll(stage stage) error {
	for i := stage.to - 1; i >= stage.from; i-- {
		if m.undoable(i) {
			if err := m.ask(i, cqrs.BranchCompensation, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *machine) cancel(in Cancel) error {
	if m.state.CancelRequested {
		return nil // a repeated request gets the same answer, at any time
	}
	if m.state.Status != Running {
		return ErrTooLate
	}
	last := -1
	for i := range m.saga.steps[:m.abort()] {
		def := &m.saga.steps[i]
		st := m.state.Step(def.name)
		if st == nil || st.Status == Waiting {
			continue
		}
		if def.pivot {
			return ErrTooLate
		}
		last = def.stage
	}
	m.record(CancelRequested(in))
	return m.backward(last) // a fallback is not taken now
}
