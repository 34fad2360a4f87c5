package app

// Place is a line at a consumer: the messages whose order is kept among each other.
type Place struct {
	Consumer string
	Line     string // the messages' key; for a saga's consumer, the saga
}

// Turn says how a message stands in its line.
type Turn string

// The turns.
const (
	Alone  Turn = "alone"  // there is no line: it is handled
	Head   Turn = "head"   // it is what the line waits for: it is handled
	Behind Turn = "behind" // it waits
)
