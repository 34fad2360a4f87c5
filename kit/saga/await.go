package saga

import (
	"fmt"
	"reflect"

	"github.com/millrace/millrace/kit/cqrs"
)

// Correlation identifies an event that a step waits for, by the event's type and key.
type Correlation struct {
	Event string `json:"event"` // its Go type, with its package's name
	Key   string `json:"key"`
}

// MaxKey is the greatest length of a correlation key in bytes: PostgreSQL's indexes hold no texts of 2,700 bytes.
const MaxKey = 1000

// Wait is a step of an instance that waits for an event, and the correlation of that event.
type Wait struct {
	Step string
	Correlation
}

// EventInput is an event that a step waits for, after the caller has found the step by the event's Correlation.
type EventInput struct {
	Step      string
	Event     any
	MessageID string
}

func (EventInput) input() {}

// AwaitInfo describes an event that a step waits for: the step and the event's Go type.
type AwaitInfo struct {
	Step string
	Type reflect.Type
	key  func(any) string
}

// Correlation returns the correlation of an event of type a.Type. MessageKey is the key of the event's message, which is used unless the
// definition has an EventKey.
func (a AwaitInfo) Correlation(event any, messageKey string) Correlation {
	key := messageKey
	if a.key != nil {
		key = a.key(event)
	}
	return Correlation{a.Type.String(), key}
}

// AwaitedEvents returns the events that steps with Await wait for.
func (s *Saga) AwaitedEvents() (all []AwaitInfo) {
	for i := range s.steps {
		if st := &s.steps[i]; st.await != nil && !st.starting {
			all = append(all, AwaitInfo{st.name, st.await.received.event, st.await.eventKey})
		}
	}
	return all
}

// waits tells whether the step waits and sends no command.
func (d *step) waits() bool { return d.delay != nil || d.signal != nil || d.await != nil }

// correlate stores the key of the event that a step is about to wait for, and tells whether the step waits. Without a usable key, it refuses the step.
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

// event completes the step that waits for an event.
func (m *machine) event(in EventInput) error {
	i, st := m.find(in.Step), m.state.Step(in.Step)
	if i < 0 || st == nil || m.saga.steps[i].await == nil {
		return nil
	}
	def := &m.saga.steps[i]
	if def.starting && st.Status == StepStatusCompleted {
		return nil // StartAll: the event was received before
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

// remind sends the reminder of a step that still waits, and sets the deadline to the end of the step's timeout.
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

// changeWaits adds to the reaction the waits for events that began and those that ended. A wait whose event is the input is left out of the ended waits,
// because the caller has ended it when it found the wait.
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
