package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/millrace/millrace/app"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// decode reads a JSON body into v, strictly: one object, no unknown fields, no wrong types, at most maxBody bytes.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return decodeFault(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return decodeFault(err)
		}
		return &fault{status: http.StatusBadRequest, detail: "the body has more than one JSON value"}
	}
	return nil
}

func decodeFault(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &fault{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := t.Field
		if field == "" {
			return &fault{status: http.StatusBadRequest, detail: "the body must be a JSON object, not a " + t.Value}
		}
		return invalid(http.StatusBadRequest, field, fmt.Sprintf("must be a %s, not a %s", jsonName(t.Type.Kind().String()), t.Value))
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return invalid(http.StatusBadRequest, strings.Trim(field, `"`), "unknown field")
	}
	if errors.Is(err, io.EOF) {
		return &fault{status: http.StatusBadRequest, detail: "the body is empty; a JSON object is expected"}
	}
	return &fault{status: http.StatusBadRequest, detail: "the body is not JSON: " + err.Error()}
}

// jsonName says what a Go kind is called in JSON.
func jsonName(kind string) string {
	switch {
	case strings.HasPrefix(kind, "int"):
		return "whole number of at most 64 bits"
	case strings.HasPrefix(kind, "float"):
		return "number"
	case kind == "slice":
		return "array"
	case kind == "struct" || kind == "map":
		return "object"
	case kind == "bool":
		return "boolean"
	}
	return kind
}

// page reads limit and cursor.
func page(limit *int, cursor *string) (app.Page, error) {
	p := app.Page{Before: app.Newest, Limit: 20}
	if limit != nil {
		if *limit < 1 || *limit > 100 {
			return p, invalid(http.StatusBadRequest, "limit", "must be a whole number from 1 to 100")
		}
		p.Limit = *limit
	}
	if cursor != nil {
		before, err := app.ParseCursor(*cursor)
		if err != nil {
			return p, invalid(http.StatusBadRequest, "cursor", err.Error())
		}
		p.Before = before
	}
	return p, nil
}

// more cuts a list that was asked for one longer than the page, and returns the cursor of the next page if there is one.
func more[T any](rows []T, p app.Page, at func(T) app.Cursor) ([]T, *string) {
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
	return "", invalid(http.StatusBadRequest, field, "must be one of "+strings.Join(names, ", "))
}

// checkID checks the form of an id. What is no id is not found, like an unknown one.
func checkID(whose, id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		message := "is not the id of an " + whose
		if whose == "saga" {
			message = "is not the id of a saga"
		}
		return &fault{http.StatusNotFound, fmt.Sprintf("%.80q %s", id, message), []FieldError{{Field: "id", Message: message}}}
	}
	return nil
}
