package cqrs

import "time"

// Breaker is the state of a circuit breaker, for operators. Requests and Failures count since the last state change or the start of the breaker's
// window.
type Breaker struct {
	Name               string
	State              string // closed, half-open, open
	Requests, Failures int
	OpenedAt           time.Time       // zero if the breaker never opened
	Changes            []BreakerChange // the latest state changes, newest first
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
	Blocked int     // waiting behind an earlier message of the same key that could not be sent or processed
	Oldest  float64 // age of the oldest due message in seconds

	Suspended int              // messages of topics to which sending fails
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

// Check is the result of a health check of one part of the service.
type Check struct {
	Part  string
	Err   error
	Fatal bool // the service is not ready if this part fails
}
