package cqrs

import (
	"encoding/base64"
	"errors"
	"strings"
	"time"
)

// ErrBadCursor says that a text is not a cursor of this service.
var ErrBadCursor = errors.New("not a cursor that this service gave")

// Cursor is a position in a list that is sorted by time and id, newest first.
type Cursor struct {
	At time.Time
	ID string
}

// Newest is the position before the newest row.
var Newest = Cursor{At: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}

// String is the cursor for clients, who must not interpret it.
func (c Cursor) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(c.At.UTC().Format(time.RFC3339Nano) + " " + c.ID))
}

// ParseCursor reads what String made. Empty is Newest; the error is ErrBadCursor.
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
	Before Cursor // where the page before ended; Newest for the first
	Limit  int    // 1 to 100
}
