package sagatest

import (
	"context"
	"maps"
	"slices"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// recorded returns the events that a unit will store.
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

// inline has sagas handle events in the unit that records them, before events of the same instance that are still on their way, as the unit of work in
// PostgreSQL does. By choice the broker delivers them, also after what the sagas have done was dropped.
func (w *Environment) inline(ctx context.Context) {
	u := w.unit
	events := w.recorded(ctx, u)
	if len(events) == 0 && u.silent != nil {
		u.answers = append(u.answers, *u.silent)
	}
	for i := range u.answers {
		u.answers[i].Meta.ID, u.answers[i].Meta.Type = w.id(), typeName(u.answers[i].Body)
	}
	events = append(slices.Clip(events), u.answers...)
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

// mark is a place in a unit.
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

// consumerOf is the name of a saga's consumer of the events of a category.
func consumerOf(s *saga.Saga, category string) string { return "saga." + s.Name() + "." + category }
