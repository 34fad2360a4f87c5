package cqrs

import "encoding/json"

// IdempotencyKey is a key that a client chooses for a request. The same text under another owner or scope is a different key.
type IdempotencyKey struct {
	Owner string // the principal's subject
	Scope string // the method and the path
	Key   string
}

// StoredResponse is the stored response to a request with an idempotency key. A repeated request receives it.
type StoredResponse struct {
	Status   int
	Location string // the Location header; empty: none
	Body     json.RawMessage
}
