package api

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// decode reads a JSON body into v, strictly: see httpapi.Decode.
func decode(w http.ResponseWriter, r *http.Request, v any) error { return httpapi.Decode(w, r, v) }

// page reads limit and cursor.
func page(limit *int, cursor *string) (cqrs.Page, error) {
	p := cqrs.Page{Before: cqrs.Newest, Limit: 20}
	if limit != nil {
		if *limit < 1 || *limit > 100 {
			return p, httpapi.Invalid(http.StatusBadRequest, "limit", "must be a whole number from 1 to 100")
		}
		p.Limit = *limit
	}
	if cursor != nil {
		before, err := cqrs.ParseCursor(*cursor)
		if err != nil {
			return p, httpapi.Invalid(http.StatusBadRequest, "cursor", err.Error())
		}
		p.Before = before
	}
	return p, nil
}

// more cuts a list that was asked for one longer than the page, and returns the cursor of the next page if there is one.
func more[T any](rows []T, p cqrs.Page, at func(T) cqrs.Cursor) ([]T, *string) {
	if len(rows) <= p.Limit {
		return rows, nil
	}
	rows = rows[:p.Limit]
	next := at(rows[len(rows)-1]).String()
	return rows, &next
}

// oneOf checks a filter.
func oneOf[S ~string](field string, text *string, known ...S) (S, error) {
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
	return "", httpapi.Invalid(http.StatusBadRequest, field, "must be one of "+strings.Join(names, ", "))
}

// checkID checks the form of an id. What is no id is not found, like an unknown one.
func checkID(whose, id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		message := "is not the id of an " + whose
		if whose == "saga" {
			message = "is not the id of a saga"
		}
		return &httpapi.RequestError{Status: http.StatusNotFound, Detail: fmt.Sprintf("%.80q %s", id, message), Fields: []httpapi.FieldError{{Field: "id", Message: message}}}
	}
	return nil
}
