package httpapi

import (
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// History is the JSON body of a response with the events of an aggregate.
type History struct {
	Events []HistoryEvent `json:"events"`
}

// HistoryEvent is an event in a History.
type HistoryEvent struct {
	Version int       `json:"version"`
	Type    string    `json:"type"` // the stored name of the event type
	At      time.Time `json:"at"`
	Data    any       `json:"data"`
}

// NewHistory makes a History of events, which must be oldest first.
func NewHistory(events []cqrs.Event) History {
	history := History{make([]HistoryEvent, len(events))}
	for i, e := range events {
		history.Events[i] = HistoryEvent{e.Meta.Version, e.Meta.Type, e.Meta.Time, e.Body}
	}
	return history
}
