// Package ui is the service as pages for people: rendered here, kept up to date by server-sent events, and usable without JavaScript. A
// page's address, asked for as an event stream, sends the part of it that lives whenever that has changed.
package ui

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
)

//go:embed templates static
var files embed.FS

// Server is what the pages need.
type Server struct {
	Commands cqrs.Commands
	Queries  *cqrs.Queries
	Letters  Letters
	Log      *slog.Logger

	// Cancel has the saga of an order undo it; Operate carries out what a person decides about a stuck saga.
	Cancel  func(ctx context.Context, orderID string) error
	Operate func(ctx context.Context, sagaID string, in saga.Input) error

	// SagaOf is the id of an order's saga; Saga finds a definition.
	SagaOf func(orderID string) string
	Saga   func(name string, version int) *saga.Saga

	// Subject says what a saga is about: what it is called, and the address of its page.
	Subject func(s saga.State) (noun, address string)

	// Watch returns a channel that is told of every commit on this instance to one of these streams; of any, if none is named.
	Watch func(streams ...string) (changes <-chan struct{}, stop func())

	// Wake has the relay look into the outbox.
	Wake func()

	Breakers func() []cqrs.Breaker
	Outbox   func(ctx context.Context) (cqrs.Backlog, error)
	Ready    func(ctx context.Context) []cqrs.Check
	Counts   func(ctx context.Context) (Counts, error)
	Totals   func() Totals
	Sandbox  []SandboxService // empty where none runs
	Known    Known

	// Verify reads a token; nil: nobody has to say who they are.
	Verify func(token string) (cqrs.Principal, error)

	// Streams bounds the event streams.
	Streams *httpapi.Streams

	// Stopping is closed when the service stops: streams end then.
	Stopping <-chan struct{}

	rates *rates
}

// Letters keeps dead letters.
type Letters interface {
	List(ctx context.Context, before cqrs.Cursor, limit int) ([]cqrs.DeadLetter, error)
	ByID(ctx context.Context, id string) (cqrs.DeadLetter, error)
	Redrive(ctx context.Context, id string) error
	Drop(ctx context.Context, id, by, reason string) error
}

// Most is up to how many things are counted: an overview must not take the longer the more there has been.
const Most = 10_000

// Counts are how many there are; Most+1 stands for more than Most.
type Counts struct {
	Own         []Group // what this service is about
	Sagas       map[saga.Status]int
	DeadLetters int
}

// Group is how many there are of something, by its states.
type Group struct {
	Title string
	Of    []Tally
}

// Tally is one number of a group, and the page that shows what was counted.
type Tally struct {
	Name, Address string
	N             int
}

// page is one page: its template and what it shows.
type page struct {
	title, nav, template string

	// load is what the page shows now. The error is shown instead.
	load func(r *http.Request) (any, error)

	// streams are those whose commits change the page at once; none: any. Nil: the page does not live.
	streams func(r *http.Request) []string
}

// every is how often a page that somebody looks at is compared with what it would be, for commits of other instances tell nobody here.
const every = time.Second

// atMost is how often a page is sent at most.
const atMost = 100 * time.Millisecond

// templates are the pages, each parsed with the layout around it.
var templates = func() map[string]*template.Template {
	parsed := map[string]*template.Template{}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		t := template.Must(template.New("").Funcs(functions).ParseFS(files, "templates/layout.html", "templates/parts.html", name))
		parsed[strings.TrimSuffix(strings.TrimPrefix(name, "templates/"), ".html")] = t
	}
	return parsed
}()

