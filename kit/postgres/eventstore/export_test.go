package eventstore

import (
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Insert is the statement that appends an event.
func Insert(e cqrs.Event) (query string, args []any, err error) {
	return appends.Query([]row{{Stream: e.Meta.Subject, Version: e.Meta.Version, Type: "counted", Schema: 1, Payload: []byte(`{"by":1}`), Meta: []byte("{}"), At: time.Now()}})
}

// ExpectQuery is the statement that compares what was read with what is stored.
func ExpectQuery() string {
	query, _, _ := expect.Query(nil)
	return query
}
