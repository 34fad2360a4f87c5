package opsui

import (
	"context"
	"html/template"
	"io/fs"
	"net/http"

	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
)

// Extension has the parts that a service adds to the pages of the kit. The zero Extension adds nothing.
type Extension struct {
	// Templates has one file NAME.html for each page, in its root or in the folder templates. Each file is parsed together with the layout and the
	// partial templates of the kit. It defines "live" (updated by events), "head" or "content" (both rendered once), and can use the partial templates
	// "status", "when", "filter", "pager", "saga" and "diagram", and the function "money". The data that Load returned is .Page.
	Templates fs.FS

	// Functions are functions that Templates can call, in addition to those of the kit.
	Functions template.FuncMap

	Pages []Page

	// Actions handle the forms that are sent to these paths, such as "/ui/orders/{id}/cancel".
	Actions map[string]Action

	// Subject returns the noun for the subject of a saga and the address of the subject's page. Both may be empty. Nil: both are empty for all sagas.
	Subject func(s saga.State) (noun, address string)

	// Counts returns groups of figures for the overview. Nil: the service has no figures.
	Counts func(ctx context.Context) ([]Group, error)

	// Statuses have the tones in which "status" shows the service's own statuses.
	Statuses map[string]Tone
}

// Page is one page of the UI.
type Page struct {
	Path  string // a pattern of http.ServeMux without the method: "/ui/orders/{id}"
	Title string // used unless the data of the page has a method Title() string

	// Nav is the Path of the page whose entry in the navigation is highlighted. A page whose Nav is its own Path has an entry in the navigation, with
	// Title as its text.
	Nav string

	// Template is the name of the file that renders the page, without ".html".
	Template string

	// Load returns the data of the page. An error is shown as an error page.
	Load func(r *http.Request) (any, error)

	// Streams returns the names of the event store's streams whose commits change the page; an empty result means all streams. Nil: the page has no live
	// updates.
	Streams func(r *http.Request) []string
}

// AnyStream is the value of Page.Streams for a page that any commit can change.
func AnyStream(*http.Request) []string { return nil }

// Action handles a form that an operator sends.
type Action struct {
	// Confirm returns a question and the text of the button that confirms it. A page asks the question before Do runs. Nil: Do runs at once.
	Confirm func(r *http.Request) (question, button string)

	// Do executes the action. r.ParseForm was called before. The browser then goes to the address next, which shows the notice. An error is shown as an
	// error page.
	Do func(r *http.Request) (notice, next string, err error)

	// Irreversible makes the question say that the action cannot be reversed.
	Irreversible bool
}

// MaxCount is the highest number that the overview shows: counting all rows would get slower with the history.
const MaxCount = 10_000

// Group is a set of figures with a title, for the overview.
type Group struct {
	Title string
	Of    []Tally
}

// Tally is one figure of a Group, with the address of the page that lists the counted objects. N above MaxCount is shown as "more than".
type Tally struct {
	Name, Address string
	N             int
}

// Tone is the colour and the symbol of a status. The zero value has neither.
type Tone string

// The tones, with their colours and symbols.
const (
	ToneActive Tone = "active" // blue ▶
	ToneGood   Tone = "good"   // green ✓
	ToneBad    Tone = "bad"    // red ✕
	ToneLate   Tone = "late"   // amber ⏱
	ToneUndone Tone = "undone" // purple ↩
)

// Invalid returns an error about a field of an action's form. The error page shows it with status 422.
func Invalid(field, message string) error {
	return httpapi.Invalid(http.StatusUnprocessableEntity, field, message)
}
