package sagatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Environment is a small deterministic model of everything around sagas: event streams, inbox, outbox, a broker with consumers, timers and external
// services, with faults in each. It runs in one goroutine, makes one choice after the other, and has its own time. Only storage and transport are
// modelled; the engine, the manager, the protocol of the inbox, the handlers and the aggregates are the real code. It is not safe for concurrent use.
type Environment struct {
	choices  *tape
	now      time.Time
	ids      int
	unit     *unit // the unit of work that is running
	streams  map[string][]cqrs.Event
	inbox    map[string]cqrs.Outcome // by consumer and message
	barriers map[string]cqrs.Outcome // by consumer, saga, step and branch
	queues   []*queue
	byName   map[string]*queue
	timers   []sent
	dead     []dead
	consumer map[string][]consumer // by topic
	handlers map[reflect.Type]cqrs.Handler
	sagas    map[string]*saga.Saga // the newest version by name
	quiet    bool                  // no more faults
	loses    bool                  // commands may be lost
	retries  bool                  // an operator may retry stuck steps
	manager  *manager.Manager
	waits    *waits
	started  []cqrs.Event // the first events of subjects, in order
	names    []string     // of the sagas, sorted
	endUnit  error        // if not nil, the error with which the unit of the delivery ends instead of its commit
	faults   int
	story    []string
}

// sent is a message that was sent and not yet delivered.
type sent struct {
	topic string
	key   string
	body  any
	meta  cqrs.Meta
	due   time.Time
}

// consumer handles the messages of a topic.
type consumer struct {
	name    string
	handle  func(ctx context.Context, m sent) error
	command bool
}

// queue holds the undelivered messages of a consumer under one key, in order.
type queue struct {
	consumer consumer
	waiting  []sent
	handled  []sent // to deliver them again
}

type dead struct {
	queue *queue
	m     sent
}

func newWorld(choices *tape, all []*saga.Saga) *Environment {
	w := &Environment{
		choices: choices, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), streams: map[string][]cqrs.Event{}, inbox: map[string]cqrs.Outcome{},
		barriers: map[string]cqrs.Outcome{}, byName: map[string]*queue{}, consumer: map[string][]consumer{}, handlers: map[reflect.Type]cqrs.Handler{},
		sagas: map[string]*saga.Saga{},
	}
	w.waits = &waits{world: w}
	w.manager = &manager.Manager{
		Sagas: all, Streams: streams{w}, Commands: w, Timers: timers{w}, Waits: w.waits, Clock: w.Now,
		Open:         func(c cqrs.Keyed) bool { return w.fault("breaker of "+typeName(c), "open") == 1 },
		StartsInline: func() bool { return w.choices.pick(2) == 1 },
	}
	for _, s := range all {
		if newest := w.sagas[s.Name()]; newest == nil || newest.Version() < s.Version() {
			w.sagas[s.Name()] = s
		}
	}
	w.names = slices.Sorted(maps.Keys(w.sagas))
	return w
}

// Calm returns an environment without faults and without sagas, for example to compare states with.
func Calm() *Environment { return newWorld(&tape{}, nil) }

// Now returns the time of the environment.
func (w *Environment) Now() time.Time { return w.now }

// External simulates a call of an external service, which do executes. By choice it calls do once and returns nil, calls do twice and returns nil, or
// returns an error that wraps cqrs.ErrUnavailable, with or without having called do.
func (w *Environment) External(what string, do func()) error {
	switch w.fault("call "+what, "down", "time-out after it was done", "carried out twice") {
	case 1:
		return fmt.Errorf("%s: %w", what, cqrs.ErrUnavailable)
	case 2:
		do()
		return fmt.Errorf("%s: %w", what, cqrs.ErrUnavailable)
	case 3:
		do()
	}
	do()
	return nil
}

// Choose returns a choice of the simulated business: 0 is the ordinary course, n is the nth of ways, counted from 1.
func (w *Environment) Choose(what string, ways ...string) int { return w.fault(what, ways...) }

