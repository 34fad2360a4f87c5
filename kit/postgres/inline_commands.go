// Commands that the sending unit of work handles, or hands over after its commit (ADR 38), if no earlier message of their keys is left to handle. A command that was handled leaves a
// row in the inbox and none in the outbox. TestCommandIsHandledInline, TestCommandIsHandedOver, TestInlineCommandKeepsKeyOrder and the random sagas of
// sagatest show it.

package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// InlineCommands lets commands reach their handlers without the relay.
type InlineCommands struct {
	// Command returns the command of a message to this service. Nil: the relay must send the message.
	Command func(topic string, msg *message.Message) *cqrs.InlineCommand

	// Claim claims the key of a command, as outbox.Relay does.
	Claim func(topic, key string) *outbox.Claim
}

// maxInline is the maximum number of commands that one unit of work handles or hands over, because a chain of commands could be endless.
const maxInline = 16

// handleSent handles the commands among the messages that a run has sent, from number *from on, or arranges that the commit hands them over. It returns the events that their handlers
// have recorded.
func (u *UnitOfWork) handleSent(ctx context.Context, r *run, from *int) (events []cqrs.Event) {
	// In a run of several messages, or one that another message waits to join, the messages of the run would wait for the claimed keys, and these for the run.
	if u.InlineCommands.Command == nil || r.length > 1 || cqrs.TurnFromContext(ctx).Wanted() {
		return nil
	}
	for {
		messages := outbox.MessagesFromContext(ctx)
		if *from >= len(messages) || r.inlineCommands >= maxInline || ctx.Err() != nil {
			return events
		}
		w := messages[*from]
		recorded, handled := u.handleCommand(ctx, r, w)
		if !handled {
			*from++
			continue
		}
		outbox.Withdraw(ctx, w)
		events = append(events, recorded...)
	}
}

// handleCommand handles a message that the run has sent, if it is a command, or arranges that the commit hands it over.
func (u *UnitOfWork) handleCommand(ctx context.Context, r *run, w *outbox.Message) (events []cqrs.Event, handled bool) {
	if w.Message.Metadata[cqrs.HeaderDue] != "" {
		return nil, false
	}
	key := keyOf(w)
	handledAll, known := r.keys[key]
	command := u.InlineCommands.Command(w.Topic, w.Message)
	switch {
	case command == nil, known && !handledAll:
	case known:
		r.inlineCommands++
		events, handled = u.handleClaimed(ctx, r, w, command, nil)
	default:
		claim := u.InlineCommands.Claim(w.Topic, w.Message.Metadata[cqrs.HeaderKey])
		if claim == nil {
			break
		}
		r.claims = append(r.claims, claim)
		r.inlineCommands++
		if events, handled = u.handleClaimed(ctx, r, w, command, claim); !handled && claim.Confirm(ctx, command.Consumer, command.Meta) == nil {
			r.inlined = true
			r.After(func() { claim.HandOver(w) })
		}
	}
	if r.keys == nil {
		r.keys = map[string]bool{}
	}
	r.keys[key] = handled
	return events, handled
}

// disturbed tells whether a message of a claimed key was committed after the claim.
func (r *run) disturbed() bool { return slices.ContainsFunc(r.claims, (*outbox.Claim).Disturbed) }

var errDisturbed = fmt.Errorf("a message of a claimed key was committed meanwhile: %w", cqrs.ErrConflict)

func keyOf(w *outbox.Message) string { return w.Topic + " " + w.Message.Metadata[cqrs.HeaderKey] }

// errNothingRecorded rolls back a command that is refused or records nothing. It is handled again after the commit, on what its sender has committed.
var errNothingRecorded = fmt.Errorf("nothing was recorded: %w", cqrs.ErrConflict)

// handleClaimed handles a command whose key is claimed. Confirm is the claim if this is its first command, nil otherwise.
func (u *UnitOfWork) handleClaimed(ctx context.Context, r *run, w *outbox.Message, command *cqrs.InlineCommand, confirm *outbox.Claim) (events []cqrs.Event, ok bool) {
	if command.Handle == nil || command.Meta.Branch == cqrs.BranchCompensation { // a compensation has to look up its action in the inbox
		return nil, false
	}
	ok = r.tryInline(ctx, func() error {
		at := &unit{run: r, claimed: r.Savepoint(), streams: r.session.Savepoint(), command: w}
		ctx := cqrs.WithMeta(context.WithValue(cqrs.WithPrincipal(ctx, cqrs.Principal{}), unitKey{}, at), command.Meta)
		recorded, _, err := u.perform(ctx, at, command.Handle)
		if err == nil && len(recorded) == 0 {
			err = errNothingRecorded
		}
		if err == nil && confirm != nil {
			err = confirm.Confirm(ctx, command.Consumer, command.Meta)
		}
		if err != nil {
			return err
		}
		events = recorded
		return nil
	})
	if !ok {
		return nil, false
	}
	r.events = append(r.events, events...)
	return events, true
}
