package opsui

import (
	"net/http"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
)

// perPage is the number of rows of a list.
const perPage = 20

// List is the data of a page with a list. The partial template "filter" shows the statuses to filter by, "pager" the links to other pages.
type List[T any] struct {
	Rows     []T
	Status   string // the status that the list is filtered by; empty: no filter
	Statuses []string
	Search   string
	Next     string // address of the next page; empty: this is the last page
	First    bool
}

// NewList reads the filter and the position of a list from a request. It also returns the page to query for, which has one row more than the list shows,
// so that SetRows knows whether there is a next page. The error is that of Invalid if the position is malformed.
func NewList[T any](r *http.Request, statuses ...string) (List[T], cqrs.Page, error) {
	q := r.URL.Query()
	l := List[T]{Status: q.Get("status"), Statuses: statuses, Search: strings.TrimSpace(q.Get("search")), First: q.Get("after") == ""}
	before, err := cqrs.ParseCursor(q.Get("after"))
	if err != nil {
		return l, cqrs.Page{}, Invalid("after", "is not the position of a list")
	}
	return l, cqrs.Page{Before: before, Limit: perPage + 1}, nil
}

// SetRows sets the rows that the query for the page of NewList returned. At returns the cursor of a row.
func (l *List[T]) SetRows(r *http.Request, rows []T, at func(row T) cqrs.Cursor) {
	l.Rows = rows
	if len(rows) <= perPage {
		return
	}
	l.Rows = rows[:perPage]
	q := r.URL.Query()
	q.Set("after", at(rows[perPage-1]).String())
	l.Next = r.URL.Path + "?" + q.Encode()
}
