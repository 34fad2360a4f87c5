package saga

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// ErrNotStuck refuses Retry, Skip and Resolve for a saga, or for a step, that is not stuck.
var ErrNotStuck = aggregate.Refuse("the saga is not stuck")

// ErrSeveralStuck refuses Retry, Skip and Resolve without a step while several steps are stuck.
var ErrSeveralStuck = aggregate.Refuse("several steps are stuck: name one of them")

// Retry sends the command of a stuck step again. By is the operator. Step may be empty if only one step is stuck, as in Skip and Resolve.
type Retry struct{ By, Step string }

// Skip marks a stuck step as completed, or as compensated if its compensation is stuck. The saga continues after it.
type Skip struct{ By, Reason, Step string }

// Resolve marks the stuck step and all steps in flight as completed or compensated, and skips the remaining steps, except the last command of the saga:
// the last stage, or OnCompensated during compensation. If a compensation before a fallback is stuck, only that compensation counts as completed, and the
// fallback runs.
type Resolve struct{ By, Reason, Step string }

func (Retry) input()   {}
func (Skip) input()    {}
func (Resolve) input() {}

// operate applies an operator's decision about a stuck saga.
func (m *machine) operate(in Input) error {
	var step string
	switch in := in.(type) {
	case Start, Answer, Timeout, Cancel, SignalInput, EventInput, ChildEnded, Compensate: // no decisions of operators
		return nil
	case Retry:
		step = in.Step
	case Skip:
		step = in.Step
	case Resolve:
		step = in.Step
	}
	i, err := m.stuckStep(step)
	if err != nil {
		return err
	}
	st := m.state.Step(m.saga.steps[i].name)
	branch := st.branch()
	switch in := in.(type) {
	case Retry:
		m.record(StepRetried{st.Name, in.By})
		return m.ask(i, branch, st.Attempts+1)
	case Skip:
		m.record(StepSkipped{st.Name, in.By, in.Reason})
	case Resolve:
		if branch == cqrs.BranchAction || m.state.Compensating {
			return m.resolve(i, in)
		}
		m.record(Resolved{st.Name, in.By, in.Reason}) // the saga continues with a fallback
	case Start, Answer, Timeout, Cancel, SignalInput, EventInput, ChildEnded, Compensate:
	}
	if branch == cqrs.BranchCompensation {
		return m.away(i)
	}
	return m.forward(i)
}

// stuckStep returns the index of the stuck step with a name, or of the only stuck step if the name is empty.
func (m *machine) stuckStep(name string) (int, error) {
	stuck := m.state.StuckSteps()
	switch {
	case m.state.Status != StatusStuck || len(stuck) == 0:
		return 0, ErrNotStuck
	case name == "" && len(stuck) > 1:
		return 0, fmt.Errorf("%w: %s", ErrSeveralStuck, strings.Join(stuck, ", "))
	case name == "":
		name = stuck[0]
	case !slices.Contains(stuck, name):
		return 0, fmt.Errorf("step %q: %w at this step, but at %s", name, ErrNotStuck, strings.Join(stuck, ", "))
	}
	return m.find(name), nil
}

// resolve marks the stuck step and the steps in flight as completed or compensated, and continues with the last stage, or with the step of OnCompensated.
func (m *machine) resolve(i int, in Resolve) error {
	branch := m.state.Step(m.saga.steps[i].name).branch()
	m.record(Resolved{m.saga.steps[i].name, in.By, in.Reason})
	for st := range m.state.Branches() {
		if st.InFlight() {
			m.record(Resolved{st.Name, in.By, in.Reason})
		}
	}
	last := len(m.saga.stages) - 2
	switch n := m.saga.steps[i].stage; {
	case branch == cqrs.BranchCompensation:
		return m.backward(-1)
	case n >= last: // the stuck step is in the last stage
		return m.forward(i)
	}
	return m.enter(last)
}
