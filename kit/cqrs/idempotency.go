package cqrs

import "encoding/json"

// IdempotencyKey is a key that a client has chosen for a request. The same text of another owner, or in another scope, is another key.
type IdempotencyKey struct {
	Owner string // the principal's subject
	Scope string // the method and the path
	Key   string
}

// StoredResponse is the response to a request with an idempotency key, which a repeated request receives.
type StoredResponse struct {
	Status   int
	Location string // the header; empty: none
	Body     json.RawMessage
}
