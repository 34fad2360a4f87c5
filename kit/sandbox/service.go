package sandbox

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Operation is a call that a stand-in answers, with requests of type R in JSON.
type Operation[R any] struct {
	Name      string // in the journal, and in Undoes
	Path      string // POST /bookings
	Reference string // what the reference of an effect begins with; the id follows

	// Undoes names the operation that this one undoes. It is never refused: if there is nothing to undo, it bars the operation, whose request
	// may still be on its way.
	Undoes string

	// Barred is the reason for which the operation is refused after it was undone.
	Barred string

	// Refusal is the reason of refusals by chance (Faults.RefusalRate). Empty: there are none.
	Refusal string

	// Status is that of refusals. 0: 422.
	Status int

	// Decide decides about a request, knowing which operations with its id are in effect. It is called for repeated requests too; the first
	// decision stays. Nil: every request is accepted.
	Decide func(request R, done Effects) Decision

	// Count adds an effect to the ledger. It is called once for each, an undoing included if there was something to undo; done has what was in
	// effect before. Optional.
	Count func(l Ledger, amount int64, done Effects)
}

// Decision is what happens to a request. The zero Decision lets it take effect.
type Decision struct {
	Amount  int64         // what the effect is about, in any unit
	Refused string        // the reason; the refusal is final for the operation and the id
	Status  int           // answers with this status and Refused, and decides nothing: a later request may have another answer
	Delay   time.Duration // before the answer
	Never   string        // an operation that will be refused later
}

// Ledger has figures by their names.
type Ledger map[string]int64

// Effects are the operations that are in effect for an id.
type Effects struct {
	operations map[string]int
	states     []state
}

// Has tells whether an operation is in effect.
func (e Effects) Has(operation string) bool {
	at, known := e.operations[operation]
	return known && at < len(e.states) && e.states[at].stage == inEffect
}

// Amount is that of an operation in effect, 0 otherwise.
func (e Effects) Amount(operation string) int64 {
	if !e.Has(operation) {
		return 0
	}
	return e.states[e.operations[operation]].amount
}

// stage of an operation for an id.
type stage uint8

const (
	open stage = iota
	inEffect
	undone
	refused
)

// state of an operation for an id.
type state struct {
	stage  stage
	amount int64
	reason string // of the refusal
}

// Figures that every ledger has.
const (
	calls   = "calls"   // requests that were decided, and repeated ones
	repeats = "repeats" // those that changed nothing, because an earlier one had done so
)

// Service is the stand-in of one external service. New makes it.
type Service struct {
	name       string
	figures    []string
	operations []operation
	byName     map[string]int

	mu      sync.Mutex
	faults  Faults
	ledger  Ledger
	states  map[string][]state // by id, then by operation
	journal journal
}

// operation is an Operation without its type of requests.
type operation struct {
	name, path, reference, barred, refusal string
	undoes                                 int // -1: nothing
	status                                 int
	read                                   func(body []byte) (id string, decide func(Effects) Decision, err error)
	count                                  func(Ledger, int64, Effects)
}

// New makes a stand-in. Id returns the id of a request: operations with the same id belong together. Figures are those of the ledger, in the order in
// which a page shows them. New panics if an operation undoes one that is not in front of it.
func New[R any](name string, id func(R) string, figures []string, operations ...Operation[R]) *Service {
	s := &Service{name: name, figures: append(slices.Clone(figures), calls, repeats), byName: map[string]int{}, ledger: Ledger{}, states: map[string][]state{}}
	for _, f := range s.figures {
		s.ledger[f] = 0
	}
	for i, o := range operations {
		undoes := -1
		if o.Undoes != "" {
			at, known := s.byName[o.Undoes]
			if !known {
				panic(fmt.Sprintf("sandbox %s: %s undoes %q, which no operation before it is", name, o.Name, o.Undoes))
			}
			undoes = at
		}
		if o.Status == 0 {
			o.Status = http.StatusUnprocessableEntity
		}
		s.byName[o.Name] = i
		s.operations = append(s.operations, operation{
			name: o.Name, path: o.Path, reference: o.Reference, barred: o.Barred, refusal: o.Refusal, undoes: undoes, status: o.Status, count: o.Count,
			read: func(body []byte) (string, func(Effects) Decision, error) {
				var request R
				if err := json.Unmarshal(body, &request); err != nil {
					return "", nil, err
				}
				decide := func(e Effects) (d Decision) {
					if o.Decide != nil {
						d = o.Decide(request, e)
					}
					return d
				}
				return id(request), decide, nil
			},
		})
	}
	return s
}

// Name is the name of the stand-in.
func (s *Service) Name() string { return s.name }

// Figure is a figure of the ledger.
type Figure struct {
	Name  string
	Value int64
}

// Figures are those of the ledger, in their order.
func (s *Service) Figures() []Figure {
	ledger := s.Ledger()
	out := make([]Figure, len(s.figures))
	for i, name := range s.figures {
		out[i] = Figure{name, ledger[name]}
	}
	return out
}

// Ledger is a copy of the ledger.
func (s *Service) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ledger)
}

// apply computes the effect of an entry, at the call and at a restart. The result depends on the entries alone.
func (s *Service) apply(e entry) (o operation, now state, err error) {
	name, never := e.operation()
	at, known := s.byName[name]
	if !known {
		return o, now, fmt.Errorf("there is no operation %q", name)
	}
	o = s.operations[at]
	s.ledger[calls]++
	states := s.states[e.ID]
	if states == nil {
		states = make([]state, len(s.operations))
		s.states[e.ID] = states
	}
	done := Effects{s.byName, states}
	if o.undoes >= 0 {
		before := states[o.undoes]
		if before.stage == undone || states[at].stage == inEffect {
			s.ledger[repeats]++
		}
		if before.stage == inEffect && o.count != nil {
			o.count(s.ledger, before.amount, done)
		}
		states[at].stage = inEffect
		if before.stage != refused {
			states[o.undoes].stage = undone
		}
		return o, states[at], nil
	}
	switch now = states[at]; {
	case now.stage == inEffect, now.stage == refused:
		s.ledger[repeats]++
		return o, now, nil
	case now.stage == undone:
		s.ledger[repeats]++
		now = state{stage: refused, reason: o.barred}
	case e.Refused != "":
		now = state{stage: refused, reason: e.Refused}
	default:
		if o.count != nil {
			o.count(s.ledger, e.Amount, done)
		}
		now = state{stage: inEffect, amount: e.Amount}
		if later, known := s.byName[never]; known {
			states[later] = state{stage: refused, reason: s.operations[later].refusal}
		}
	}
	states[at] = now
	return o, now, nil
}
