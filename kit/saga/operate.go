package saga

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// ErrNotStuck refuses a person's hand in a saga that needs none.
var ErrNotStuck = aggregate.Refuse("the saga is not stuck")

// ErrSeveralStuck refuses a person's hand that names no step while several are stuck.
var ErrSeveralStuck = aggregate.Refuse("several steps are stuck: name one of them")

// Retry asks a stuck step again. Step may be empty if only one is stuck, here and below.
type Retry struct{ By, Step string }

// Skip has a stuck step count as done, or as undone on the way back.
type Skip struct{ By, Reason, Step string }

// Resolve has all that is left of a stuck saga count as done, except the command to its subject. On the way to a fallback it is only the stuck
// step's compensation that counts as done.
type Resolve struct{ By, Reason, Step string }

func (Retry) input()   {}
func (Skip) input()    {}
func (Resolve) input() {}

// operate carries out what a person decides about a stuck saga.
func (m *machine) operate(in Input) error {
	var step string
	switch in := in.(type) {
	case Start, Answer, Timeout, Cancel, SignalInput, EventInput, ChildEnded, Compensate: // not about a stuck step
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
		m.record(Resolved{st.Name, in.By, in.Reason}) // the saga goes on by a fallback
	case Start, Answer, Timeout, Cancel, SignalInput, EventInput, ChildEnded, Compensate:
	}
	if branch == cqrs.BranchCompensation {
		return m.away(i)
	}
	return m.forward(i)
}

// stuckStep is the index of the stuck step with a name, or of the only one.
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

// resolve counts as done what is in flight and what is left, but for the last stage, or for the abort step.
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
	case n >= last: // the subject is what was being told
		return m.forward(i)
	}
	return m.enter(last)
}
