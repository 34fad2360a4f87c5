package cqrs

import "context"

// Delivery is a message that a consumer receives.
type Delivery struct {
	Consumer string
	Meta     Meta

	// Command says that the message is a command. If it is, the inbox keeps a saga's actions and compensations apart. The saga headers of an event
	// name the command that caused the event, so the inbox ignores them.
	Command bool

	// Category is the type of aggregate that a command changes; the answer to its saga is published on the event topic of this category. Key is the
	// message's partition key.
	Category, Key string

	// Asked says that the handler calls an external service. Its compensation then runs even if no action was recorded, because the external service
	// may have acted.
	Asked bool
}

// Inbox makes each consumer process each message once.
type Inbox interface {
	// NeedsProcessing tells whether a handler must make its external call. It returns false if the message was processed or rejected before, or has
	// expired.
	NeedsProcessing(ctx context.Context, d Delivery) (bool, error)

	// Handle inserts the inbox row of a message and calls work, in one unit of work. It does not call work for a duplicate, rejected or expired
	// message. If work returns a refusal and a saga sent the command, Handle records the refusal, sends the saga an answer, and returns a nil error.
	// If no saga waits for an answer, it returns the refusal.
	Handle(ctx context.Context, d Delivery, work func(ctx context.Context) error) (Outcome, error)
}
