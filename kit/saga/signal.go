package saga

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// ErrNotAwaited refuses a signal that no step of the saga waits for at present.
var ErrNotAwaited = aggregate.Refuse("the saga does not wait for this signal")

// SignalInput is a signal. Payload is a value of the type in the definition, and By is the sender.
type SignalInput struct {
	Name    string
	By      string
	Payload any
}

func (SignalInput) input() {}

// SignalInfo describes a signal that a step waits for.
type SignalInfo struct {
	Name  string
	Step  string
	Roles []string
	Type  reflect.Type // of the payload
}

// Signals returns the signals that steps of the saga wait for.
func (s *Saga) Signals() (all []SignalInfo) {
	for _, st := range s.steps {
		if g := st.signal; g != nil {
			all = append(all, SignalInfo{g.name, st.name, g.roles, g.received.event})
		}
	}
	return all
}

// signal completes the step that waits for a signal.
func (m *machine) signal(in SignalInput) error {
	for i := range m.saga.steps {
		def := &m.saga.steps[i]
		if def.signal == nil || def.signal.name != in.Name {
			continue
		}
		st := m.state.Step(def.name)
		if st == nil || st.Status != StepStatusInProgress {
			return ErrNotAwaited
		}
		if reflect.TypeOf(in.Payload) != def.signal.received.event {
			return fmt.Errorf("signal %s: its payload is a %T, not a %s", in.Name, in.Payload, def.signal.received.event)
		}
		data, err := def.signal.received.remember(m.state.Data, in.Payload)
		if err != nil {
			return err
		}
		payload, err := json.Marshal(in.Payload)
		if err != nil {
			return err
		}
		m.stopLateTimer(st, cqrs.BranchAction)
		m.record(SignalReceived{Step: st.Name, Signal: in.Name, By: in.By, Payload: payload, Data: data})
		return m.forward(i)
	}
	return ErrNotAwaited
}
