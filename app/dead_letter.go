package app

import "time"

// DeadLetter is a message that could not be handled or sent, and why.
type DeadLetter struct {
	ID        string
	Consumer  string // who gave up; "relay" for a message that the broker refused
	MessageID string
	Topic     string
	Key       string
	Line      string // that it is the head of; empty: nothing waits for it
	Headers   map[string]string
	Payload   []byte
	Reason    string
	Stack     string // of a panic
	Attempts  int
	First     time.Time
	Last      time.Time
}
