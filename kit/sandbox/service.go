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

// Operation is a call that a stand-in answers. R is the type of its requests, which are JSON.
type Operation[R any] struct {
	Name      string // its name in the journal and in Undoes
	Path      string // such as "/bookings" for POST /bookings
	Reference string // the prefix of the reference of an effect; the id follows

	// Undoes is the name of the operation that this operation compensates. This operation is never refused: if the other operation has no effect for the
	// id, it bars that operation, whose request may still arrive later.
	Undoes string

	// Barred is the reason with which the operation is refused after it was compensated or barred.
	Barred string

	// Refusal is the reason of random refusals (Faults.RefusalRate) and of refusals because of Decision.Never.
	Refusal string

	// Status is the status of the answer to a refused request. 0 means 422.
	Status int

	// Decide decides about a request; done has the operations with its id that are in effect. Decide is also called for repeated requests, but only the
	// first decision counts. Nil means that every request is accepted.
	Decide func(request R, done Effects) Decision

	// Count adds an effect to the ledger. It is called once for each effect, including the effect of an operation with Undoes if the other operation was in
	// effect. Done has the operations that were in effect before. Optional.
	Count func(l Ledger, amount int64, done Effects)
}

// Decision is the result of Operation.Decide. The zero Decision lets the request take effect.
type Decision struct {
	Amount  int64         // the amount of the effect, in any unit
	Refused string        // the reason of a refusal, which is final for the operation and the id; empty: accepted
	Status  int           // not 0: the answer has this status and the reason Refused, and nothing is decided, so a later request may get another answer
	Delay   time.Duration // delay of the answer
	Never   string        // name of an operation that will be refused later for this id
}

// Ledger has the figures of a stand-in by their names.
type Ledger map[string]int64

// Effects has the operations that are in effect for an id.
type Effects struct {
	operations map[string]int
	states     []state
}

// Has reports whether an operation is in effect.
func (e Effects) Has(operation string) bool {
	at, known := e.operations[operation]
	return known && at < len(e.states) && e.states[at].stage == inEffect
}

// Amount returns the amount of an operation, 0 if the operation is not in effect.
func (e Effects) Amount(operation string) int64 {
	if !e.Has(operation) {
		return 0
	}
	return e.states[e.operations[operation]].amount
}

// stage is the progress of an operation for an id.
type stage uint8

const (
	open stage = iota
	inEffect
	undone
	refused
)

// state is the state of an operation for an id.
type state struct {
	stage  stage
	amount int64
	reason string // of the refusal
}

// Names of the figures that every ledger has.
const (
	calls   = "calls"   // number of requests that were decided, including repeated requests
	repeats = "repeats" // number of requests that had no effect, because an earlier request of the id had decided
)

// Service is the stand-in of one external service. New makes it. It is safe for concurrent use.
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

// operation is an Operation without the type of its requests.
type operation struct {
	name, path, reference, barred, refusal string
	undoes                                 int // index of the operation that this operation compensates; -1: none
	status                                 int
	read                                   func(body []byte) (id string, decide func(Effects) Decision, err error)
	count                                  func(Ledger, int64, Effects)
}

// New makes a stand-in; Open must open it before it is called. Id returns the id of a request: operations with the same id belong together. Figures are the
// names of the ledger's figures, in the order in which a page shows them. New panics if an operation undoes an operation that is not before it in the
// list.
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

// Name returns the name of the stand-in.
func (s *Service) Name() string { return s.name }

// Figure is a figure of a Ledger with its name.
type Figure struct {
	Name  string
	Value int64
}

// Figures returns the figures of the ledger in the order of New, and after them the numbers of calls and of repeats.
func (s *Service) Figures() []Figure {
	ledger := s.Ledger()
	out := make([]Figure, len(s.figures))
	for i, name := range s.figures {
		out[i] = Figure{name, ledger[name]}
	}
	return out
}

// Ledger returns a copy of the ledger.
func (s *Service) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ledger)
}

// apply computes the effect of an entry, at the call and after a restart. The result depends only on the entries.
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
