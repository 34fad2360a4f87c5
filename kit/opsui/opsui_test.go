package opsui

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// newServer is a server without own pages, sagas and dead letters.
func newServer(t *testing.T) *Server {
	t.Helper()
	return &Server{
		Name: "Library", Instance: "library-1", Log: slog.New(slog.DiscardHandler), Streams: &httpapi.Streams{}, Stopping: t.Context().Done(), DeadLetters: noDeadLetters{},
		Queries: cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("List", func(context.Context, manager.List) ([]saga.State, error) { return nil, nil })}),
		Watch:   func(...string) (<-chan struct{}, func()) { return nil, func() {} },
		Wake:    func() {}, Totals: func() Totals { return Totals{} },
		Breakers: func() []cqrs.Breaker {
			return []cqrs.Breaker{{Name: "printer", State: "open", Requests: 5, Failures: 5}}
		},
		Outbox:  func(context.Context) (cqrs.Backlog, error) { return cqrs.Backlog{}, nil },
		Ready:   func(context.Context) []cqrs.Check { return []cqrs.Check{{Part: "database"}} },
		Counts:  func(context.Context) (Counts, error) { return Counts{DeadLetters: 2}, nil },
		Operate: func(context.Context, string, saga.Input) error { return nil },
	}
}

type noDeadLetters struct{ DeadLetters }

func (noDeadLetters) List(context.Context, cqrs.Cursor, int) ([]cqrs.DeadLetter, error) {
	return nil, nil
}

// serve sends one request to a server; a body is sent as a form.
func serve(t *testing.T, s *Server, method, path, form string) *httptest.ResponseRecorder {
	t.Helper()
	h, err := s.Handler()
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(form))
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPagesWithoutExtension(t *testing.T) {
	for path, shows := range map[string][]string{
		"/ui/":             {"Overview – Library", "The breaker of printer is open on this instance", "2 messages could not be processed", "library-1", `href="/ui/sagas"`},
		"/ui/sagas":        {"No sagas."},
		"/ui/dead-letters": {"No dead letters."},
		"/ui/breakers":     {"printer", "those of this instance", "library-1"},
		"/ui/definitions":  {"Everything that this service registers."},
		"/ui/login":        {"Token of an operator"},
	} {
		w := serve(t, newServer(t), http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, w.Code, path)
		for _, text := range shows {
			require.Contains(t, w.Body.String(), text, path)
		}
		require.NotContains(t, w.Body.String(), "rder", path)
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
	}
	w := serve(t, newServer(t), http.MethodGet, "/ui/nothing", "")
	require.Equal(t, http.StatusNotFound, w.Code)
	require.Contains(t, w.Body.String(), "there is no page at /ui/nothing")
}

// library is an extension with a page, an action and a status that the kit has too.
func library(lent *string) Extension {
	return Extension{
		Templates: fstest.MapFS{"books.html": {Data: []byte(`{{define "live"}}{{range .Page}}<p>{{shout .}} {{template "status" "open"}}</p>{{end}}{{end}}`)}},
		Functions: map[string]any{"shout": strings.ToUpper},
		Pages: []Page{{Path: "/ui/books", Title: "Books", Nav: "/ui/books", Template: "books", Streams: AnyStream, Load: func(*http.Request) (any, error) {
			return []string{"emma"}, nil
		}}},
		Actions: map[string]Action{"/ui/books/{id}/lend": {
			Confirm: func(r *http.Request) (string, string) { return "Lend " + r.PathValue("id") + "?", "Lend" },
			Do: func(r *http.Request) (string, string, error) {
				if r.PostForm.Get("to") == "" {
					return "", "", Invalid("to", "must not be empty")
				}
				*lent = r.PathValue("id") + " to " + r.PostForm.Get("to")
				return "Lent.", "/ui/books", nil
			},
		}},
		Statuses: map[string]Tone{"open": ToneActive},
		Counts: func(context.Context) ([]Group, error) {
			return []Group{{Title: "Books", Of: []Tally{{"lent", "/ui/books?status=lent", MaxCount + 1}}}}, nil
		},
	}
}

