package ui

import (
	"net/http"

	"github.com/millrace/millrace/kit/cqrs"
)

// perPage is how many rows a list shows.
const perPage = 20

// list is a page of a list.
type list[T any] struct {
	Rows     []T
	Status   string
	Statuses []string
	Search   string
	Next     string // address of the next page; empty: this is the last
	First    bool
}

// cursor is where a list goes on, as its address says.
func cursor(r *http.Request) (cqrs.Cursor, bool, error) {
	text := r.URL.Query().Get("after")
	if text == "" {
		return cqrs.Newest, true, nil
	}
	c, err := cqrs.ParseCursor(text)
	if err != nil {
		return c, false, wrong("after", "is no place in the list")
	}
	return c, false, nil
}

// cut leaves as many rows as a page shows, and says where the next page is if there was one more.
func (l *list[T]) cut(r *http.Request, at func(row T) cqrs.Cursor) {
	if len(l.Rows) <= perPage {
		return
	}
	l.Rows = l.Rows[:perPage]
	q := r.URL.Query()
	q.Set("after", at(l.Rows[perPage-1]).String())
	l.Next = r.URL.Path + "?" + q.Encode()
}
