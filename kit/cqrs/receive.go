package cqrs

import (
	"context"
	"fmt"
	"time"
)

// Outcome is what becomes of a delivery. The words stand in the inbox's table, in logs and in metrics.
type Outcome string

// The outcomes.
const (
	Processed           Outcome = "done"
	Duplicate           Outcome = "repeated"        // this message, or another one that asked the same step for the same, was handled
	RejectedLate        Outcome = "barred"          // it came after its compensation, and must have no effect
	NothingToCompensate Outcome = "nothing to undo" // it undoes what was never done here, and from now on never will be
	Expired             Outcome = "expired"         // it came after its time
	Refused             Outcome = "refused"         // the handler said no
)

// RefusedAnswer is the answer to a saga when a handler has refused its command without recording an event.
type RefusedAnswer struct {
	Reason string `json:"reason"`
}

// FailedAnswer is what a saga is told when a participant gave up on its command: that is a dead letter now. What it did in
// its own store was rolled back; what it asked of others may have been done.
type FailedAnswer struct {
	Reason string `json:"reason"`
}

// ProcessedAnswer is the answer to a saga whose command was handled without an event, because there was nothing to change.
type ProcessedAnswer struct{}

// NothingToCompensateAnswer is what a saga is told when it has something undone that was never done, and now never will be.
type NothingToCompensateAnswer struct{}

// InboxUnit is a unit of work as Receive uses it.
type InboxUnit interface {
	// TryInsert claims a message for a consumer, or says why it must not be handled: Handled, Repeated, Barred or Nothing. A
	// concurrent claim of the same is waited for.
	TryInsert(ctx context.Context, consumer string, m Meta) (Outcome, error)

	// Record notes an outcome of a message that has no effect: it does not stand in the way of the step's other messages.
	Record(ctx context.Context, consumer string, m Meta, o Outcome) error

	// Refuse changes a claim of this unit to a refusal, which is no barrier: the same may be asked again.
	Refuse(ctx context.Context, consumer, messageID string) error

	// Discard forgets what work has recorded and sent, but not the claim.
	Discard(ctx context.Context) error

	// Publish sends an event.
	Publish(ctx context.Context, e Event) error
	// AnswerIfSilent sends an event if the unit records no other event.
	AnswerIfSilent(ctx context.Context, e Event) error
}

// Receive is the protocol of the inbox, inside a unit of work: it has each message handled once, keeps the barrier between a
// saga's commands and their compensations, and tells the saga what the handler does not tell by an event of its own.
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
		return outcome, u.AnswerIfSilent(ctx, e) // else the step would wait until its deadline
	}
	if KindOf(err) != KindRefused || !d.answered() {
		return outcome, err // a refusal that no saga waits for would vanish: it becomes a dead letter
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

// Expired tells whether the message came after its time.
func (d Delivery) Expired(now time.Time) bool {
	return !d.Meta.ExpiresAt.IsZero() && now.After(d.Meta.ExpiresAt)
}

// answered tells whether a saga waits for an answer.
func (d Delivery) answered() bool { return d.Command && d.Meta.Branch != "" }

// InboxID is the id by which the inbox knows a message. The id of another service's message is unique within its source only; the length in
// front keeps two pairs from being written the same way.
func InboxID(source, id string) string {
	if source == "" {
		return id
	}
	return fmt.Sprintf("%d:%s %s", len(source), source, id)
}

// InboxMeta is the metadata that the inbox goes by.
func (d Delivery) InboxMeta() Meta {
	m := d.Meta
	m.ID = InboxID(m.Source, m.ID)
	if !d.Command {
		m.SagaID, m.SagaStep, m.Branch = "", "", ""
	}
	return m
}

// Answer is what tells the saga that sent the command, if one did, on the event topic of the command's kind of aggregate.
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

// Serve makes the endpoint of a handler at a consumer: ask outside first, if it must and there is a point to it, then record.
// The metadata of the command is in its context; its answer is the Outcome.
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
				// Somebody has handled it meanwhile, or nobody must: the inbox notes which.
				handle = func(context.Context, any, any) error { return errCallMissing }
			}
		}
		return inbox.Handle(ctx, delivery, func(ctx context.Context) error { return handle(ctx, body, answer) })
	}
}

// errCallMissing makes a command come again whose answer is missing although the inbox lets it through after all: the message
// that stood in its way was rolled back.
var errCallMissing = fmt.Errorf("not asked yet: %w", ErrConflict)
