package saga

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// timed is a step in flight as a timer names it; the zero value: none is in flight.
type timed struct {
	step     string
	branch   cqrs.Branch
	attempt  int
	deadline time.Time
}

// earliest is the step in flight whose answer is due first.
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

// setLateTimer sets the timer anew for a step whose command was sent before.
func (m *machine) setLateTimer(t timed) {
	m.out.Timers = append(m.out.Timers, Timer{m.lateTimerID(t), t.deadline, Timeout{m.state.ID, t.step, t.branch, t.attempt}})
}

// setTimer sets a timer with a command, if none is under way that fires by its deadline. The others are those that are sent with it.
func (m *machine) setTimer(sent *CommandSent, others []asked) {
	deadline := sent.Deadline
	switch underWay := m.state.fires.After(m.now) && !m.timeOut; {
	case underWay && !m.state.fires.After(deadline):
		return
	case !underWay && m.saga.parallel && m.due(sent.Step, others, deadline):
		return // resetTimer sees to it
	}
	sent.Timed = true
	m.timerSet = true
	m.stopTimer() // which fires later
	m.out.Timers = append(m.out.Timers, Timer{TimerID(sent.CommandID, false), deadline, Timeout{m.state.ID, sent.Step, sent.Branch, sent.Attempt}})
}

// timeFirst sets a timer for what is due first of what is sent at once.
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

// due tells whether the answer to another step than those that are asked now is due by a deadline.
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

// resetTimer keeps, where several steps may be in flight, what holds for one by itself: a timer that was set with a command and has not fired
// is due by every deadline; and once it has fired, a timer is set anew for the step whose answer is due first. Before is that step before the
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

// timeout handles every step whose time is up. The timer may have been set for another one.
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
		case def.waits() && m.state.Compensating: // it is cancelled with the one that has turned the saga back
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
		case m.state.Compensating: // because of another one whose time is up: it is undone with that one
		default:
			m.record(StepTimedOut{Step: st.Name, Fallback: m.fallback(i, def.whenTimedOut)})
			gone = append(gone, st.Name)
		}
	}
	return m.together(func() error {
		for _, name := range again {
			i, st := m.find(name), m.state.Step(name)
			if m.state.Compensating && st.Status == StepStatusInProgress && i != m.abort() {
				continue // another one whose time is up has turned the saga back meanwhile
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
