package saga

import (
	"slices"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// ErrNotStuck refuses a person's hand in a saga that needs none.
var ErrNotStuck = aggregate.Refuse("the saga is not stuck")

// Retry asks a stuck step again.
type Retry struct{ By string }

// Skip has a stuck step count as done, or as undone on the way back.
type Skip struct{ By, Reason string }

// Resolve has all that is left of a stuck saga count as done, except that its subject is told.
type Resolve struct{ By, Reason string }

func (Retry) input()   {}
func (Skip) input()    {}
func (Resolve) input() {}

// operate carries out what a person decides about a stuck saga.
func (m *machine) operate(in Input) error {
	i := slices.IndexFunc(m.saga.steps, func(def step) bool {
		st := m.state.Step(def.name)
		return st != nil && (st.Status == InProgress || st.Status == Undoing)
	})
	if m.state.Status != Stuck || i < 0 {
		return ErrNotStuck
	}
	st := m.state.Step(m.saga.steps[i].name)
	branch := cqrs.BranchAction
	if st.Status == Undoing {
		branch = cqrs.BranchCompensation
	}
	switch in := in.(type) {
	case Start, Answer, Timeout, Cancel: // no person's
		return nil
	case Retry:
		m.record(StepRetried{st.Name, in.By})
		return m.ask(i, branch, st.Attempts+1)
	case Skip:
		m.record(StepSkipped{st.Name, in.By, in.Reason})
	case Resolve:
		m.record(Resolved{st.Name, in.By, in.Reason})
		switch {
		case i >= m.abort()-1 && branch == cqrs.BranchAction: // the subject is what was being told
		case branch == cqrs.BranchCompensation && !m.state.Compensating: // on the way to a fallback, which goes on
		case branch == cqrs.BranchCompensation:
			return m.backward(-1)
		default:
			i = m.abort() - 2
		}
	}
	if branch == cqrs.BranchCompensation {
		return m.away(i)
	}
	return m.forward(i)
}
