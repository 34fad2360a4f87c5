package saga

import (
	"errors"
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// ErrTooLate refuses the cancellation of a saga whose pivot was sent, that is stuck or is already being compensated, or that has ended.
var ErrTooLate = aggregate.Refuse("it is too late to cancel")

// ErrNotDefined is the error for an instance that runs by a definition, or by a version of it, that is not registered any more.
var ErrNotDefined = errors.New("no such definition or version of it")

// maxPause bounds the growing time between two attempts.
const maxPause = 5 * time.Minute

// Env is the environment of a reaction: the inputs that are neither state nor message.
type Env struct {
	Now time.Time

	// Open tells whether the circuit breaker of a command's destination is open. Nil: all breakers count as closed.
	Open func(command cqrs.Keyed) bool
}

// React computes the reaction of an instance to an input, and does not change state. Input that is late or repeated gives an empty Reaction or an
// AnswerIgnored. The error wraps ErrTooLate (Cancel, Compensate), ErrNotAwaited (SignalInput), ErrNotStuck or ErrSeveralStuck (Retry, Skip, Resolve);
// any other error is an event or a payload of the wrong type, or a fault of the definition's functions.
func (s *Saga) React(state State, in Input, env Env) (Reaction, error) {
	m := &machine{definition: s, saga: s.withItems(&state), now: env.Now, open: env.Open, state: state}
	m.state.Steps = cloneSteps(state.Steps)
	if in, fired := in.(Timeout); fired && state.timed == commandID(state.ID, in.Step, in.Branch, in.Attempt) && state.fires.After(m.now) {
		m.now = state.fires // the clock of this process is behind that of the database
	}
	var before timed
	if s.parallel {
		_, m.timeOut = in.(Timeout)
		before = m.earliest()
	}
	var err error
	switch in := in.(type) {
	case Start:
		err = m.begin(in)
	case Answer:
		err = m.answer(in)
	case Timeout:
		err = m.timeout(in)
	case Cancel:
		err = m.cancel(in)
	case SignalInput:
		err = m.signal(in)
	case EventInput:
		err = m.event(in)
	case ChildEnded:
		err = m.childEnded(in)
	case Compensate:
		err = m.compensate(in)
	case Retry, Skip, Resolve:
		err = m.operate(in)
	}
	if err != nil {
		return Reaction{}, fmt.Errorf("saga %s %s: %w", s.name, state.ID, err)
	}
	if s.parallel {
		m.resetTimer(before, !state.fires.After(m.now))
	}
	if s.awaits {
		m.changeWaits(state, in)
	}
	m.out.State = m.state
	return m.out, nil
}

type machine struct {
	definition *Saga
	saga       *Saga // definition, with a step for each item
	now        time.Time
	open       func(cqrs.Keyed) bool
	state      State
	out        Reaction

	hold bool    // commands are held until all commands of the stage are known
	held []asked // the held commands

	keys map[string]string // from a step to the key of the event that it begins to wait for

	timeOut  bool // the input is a timer, which has fired and cannot fire again
	timerSet bool // this reaction has set a timer with a command
}

func (m *machine) record(f HistoryEvent) {
	m.state.Fold(f, m.now)
	m.out.Events = append(m.out.Events, f)
	if m.state.Status.Ended() {
		m.stopTimer()
	}
}

// recordAsked records a CommandSent in the field Next of the last event, if that event has one, and otherwise as an event of its own.
func (m *machine) recordAsked(next *CommandSent) {
	if last := len(m.out.Events) - 1; last >= 0 {
		if f, ok := m.out.Events[last].(interface {
			with(*CommandSent) HistoryEvent
		}); ok {
			m.out.Events[last] = f.with(next)
			m.state.asked(next, m.now)
			return
		}
	}
	m.record(*next)
}

// stopTimer stops the timer that was set with a command, unless it has fired.
func (m *machine) stopTimer() {
	if m.state.fires.After(m.now) {
		m.out.CancelledTimers = append(m.out.CancelledTimers, TimerID(m.state.timed, false))
	}
}

// stopLateTimer cancels the timer that may have been set anew for a step that is answered now. In a saga with parallel steps resetTimer
// does that.
func (m *machine) stopLateTimer(st *StepState, branch cqrs.Branch) {
	if !m.saga.parallel && !m.state.fires.After(m.now) {
		m.out.CancelledTimers = append(m.out.CancelledTimers, TimerID(commandID(m.state.ID, st.Name, branch, st.Attempts), true))
	}
}

func (m *machine) begin(in Start) error {
	start := m.saga.startOf(reflect.TypeOf(in.Event))
	switch {
	case start == nil:
		return fmt.Errorf("%T starts no such saga", in.Event)
	case m.state.Version > 0 && start.step == "":
		return nil
	case m.state.Version > 0:
		return m.event(EventInput{Step: start.step, Event: in.Event, MessageID: in.MessageID})
	}
	data, err := start.remember(nil, in.Event)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(m.saga.steps))
	var stages []int32
	for i := range m.saga.steps[:m.abort()] {
		st := &m.saga.steps[i]
		if st.standsIn {
			continue
		}
		names = append(names, st.name)
		if m.saga.parallel {
			stages = append(stages, int32(st.stage)+1) //nolint:gosec // a definition has few
		}
	}
	m.record(Started{Definition: m.saga.name, Version: m.saga.version, Subject: in.Subject, Steps: names, Data: data, Stages: stages, Parent: in.Parent})
	if start.step != "" {
		m.record(EventReceived{Step: start.step, Event: start.event.String(), MessageID: in.MessageID})
	}
	return m.enter(0)
}

