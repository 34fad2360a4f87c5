// Package consumer handles events of other services: one file a consumer, all of them listed here. A consumer translates an event into
// commands of this service, so that no word of another service gets into the domain.
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
