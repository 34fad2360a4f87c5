package saga

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// timed identifies a step in flight, as in a timer, with its deadline. Zero: no step is in flight.
type timed struct {
	step     string
	branch   cqrs.Branch
	attempt  int
	deadline time.Time
}

// earliest returns the step in flight whose deadline is first.
func (m *machine) earliest() timed {
	st := m.state.earliest()
	if st == nil {
		return timed{}
	}
	return timed{st.Name, st.timerBranch(), st.Attempts, *st.Deadline}
}

func (m *machine) lateTimerID(t timed) string {
	return TimerID(commandID(m.state.ID, t.step, t.branch, t.attempt), true)
}

// setLateTimer sets a timer for a step whose command was sent by an earlier reaction.
func (m *machine) setLateTimer(t timed) {
	m.out.Timers = append(m.out.Timers, Timer{m.lateTimerID(t), t.deadline, Timeout{m.state.ID, t.step, t.branch, t.attempt}})
}

// setTimer sets a timer with a command, unless a pending timer fires by its deadline. Others are the commands that are sent together with it.
func (m *machine) setTimer(sent *CommandSent, others []asked) {
	deadline := sent.Deadline
	switch underWay := m.state.fires.After(m.now) && !m.timeOut; {
	case underWay && !m.state.fires.After(deadline):
		return
	case !underWay && m.saga.parallel && m.due(sent.Step, others, deadline):
		return // resetTimer sets it
	}
	sent.Timed = true
	m.timerSet = true
	m.stopTimer() // a pending timer fires later than the deadline
	m.out.Timers = append(m.out.Timers, Timer{TimerID(sent.CommandID, false), deadline, Timeout{m.state.ID, sent.Step, sent.Branch, sent.Attempt}})
}

// timeFirst sets a timer for the earliest deadline of commands that are sent together.
func (m *machine) timeFirst(held []asked) {
	if len(held) == 0 {
		return
	}
	first := held[0].fact
	for _, a := range held {
		if a.fact.Deadline.Before(first.Deadline) {
			first = a.fact
		}
	}
	m.setTimer(first, held)
}

// due tells whether the deadline of a step in flight, other than the steps whose commands are sent now, is not after a time.
func (m *machine) due(step string, others []asked, deadline time.Time) bool {
	for st := range m.state.Branches() {
		if !st.InFlight() || st.Name == step || st.Deadline.After(deadline) {
			continue
		}
		askedNow := false
		for _, o := range others {
			askedNow = askedNow || o.fact.Step == st.Name
		}
		if !askedNow {
			return true
		}
	}
	return false
}

// resetTimer keeps two invariants when several steps may be in flight; with one step, they hold by themselves. A timer that was set with a command and
// has not fired is due by every deadline. Once it has fired, a timer is set for the step whose deadline is first. Before is that step before the
// input, and fired tells whether the timer had fired by then.
func (m *machine) resetTimer(before timed, fired bool) {
	next := m.earliest()
	underWay := m.timerSet || m.state.fires.After(m.now) && !m.timeOut
	if next.step != "" && !underWay && (m.timeOut || next != before) {
		m.setLateTimer(next)
	}
	if before.step != "" && fired && (underWay || next != before) {
		m.out.CancelledTimers = append(m.out.CancelledTimers, m.lateTimerID(before))
	}
}

// timeout handles every step whose deadline has passed, although the timer names one of them, or none that is still in flight.
func (m *machine) timeout(in Timeout) error {
	var again, gone, done, remind []string
	for st := range m.state.Branches() {
		if !st.InFlight() {
			continue
		}
		branch := st.branch()
		due := in.Step == st.Name && in.Branch == st.timerBranch() && in.Attempt == st.Attempts
		if !due && m.now.Before(*st.Deadline) {
			if !m.saga.parallel {
				m.setLateTimer(m.earliest())
			}
			continue
		}
		i := m.find(st.Name)
		switch def := &m.saga.steps[i]; {
		case def.waits() && m.state.Compensating: // it is cancelled with the step that caused the compensation
		case def.delay != nil:
			m.record(StepCompleted{Step: st.Name, CommandID: commandID(m.state.ID, st.Name, branch, st.Attempts)})
			done = append(done, st.Name)
		case def.reminder != nil && st.Attempts == 1:
			remind = append(remind, st.Name)
		case def.optional:
			m.record(StepTimedOut{Step: st.Name, GoesOn: true})
			done = append(done, st.Name)
		case def.until != nil && m.state.Compensating: // it is cancelled too
		case def.until != nil && m.outOfAttempts(i, st):
			m.refuseRepeated(i, st, "")
			gone = append(gone, st.Name)
		case def.until != nil:
			again = append(again, st.Name)
		case branch == cqrs.BranchCompensation, def.pivot, def.retriable:
			if st.Attempts == m.saga.stuckAfter {
				m.stuck(st, fmt.Sprintf("no answer after %d attempts", st.Attempts))
			}
			again = append(again, st.Name)
		case m.state.Compensating: // another step that timed out caused the compensation; this step is compensated with it
		default:
			m.record(StepTimedOut{Step: st.Name, Fallback: m.fallback(i, def.whenTimedOut)})
			gone = append(gone, st.Name)
		}
	}
	return m.together(func() error {
		for _, name := range again {
			i, st := m.find(name), m.state.Step(name)
			if m.state.Compensating && st.Status == StepStatusInProgress && i != m.abort() {
				continue // another step that timed out has caused the compensation of the saga
			}
			if err := m.ask(i, st.branch(), st.Attempts+1); err != nil {
				return err
			}
		}
		if !m.state.Compensating {
			for _, name := range remind {
				if err := m.remind(m.find(name)); err != nil {
					return err
				}
			}
		}
		for _, name := range gone {
			i := m.find(name)
			if m.state.Compensating {
				return m.backward(m.saga.steps[i].stage)
			}
			if err := m.away(i); err != nil {
				return err
			}
		}
		if len(gone) == 0 && len(done) > 0 {
			return m.forward(m.find(done[len(done)-1]))
		}
		return nil
	})
}