// add registers handlers and sagas as consumers.
func (w *Environment) add(handlers []cqrs.Handler) {
	categories := map[string]bool{saga.Category: true, outside: true}
	for _, h := range append(handlers, w.manager.Handlers()...) {
		w.handlers[reflect.TypeOf(h.Type.New()).Elem()] = h
		categories[h.Category] = true
		topic := "commands." + h.Destination
		if len(w.consumer[topic]) == 0 {
			endpoints := map[reflect.Type]cqrs.Endpoint{}
			w.consumer[topic] = []consumer{{name: topic, command: true, handle: func(ctx context.Context, m sent) error {
				goType := reflect.TypeOf(m.body)
				if endpoints[goType] == nil {
					endpoints[goType] = cqrs.Serve(w, w.handlers[goType], topic)
				}
				outcome, err := endpoints[goType](ctx, m.body)
				w.tell("    %v", outcome)
				return err
			}}}
		}
	}
	for category := range categories {
		topic := "events." + category
		for _, name := range w.names {
			s := w.sagas[name]
			group := consumerOf(s, category)
			w.consumer[topic] = append(w.consumer[topic], consumer{name: group, handle: func(ctx context.Context, m sent) error {
				outcome, err := w.manager.Receive(ctx, w, group, s, cqrs.Event{Body: m.body, Meta: m.meta, Category: category, Key: m.key})
				w.tell("    %v", outcome)
				return err
			}})
		}
	}
}

// outside is the category of events that no command of a saga causes.
const outside = "outside"

// arrive schedules an event that no command of a saga causes.
func (w *Environment) arrive(body any, after time.Duration) {
	meta := cqrs.Meta{ID: w.id(), Type: typeName(body), Time: w.now}
	w.timers = append(w.timers, sent{topic: "events." + outside, key: "any", body: body, meta: meta, due: w.now.Add(after)})
}

// send adds a message to the queues of all consumers of its topic.
func (w *Environment) send(m sent) {
	for _, c := range w.consumer[m.topic] {
		w.enqueue(w.queue(c, m.key), m)
	}
}

func (w *Environment) queue(c consumer, key string) *queue {
	name := c.name + "\x00" + key
	q := w.byName[name]
	if q == nil {
		q = &queue{consumer: c}
		w.byName[name] = q
		w.queues = append(w.queues, q)
	}
	return q
}

func (w *Environment) enqueue(q *queue, m sent) { q.waiting = append(q.waiting, m) }

// step delivers one message or fires a timer. It returns false when there is nothing left to do.
func (w *Environment) step() bool {
	var busy []*queue
	for _, q := range w.queues {
		if len(q.waiting) > 0 {
			busy = append(busy, q)
		}
	}
	if len(busy) == 0 {
		return w.pass()
	}
	ways := []string{"time passes", "an old message is redelivered", "a dead letter is replayed", "a person cancels", "an operator retries", "a person signals"}
	if !w.retries {
		ways = ways[:4]
	}
	switch w.fault("the world", ways...) {
	case 1:
		return w.pass()
	case 2:
		w.repeat()
	case 3:
		w.redrive()
	case 4:
		w.cancel()
	case 5:
		w.retry()
	case 6:
		w.signal()
	}
	w.deliver(busy[w.choices.pick(len(busy))])
	return true
}

// pass moves the time to the next timer and fires it. It returns false if there is no timer.
func (w *Environment) pass() bool {
	if len(w.timers) == 0 {
		return false
	}
	next := 0
	for i, t := range w.timers {
		if t.due.Before(w.timers[next].due) {
			next = i
		}
	}
	t := w.timers[next]
	w.timers = append(w.timers[:next:next], w.timers[next+1:]...)
	if t.due.After(w.now) {
		w.now = t.due
	}
	w.tell("%s: the timer of %v", w.now.Format("15:04:05.000"), t.body)
	w.send(t)
	if w.fault("the timer", "fires twice") == 1 {
		w.send(t)
	}
	return true
}

func (w *Environment) repeat() {
	var some []*queue
	for _, q := range w.queues {
		if len(q.handled) > 0 {
			some = append(some, q)
		}
	}
	if len(some) == 0 {
		return
	}
	q := some[w.choices.pick(len(some))]
	m := q.handled[w.choices.pick(len(q.handled))]
	w.tell("again: %s for %s", m.meta.Type, q.consumer.name)
	w.enqueue(q, m)
}

func (w *Environment) redrive() {
	if len(w.dead) == 0 {
		return
	}
	d := w.dead[0]
	w.dead = w.dead[1:]
	w.tell("redriven: %s", d.m.meta.Type)
	w.enqueue(d.queue, d.m)
}

func (w *Environment) cancel() {
	first := w.started[w.choices.pick(len(w.started))]
	for _, name := range w.names {
		if s := w.sagas[name]; s.Starts(first.Body) {
			err := w.Within(context.Background(), func(ctx context.Context) error { return w.manager.Cancel(ctx, s, first, "cancelled") })
			w.tell("cancel %s: %v", first.Meta.Subject, err)
		}
	}
}

