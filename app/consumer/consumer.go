// Package consumer handles events of external services: one file per consumer, all listed here. A consumer translates an event into commands
// of this service, so that the external service's types stay out of the domain.
package consumer

import "github.com/millrace/millrace/kit/cqrs"

// Deps is what the consumers need.
type Deps struct {
	Commands cqrs.Commands
}

// All lists every consumer.
func All(d Deps) []cqrs.EventConsumer {
	return []cqrs.EventConsumer{
		deliveries{d.Commands}.consumer(),
	}
}
