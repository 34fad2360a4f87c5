package cqrs

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxKey is the maximum length in bytes of an id or a key from outside. PostgreSQL refuses to index a row of more than about 2,700 bytes
// (error 54000), and an index row here holds at most three such texts.
const MaxKey = 512

// TextError is text from outside that cannot be stored. It is permanent: the same text is refused each time.
type TextError struct {
	Field  string // the field, header or setting that the text came in
	Reason string
}

func (e *TextError) Error() string { return e.Field + ": " + e.Reason }

// Is makes errors.Is(err, ErrPermanent) true.
func (e *TextError) Is(target error) bool { return target == ErrPermanent }

// CheckText checks text from outside before it is stored or part of a query with other callers' text: PostgreSQL's text type holds neither
// NUL nor bytes that are not UTF-8, and fails the whole statement. Limit is in bytes; 0 means no limit. The error is a *TextError that names
// the field.
func CheckText(field, value string, limit int) error {
	switch {
	case limit > 0 && len(value) > limit:
		return &TextError{field, fmt.Sprintf("has %d bytes, at most %d are allowed", len(value), limit)}
	case strings.IndexByte(value, 0) >= 0:
		return &TextError{field, "contains a NUL character"}
	case !utf8.ValidString(value):
		return &TextError{field, "is not valid UTF-8"}
	}
	return nil
}