func (m *machine) abort() int { return len(m.saga.steps) - 1 }

func (m *machine) find(name string) int { return m.saga.find(name) }

// ask sends the command of a step. The answer is due after the step's timeout, and after growing times from the second attempt on.
func (m *machine) ask(i int, branch cqrs.Branch, attempt int) error {
	st := &m.saga.steps[i]
	switch {
	case st.waits():
		return m.wait(i, attempt)
	case st.forEach != nil && st.item == 0: // an operator or the timer has the items counted again
		return m.recount(i, attempt)
	}
	data, err := m.chosen(st, m.state.Data)
	if err != nil {
		return err
	}
	make := st.do
	if branch == cqrs.BranchCompensation {
		make = st.undo
	}
	var body cqrs.Keyed
	if st.child != nil {
		body, err = m.childCommand(st, branch, data)
	} else {
		body, err = make(data, m.state.Reason)
	}
	if err != nil {
		return fmt.Errorf("step %s: %w", st.name, err)
	}
	if branch == cqrs.BranchAction && attempt == 1 && st.whenOpen && m.open != nil && m.open(body) {
		instead := m.saga.steps[st.fallback].name
		m.record(StepRefused{Step: st.name, Reason: "the breaker of its destination is open", Fallback: instead})
		return m.ask(st.fallback, cqrs.BranchAction, 1)
	}
	id := commandID(m.state.ID, st.name, branch, attempt)
	deadline := m.now.Add(pause(st.within, attempt, id))
	if st.until != nil {
		deadline = m.now.Add(st.within)
	}
	sent := &CommandSent{Step: st.name, Branch: branch, Attempt: attempt, CommandID: id, Deadline: deadline}
	if st.standsIn {
		sent.InsteadOf = m.saga.steps[i-1].name
	}
	c := Command{ID: id, Step: st.name, Branch: branch, Body: body, ExpiresAt: deadline, Notice: st.child != nil}
	if st.until != nil && attempt > 1 {
		c.Repeat = attempt
	}
	if m.hold {
		m.held = append(m.held, asked{sent, c})
		return nil
	}
	m.send(sent, c)
	return nil
}

