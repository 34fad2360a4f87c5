// Inline handling: a consumer handles an event in the unit of work that records it (ADR 37), and a handler handles a command in the unit of work that sends it (ADR 38). If this
// fails, its effects are rolled back, and the relay and the broker deliver the message as any other. The tests in inline_test.go and inline_commands_test.go and the random sagas of
// sagatest show it.

package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/inbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// inlineLevel says what a unit of work handles inline. Inline handling may be the cause of a failure, so a message runs again with a lower level. Usually it is not the cause, and
// while the broker is away an event that waits for it completes no step of a saga. So commands are given up after the first failure, and events only for the last attempt in a
// group.
type inlineLevel int

const (
	nothingInline inlineLevel = iota
	inlineEvents
	inlineCommands // and events
)

func (u *UnitOfWork) inlineLevel() inlineLevel {
	switch {
	case u.InlineCommands.Command != nil:
		return inlineCommands
	case len(u.Inline) > 0:
		return inlineEvents
	default:
		return nothingInline
	}
}

// after is the level of the attempt after a failure.
func (l inlineLevel) after(attempt int) inlineLevel {
	if attempt >= maxGroupAttempts {
		return nothingInline
	}
	return min(l, inlineEvents)
}

// inlineBudget limits the time in which a message handles commands inline.
const inlineBudget = 500 * time.Millisecond

// errInline makes a message run again with a lower inlineLevel, because inline handling may be the cause of the failed commit.
var errInline = fmt.Errorf("with inline consumers: %w", cqrs.ErrConflict)

// failedWithInline tells whether a run has certainly not been committed, and inline handling may be the cause. A message whose commit is in doubt does not run again, because an HTTP
// request has no inbox row that would show that it took effect.
func (r *run) failedWithInline() bool {
	failed := r.failure()
	return failed != nil && r.inlined && !r.stored && !txn.IsUnavailable(failed) && !errors.Is(failed, context.DeadlineExceeded) && !errors.Is(failed, context.Canceled)
}

// inline passes the events of a message to the inline consumers, then handles the commands that these send, then passes on the events of the commands, and so on. Sent is the number of
// messages that the run had sent before. It returns all events that must be published.
func (u *UnitOfWork) inline(ctx context.Context, r *run, events []cqrs.Event, sent int, level inlineLevel) (all []cqrs.Event) {
	limited, cancel := context.WithTimeout(ctx, inlineBudget)
	defer cancel()
	for {
		recorded := u.consume(ctx, r, events)
		r.events = append(r.events, recorded...)
		all = slices.Concat(all, events, recorded)
		if level == inlineEvents {
			return all
		}
		if events = u.handleSent(limited, r, &sent); len(events) == 0 {
			return all
		}
	}
}

// consume passes events to the inline consumers. A consumer handles all events that concern it, or none. Each event gets the names of the consumers that have handled it. It returns the
// events that the consumers have recorded.
func (u *UnitOfWork) consume(ctx context.Context, r *run, events []cqrs.Event) (recorded []cqrs.Event) {
	for i := range events {
		if events[i].Meta.ID == "" { // an answer
			events[i].Meta.ID = uuid.Must(uuid.NewV7()).String()
		}
	}
	for _, c := range u.Inline {
		var mine []*cqrs.Event
		for i := range events {
			if events[i].Category != c.Category {
				continue
			}
			concerns, inline := c.Takes(events[i])
			if concerns && !inline {
				mine = nil
				break
			}
			if concerns {
				mine = append(mine, &events[i])
			}
		}
		if len(mine) == 0 {
			continue
		}
		added, ok := handledBy(ctx, r, c, mine)
		if !ok {
			continue
		}
		recorded = append(recorded, added...)
		for _, e := range mine {
			e.Meta.HandledBy = append(e.Meta.HandledBy, c.Name)
		}
	}
	return recorded
}

// handledBy passes events to a consumer. If the consumer fails for one event, its effects of all events are rolled back. It does not wait for other units.
func handledBy(ctx context.Context, r *run, c cqrs.InlineConsumer, events []*cqrs.Event) (recorded []cqrs.Event, ok bool) {
	ctx = cqrs.WithPrincipal(ctx, cqrs.Principal{}) // a consumer has no principal
	handle := func(e cqrs.Event) error {
		ctx := cqrs.WithMeta(ctx, e.Meta)
		d := cqrs.Delivery{Consumer: c.Consumer, Meta: e.Meta}
		if err := inbox.TryInsert(ctx, d.Consumer, d.InboxMeta()); err != nil {
			return err
		}
		if err := c.Handle(ctx, e); err != nil {
			return err
		}
		added, err := r.session.Flush(ctx)
		recorded = append(recorded, added...)
		return err
	}
	ok = r.tryInline(ctx, func() error {
		for _, e := range events {
			if err := handle(*e); err != nil {
				return err
			}
		}
		return nil
	})
	if !ok {
		return nil, false
	}
	return recorded, true
}

// tryInline calls do, which may neither wait for another unit nor execute statements. If it fails, its effects are rolled back.
func (r *run) tryInline(ctx context.Context, do func() error) (ok bool) {
	writes, streams := r.Savepoint(), r.session.Savepoint()
	err := r.WithoutStatements(func() error {
		return r.session.Opportunely(func() error { return cmp.Or(cqrs.Protect(do), ctx.Err()) })
	})
	if err != nil {
		r.RollbackTo(writes)
		r.session.RollbackTo(streams)
		return false
	}
	r.inlined = true
	return true
}
