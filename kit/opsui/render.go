package opsui

import (
	"bytes"
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
)

// view is the data of the layout around a page.
type view struct {
	Name, Instance string
	Title, Nav     string
	Notice         string
	Live           bool
	Navigation     []link
	SignedIn       string // subject of the principal; empty: there is no sign-in
	Page           any

	subject func(saga.State) (noun, address string)
}

// link is an entry of the navigation.
type link struct{ Nav, Address, Text string }

// Subject returns the link to the subject of a saga.
func (v view) Subject(state saga.State) subjectLink {
	l := subjectLink{ID: state.Subject}
	if v.subject != nil {
		l.Noun, l.Address = v.subject(state)
	}
	return l
}

type subjectLink struct{ Noun, Address, ID string }

func (s *Server) view(r *http.Request, title, nav string, data any) view {
	v := view{
		Name: cmp.Or(s.Name, "Millrace"), Instance: s.Instance, Title: title, Nav: nav, Navigation: s.navigation, Page: data, subject: s.Extension.Subject,
	}
	if s.Verify != nil {
		v.SignedIn = cqrs.PrincipalFromContext(r.Context()).Subject
	}
	return v
}

func (s *Server) show(p Page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			s.live(w, r, p)
			return
		}
		data, err := p.Load(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		v := s.view(r, p.Title, p.Nav, data)
		if t, ok := data.(interface{ Title() string }); ok {
			v.Title = t.Title()
		}
		v.Notice, v.Live = takeNotice(w, r), p.Streams != nil
		s.render(w, http.StatusOK, p.Template, v)
	}
}

func (s *Server) render(w http.ResponseWriter, status int, name string, v view) {
	var out bytes.Buffer
	if err := s.templates[name].ExecuteTemplate(&out, "layout", v); err != nil {
		s.Log.Error("page not rendered", "page", name, "error", err)
		http.Error(w, "this page cannot be shown; the log of the service has the error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // an error means that the client is gone
}

// fail shows an error page. The text of an unexpected error is only logged.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, title, detail := http.StatusInternalServerError, "Internal error", "The log of the service has the details."
	var field *aggregate.FieldError
	var text *cqrs.TextError
	var fault *httpapi.RequestError
	switch kind := cqrs.KindOf(err); {
	case errors.As(err, &fault):
		status, title, detail = fault.Status, "Invalid request", fault.Detail
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
	case errors.As(err, &text):
		status, title, detail = http.StatusBadRequest, "Invalid text", text.Error()
	case errors.Is(err, cqrs.ErrNotFound):
		status, title, detail = http.StatusNotFound, "Not found", strings.TrimSuffix(err.Error(), ": "+cqrs.ErrNotFound.Error())
	case errors.As(err, &field):
		status, title, detail = http.StatusUnprocessableEntity, "Invalid request", err.Error()
	case kind == cqrs.KindRefused:
		status, title, detail = http.StatusConflict, "Not possible", err.Error()
	case kind == cqrs.KindTransient, kind == cqrs.KindUnavailable, kind == cqrs.KindConflict:
		status, title, detail = http.StatusServiceUnavailable, "The database is unavailable or overloaded", "Nothing is lost. Try again in a moment."
		s.Log.Warn("page failed", "path", r.URL.Path, "error", err)
	case r.Context().Err() == nil:
		s.Log.Error("page failed", "path", r.URL.Path, "error", err)
	}
	s.render(w, status, "error", s.view(r, title, "", detail))
}