func TestExtensionAddsPagesAndActions(t *testing.T) {
	var lent string
	s := func() *Server {
		s := newServer(t)
		s.Extension = library(&lent)
		return s
	}
	page := serve(t, s(), http.MethodGet, "/ui/books", "").Body.String()
	require.Contains(t, page, "EMMA")
	require.Contains(t, page, `<a href="/ui/books" aria-current="page">Books</a>`)
	require.Contains(t, page, "tone-active", "the tone of the service")
	require.Contains(t, serve(t, s(), http.MethodGet, "/ui/breakers", "").Body.String(), "tone-bad", "an open breaker keeps the tone of the kit")
	overview := serve(t, s(), http.MethodGet, "/ui/", "").Body.String()
	require.Contains(t, overview, "more than 10000")
	require.Contains(t, overview, `href="/ui/books?status=lent"`)

	question := serve(t, s(), http.MethodPost, "/ui/books/emma/lend", "to=ada")
	require.Contains(t, question.Body.String(), "Lend emma?")
	require.Empty(t, lent, "nothing happens before the confirmation")
	require.Equal(t, http.StatusUnprocessableEntity, serve(t, s(), http.MethodPost, "/ui/books/emma/lend", "sure=yes").Code)
	require.Equal(t, http.StatusBadRequest, serve(t, s(), http.MethodPost, "/ui/books/emma/lend", "sure=yes&to=a%00b").Code)
	done := serve(t, s(), http.MethodPost, "/ui/books/emma/lend", "sure=yes&to=ada")
	require.Equal(t, http.StatusSeeOther, done.Code)
	require.Equal(t, "emma to ada", lent)
}

func TestFaultsOfAnExtension(t *testing.T) {
	file := func(name, text string) fs.FS { return fstest.MapFS{name + ".html": {Data: []byte(text)}} }
	load := func(*http.Request) (any, error) { return nil, nil }
	for want, x := range map[string]Extension{
		"the pages of the kit have one of this name": {Templates: file("saga", "")},
		`function "unknown" not defined`:             {Templates: file("books", "{{unknown}}")},
		"there is no template books.html":            {Pages: []Page{{Path: "/ui/books", Template: "books"}}},
		"conflicts with pattern":                     {Templates: file("books", ""), Pages: []Page{{Path: "/ui/sagas", Template: "books", Load: load}}},
		"does not start with /ui/":                   {Actions: map[string]Action{"/books": {}}},
	} {
		s := newServer(t)
		s.Extension = x
		_, err := s.Handler()
		require.ErrorContains(t, err, want)
	}
}

func TestErrorPages(t *testing.T) {
	var fault error
	s := func() *Server {
		s := newServer(t)
		s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("List", func(context.Context, manager.List) ([]saga.State, error) { return nil, fault })})
		return s
	}
	for _, c := range []struct {
		err    error
		status int
		shows  string
	}{
		{cqrs.ErrNotFound, http.StatusNotFound, "Not found"},
		{errors.New("secret detail"), http.StatusInternalServerError, "Internal error"},
	} {
		fault = c.err
		w := serve(t, s(), http.MethodGet, "/ui/sagas", "")
		require.Equal(t, c.status, w.Code)
		require.Contains(t, w.Body.String(), c.shows)
		require.NotContains(t, w.Body.String(), "secret detail")
	}
	require.Equal(t, http.StatusUnprocessableEntity, serve(t, s(), http.MethodGet, "/ui/sagas?after=nonsense", "").Code)
}

func TestPagesAreForOperators(t *testing.T) {
	s := newServer(t)
	s.Verify = func(token string) (cqrs.Principal, error) {
		if token == "" {
			return cqrs.Principal{}, errors.New("no token")
		}
		return cqrs.Principal{Subject: token, Operator: token == "ada"}, nil
	}
	h, err := s.Handler()
	require.NoError(t, err)
	get := func(token string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/ui/sagas?status=stuck", nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	require.Equal(t, "/ui/login?next="+url.QueryEscape("/ui/sagas?status=stuck"), get("").Header().Get("Location"))
	require.Equal(t, http.StatusForbidden, get("bob").Code)
	require.Contains(t, get("ada").Body.String(), "Sign out ada")
}

func TestListPages(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/ui/books?status=lent", nil)
	l, page, err := NewList[int](r, "lent")
	require.NoError(t, err)
	require.Equal(t, perPage+1, page.Limit)
	require.True(t, l.First)
	l.SetRows(r, make([]int, perPage), func(int) cqrs.Cursor { return cqrs.Newest })
	require.Empty(t, l.Next, "the last page")
	l.SetRows(r, make([]int, perPage+1), func(int) cqrs.Cursor { return cqrs.Newest })
	require.Len(t, l.Rows, perPage)
	require.Contains(t, l.Next, "status=lent")
}
