package saga

import (
	"fmt"

	"github.com/millrace/millrace/kit/cqrs"
)

// asked is a command and the event that records it. A wait has an event and no command.
type asked struct {
	fact    *CommandSent
	command Command
}

// enter starts stage n, or the first later stage of which a step is not skipped. After the last stage the saga is completed.
func (m *machine) enter(n int) error {
	for ; n < len(m.saga.stages)-1; n++ {
		if stage := m.saga.stages[n]; !stage.parallel && m.saga.steps[stage.from].skipIf == nil && m.saga.steps[stage.from].await == nil {
			return m.ask(stage.from, cqrs.BranchAction, 1)
		}
		taken, err := m.skip(m.saga.stages[n])
		if err != nil {
			return err
		}
		if taken, err = m.prepare(taken); err != nil {
			return err
		}
		if m.state.Compensating {
			return m.backward(n)
		}
		if len(taken) > 0 {
			return m.together(func() error { return m.askAll(taken) })
		}
		if m.busy(n) { // a step waits for an operator
			return nil
		}
	}
	m.record(Completed{})
	return nil
}

// skip records the steps of a stage whose SkipIf is true as skipped, and returns the names of the steps that remain.
func (m *machine) skip(stage stage) (taken []string, err error) {
	var skipped []string
	for i := stage.from; i < stage.to; i++ {
		st, skip := &m.saga.steps[i], false
		if st.standsIn || st.starting && m.state.Step(st.name).Status == StepStatusCompleted {
			continue
		}
		if st.skipIf != nil {
			if skip, err = st.skipIf(m.state.Data); err != nil {
				return nil, fmt.Errorf("step %s: %w", st.name, err)
			}
		}
		if skip {
			skipped = append(skipped, st.name)
		} else {
			taken = append(taken, st.name)
		}
	}
	if len(skipped) > 0 {
		m.record(SkippedByCondition{Steps: skipped})
	}
	return taken, nil
}

// askAll sends the commands of steps.
func (m *machine) askAll(steps []string) error {
	for _, name := range steps {
		var err error
		if m.state.Step(name).Items != nil {
			err = m.askItems(name)
		} else {
			err = m.ask(m.find(name), cqrs.BranchAction, 1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// together sends all the commands that ask sends as a group, recorded by one event and with one timer.
func (m *machine) together(ask func() error) error {
	if m.hold {
		return ask()
	}
	m.hold = true
	if err := ask(); err != nil {
		return err
	}
	m.hold = false
	held := m.held
	m.held = nil
	m.timeFirst(held)
	var sent []CommandSent
	for _, a := range held {
		if a.command.Body != nil {
			sent = append(sent, *a.fact)
			m.out.Commands = append(m.out.Commands, a.command)
		}
	}
	switch len(sent) {
	case 0:
	case 1:
		m.recordAsked(&sent[0])
	default:
		m.record(CommandsSent{sent})
	}
	for _, a := range held {
		if a.command.Body == nil {
			m.recordWait(a.fact)
		}
	}
	return nil
}

// send records and sends one command, with its timer.
func (m *machine) send(sent *CommandSent, c Command) {
	m.setTimer(sent, nil)
	m.recordAsked(sent)
	m.out.Commands = append(m.out.Commands, c)
}

func (m *machine) recordWait(w *CommandSent) {
	wait := WaitStarted{Step: w.Step, WaitID: w.CommandID, Deadline: w.Deadline, Timed: w.Timed}
	switch st := &m.saga.steps[m.find(w.Step)]; {
	case st.signal != nil:
		wait.Signal = st.signal.name
	case st.await != nil:
		wait.Event, wait.Key = st.await.received.event.String(), m.keys[w.Step]
	}
	if w.Attempt > 1 {
		wait.Attempt = w.Attempt
	}
	m.record(wait)
}

// wait starts a delay, or the wait for a signal, for an event or for an operator.
func (m *machine) wait(i, attempt int) (err error) {
	st, d := &m.saga.steps[i], m.saga.steps[i].within
	if st.remindAfter > 0 && attempt == 1 {
		d = st.remindAfter
	}
	deadline := m.now.Add(max(d, 0))
	if st.delay != nil {
		if deadline, err = st.delay(m.state.Data, m.now); err != nil {
			return fmt.Errorf("step %s: %w", st.name, err)
		}
	}
	w := &CommandSent{Step: st.name, Branch: cqrs.BranchAction, Attempt: attempt, CommandID: commandID(m.state.ID, st.name, cqrs.BranchAction, attempt), Deadline: deadline}
	if m.hold {
		m.held = append(m.held, asked{fact: w})
		return nil
	}
	m.setTimer(w, nil)
	m.recordWait(w)
	return nil
}

// busy tells whether a step of a stage is in flight.
func (m *machine) busy(n int) bool {
	for i := m.saga.stages[n].from; i < m.saga.stages[n].to; i++ {
		if st := m.state.Step(m.saga.steps[i].name); st != nil && st.InFlight() {
			return true
		}
	}
	return false
}
