package saga

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// repeated handles an answer to a step with Until. It leaves an answer that completes or refuses the step to doAnswer, and returns false.
func (m *machine) repeated(i int, st *StepState, in Answer) (handled bool, err error) {
	def := &m.saga.steps[i]
	var data json.RawMessage
	switch in.Event.(type) {
	case Processed, Failed:
	default:
		if reflect.TypeOf(in.Event) != def.completed.event {
			return false, nil
		}
		if data, err = def.completed.remember(m.state.Data, in.Event); err != nil {
			return false, err
		}
	}
	now := data
	if len(now) == 0 {
		now = m.state.Data
	}
	if now, err = m.chosen(def, now); err != nil {
		return false, err
	}
	if _, failed := in.Event.(Failed); !failed {
		if holds, err := def.until.holds(now); holds || err != nil {
			return false, err
		}
	}
	m.stopLateTimer(st, st.timerBranch())
	if m.outOfAttempts(i, st) {
		m.refuseRepeated(i, st, in.CommandID)
		return true, m.away(i)
	}
	w := &CommandSent{
		Step: st.Name, Branch: repeat, Attempt: st.Attempts, CommandID: commandID(m.state.ID, st.Name, repeat, st.Attempts), Deadline: m.now.Add(def.until.every),
	}
	m.setTimer(w, nil)
	m.record(RepeatScheduled{Step: st.Name, CommandID: in.CommandID, Data: data, WaitID: w.CommandID, At: w.Deadline, Timed: w.Timed})
	return true, nil
}

// outOfAttempts tells whether the step has used all its attempts. A retriable step never has, but is reported as stuck at that point.
func (m *machine) outOfAttempts(i int, st *StepState) bool {
	def := &m.saga.steps[i]
	if st.Attempts < def.until.attempts {
		return false
	}
	if def.retriable && st.Attempts == def.until.attempts {
		m.stuck(st, notTrue(st))
	}
	return !def.retriable
}

func (m *machine) refuseRepeated(i int, st *StepState, commandID string) {
	m.record(StepRefused{Step: st.Name, CommandID: commandID, Reason: notTrue(st), Fallback: m.fallback(i, m.saga.steps[i].whenTimedOut)})
}

func notTrue(st *StepState) string {
	return fmt.Sprintf("%s: its condition does not hold after %d attempts", st.Name, st.Attempts)
}
