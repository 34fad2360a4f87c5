// Package reaction is what this service does when other services say something: one file each, all of them listed here. They translate
// what was said into commands of this service's own, so that no other service's words get into the domain.
package consumer

import "github.com/millrace/millrace/kit/cqrs"

// Deps is what reactions need.
type Deps struct {
	Commands cqrs.Commands
}

// All lists every reaction.
func All(d Deps) []cqrs.Reaction {
	return []cqrs.Reaction{
		deliveries{d.Commands}.reaction(),
	}
}
