package cqrs

import "time"

// Breaker is what an operator wants to know of a circuit breaker. Requests and failures count since its last change or the beginning of
// its window.
type Breaker struct {
	Name               string
	State              string // closed, half-open, open
	Requests, Failures int
	OpenedAt           time.Time       // zero if it never was
	Changes            []BreakerChange // the last ones, newest first
}

// BreakerChange is a transition of a circuit breaker.
type BreakerChange struct {
	At       time.Time
	From, To string
}

// Backlog is what waits in the outbox.
type Backlog struct {
	Pending int     // due
	Delayed int     // due later: timers, and messages that come again
	Blocked int     // behind one of their key that could not be sent or handled
	Oldest  float64 // seconds for which the oldest one that is due has waited

	Suspended int              // messages of topics that cannot be sent to
	Topics    []SuspendedTopic // those topics
}

// SuspendedTopic is a topic that cannot be sent to. Its messages wait and it is tried again; other topics go on.
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
