package cqrs

import (
	"context"
	"fmt"
	"time"
)

// Outcome is the result of a delivery. Its values are stored in the inbox's table, and used in logs and metrics.
type Outcome string

// The outcomes.
const (
	Processed           Outcome = "done"
	Duplicate           Outcome = "repeated"        // this message, or another one for the same step and branch, was processed
	RejectedLate        Outcome = "barred"          // it arrived after its compensation, and must have no effect
	NothingToCompensate Outcome = "nothing to undo" // a compensation whose action never ran here, and from now on cannot run
	Expired             Outcome = "expired"         // it arrived after its deadline
	Refused             Outcome = "refused"         // the handler refused it
)

// RefusedAnswer is the answer to a saga when a handler has refused its command without recording an event.
type RefusedAnswer struct {
	Reason string `json:"reason"`
}

// FailedAnswer is the answer to a saga whose command has become a dead letter. The participant's own transaction was rolled back; an external
// service that it called may have acted.
type FailedAnswer struct {
	Reason string `json:"reason"`
}

// ProcessedAnswer is the answer to a saga whose command was handled without an event, because there was nothing to change.
type ProcessedAnswer struct{}

// NothingToCompensateAnswer is the answer to a saga whose compensation found no action, and now keeps the action from running.
type NothingToCompensateAnswer struct{}

// InboxUnit is the unit of work as Receive uses it.
type InboxUnit interface {
	// TryInsert inserts the inbox row of a message, or returns the reason why the message must not be processed: Processed, Duplicate,
	// RejectedLate or NothingToCompensate. It waits for a concurrent insert of the same row.
	TryInsert(ctx context.Context, consumer string, m Meta) (Outcome, error)

	// Record stores the outcome of a message that has no effect. The row does not exclude other messages of the step.
	Record(ctx context.Context, consumer string, m Meta, o Outcome) error

	// Refuse changes the inbox row of this unit to a refusal, which does not exclude another message of the same step.
	Refuse(ctx context.Context, consumer, messageID string) error

	// Discard drops the recorded events and sent messages of work, but not the inbox row.
	Discard(ctx context.Context) error

	// Publish sends an event.
	Publish(ctx context.Context, e Event) error
	// AnswerIfSilent publishes an event if the unit records no other event.
	AnswerIfSilent(ctx context.Context, e Event) error
}

// Receive is the protocol of the inbox, inside a unit of work: each message is processed once, the barrier separates a saga's actions from
// their compensations, and the saga gets an answer where the handler records no event.
func Receive(ctx context.Context, u InboxUnit, d Delivery, now time.Time, work func(ctx context.Context) error) (Outcome, error) {
	if d.Expired(now) {
		return Expired, u.Record(ctx, d.Consumer, d.InboxMeta(), Expired)
	}
	outcome, err := u.TryInsert(ctx, d.Consumer, d.InboxMeta())
	switch {
	case err != nil:
		return outcome, err
	case outcome == NothingToCompensate && !d.Asked:
		return outcome, answer(ctx, u, d, now, NothingToCompensateAnswer{})
	case outcome != Processed && outcome != NothingToCompensate:
		return outcome, nil
	}
	err = work(ctx)
	if e, wanted := d.Answer(ProcessedAnswer{}, now); err == nil && wanted {
		return outcome, u.AnswerIfSilent(ctx, e) // without an answer the step would wait until its deadline
	}
	if KindOf(err) != KindRefused || !d.answered() {
		return outcome, err // no saga waits for the refusal: the message becomes a dead letter
	}
	if err := u.Discard(ctx); err != nil {
		return Refused, err
	}
	if err := u.Refuse(ctx, d.Consumer, d.InboxMeta().ID); err != nil {
		return Refused, err
	}
	return Refused, answer(ctx, u, d, now, RefusedAnswer{err.Error()})
}

func answer(ctx context.Context, u InboxUnit, d Delivery, now time.Time, body any) error {
	if e, wanted := d.Answer(body, now); wanted {
		return u.Publish(ctx, e)
	}
	return nil
}

// Expired tells whether the message has arrived after its deadline.
func (d Delivery) Expired(now time.Time) bool {
	return !d.Meta.ExpiresAt.IsZero() && now.After(d.Meta.ExpiresAt)
}

// answered tells whether a saga waits for an answer.
func (d Delivery) answered() bool { return d.Command && d.Meta.Branch != "" }

// InboxID is the id of a message in the inbox. The id of another service's message is unique within its source only. The length in front
// keeps two different pairs from having the same text.
func InboxID(source, id string) string {
	if source == "" {
		return id
	}
	return fmt.Sprintf("%d:%s %s", len(source), source, id)
}

// InboxMeta is the metadata that the inbox uses.
func (d Delivery) InboxMeta() Meta {
	m := d.Meta
	m.ID = InboxID(m.Source, m.ID)
	if !d.Command {
		m.SagaID, m.SagaStep, m.Branch = "", "", ""
	}
	return m
}

// Answer is the event that answers the saga of a command, on the event topic of the command's type of aggregate. Wanted is false if no saga
// has sent it.
func (d Delivery) Answer(body any, now time.Time) (e Event, wanted bool) {
	if !d.answered() {
		return Event{}, false
	}
	m := Meta{
		Subject: d.Category + "/" + d.Key, Time: now.UTC(), Correlation: d.Meta.Correlation, Causation: d.Meta.ID,
		SagaID: d.Meta.SagaID, SagaStep: d.Meta.SagaStep, Branch: d.Meta.Branch, Trace: d.Meta.Trace,
	}
	return Event{Body: body, Meta: m, Category: d.Category, Key: d.Key}, true
}

// Serve makes the endpoint of a command handler at a consumer. It makes the external call first, if the handler has one and the message needs
// processing, and then calls Handle in a unit of work. The metadata of the command is in its context; the answer is the Outcome.
func Serve(inbox Inbox, h Handler, consumer string) Endpoint {
	return func(ctx context.Context, body any) (outcome any, err error) {
		delivery := Delivery{
			Consumer: consumer, Meta: MetaFromContext(ctx), Command: true, Category: h.Category, Key: body.(Keyed).Key(), Asked: h.Call != nil,
		}
		handle, answer := h.Handle, any(nil)
		if h.Call != nil {
			needed, err := inbox.NeedsProcessing(ctx, delivery)
			if err != nil {
				return nil, err
			}
			if needed {
				if answer, err = h.Call(ctx, body); err != nil {
					return nil, err
				}
			} else {
				// It was processed, rejected or has expired: the inbox records which.
				handle = func(context.Context, any, any) error { return errCallMissing }
			}
		}
		return inbox.Handle(ctx, delivery, func(ctx context.Context) error { return handle(ctx, body, answer) })
	}
}

// errCallMissing makes a command run again whose external call was skipped because of another message, if that message was then rolled back.
var errCallMissing = fmt.Errorf("the external call is missing: %w", ErrConflict)
