// Consumers that handle an event in the unit of work that records it (ADR 37). What they do is dropped if it fails, and the broker delivers the
// event to them as any other. TestInlineConsumer, TestInlineConsumerCannotFailAMessage and the random sagas of sagatest show it.

package postgres

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/inbox"
)

// errInline makes a message run again without inline consumers: what one of them has done may be the reason why the commit failed.
var errInline = fmt.Errorf("with inline consumers: %w", cqrs.ErrConflict)

// inline has the events of a message handled by the inline consumers. A consumer handles all events that concern it, or none. The events are marked
// with the names of the consumers that need not handle them any more. Recorded are the events that the consumers have recorded.
func (u *UnitOfWork) inline(ctx context.Context, r *run, events []cqrs.Event) (recorded []cqrs.Event) {
	for i := range events {
		if events[i].Meta.ID == "" { // an answer
			events[i].Meta.ID = uuid.Must(uuid.NewV7()).String()
		}
	}
	for _, c := range u.Inline {
		var all []*cqrs.Event // of the consumer's category
		var concerning []cqrs.Event
		possible := true
		for i := range events {
			e := &events[i]
			if e.Category != c.Category {
				continue
			}
			all = append(all, e)
			concerns, inline := c.Takes(*e)
			possible = possible && (inline || !concerns)
			if concerns {
				concerning = append(concerning, *e)
			}
		}
		if !possible {
			continue
		}
		added, ok := handledBy(ctx, r, c, concerning)
		if !ok {
			continue
		}
		recorded = append(recorded, added...)
		for _, e := range all {
			e.Meta.HandledBy = append(e.Meta.HandledBy, c.Name)
		}
	}
	return recorded
}

// handledBy has a consumer handle events. If one of them fails, what it has done for all of them is dropped.
func handledBy(ctx context.Context, r *run, c cqrs.InlineConsumer, events []cqrs.Event) (recorded []cqrs.Event, ok bool) {
	if len(events) == 0 {
		return nil, true
	}
	writes, streams := r.Savepoint(), r.session.Savepoint()
	ctx = cqrs.WithPrincipal(ctx, cqrs.Principal{}) // a consumer has none
	err := r.WithoutStatements(func() error {
		return cqrs.Protect(func() error {
			for _, e := range events {
				ctx := cqrs.WithMeta(ctx, e.Meta)
				d := cqrs.Delivery{Consumer: c.Consumer, Meta: e.Meta}
				if err := inbox.TryInsert(ctx, d.Consumer, d.InboxMeta()); err != nil {
					return err
				}
				if err := c.Handle(ctx, e); err != nil {
					return err
				}
				added, err := r.session.Flush(ctx)
				if err != nil {
					return err
				}
				recorded = append(recorded, added...)
			}
			return nil
		})
	})
	if err != nil {
		r.RollbackTo(writes)
		r.session.RollbackTo(streams)
		return nil, false
	}
	r.inlined = true
	return recorded, true
}
