package cqrs

import "time"

// Breaker is the state of a circuit breaker for operators. Requests and failures count since its last change or the beginning of its window.
type Breaker struct {
	Name               string
	State              string // closed, half-open, open
	Requests, Failures int
	OpenedAt           time.Time       // zero if it never was
	Changes            []BreakerChange // the last ones, newest first
}

// BreakerChange is a state change of a circuit breaker.
type BreakerChange struct {
	At       time.Time
	From, To string
}

// Backlog counts the messages in the outbox.
type Backlog struct {
	Pending int     // due
	Delayed int     // due later: timers
	Blocked int     // behind a message of their key that could not be sent or processed
	Oldest  float64 // seconds that the oldest due message has waited

	Suspended int              // messages of topics that cannot be sent to
	Topics    []SuspendedTopic // those topics
}

// SuspendedTopic is a topic to which sending fails. Its messages wait and are sent again later; other topics are not affected.
type SuspendedTopic struct {
	Topic    string
	Reason   string
	Since    time.Time
	NextTry  time.Time
	Attempts int
}

// Check is the state of one part of the service.
type Check struct {
	Part  string
	Err   error
	Fatal bool // the service is not ready without it
}
