package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/kit/cqrs"
)

func (s *Server) letters() page {
	return page{title: "Dead letters", nav: "dead-letters", template: "letters", streams: func(*http.Request) []string { return nil }, load: func(r *http.Request) (any, error) {
		before, first, err := cursor(r)
		if err != nil {
			return nil, err
		}
		l := list[cqrs.DeadLetter]{First: first}
		l.Rows, err = s.Letters.List(r.Context(), before, perPage+1)
		l.cut(r, func(row cqrs.DeadLetter) cqrs.Cursor { return cqrs.Cursor{At: row.First, ID: row.ID} })
		return l, err
	}}
}

// letterData is the page of a dead letter.
type letterData struct {
	cqrs.DeadLetter
	Names []string // of the headers, sorted
	Text  string   // the payload, as a person reads it best
}

func (d letterData) title() string { return "Dead letter " + short(d.ID) }

func (s *Server) letter() page {
	return page{title: "Dead letter", nav: "dead-letters", template: "letter", load: func(r *http.Request) (any, error) {
		l, err := s.Letters.ByID(r.Context(), r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		d := letterData{DeadLetter: l}
		for name := range l.Headers {
			d.Names = append(d.Names, name)
		}
		slices.Sort(d.Names)
		var pretty bytes.Buffer
		switch {
		case json.Indent(&pretty, l.Payload, "", "  ") == nil:
			d.Text = pretty.String()
		case utf8.Valid(l.Payload):
			d.Text = string(l.Payload)
		default:
			d.Text = fmt.Sprintf("%d bytes that are no text: %x", len(l.Payload), l.Payload[:min(len(l.Payload), 200)])
		}
		return d, nil
	}}
}

func (s *Server) redrive() action {
	return action{
		ask: func(r *http.Request) (string, string) {
			return fmt.Sprintf("Send dead letter %s again? It goes to its consumer as if it came for the first time, and what waits behind it follows.", short(r.PathValue("id"))), "Send it again"
		},
		do: func(r *http.Request) (string, string, error) {
			defer s.Wake()
			return "The message is on its way again.", "/ui/dead-letters", s.Letters.Redrive(r.Context(), r.PathValue("id"))
		},
	}
}

func (s *Server) drop() action {
	return action{
		risk: true,
		ask: func(r *http.Request) (string, string) {
			return fmt.Sprintf("Give up the message of dead letter %s? It will never be handled; what waits behind it goes on.", short(r.PathValue("id"))), "Give it up"
		},
		do: func(r *http.Request) (string, string, error) {
			reason := strings.TrimSpace(r.PostForm.Get("reason"))
			if reason == "" || len(reason) > 500 {
				return "", "", wrong("the reason", "must be 1 to 500 characters")
			}
			defer s.Wake()
			return "The message is given up.", "/ui/dead-letters", s.Letters.Drop(r.Context(), r.PathValue("id"), cqrs.PrincipalOf(r.Context()).Subject, reason)
		},
	}
}

func (s *Server) breakers() page {
	return page{title: "Breakers", nav: "breakers", template: "breakers", streams: func(*http.Request) []string { return nil }, load: func(*http.Request) (any, error) {
		return s.Breakers(), nil
	}}
}
