package httpapi

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
)

// Page reads the parameters limit (1 to 100, 20 if it is nil) and cursor of a list.
func Page(limit *int, cursor *string) (cqrs.Page, error) {
	p := cqrs.Page{Before: cqrs.Newest, Limit: 20}
	if limit != nil {
		if *limit < 1 || *limit > 100 {
			return p, Invalid(http.StatusBadRequest, "limit", "must be a whole number from 1 to 100")
		}
		p.Limit = *limit
	}
	if cursor != nil {
		before, err := cqrs.ParseCursor(*cursor)
		if err != nil {
			return p, Invalid(http.StatusBadRequest, "cursor", err.Error())
		}
		p.Before = before
	}
	return p, nil
}

// More cuts rows to the length of the page, and returns the cursor of the next page if there is one. The query must have asked for p.Limit+1
// rows.
func More[T any](rows []T, p cqrs.Page, at func(T) cqrs.Cursor) ([]T, *string) {
	if len(rows) <= p.Limit {
		return rows, nil
	}
	rows = rows[:p.Limit]
	next := at(rows[len(rows)-1]).String()
	return rows, &next
}

// OneOf reads a parameter that filters a list by one of the known values. Nil and the empty text are no filter.
func OneOf[S ~string](field string, text *string, known ...S) (S, error) {
	if text == nil || *text == "" {
		return "", nil
	}
	names := make([]string, len(known))
	for i, k := range known {
		if S(*text) == k {
			return k, nil
		}
		names[i] = string(k)
	}
	return "", Invalid(http.StatusBadRequest, field, "must be one of "+strings.Join(names, ", "))
}

// NewID makes an id. Ids that are made later are greater.
func NewID() string { return uuid.Must(uuid.NewV7()).String() } // only a machine without random numbers has no id

// CheckID checks that a text has the form of an id. One that has not is answered by 404, like an unknown id. Noun has its article: "an
// order".
func CheckID(noun, id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		message := "is not the id of " + noun
		return &RequestError{Status: http.StatusNotFound, Detail: fmt.Sprintf("%.80q %s", id, message), Fields: []FieldError{{Field: "id", Message: message}}}
	}
	return nil
}
