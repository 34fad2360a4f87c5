package cqrs

import "time"

// DeadLetter is a message that could not be handled or sent, and why. Its texts are for people: what is not text is escaped. The message
// itself is stored beside them to the byte.
type DeadLetter struct {
	ID        string
	Consumer  string // who gave up; "relay" for a message that the broker refused
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
