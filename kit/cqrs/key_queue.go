package cqrs

import "context"

// MessageKey identifies the messages of one consumer whose order is kept.
type MessageKey struct {
	Consumer string
	Key      string // any bytes: the record's key; for a saga's consumer the saga's id
}

// Received is a message as a consumer received it. Source, ID, headers and payload may be any bytes.
type Received struct {
	Key     MessageKey
	Topic   string
	Source  string // ce_source of another service's message; empty for a message of this service's own topics
	ID      string
	Headers map[string]string
	Payload []byte // nil: a tombstone
}

// Redelivery describes a message that the key queue delivers to its consumer.
type Redelivery struct {
	Position int64  // in the key queue
	Attempts int    // failed attempts before
	Lease    string // under which this instance handles the key; an instance that lost it changes nothing
}

type redeliveryKey struct{}

// WithRedelivery puts the redelivery of a message into its context.
func WithRedelivery(ctx context.Context, r Redelivery) context.Context {
	return context.WithValue(ctx, redeliveryKey{}, r)
}

// RedeliveryFromContext returns the redelivery of the message of ctx. False: the broker has delivered the message.
func RedeliveryFromContext(ctx context.Context) (Redelivery, bool) {
	r, ok := ctx.Value(redeliveryKey{}).(Redelivery)
	return r, ok
}
