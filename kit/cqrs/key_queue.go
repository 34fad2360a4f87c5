package cqrs

import "context"

// MessageKey identifies the messages of one consumer that are handled in order.
type MessageKey struct {
	Consumer string
	Key      string // any bytes: the record's key; for a saga's consumer: the saga's id
}

// Received is a message as a consumer received it. Source, ID, Headers and Payload may hold any bytes.
type Received struct {
	Key     MessageKey
	Topic   string
	Source  string // ce_source of another service's message; empty for a message of this service's own topics
	ID      string
	Headers map[string]string
	Payload []byte // nil: a tombstone
}

// Redelivery describes a delivery by the key queue: the queue delivers a stored message to its consumer again.
type Redelivery struct {
	Position int64  // of the message in the key queue
	Attempts int    // failed attempts before this delivery
	Lease    string // the lease under which this instance handles the key; an instance that has lost the lease cannot change the queue
}

type redeliveryKey struct{}

// WithRedelivery puts the redelivery of a message into its context.
func WithRedelivery(ctx context.Context, r Redelivery) context.Context {
	return context.WithValue(ctx, redeliveryKey{}, r)
}

// RedeliveryFromContext returns the redelivery of the message of ctx. It returns false if the broker delivered the message.
func RedeliveryFromContext(ctx context.Context) (Redelivery, bool) {
	r, ok := ctx.Value(redeliveryKey{}).(Redelivery)
	return r, ok
}
