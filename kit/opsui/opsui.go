// Package opsui serves the pages for operators: overview, sagas, dead letters, breakers, definitions. The server renders them, server-sent
// events keep them up to date, and they work without JavaScript. A service adds its own pages with an Extension.
//
// A request for a page with "Accept: text/event-stream" gets the live part of the page, at first and after every change.
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

// Server holds everything that the pages read and call. Name, Instance, Verify and Extension are optional.
type Server struct {
	Name     string // of the service, for the header and the titles; empty: Millrace
	Instance string // of the instance that serves the pages; shown beside the figures that only this instance knows

	Queries     *cqrs.Queries // must have the queries of the saga manager
	DeadLetters DeadLetters
	Log         *slog.Logger

	// Operate executes the decision of an operator about a stuck saga.
	Operate func(ctx context.Context, sagaID string, in saga.Input) error

	// Signal sends a signal to a saga. Decode reads the payload into a pointer.
	Signal func(ctx context.Context, sagaID, name string, decode func(payload any) error) error

	// Watch returns a channel that receives a value after every commit on this instance to one of the streams; to any stream, if none is
	// named.
	Watch func(streams ...string) (changes <-chan struct{}, stop func())

	// Wake makes the relay look into the outbox now.
	Wake func()

	Breakers func() []cqrs.Breaker
	Outbox   func(ctx context.Context) (cqrs.Backlog, error)
	Ready    func(ctx context.Context) []cqrs.Check
	Counts   func(ctx context.Context) (Counts, error)
	Totals   func() Totals

	// Sandbox has the stand-ins of external services. Nil: there is no page for it.
	Sandbox *sandbox.Sandbox

	// Registered is what the service was built from.
	Registered Registered

	// Extension has the pages of the service itself.
	Extension Extension

	// Verify checks a token. Nil: no sign-in, and every visitor is an operator.
	Verify func(token string) (cqrs.Principal, error)

	// Streams limits the number of open event streams.
	Streams *httpapi.Streams

	// Stopping is closed when the service stops; it ends the event streams.
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

// Handler serves the pages below /ui/. The error names the fault of the Extension: a template that cannot be parsed, a page without a
// template, or an address that is used twice. Call Handler once per Server.
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

// pages are those of the kit, with those of the service after the overview.
func (s *Server) pages() []Page {
	all := append([]Page{s.overview()}, s.Extension.Pages...)
	if s.Sandbox != nil {
		all = append(all, s.sandbox())
	}
	return append(all,
		s.sagas(), s.saga(), s.deadLetters(), s.deadLetter(), s.breakers(), s.definitions(), s.definition(),
	)
}

// register adds a handler. ServeMux panics if the pattern is wrong or taken; here that is an error.
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

// secure sets the headers that allow the browser to load from this server only.
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