// Handler serves the pages, below /ui/.
func (s *Server) Handler() http.Handler {
	s.rates = newRates(s.Totals, s.Stopping)
	mux := http.NewServeMux()
	assets := http.StripPrefix("/ui", http.FileServerFS(files))
	mux.HandleFunc("GET /ui/static/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=300")
		assets.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /ui/login", s.loginPage)
	mux.HandleFunc("POST /ui/login", s.login)
	mux.HandleFunc("POST /ui/logout", s.logout)
	for pattern, p := range map[string]page{
		"/ui/{$}":                s.overview(),
		"/ui/orders":             s.orders(),
		"/ui/orders/{id}":        s.order(),
		"/ui/sagas":              s.sagas(),
		"/ui/sagas/{id}":         s.saga(),
		"/ui/dead-letters":       s.letters(),
		"/ui/dead-letters/{id}":  s.letter(),
		"/ui/breakers":           s.breakers(),
		"/ui/sandbox":            s.sandbox(),
		"/ui/definitions":        s.definitions(),
		"/ui/definitions/{name}": s.definition(),
	} {
		mux.Handle("GET "+pattern, s.guard(s.show(p)))
	}
	for pattern, a := range s.actions() {
		mux.Handle("POST "+pattern, s.guard(s.act(a)))
	}
	mux.Handle("/ui/", s.guard(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fmt.Errorf("there is no page at %s: %w", r.URL.Path, cqrs.ErrNotFound))
	}))
	return secure(mux)
}

// secure lets pages load what this server serves, and nothing else.
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

// view is what the layout shows around a page.
type view struct {
	Title, Nav string
	Notice     string
	Lives      bool
	Pages      []entry
	SignedIn   string // who; empty: nobody has to
	Page       any

	subject func(saga.State) (noun, address string)
}

// entry is a page that every page leads to.
type entry struct{ Nav, Address, Text string }

func (s *Server) entries() []entry {
	all := []entry{
		{"overview", "/ui/", "Overview"},
		{"orders", "/ui/orders", "Orders"},
		{"sagas", "/ui/sagas", "Sagas"},
		{"dead-letters", "/ui/dead-letters", "Dead letters"},
		{"breakers", "/ui/breakers", "Breakers"},
		{"definitions", "/ui/definitions", "Definitions"},
	}
	if len(s.Sandbox) > 0 {
		all = append(all, entry{"sandbox", "/ui/sandbox", "Sandbox"})
	}
	return all
}

// Subject is a link to what a saga is about.
func (v view) Subject(state saga.State) subjectLink {
	noun, address := v.subject(state)
	return subjectLink{noun, address, state.Subject}
}

type subjectLink struct{ Noun, Address, ID string }

func (s *Server) view(r *http.Request, title, nav string, data any) view {
	v := view{Title: title, Nav: nav, Pages: s.entries(), Page: data, subject: s.Subject}
	if s.Verify != nil {
		v.SignedIn = cqrs.PrincipalOf(r.Context()).Subject
	}
	return v
}

func (s *Server) show(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			s.live(w, r, p)
			return
		}
		data, err := p.load(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		v := s.view(r, p.title, p.nav, data)
		if t, ok := data.(interface{ title() string }); ok {
			v.Title = t.title()
		}
		v.Notice, v.Lives = takeNotice(w, r), p.streams != nil
		s.render(w, http.StatusOK, p.template, v)
	}
}

