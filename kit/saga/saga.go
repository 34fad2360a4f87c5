package saga

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
)

// Saga is a definition made ready for the engine, its type parameter gone.
type Saga struct {
	name       string
	version    int
	stuckAfter int
	starts     []starting
	steps      []step  // the last one is the abort step
	stages     []stage // the last one is that of the abort step
	children   []*Saga
	check      error

	// parallel tells that several steps may be in flight at once.
	parallel bool

	awaits  bool           // some steps wait for events
	forEach bool           // some steps are taken for each item of a list
	index   map[string]int // of the steps by name, if there is one for each item; nil: they are few
}

// starting is an event that begins an instance.
type starting struct {
	on
	subject  func(any) string // nil: the key of its message
	byParent bool
	step     string // that it completes, if others are needed too
}

// stage is the steps from one index up to another one that are taken together, their fallbacks among them.
type stage struct {
	from, to int
	parallel bool // several may be in flight
	branches int  // of the definition
}

type step struct {
	name             string
	stage            int
	do, undo         func(data json.RawMessage, reason string) (cqrs.Keyed, error)
	signal           *signal
	await            *await
	starting         bool // it waits for an event that may also start the saga
	child            *child
	optional         bool // it waits, and the saga goes on when the time is up
	remindAfter      time.Duration
	reminder         func(data json.RawMessage, reason string) (cqrs.Keyed, error)
	until            *until // nil: it is not repeated
	delay            func(data json.RawMessage) (time.Duration, error)
	skipIf           func(data json.RawMessage) (bool, error) // nil: never
	completed        on
	undone           on
	refused          []Refusal
	within           time.Duration
	pivot, retriable bool
	forEach          *forEach // nil: it is taken once
	item             int      // its number, from 1, if it is that of one item
	group            string   // the name of the step that is taken for each item, also in its fallbacks

	fallback               int // its index, or 0: no fallback stands first
	standsIn               bool
	whenOpen, whenTimedOut bool
	whenRefused            []string
}

// until is Until without its type parameter.
type until struct {
	holds    func(data json.RawMessage) (bool, error)
	every    time.Duration
	attempts int
}

// forEach is ForEach without its type parameter.
type forEach struct {
	items       func(data json.RawMessage) (int, error)
	item        func(data json.RawMessage, n int) (json.RawMessage, error)
	atOnce, max int
}

// signal is Signal without its type parameter.
type signal struct {
	name     string
	roles    []string
	received on
}

// await is Await without its type parameter.
type await struct {
	received on
	key      func(data json.RawMessage) (string, error)
	eventKey func(any) string // nil: the message's
}

// on remembers something of an event in data that it gets and returns as JSON.
type on struct {
	event    reflect.Type
	remember func(data json.RawMessage, event any) (json.RawMessage, error)
}

// New makes a definition ready. Its faults are kept for Check.
func New[D any](d Definition[D]) *Saga {
	s := &Saga{name: d.Name, version: d.Version, stuckAfter: d.AlertAfter, check: d.Check()}
	if s.stuckAfter == 0 {
		s.stuckAfter = 8
	}
	for _, e := range d.startEvents() {
		s.starts = append(s.starts, starting{on: erase(e), subject: e.subject, byParent: e.byParent})
	}
	if all := d.StartAll; all != nil {
		s.awaitAll(all.Timeout)
	}
	for _, st := range d.Steps {
		if st.Parallel == nil {
			addStage(s, st)
			continue
		}
		addStage(s, st.Parallel...)
	}
	abort := step{name: d.OnCompensated.Name, completed: erase(d.OnCompensated.Completed), within: d.OnCompensated.Timeout, retriable: true}
	abort.do = func(data json.RawMessage, reason string) (cqrs.Keyed, error) {
		var v D
		if err := json.Unmarshal(data, &v); err != nil {
			return nil, err
		}
		return d.OnCompensated.Action(v, reason), nil
	}
	abort.stage = len(s.stages)
	s.stages = append(s.stages, stage{len(s.steps), len(s.steps) + 1, false, 1})
	s.steps = append(s.steps, abort)
	return s
}

// startEvents are those that begin an instance.
func (d Definition[D]) startEvents() []Expected[D] {
	if d.StartAll != nil {
		return d.StartAll.Events
	}
	return append([]Expected[D]{d.Start}, d.StartAny...)
}

// awaitAll makes the first stage of a saga that needs all of its starting events.
func (s *Saga) awaitAll(within time.Duration) {
	for i := range s.starts {
		start := &s.starts[i]
		start.step = awaitName(start.event)
		s.steps = append(s.steps, step{name: start.step, within: within, await: &await{received: start.on}, starting: true})
	}
	s.stages, s.parallel = append(s.stages, stage{0, len(s.steps), true, len(s.steps)}), true
}

func awaitName(event reflect.Type) string { return "await " + event.Name() }

// addStage adds steps that are taken together, each with its fallback behind it.
func addStage[D any](s *Saga, branches ...Step[D]) {
	from := len(s.steps)
	for _, st := range branches {
		s.steps = append(s.steps, eraseStep(st))
		if st.Child != nil {
			s.children = append(s.children, st.Child.definition)
		}
		if f := st.Fallback; f != nil {
			first := &s.steps[len(s.steps)-1]
			first.fallback, first.whenOpen, first.whenTimedOut, first.whenRefused = len(s.steps), f.WhenOpen, f.WhenTimedOut, f.WhenRefused
			instead := eraseStep(f.step())
			instead.standsIn, instead.forEach, instead.group = true, first.forEach, first.group
			s.steps = append(s.steps, instead)
		}
	}
	for i := from; i < len(s.steps); i++ {
		s.steps[i].stage = len(s.stages)
	}
	parallel := len(branches) > 1
	for _, st := range branches {
		s.forEach = s.forEach || st.ForEach != nil
		s.awaits = s.awaits || st.Await != nil
		parallel = parallel || st.ForEach != nil
	}
	s.stages = append(s.stages, stage{from, len(s.steps), parallel, len(branches)})
	s.parallel = s.parallel || parallel
}

