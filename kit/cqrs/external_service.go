package cqrs

import "github.com/millrace/millrace/kit/aggregate"

// ExternalService describes a type of aggregate of another service: the commands that it accepts, if any, and the events that it publishes. The Go
// types need only the fields that this service uses.
type ExternalService struct {
	Service  string // the other service's name; a setting gives the prefix of its topics
	Category string
	Commands []Handler
	Events   aggregate.Types
}

// ExternalCommand registers a command that another service handles. Name is that service's stored name of the command.
func ExternalCommand[C Keyed](name string) Handler { return Handler{Type: aggregate.NewType[C](name)} }

// Handlers returns the registrations of the service's commands, with their category, destination and service set.
func (n ExternalService) Handlers() []Handler {
	all := ForAggregate(n.Category, n.Commands...)
	for i := range all {
		all[i].Service = n.Service
	}
	return all
}

// CallResult is the answer of an external service to a call.
type CallResult struct {
	Reference string // the service's own id of the result
	Refused   string // the reason of a refusal; empty: the call succeeded
}