func (s *Server) render(w http.ResponseWriter, status int, name string, v view) {
	var out bytes.Buffer
	if err := templates[name].ExecuteTemplate(&out, "layout", v); err != nil {
		s.Log.Error("a page cannot be rendered", "page", name, "error", err)
		http.Error(w, "this page cannot be shown; the log says more", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the visitor is gone if this fails
}

// live sends the part of a page that lives, at first and whenever it has changed.
func (s *Server) live(w http.ResponseWriter, r *http.Request, p page) {
	if p.streams == nil {
		w.WriteHeader(http.StatusNoContent) // tells a browser not to ask again
		return
	}
	stream, done, err := s.Streams.Begin(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if stream == nil {
		return
	}
	defer done()
	changes, stop := s.Watch(p.streams(r)...)
	defer stop()
	var sent []byte
	seen := r.Header.Get("Last-Event-ID") // what the browser shows, if it had to connect again
	beat := time.NewTicker(httpapi.Heartbeat)
	defer beat.Stop()
	for {
		var html bytes.Buffer
		data, err := p.load(r)
		if err == nil {
			err = templates[p.template].ExecuteTemplate(&html, "live", s.view(r, p.title, p.nav, data))
		}
		if err != nil && r.Context().Err() == nil {
			s.Log.Warn("a page cannot be brought up to date", "page", p.template, "error", err)
			html.Reset()
			html.Write(sent)
		}
		if !bytes.Equal(html.Bytes(), sent) {
			sent = html.Bytes()
			sum := sha256.Sum256(sent)
			id := hex.EncodeToString(sum[:8])
			if id != seen && stream.Send("", id, string(sent)) != nil {
				return
			}
			seen = id
		}
		pause := time.After(atMost)
		select {
		case <-changes:
		case <-time.After(every):
		case <-beat.C:
			if stream.Beat() != nil {
				return
			}
		case <-s.Stopping:
			return
		case <-r.Context().Done():
			return
		}
		select {
		case <-pause:
		case <-r.Context().Done():
			return
		}
	}
}

// fail shows an error. What nobody foresaw is logged, not shown.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, title, detail := http.StatusInternalServerError, "This is our fault", "The log says more."
	var field *aggregate.FieldError
	var text *cqrs.TextError
	var fault *httpapi.RequestError
	switch kind := cqrs.KindOf(err); {
	case errors.As(err, &fault):
		status, title, detail = fault.Status, "This cannot be done", fault.Detail
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
	case errors.As(err, &text):
		status, title, detail = http.StatusBadRequest, "This cannot be read", text.Error()
	case errors.Is(err, cqrs.ErrNotFound):
		status, title, detail = http.StatusNotFound, "There is nothing here", err.Error()
	case errors.As(err, &field), errors.Is(err, errForm):
		status, title, detail = http.StatusUnprocessableEntity, "This cannot be done", strings.TrimSuffix(err.Error(), ": "+errForm.Error())
	case kind == cqrs.Refused:
		status, title, detail = http.StatusConflict, "This cannot be done", err.Error()
	case kind == cqrs.Transient, kind == cqrs.Down, kind == cqrs.Conflict:
		status, title, detail = http.StatusServiceUnavailable, "The database is away or too busy", "Nothing is lost. Try again in a moment."
		s.Log.Warn("a page failed", "path", r.URL.Path, "error", err)
	case r.Context().Err() == nil:
		s.Log.Error("a page failed", "path", r.URL.Path, "error", err)
	}
	s.render(w, status, "error", s.view(r, title, "", detail))
}

// errForm says that what was filled in is not good.
var errForm = errors.New("form")

func wrong(field, what string) error { return fmt.Errorf("%s %s: %w", field, what, errForm) }

// action is what a button does. It is asked for twice: a page that says what will happen comes first.
type action struct {
	// ask is the question, and sure what the button says that answers it. No question: it is done at once.
	ask  func(r *http.Request) (question, sure string)
	do   func(r *http.Request) (notice, next string, err error)
	risk bool // it cannot be taken back
}

const noticeCookie = "millrace_notice"

func (s *Server) act(a action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			s.fail(w, r, wrong("the form", "cannot be read"))
			return
		}
		for name, values := range r.PostForm {
			for _, value := range append(values, name) {
				if err := cqrs.CheckText(strings.ToValidUTF8(name, "\uFFFD"), value, 0); err != nil {
					s.fail(w, r, err)
					return
				}
			}
		}
		if a.ask != nil && r.PostForm.Get("sure") == "" {
			question, sure := a.ask(r)
			fields := map[string]string{}
			for name := range r.PostForm {
				fields[name] = r.PostForm.Get(name)
			}
			s.render(w, http.StatusOK, "confirm", s.view(r, question, "", map[string]any{
				"Question": question, "Sure": sure, "Fields": fields, "Path": r.URL.Path, "Risk": a.risk, "Back": cmp.Or(back(r), "/ui/"),
			}))
			return
		}
		notice, next, err := a.do(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		setCookie(w, r, noticeCookie, encode(notice), 60)
		http.Redirect(w, r, next, http.StatusSeeOther)
	}
}
