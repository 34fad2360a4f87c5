package cqrs

import "time"

// DeadLetter is a message that could not be processed or sent, with the reason. Its texts are for people, with unprintable characters
// escaped. The message itself is stored beside them as bytes.
type DeadLetter struct {
	ID        string
	Consumer  string // the consumer that gave up; "relay" for a message that the broker refused
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
