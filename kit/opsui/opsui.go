// Package opsui serves the pages for operators: overview, sagas, dead letters, breakers, definitions, and the sandbox. The pages are rendered on the server
// and work without JavaScript; with it, server-sent events keep them up to date. A service adds its own pages with an Extension.
//
// The answer to a request for a page with "Accept: text/event-stream" is a stream with the live part of the page, at first and after every change.
package opsui

import (
	"context"
	"embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/sandbox"
)

//go:embed templates static
var files embed.FS

// Server serves the pages. Its fields are the data and the functions that the pages use. Name, Instance, Sandbox, Registered, Extension and Verify are
// optional.
type Server struct {
	Name     string // name of the service in the header and the titles; empty: Millrace
	Instance string // name of this instance; shown beside figures that only this instance knows

	Queries     *cqrs.Queries // must have the queries of the saga manager
	DeadLetters DeadLetters
	Log         *slog.Logger

	// Operate applies the decision of an operator to a stuck saga.
	Operate func(ctx context.Context, sagaID string, in saga.Input) error

	// Signal sends a signal to a saga. Decode reads the payload into a pointer.
	Signal func(ctx context.Context, sagaID, name string, decode func(payload any) error) error

	// Watch returns a channel that receives a value after commits on this instance to one of these streams; to any stream if none is named.
	Watch func(streams ...string) (changes <-chan struct{}, stop func())

	// Wake makes the relay read the outbox at once.
	Wake func()

	Breakers func() []cqrs.Breaker
	Outbox   func(ctx context.Context) (cqrs.Backlog, error)
	Ready    func(ctx context.Context) []cqrs.Check
	Counts   func(ctx context.Context) (Counts, error)
	Totals   func() Totals

	// Sandbox has the stand-ins of external services. Nil: there is no page for it.
	Sandbox *sandbox.Sandbox

	// Registered has what the service has registered, for the page "Definitions" and the diagrams.
	Registered Registered

	// Extension has the service's own pages.
	Extension Extension

	// Verify verifies a token. Nil: there is no sign-in, and every visitor is an operator.
	Verify func(token string) (cqrs.Principal, error)

	// Streams limits the number of open event streams.
	Streams *httpapi.Streams

	// Stopping is closed when the service stops. Then the event streams end.
	Stopping <-chan struct{}

	rates      *rates
	templates  map[string]*template.Template
	navigation []link
}

// DeadLetters stores dead letters.
type DeadLetters interface {
	List(ctx context.Context, before cqrs.Cursor, limit int) ([]cqrs.DeadLetter, error)
	ByID(ctx context.Context, id string) (cqrs.DeadLetter, error)
	Replay(ctx context.Context, id string) error
	Drop(ctx context.Context, id, by, reason string) error
}

// Handler returns the handler of the pages below /ui/. The error names a fault of the Extension: a template that cannot be parsed, a page without a
// template, or an address that is used twice. Call Handler only once per Server. It starts a goroutine that runs until Stopping is closed.
func (s *Server) Handler() (http.Handler, error) {
	var err error
	if s.templates, err = s.parse(); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	handle := func(pattern string, h http.Handler) {
		if err == nil {
			err = register(mux, pattern, h)
		}
	}
	handle("GET /ui/static/", assets())
	handle("GET /ui/login", http.HandlerFunc(s.loginPage))
	handle("POST /ui/login", http.HandlerFunc(s.login))
	handle("POST /ui/logout", http.HandlerFunc(s.logout))
	for _, p := range s.pages() {
		if s.templates[p.Template] == nil {
			return nil, fmt.Errorf("page %s: there is no template %s.html", p.Path, p.Template)
		}
		handle("GET "+p.Path, s.guard(s.show(p)))
		if p.Nav == p.Path {
			s.navigation = append(s.navigation, link{p.Nav, strings.TrimSuffix(p.Path, "{$}"), p.Title})
		}
	}
	for _, actions := range []map[string]Action{s.actions(), s.Extension.Actions} {
		for path, a := range actions {
			handle("POST "+path, s.guard(s.act(a)))
		}
	}
	handle("/ui/", s.guard(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fmt.Errorf("there is no page at %s: %w", r.URL.Path, cqrs.ErrNotFound))
	}))
	if err != nil {
		return nil, err
	}
	s.rates = newRates(s.Totals, s.Stopping)
	return secure(mux), nil
}

// pages are the pages of the kit and of the service, which follow the overview.
func (s *Server) pages() []Page {
	all := append([]Page{s.overview()}, s.Extension.Pages...)
	if s.Sandbox != nil {
		all = append(all, s.sandbox())
	}
	return append(all,
		s.sagas(), s.saga(), s.deadLetters(), s.deadLetter(), s.breakers(), s.definitions(), s.definition(),
	)
}

// register adds a handler to mux. It returns an error where ServeMux panics, because the pattern is malformed or already used.
func register(mux *http.ServeMux, pattern string, h http.Handler) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("pages: %v", fault)
		}
	}()
	if _, path, _ := strings.Cut(pattern, " "); !strings.HasPrefix(path, "/ui/") && !strings.HasPrefix(pattern, "/ui/") {
		return fmt.Errorf("pages: the address %q does not start with /ui/", path)
	}
	mux.Handle(pattern, h)
	return nil
}

func assets() http.Handler {
	static := http.StripPrefix("/ui", http.FileServerFS(files))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=300")
		static.ServeHTTP(w, r)
	})
}

// secure sets the headers that restrict the browser to loading from this server.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "+
			"form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		if !strings.HasPrefix(r.URL.Path, "/ui/static/") {
			h.Set("Cache-Control", "no-store")
		}
		next.ServeHTTP(w, r)
	})
}
