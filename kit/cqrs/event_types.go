package cqrs

import "reflect"

// EventTypes are the Go types of events.
type EventTypes []reflect.Type
