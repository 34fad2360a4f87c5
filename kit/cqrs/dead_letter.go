package cqrs

import "time"

// DeadLetter is a message that could not be processed or sent, with the reason. Unprintable characters in its fields are escaped, because the fields
// are shown to operators. The exact bytes of the message are stored separately.
type DeadLetter struct {
	ID        string
	Consumer  string // the consumer that failed; "relay" for a message that the broker refused
	MessageID string
	Topic     string
	Key       string
	Headers   map[string]string
	Payload   []byte
	Reason    string
	Stack     string // of a panic
	Attempts  int
	First     time.Time
	Last      time.Time
}
