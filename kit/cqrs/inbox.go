package cqrs

import "context"

// Delivery is a message at the door of a consumer.
type Delivery struct {
	Consumer string
	Meta     Meta

	// Command says that the barrier applies: it is a command, not an event that was caused by one.
	Command bool

	// Category is the kind of aggregate that a command is for, on whose event topic a saga is answered; Key its partition key.
	Category, Key string

	// Asked says that a service outside was asked before. Its undoing is then recorded even if the doing never was.
	Asked bool
}

// Inbox has each message handled once by each consumer.
type Inbox interface {
	// NeedsProcessing tells whether there is a point in asking a service outside: the message may be done, or barred, or out of time.
	NeedsProcessing(ctx context.Context, d Delivery) (bool, error)

	// Handle claims a message and lets work handle it, all in one unit of work. A repeated message changes nothing, nor
	// does one that is barred or out of time. A refusal of work is recorded, and the saga that sent the command is
	// told; it is no error then. A refusal that no saga waits for is returned.
	Handle(ctx context.Context, d Delivery, work func(ctx context.Context) error) (Outcome, error)
}
