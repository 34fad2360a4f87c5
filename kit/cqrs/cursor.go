package cqrs

import (
	"encoding/base64"
	"errors"
	"strings"
	"time"
)

// ErrBadCursor is the error for a text that is not a cursor of this service.
var ErrBadCursor = errors.New("not a cursor that this service gave")

// Cursor is a position in a list that is sorted by time and id, newest first.
type Cursor struct {
	At time.Time
	ID string
}

// Newest is the position before the newest row.
var Newest = Cursor{At: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}

// String encodes the cursor for clients. The text is opaque: a client must not interpret it.
func (c Cursor) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(c.At.UTC().Format(time.RFC3339Nano) + " " + c.ID))
}

// ParseCursor decodes the text that String returns. An empty text gives Newest. Any other text that is not a cursor gives ErrBadCursor.
func ParseCursor(text string) (Cursor, error) {
	if text == "" {
		return Newest, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return Cursor{}, ErrBadCursor
	}
	at, id, found := strings.Cut(string(raw), " ")
	parsed, err := time.Parse(time.RFC3339Nano, at)
	if err != nil || !found || CheckText("cursor", id, MaxKey) != nil {
		return Cursor{}, ErrBadCursor
	}
	return Cursor{parsed, id}, nil
}

// Page is a part of a list, newest first.
type Page struct {
	Before Cursor // the position at which the previous page ended; Newest for the first page
	Limit  int    // 1 to 100
}
