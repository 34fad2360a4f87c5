package saga

import (
	"fmt"
	"reflect"

	"github.com/millrace/millrace/kit/cqrs"
)

// Correlation is an event that a step waits for.
type Correlation struct {
	Event string `json:"event"` // its Go type
	Key   string `json:"key"`
}

// MaxKey is the greatest length of a key in bytes: PostgreSQL's indexes hold no texts of 2,700 bytes.
const MaxKey = 1000

// Wait is a step of an instance that waits for an event.
type Wait struct {
	Step string
	Correlation
}

// EventInput is an event that a step waits for. It has been found by its key.
type EventInput struct {
	Step      string
	Event     any
	MessageID string
}

func (EventInput) input() {}

// AwaitInfo is what there is to know of an awaited event without its functions.
type AwaitInfo struct {
	Step string
	Type reflect.Type
	key  func(any) string
}

// Correlation is what the event has to be found by. MessageKey is the key of its message.
func (a AwaitInfo) Correlation(event any, messageKey string) Correlation {
	key := messageKey
	if a.key != nil {
		key = a.key(event)
	}
	return Correlation{a.Type.String(), key}
}

// AwaitedEvents are the events that steps of the saga wait for.
func (s *Saga) AwaitedEvents() (all []AwaitInfo) {
	for i := range s.steps {
		if st := &s.steps[i]; st.await != nil && !st.starting {
			all = append(all, AwaitInfo{st.name, st.await.received.event, st.await.eventKey})
		}
	}
	return all
}

// waits tells whether the step sends no command.
func (d *step) waits() bool { return d.delay != nil || d.signal != nil || d.await != nil }

// correlate finds the key of the event that a step is about to wait for, and tells whether it has one.
func (m *machine) correlate(st *step) (bool, error) {
	key, err := st.await.key(m.state.Data)
	if err != nil {
		return false, err
	}
	var wrong string
	switch {
	case len(key) > MaxKey:
		key, wrong = "", fmt.Sprintf("the key is longer than %d bytes", MaxKey)
	case key == "":
		wrong = "there is no key"
	}
	if wrong != "" && !st.optional {
		m.record(StepRefused{Step: st.name, Reason: st.name + ": " + wrong + " to wait for " + st.await.received.event.String() + " by"})
		return false, nil
	}
	if m.keys == nil {
		m.keys = map[string]string{}
	}
	m.keys[st.name] = key
	return true, nil
}

// event completes the step that waits for it.
func (m *machine) event(in EventInput) error {
	i, st := m.find(in.Step), m.state.Step(in.Step)
	if i < 0 || st == nil || m.saga.steps[i].await == nil {
		return nil
	}
	def := &m.saga.steps[i]
	if def.starting && st.Status == StepStatusCompleted {
		return nil // it has come before
	}
	if st.Status != StepStatusInProgress || reflect.TypeOf(in.Event) != def.await.received.event {
		m.record(AnswerIgnored{in.Step, cqrs.BranchAction, reflect.TypeOf(in.Event).String()})
		return nil
	}
	data, err := def.await.received.remember(m.state.Data, in.Event)
	if err != nil {
		return err
	}
	m.stopLateTimer(st, cqrs.BranchAction)
	m.record(EventReceived{Step: st.Name, Event: def.await.received.event.String(), MessageID: in.MessageID, Data: data})
	return m.forward(i)
}

// remind sends the reminder of a step that still waits.
func (m *machine) remind(i int) error {
	st := &m.saga.steps[i]
	body, err := st.reminder(m.state.Data, "")
	if err != nil {
		return err
	}
	const reminder cqrs.Branch = "reminder"
	w := &CommandSent{
		Step: st.name, Branch: cqrs.BranchAction, Attempt: 2, CommandID: commandID(m.state.ID, st.name, cqrs.BranchAction, 2), Deadline: m.now.Add(st.within - st.remindAfter),
	}
	m.setTimer(w, nil)
	id := commandID(m.state.ID, st.name, reminder, 1)
	m.record(ReminderSent{Step: st.name, CommandID: id, WaitID: w.CommandID, Deadline: w.Deadline, Timed: w.Timed})
	m.out.Commands = append(m.out.Commands, Command{ID: id, Step: st.name, Body: body, Notice: true})
	return nil
}

// changeWaits tells which waits for events have begun and which have ended. One whose event is the input has been found by it.
func (m *machine) changeWaits(before State, in Input) {
	waits := func(s *State, name string) bool {
		st := s.Step(name)
		return st != nil && st.Status == StepStatusInProgress && s.Awaits[name].Key != ""
	}
	for i := range m.definition.steps {
		name := m.definition.steps[i].name
		if m.definition.steps[i].await == nil {
			continue
		}
		switch was, is := waits(&before, name), waits(&m.state, name); {
		case is && !was:
			m.out.Waits = append(m.out.Waits, Wait{name, m.state.Awaits[name]})
		case was && !is:
			if e, received := in.(EventInput); !received || e.Step != name {
				m.out.EndedWaits = append(m.out.EndedWaits, Wait{name, before.Awaits[name]})
			}
		}
	}
}
