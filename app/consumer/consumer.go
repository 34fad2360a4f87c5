// Package consumer handles events of external services: one file per consumer. All lists them. A consumer translates an event into commands of this
// service, so that the domain does not use the types of external services.
package consumer

import "github.com/millrace/millrace/kit/cqrs"

// Deps has the dependencies of the consumers.
type Deps struct {
	Commands cqrs.Commands
}

// All lists every consumer.
func All(d Deps) []cqrs.EventConsumer {
	return []cqrs.EventConsumer{
		deliveries{d.Commands}.consumer(),
	}
}