// Name is the definition's.
func (s *Saga) Name() string { return s.name }

// Version is the definition's.
func (s *Saga) Version() int { return s.version }

// Check returns the definition's faults.
func (s *Saga) Check() error { return s.check }

// LongestWait is the longest time that a step may take to be answered, and that step.
func (s *Saga) LongestWait() (step string, d time.Duration) {
	for _, st := range s.steps {
		if st.within > d {
			step, d = st.name, st.within
		}
	}
	return step, d
}

// Starts tells whether an event begins an instance, or is one of those that are all needed.
func (s *Saga) Starts(event any) bool { return s.StartsWith(reflect.TypeOf(event)) }

// StartsWith is Starts for a type of event.
func (s *Saga) StartsWith(event reflect.Type) bool {
	start := s.startOf(event)
	return start != nil && !start.byParent
}

func (s *Saga) startOf(event reflect.Type) *starting {
	for i := range s.starts {
		if s.starts[i].event == event {
			return &s.starts[i]
		}
	}
	return nil
}

// Subject is the subject of the instance that an event starts. Key is that of its message.
func (s *Saga) Subject(event any, key string) string {
	if start := s.startOf(reflect.TypeOf(event)); start != nil && start.subject != nil {
		return start.subject(event)
	}
	return key
}

// EventTypes returns the Go types of all the events that the saga reacts to, those that start it first.
func (s *Saga) EventTypes() []reflect.Type {
	types, seen := []reflect.Type{}, map[reflect.Type]bool{}
	add := func(t reflect.Type) {
		if t != nil && !seen[t] {
			seen[t] = true
			types = append(types, t)
		}
	}
	for _, start := range s.starts {
		if !start.byParent {
			add(start.event)
		}
	}
	for _, st := range s.steps {
		add(st.completed.event)
		for _, r := range st.refused {
			add(r.event)
		}
		add(st.undone.event)
		if st.await != nil && !st.starting {
			add(st.await.received.event)
		}
	}
	return types
}

// Awaits tells whether an event is an answer to the action or to the compensation of a step, by its type.
func (s *Saga) Awaits(step string, branch cqrs.Branch, event any) bool {
	i := s.find(step)
	if i < 0 {
		i = s.find(itemOf(step)) // one item of it
	}
	if i < 0 {
		return false
	}
	t := reflect.TypeOf(event)
	if branch == cqrs.BranchCompensation {
		return t == s.steps[i].undone.event
	}
	return t == s.steps[i].completed.event || slices.ContainsFunc(s.steps[i].refused, func(r Refusal) bool { return r.event == t })
}

// Has tells whether the definition has a step of this name, or one that the name is an item or a repetition of.
func (s *Saga) Has(step string) bool {
	for ; step != ""; step = itemOf(step) {
		if s.find(step) >= 0 {
			return true
		}
	}
	return false
}

func (s *Saga) find(name string) int {
	if s.index != nil {
		if i, known := s.index[name]; known {
			return i
		}
		return -1
	}
	for i := range s.steps { // a step is too large to be copied for each comparison
		if s.steps[i].name == name {
			return i
		}
	}
	return -1
}

// Sent is a command that a saga sends: at which step, and of which Go type.
type Sent struct {
	Step string
	Undo bool
	Type reflect.Type
}

// Sends returns the commands that the saga sends, as far as the definition's functions tell without data: one that cannot make its command
// from the zero value of the saga's data is left out.
func (s *Saga) Sends() (all []Sent) {
	add := func(step string, undo bool, make func(json.RawMessage, string) (cqrs.Keyed, error)) {
		defer func() { _ = recover() }() // it needs data: an element of an empty list, for example
		if make == nil {
			return
		}
		if c, err := make(json.RawMessage("{}"), ""); err == nil && c != nil {
			all = append(all, Sent{step, undo, reflect.TypeOf(c)})
		}
	}
	for _, st := range s.steps {
		add(st.name, false, st.do)
		add(st.name, true, st.undo)
		add(st.name, false, st.reminder)
	}
	return all
}

// namespace makes ids of sagas and their commands differ from other ids that are derived in the same way.
var namespace = uuid.MustParse("6c7b1b5e-7d0f-5b38-9a53-6d696c6c7261")

// ID is the id of the instance of a definition for a subject. It is derived, so that an event that starts one twice finds
// the first.
func ID(definition, subject string) string {
	return uuid.NewSHA1(namespace, []byte(definition+"/"+subject)).String()
}

// commandID is derived too: a reaction that is computed again sends the same message again.
func commandID(sagaID, step string, branch cqrs.Branch, attempt int) string {
	name := make([]byte, 0, 128)
	for _, part := range [...]string{sagaID, step, string(branch)} {
		name = append(append(name, part...), '/')
	}
	return uuid.NewSHA1(namespace, strconv.AppendInt(name, int64(attempt), 10)).String()
}

// TimerID is the id of the message of a timer that was set with a command, or late, while its answer was being waited for.
func TimerID(commandID string, late bool) string {
	name := "timer/" + commandID
	if late {
		name = "late " + name
	}
	return uuid.NewSHA1(namespace, []byte(name)).String()
}