// pause returns the time to the next attempt. It doubles with each attempt up to maxPause, and is spread by 20% either way from the second attempt on,
// by a hash of the command's id, so that many sagas that wait for the same service do not send their commands all at once.
func pause(within time.Duration, attempt int, id string) time.Duration {
	if attempt == 1 {
		return within
	}
	p := within
	for range min(attempt-1, 16) {
		p = min(2*p, max(maxPause, within))
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // Write of a hash returns no error
	return p + time.Duration((float64(h.Sum32()%1000)/1000-0.5)*0.4*float64(p))
}

func (m *machine) answer(in Answer) error {
	i := m.find(in.Step)
	if n := strings.LastIndexByte(in.Step, '#'); i < 0 && n > 0 { // a repetition
		in.Step = in.Step[:n]
		i = m.find(in.Step)
	}
	st := m.state.Step(in.Step)
	if i < 0 || st == nil {
		return nil // a step of another saga, or of a version that did not have it
	}
	if slices.Contains(st.Answered, in.CommandID) {
		return nil // a further event of the same command: the first one was the answer
	}
	waiting := (in.Branch == cqrs.BranchAction && st.Status == StepStatusInProgress) || (in.Branch == cqrs.BranchCompensation && st.Status == StepStatusCompensating)
	if !waiting || m.state.Status.Ended() {
		m.record(AnswerIgnored{in.Step, in.Branch, reflect.TypeOf(in.Event).String()})
		return nil
	}
	if in.Branch == cqrs.BranchCompensation {
		return m.undoAnswer(i, st, in)
	}
	return m.doAnswer(i, st, in)
}

func (m *machine) doAnswer(i int, st *StepState, in Answer) error {
	def := &m.saga.steps[i]
	if def.until != nil {
		if handled, err := m.repeated(i, st, in); handled || err != nil {
			return err
		}
	}
	if _, processed := in.Event.(Processed); processed { // the data does not change
		m.stopLateTimer(st, in.Branch)
		m.record(StepCompleted{Step: in.Step, CommandID: in.CommandID})
		return m.forward(i)
	}
	if reflect.TypeOf(in.Event) == def.completed.event {
		data, err := def.completed.remember(m.state.Data, in.Event)
		if err != nil {
			return err
		}
		m.stopLateTimer(st, in.Branch)
		m.record(StepCompleted{Step: in.Step, CommandID: in.CommandID, Data: data})
		return m.forward(i)
	}
	reason, refused := def.refusal(in.Event)
	_, failed := in.Event.(Failed)
	switch {
	case !refused:
		return nil // the participant recorded an event that this step does not expect
	case def.pivot && st.Attempts > 1 && isRefused(in.Event) && m.otherAttemptAlive(st, in.CommandID):
		// The participant may still accept the other attempt, because it does not remember a refusal without an event. That attempt is answered or
		// expires, and is then followed by the next one.
		m.record(AnswerIgnored{in.Step, in.Branch, reflect.TypeOf(in.Event).String()})
		return nil
	case def.retriable, failed && def.pivot:
		m.stuck(st, reason)
		return nil
	}
	fallback := m.fallback(i, failed && def.whenTimedOut || !failed && slices.Contains(def.whenRefused, reason))
	m.stopLateTimer(st, in.Branch)
	m.record(StepRefused{Step: in.Step, CommandID: in.CommandID, Reason: reason, InDoubt: failed && def.undo != nil, Fallback: fallback})
	return m.away(i)
}

// otherAttemptAlive tells whether an attempt at a step, other than the answered one, may still be handled by the participant.
func (m *machine) otherAttemptAlive(st *StepState, answered string) bool {
	return answered != commandID(m.state.ID, st.Name, cqrs.BranchAction, st.Attempts) || m.state.alive != nil && !m.state.alive.Before(m.now)
}

func isRefused(event any) bool {
	_, refused := event.(Refused)
	return refused
}

// fallback returns the name of the fallback of step i, or "" if there is none or it is not wanted.
func (m *machine) fallback(i int, wanted bool) string {
	if f := m.saga.steps[i].fallback; f > 0 && wanted {
		return m.saga.steps[f].name
	}
	return ""
}

func (d *step) refusal(event any) (string, bool) {
	switch r := event.(type) {
	case Refused:
		return r.Reason, true
	case Failed:
		return r.Reason, true
	}
	for _, r := range d.refused {
		if reflect.TypeOf(event) == r.event {
			return r.reason(event), true
		}
	}
	return "", false
}

func (m *machine) undoAnswer(i int, st *StepState, in Answer) error {
	switch event := in.Event.(type) {
	case Refused:
		m.stuck(st, event.Reason)
		return nil
	case Failed:
		m.stuck(st, event.Reason)
		return nil
	case NothingToCompensate, Processed:
	default:
		if reflect.TypeOf(in.Event) != m.saga.steps[i].undone.event {
			return nil
		}
	}
	m.stopLateTimer(st, in.Branch)
	m.record(StepCompensated{Step: in.Step, CommandID: in.CommandID})
	return m.away(i)
}

// forward continues after step i is completed.
func (m *machine) forward(i int) error {
	if i == m.abort() {
		m.record(Compensated{m.state.Reason})
		return nil
	}
	n := m.saga.steps[i].stage
	if group := m.saga.steps[i].group; group != "" && m.saga.steps[i].item > 0 {
		if err := m.together(func() error { return m.askItems(group) }); err != nil {
			return err
		}
	}
	if m.saga.stages[n].parallel && m.busy(n) {
		return nil
	}
	return m.enter(n + 1)
}

func (m *machine) stuck(st *StepState, reason string) {
	if !st.Stuck {
		m.record(NeedsIntervention{Step: st.Name, Reason: reason})
	}
}
