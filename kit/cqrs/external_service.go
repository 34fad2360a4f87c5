package cqrs

import "github.com/millrace/millrace/kit/aggregate"

// ExternalService is a kind of aggregate of another service: what it can be told, and what it says. Both hold as much of the other service's
// messages as matters here.
type ExternalService struct {
	Service  string // a setting gives the prefix of its topics
	Category string
	Commands []Handler
	Events   aggregate.Types
}

// ExternalCommand registers a command that another service handles, under that service's name for it.
func ExternalCommand[C Keyed](name string) Handler { return Handler{Type: aggregate.NewType[C](name)} }

// Handlers are its commands, each with the place where it goes.
func (n ExternalService) Handlers() []Handler {
	all := ForAggregate(n.Category, n.Commands...)
	for i := range all {
		all[i].Service = n.Service
	}
	return all
}

// CallResult is what an external service answers to a call.
type CallResult struct {
	Reference string // the service's own id of what it did
	Refused   string // the reason of a refusal; empty: it did what was asked
}
