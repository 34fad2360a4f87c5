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

// Saga is a definition that New has compiled for the engine. It has no type parameter, its methods do not change it, and it is safe for concurrent use.
type Saga struct {
	name       string
	version    int
	stuckAfter int
	starts     []starting
	steps      []step  // the last one is the abort step
	stages     []stage // the last one is that of the abort step
	children   []*Saga
	check      error

	// parallel tells whether several steps may be in flight at once.
	parallel bool

	awaits  bool           // some steps wait for events
	forEach bool           // some steps run once for each item of a list
	index   map[string]int // from a step's name to its index, only for a saga with items; nil: the steps are few enough to scan
}

// starting is an event that starts an instance.
type starting struct {
	on
	subject  func(any) string // nil: the message key is the subject
	byParent bool
	step     string // with StartAll, the waiting step that this event completes
}

// stage is a range of steps, with their fallbacks, that run together: from is the first index, to is one past the last.
type stage struct {
	from, to int
	parallel bool // several steps may be in flight
	branches int  // number of steps in the definition, without fallbacks and items
}

type step struct {
	name             string
	stage            int
	do, undo         func(data json.RawMessage, reason string) (cqrs.Keyed, error)
	signal           *signal
	await            *await
	starting         bool // the step waits for an event that may also start the saga
	child            *child
	optional         bool // the step waits, and when its timeout ends the saga continues
	remindAfter      time.Duration
	reminder         func(data json.RawMessage, reason string) (cqrs.Keyed, error)
	until            *until // nil: the step does not repeat its command
	delay            func(data json.RawMessage, now time.Time) (until time.Time, err error)
	skipIf           func(data json.RawMessage) (bool, error) // nil: the step is never skipped
	completed        on
	undone           on
	refused          []Refusal
	within           time.Duration
	pivot, retriable bool
	forEach          *forEach // nil: the step runs once
	item             int      // number of the item that the step belongs to, from 1; 0: none
	group            string   // name of the step with ForEach, also in its items and fallbacks

	fallback               int // index of the step's fallback; 0: none, because step 0 is never a fallback
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
	eventKey func(any) string // nil: the message key
}

// on is Expected without its type parameter. remember applies the event to the data, both as JSON.
type on struct {
	event    reflect.Type
	remember func(data json.RawMessage, event any) (json.RawMessage, error)
}

// New compiles a definition. It does not fail: Check returns the faults of the definition.
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

// startEvents returns the events that start an instance.
func (d Definition[D]) startEvents() []Expected[D] {
	if d.StartAll != nil {
		return d.StartAll.Events
	}
	return append([]Expected[D]{d.Start}, d.StartAny...)
}

// awaitAll adds the first stage of a saga with StartAll: one step for each starting event.
func (s *Saga) awaitAll(within time.Duration) {
	for i := range s.starts {
		start := &s.starts[i]
		start.step = awaitName(start.event)
		s.steps = append(s.steps, step{name: start.step, within: within, await: &await{received: start.on}, starting: true})
	}
	s.stages, s.parallel = append(s.stages, stage{0, len(s.steps), true, len(s.steps)}), true
}

func awaitName(event reflect.Type) string { return "await " + event.Name() }

// addStage adds a stage of steps that run together, each followed by its fallback.
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

// Name returns the name of the definition.
func (s *Saga) Name() string { return s.name }

// Version returns the version of the definition.
func (s *Saga) Version() int { return s.version }

// Check returns the faults of the definition, joined into one error, or nil.
func (s *Saga) Check() error { return s.check }

// LongestWait returns the longest timeout of the saga's steps, OnCompensated included, and the name of that step.
func (s *Saga) LongestWait() (step string, d time.Duration) {
	for _, st := range s.steps {
		if st.within > d {
			step, d = st.name, st.within
		}
	}
	return step, d
}

// Starts tells whether an event starts an instance, or is one of the events of StartAll. It is false for the event of ByParent.
func (s *Saga) Starts(event any) bool { return s.StartsWith(reflect.TypeOf(event)) }

// StartsWith is Starts for the Go type of an event.
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

// Subject returns the subject of the instance that an event starts. It returns key, the key of the event's message, unless OnSubject says otherwise.
func (s *Saga) Subject(event any, key string) string {
	if start := s.startOf(reflect.TypeOf(event)); start != nil && start.subject != nil {
		return start.subject(event)
	}
	return key
}

// EventTypes returns the Go types of all the events that the saga reacts to, the starting events first. The event of ByParent is not among them.
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

// Awaits tells, by the Go type of an event, whether the event is an answer to the action or to the compensation of a step.
func (s *Saga) Awaits(step string, branch cqrs.Branch, event any) bool {
	i := s.find(step)
	if i < 0 {
		i = s.find(itemOf(step)) // the name is that of an item
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

// Has tells whether the definition has a step of this name, or a step that has an item or a repetition of this name.
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

// Sent is a command that a saga sends. Step is the step that sends it, Undo tells whether it is the compensation, and Type is its Go type.
type Sent struct {
	Step string
	Undo bool
	Type reflect.Type
}

// Sends returns the commands that the saga sends, reminders included. It calls the functions of the definition with the zero value of the saga's
// data, and leaves out a command whose function panics or fails on that. A step with Child sends no command of its own.
func (s *Saga) Sends() (all []Sent) {
	add := func(step string, undo bool, make func(json.RawMessage, string) (cqrs.Keyed, error)) {
		defer func() { _ = recover() }() // the function may need data, for example an element of an empty list
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

// namespace separates the ids of sagas and their commands from other ids that are derived by SHA-1.
var namespace = uuid.MustParse("6c7b1b5e-7d0f-5b38-9a53-6d696c6c7261")

// ID returns the id of the instance of a definition for a subject. It is a hash of both, so that a starting event that is delivered twice finds
// the instance that it started.
func ID(definition, subject string) string {
	return uuid.NewSHA1(namespace, []byte(definition+"/"+subject)).String()
}

// commandID derives the id of a command's message, so that a reaction that is computed again sends a message with the same id.
func commandID(sagaID, step string, branch cqrs.Branch, attempt int) string {
	name := make([]byte, 0, 128)
	for _, part := range [...]string{sagaID, step, string(branch)} {
		name = append(append(name, part...), '/')
	}
	return uuid.NewSHA1(namespace, strconv.AppendInt(name, int64(attempt), 10)).String()
}

// TimerID returns the message id of a timer of a command. Late is false for the timer that was set when the command was sent, and true for one that was
// set later, while the saga waited for the command's answer.
func TimerID(commandID string, late bool) string {
	name := "timer/" + commandID
	if late {
		name = "late " + name
	}
	return uuid.NewSHA1(namespace, []byte(name)).String()
}