// retry has an operator retry each stuck step.
func (w *Environment) retry() {
	for _, stream := range slices.Sorted(maps.Keys(w.streams)) {
		id, ok := strings.CutPrefix(stream, saga.Category+"/")
		if !ok {
			continue
		}
		state := saga.Rebuild(id, w.streams[stream])
		for _, step := range state.StuckSteps() {
			err := w.Within(context.Background(), func(ctx context.Context) error {
				return w.manager.Operate(ctx, id, saga.Retry{By: "an operator", Step: step})
			})
			w.tell("retry %s: %v", step, err)
		}
	}
}

// signal has a person send each signal that a saga waits for, and those that were received before.
func (w *Environment) signal() {
	ctx := cqrs.WithPrincipal(context.Background(), cqrs.Guest)
	for _, stream := range slices.Sorted(maps.Keys(w.streams)) {
		id, ok := strings.CutPrefix(stream, saga.Category+"/")
		if !ok {
			continue
		}
		state := saga.Rebuild(id, w.streams[stream])
		for _, step := range state.Steps {
			name, waits := state.Signals[step.Name]
			if !waits {
				continue
			}
			err := w.Within(ctx, func(ctx context.Context) error {
				return w.manager.Signal(ctx, id, name, func(any) error { return nil })
			})
			w.tell("signal %s: %v", name, err)
			if errors.Is(err, saga.ErrNotAwaited) == (step.Status == saga.StepStatusInProgress) { // the empty payload may be refused
				panic(fmt.Sprintf("signal %s of a step that is %s: %v", name, step.Status, err))
			}
		}
	}
}

// errCrash simulates the end of the process.
var errCrash = errors.New("the process ends here")

// deliver delivers the first message of a queue to its consumer.
func (w *Environment) deliver(q *queue) {
	m := q.waiting[0]
	w.tell("%s: %s %s %s for %s", w.now.Format("15:04:05.000"), m.meta.Type, m.meta.SagaStep, m.meta.Branch, q.consumer.name)
	w.now = w.now.Add(time.Millisecond)
	ways := []string{"crash before the commit", "crash after the commit", "nobody can handle it", "it is lost"}
	if !w.loses || !q.consumer.command || m.meta.Branch == "" {
		ways = ways[:3]
	}
	after := w.fault("delivery", ways...)
	if after == 4 {
		q.waiting = q.waiting[1:]
		return
	}
	if after == 3 && q.consumer.command && m.meta.Branch != "" {
		w.bury(q, m)
		return
	}
	if after == 1 {
		w.endUnit = errCrash
	}
	err := q.consumer.handle(cqrs.WithMeta(context.Background(), m.meta), m)
	w.endUnit = nil
	switch {
	case err != nil && cqrs.KindOf(err) != cqrs.KindUnavailable && !errors.Is(err, errCrash) && cqrs.KindOf(err) != cqrs.KindConflict:
		panic(fmt.Sprintf("%s for %s: %v", m.meta.Type, q.consumer.name, err))
	case err != nil, after == 2: // the message is delivered again
		w.tell("    again: %v", err)
		return
	}
	q.waiting = q.waiting[1:]
	q.handled = append(q.handled, m)
}

// bury makes a command a dead letter, and publishes the answer Failed to its saga.
func (w *Environment) bury(q *queue, m sent) {
	h := w.handlers[reflect.TypeOf(m.body)]
	d := cqrs.Delivery{Consumer: q.consumer.name, Meta: m.meta, Command: true, Category: h.Category, Key: m.key}
	w.tell("    dead")
	q.waiting = q.waiting[1:]
	w.dead = append(w.dead, dead{q, m})
	if e, wanted := d.Answer(cqrs.FailedAnswer{Reason: "dead"}, w.now); wanted {
		w.publish(e)
	}
}

func (w *Environment) publish(e cqrs.Event) {
	if e.Meta.ID == "" {
		e.Meta.ID = w.id()
	}
	if e.Meta.Type == "" {
		e.Meta.Type = typeName(e.Body)
	}
	w.send(sent{topic: "events." + e.Category, key: e.Key, body: e.Body, meta: e.Meta})
}

func (w *Environment) id() string {
	w.ids++
	return fmt.Sprint("m-", w.ids)
}

func (w *Environment) tell(format string, args ...any) {
	if w.choices.tell {
		w.story = append(w.story, fmt.Sprintf(format, args...))
	}
}

// fault chooses between no fault, 0, and one of the faults, counted from 1.
func (w *Environment) fault(what string, faults ...string) int {
	if w.quiet {
		return 0
	}
	n := w.choices.fault(len(faults) + 1)
	for _, f := range faults[max(n, 1)-1 : n] {
		w.faults++
		w.tell("  ! %s: %s", what, f)
	}
	return n
}

func typeName(v any) string { return strings.TrimPrefix(reflect.TypeOf(v).String(), "*") }
