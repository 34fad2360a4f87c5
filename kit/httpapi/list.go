package httpapi

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
)

// Page reads the parameters of a list: limit (1 to 100; nil means 20) and cursor (nil means the first page). The error is a *RequestError.
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

// More cuts rows to the length of the page and returns the cursor of the next page, nil if there is none. The query of the rows must have the limit
// p.Limit+1.
func More[T any](rows []T, p cqrs.Page, at func(T) cqrs.Cursor) ([]T, *string) {
	if len(rows) <= p.Limit {
		return rows, nil
	}
	rows = rows[:p.Limit]
	next := at(rows[len(rows)-1]).String()
	return rows, &next
}

// OneOf reads a parameter that filters a list by one of the known values. Nil and the empty text mean no filter and return "". The error is a
// *RequestError.
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

// NewID makes an id, a UUID of version 7. Ids that are made later are greater. It panics if the machine has no random numbers.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// CheckID checks that a text has the form of an id. The error is a *RequestError with status 404, the answer that an unknown id gets too. Noun has
// its article: "an order".
func CheckID(noun, id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		message := "is not the id of " + noun
		return &RequestError{Status: http.StatusNotFound, Detail: fmt.Sprintf("%.80q %s", id, message), Fields: []FieldError{{Field: "id", Message: message}}}
	}
	return nil
}
