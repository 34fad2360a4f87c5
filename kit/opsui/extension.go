package opsui

import (
	"context"
	"html/template"
	"io/fs"
	"net/http"

	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
)

// Extension is what a service adds to the pages of the kit. The zero Extension adds nothing.
type Extension struct {
	// Templates has one file NAME.html for each page, at its top or in the folder templates. Each is parsed together with the layout and the parts of the kit: it defines "live"
	// (updated by events), "head" or "content" (both rendered once), and can use "status", "when", "filter", "pager", "saga" and "diagram", and the function "money".
	// A template gets what Load returned as .Page.
	Templates fs.FS

	// Functions can be called by Templates, beside those of the kit.
	Functions template.FuncMap

	Pages []Page

	// Actions are what forms send, by path: "/ui/orders/{id}/cancel".
	Actions map[string]Action

	// Subject names what a saga is about, and the address of its page. Both may be empty. Nil: all are empty.
	Subject func(s saga.State) (noun, address string)

	// Counts are groups of figures for the overview. Nil: none.
	Counts func(ctx context.Context) ([]Group, error)

	// Statuses are the tones of the service's own statuses in "status".
	Statuses map[string]Tone
}

// Page is one page.
type Page struct {
	Path  string // a pattern of http.ServeMux without the method: "/ui/orders/{id}"
	Title string // data with a method Title() string has a title of its own

	// Nav is the Path of the entry in the navigation that is highlighted. A page whose Nav is its own Path is such an entry, and Title its
	// text.
	Nav string

	// Template is the file that renders the page, without ".html".
	Template string

	// Load returns the data. Its error is shown as an error page.
	Load func(r *http.Request) (any, error)

	// Streams names the streams whose commits change the page; an empty result stands for all streams. Nil: the page has no live updates.
	Streams func(r *http.Request) []string
}

// AnyStream is for a Page that any commit can change.
func AnyStream(*http.Request) []string { return nil }

// Action is what a form does.
type Action struct {
	// Confirm returns a question and the text of the button that confirms it. The question is shown first. Nil: no question.
	Confirm func(r *http.Request) (question, button string)

	// Do executes the action after r.ParseForm. The browser goes to the address next and shows the notice there.
	Do func(r *http.Request) (notice, next string, err error)

	// Irreversible makes the question say that the action cannot be undone.
	Irreversible bool
}

// MaxCount is the highest number that the overview shows: counting all rows would become slower with the history.
const MaxCount = 10_000

// Group is a set of figures with a title.
type Group struct {
	Title string
	Of    []Tally
}

// Tally is one figure of a Group, and the address of the page that lists what was counted. N above MaxCount is shown as "more than".
type Tally struct {
	Name, Address string
	N             int
}

// Tone is the colour and the mark of a status.
type Tone string

// The tones.
const (
	ToneActive Tone = "active" // blue ▶
	ToneGood   Tone = "good"   // green ✓
	ToneBad    Tone = "bad"    // red ✕
	ToneLate   Tone = "late"   // amber ⏱
	ToneUndone Tone = "undone" // purple ↩
)

// Invalid is the error of an action for a field of its form. The error page shows it with status 422.
func Invalid(field, message string) error {
	return httpapi.Invalid(http.StatusUnprocessableEntity, field, message)
}
