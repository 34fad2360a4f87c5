package cqrs

import "encoding/json"

// IdempotencyKey is a key that a client chose for a request. The same text of another owner, or for another scope, is another key.
type IdempotencyKey struct {
	Owner string // the principal's subject
	Scope string // the method and the path
	Key   string
}

// StoredResponse is the answer to a request that had an idempotency key, as a repetition of the request gets it.
type StoredResponse struct {
	Status   int
	Location string // the header; empty: none
	Body     json.RawMessage
}
