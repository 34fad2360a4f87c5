package cqrs

import "context"

// Delivery is a message that a consumer receives.
type Delivery struct {
	Consumer string
	Meta     Meta

	// Command says that the message is a command, so the barrier applies, and not an event that a command has caused.
	Command bool

	// Category is the type of aggregate that a command changes; the saga is answered on its event topic. Key is its partition key.
	Category, Key string

	// Asked says that the handler has called an external service. Its compensation is then recorded even if its action was not.
	Asked bool
}

// Inbox makes each consumer process each message once.
type Inbox interface {
	// NeedsProcessing tells whether an external call is needed: not if the message was processed, was rejected, or has expired.
	NeedsProcessing(ctx context.Context, d Delivery) (bool, error)

	// Handle inserts the inbox row of a message and calls work, in one unit of work. A duplicate, rejected or expired message has no effect. If
	// work refuses, the refusal is recorded, the saga that sent the command is answered, and the error is nil. A refusal for which no saga waits
	// is returned.
	Handle(ctx context.Context, d Delivery, work func(ctx context.Context) error) (Outcome, error)
}
