package cqrs

import "reflect"

// EventTypes are Go types of events.
type EventTypes []reflect.Type
