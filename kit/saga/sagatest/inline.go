package sagatest

import (
	"context"
	"maps"
	"reflect"
	"slices"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// recorded returns the events that a unit will store when it commits.
func (w *Environment) recorded(ctx context.Context, u *unit) (events []cqrs.Event) {
	for _, stream := range u.order {
		if l, ok := u.loaded[stream]; ok {
			changes := l.aggregate.Changes()
			for i := l.taken; i < len(changes); i++ {
				u.appended[stream] = append(u.appended[stream], w.event(ctx, l.category, l.id, l.aggregate.Version()+i+1, changes[i]))
			}
			l.taken = len(changes)
			u.loaded[stream] = l
		}
		events = append(events, u.appended[stream]...)
	}
	return events
}

// inline has sagas handle events in the unit of work that records them, before earlier events of the same instance are delivered, and handlers the
// commands that are sent, as the unit of work in PostgreSQL does. A choice can leave a message to the broker, also after it was handled inline and
// rolled back.
func (w *Environment) inline(ctx context.Context) {
	w.consume(ctx, w.results(ctx))
	tried := map[string]bool{} // topics and keys of messages that stay with the broker
	for from := 0; from < len(w.unit.sent); {
		events, handled := w.handleSent(ctx, from, tried)
		if !handled {
			from++
			continue
		}
		w.consume(ctx, events)
	}
}

// results returns the events and answers of the message in flight.
func (w *Environment) results(ctx context.Context) []cqrs.Event {
	u := w.unit
	events := w.recorded(ctx, u)
	if len(events) == 0 && u.silent != nil {
		u.answers = append(u.answers, *u.silent)
	}
	for i := range u.answers {
		u.answers[i].Meta.ID, u.answers[i].Meta.Type = w.id(), typeName(u.answers[i].Body)
	}
	return append(slices.Clip(events), u.answers...)
}

// handleSent handles a command that the unit sends inside the unit, if no other message of its key is undelivered.
func (w *Environment) handleSent(ctx context.Context, n int, tried map[string]bool) (events []cqrs.Event, handled bool) {
	u := w.unit
	m := u.sent[n]
	h := w.handlers[reflect.TypeOf(m.body)]
	key := m.topic + "\x00" + m.key
	q := w.byName[key]
	onItsWay := q != nil && (len(q.waiting) > 0 || slices.ContainsFunc(w.dead, func(d dead) bool { return d.queue == q }))
	if !m.due.IsZero() {
		return nil, false
	}
	if tried[key] || onItsWay || w.calls(h.Destination) || m.meta.Branch == cqrs.BranchCompensation || u.loaded[h.Category+"/"+m.key].aggregate != nil {
		tried[key] = true
		return nil, false
	}
	ways := w.choices.pick(3)
	if ways == 0 {
		tried[key] = true
		return nil, false
	}
	w.tell("    inline: %s %s %s", m.meta.Type, m.meta.SagaStep, m.meta.Branch)
	ctx = cqrs.WithMeta(ctx, m.meta)
	w.unit = newUnit()
	w.unit.parent = u
	err := w.consumer[m.topic][0].handle(ctx, m)
	if err == nil {
		events = w.results(ctx)
	}
	own := w.unit
	w.unit = u
	nothing := !slices.ContainsFunc(own.order, func(stream string) bool { return len(own.appended[stream]) > 0 }) // refused, or handled without an event
	if err != nil || nothing || ways == 2 {
		w.tell("    dropped: %v", err)
		w.rollBack(own)
		tried[key] = true
		return nil, false
	}
	u.sent = append(slices.Delete(u.sent, n, n+1), own.sent...)
	for _, stream := range own.order {
		u.touch(stream)
		u.appended[stream] = append(u.appended[stream], own.appended[stream]...)
	}
	maps.Copy(u.loaded, own.loaded)
	u.stopped, u.undo, u.answers = append(u.stopped, own.stopped...), append(u.undo, own.undo...), append(u.answers, own.answers...)
	return events, true
}

// calls tells whether a handler of a destination calls an external service.
func (w *Environment) calls(destination string) bool {
	for _, h := range w.handlers {
		if h.Destination == destination && h.Call != nil {
			return true
		}
	}
	return false
}

// consume has sagas handle the events of the unit.
func (w *Environment) consume(ctx context.Context, events []cqrs.Event) {
	categories := map[string]bool{}
	for _, e := range events {
		categories[e.Category] = e.Category != saga.Category
	}
	for _, category := range slices.Sorted(maps.Keys(categories)) {
		for _, name := range w.names {
			w.handleInline(ctx, w.sagas[name], category, events)
		}
	}
}

func (w *Environment) handleInline(ctx context.Context, s *saga.Saga, category string, events []cqrs.Event) {
	var mine []cqrs.Event
	for _, e := range events {
		concerns, inline := w.manager.TakesInline(s, e)
		switch {
		case e.Category != category || !concerns:
		case !inline:
			return
		default:
			mine = append(mine, e)
		}
	}
	ways := 0
	if len(mine) > 0 {
		ways = w.choices.pick(3)
	}
	if ways == 0 {
		return
	}
	before := w.unit.mark()
	for _, e := range mine {
		group := consumerOf(s, category)
		inboxUnit{w}.put(w.inbox, group+"\x00"+e.Meta.ID, cqrs.Processed)
		w.tell("    inline: %s %s %s for %s", e.Meta.Type, e.Meta.SagaStep, e.Meta.Branch, group)
		if err := w.manager.Inline(cqrs.WithMeta(ctx, e.Meta), s, e); err != nil || ways == 2 {
			w.tell("    dropped: %v", err)
			w.unit.rollBackTo(before)
			return
		}
	}
}

// mark is a savepoint of a unit.
type mark struct {
	order, sent, stopped, undo int
	appended                   map[string]int
}

func (u *unit) mark() mark {
	m := mark{len(u.order), len(u.sent), len(u.stopped), len(u.undo), map[string]int{}}
	for stream, events := range u.appended {
		m.appended[stream] = len(events)
	}
	return m
}

func (u *unit) rollBackTo(m mark) {
	for _, undo := range slices.Backward(u.undo[m.undo:]) {
		undo()
	}
	u.order, u.sent, u.stopped, u.undo = u.order[:m.order], u.sent[:m.sent], u.stopped[:m.stopped], u.undo[:m.undo]
	for stream, events := range u.appended {
		u.appended[stream] = events[:m.appended[stream]]
	}
}

// consumerOf returns the name of a saga's consumer of the events of a category.
func consumerOf(s *saga.Saga, category string) string { return "saga." + s.Name() + "." + category }
