package opsui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/millrace/millrace/kit/cqrs"
)

func (s *Server) deadLetters() Page {
	return Page{Path: "/ui/dead-letters", Title: "Dead letters", Nav: "/ui/dead-letters", Template: "dead-letters", Streams: AnyStream, Load: func(r *http.Request) (any, error) {
		l, page, err := NewList[cqrs.DeadLetter](r)
		if err != nil {
			return nil, err
		}
		rows, err := s.DeadLetters.List(r.Context(), page.Before, page.Limit)
		l.SetRows(r, rows, func(row cqrs.DeadLetter) cqrs.Cursor { return cqrs.Cursor{At: row.First, ID: row.ID} })
		return l, err
	}}
}

// deadLetterData is the data of the page of a dead letter.
type deadLetterData struct {
	cqrs.DeadLetter
	Names []string // names of the headers, sorted
	Text  string   // the payload in its most readable form
}

// Title implements the title of a page.
func (d deadLetterData) Title() string { return "Dead letter " + Short(d.ID) }

func (s *Server) deadLetter() Page {
	return Page{Path: "/ui/dead-letters/{id}", Title: "Dead letter", Nav: "/ui/dead-letters", Template: "dead-letter", Load: func(r *http.Request) (any, error) {
		l, err := s.DeadLetters.ByID(r.Context(), r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		d := deadLetterData{DeadLetter: l, Names: slices.Sorted(maps.Keys(l.Headers))}
		var pretty bytes.Buffer
		switch {
		case json.Indent(&pretty, l.Payload, "", "  ") == nil:
			d.Text = pretty.String()
		case utf8.Valid(l.Payload):
			d.Text = string(l.Payload)
		default:
			d.Text = fmt.Sprintf("%d bytes, not text: %x", len(l.Payload), l.Payload[:min(len(l.Payload), 200)])
		}
		return d, nil
	}}
}

func (s *Server) replay() Action {
	return Action{
		Confirm: func(r *http.Request) (string, string) {
			return fmt.Sprintf("Replay dead letter %s? Its consumer receives the message again, and then the messages of the same key that are blocked behind it.", Short(r.PathValue("id"))), "Replay"
		},
		Do: func(r *http.Request) (string, string, error) {
			defer s.Wake()
			return "The message is replayed.", "/ui/dead-letters", s.DeadLetters.Replay(r.Context(), r.PathValue("id"))
		},
	}
}

func (s *Server) drop() Action {
	return Action{
		Irreversible: true,
		Confirm: func(r *http.Request) (string, string) {
			return fmt.Sprintf("Drop dead letter %s? The message is never processed. The messages of the same key that are blocked behind it continue.", Short(r.PathValue("id"))), "Drop"
		},
		Do: func(r *http.Request) (string, string, error) {
			why, err := reason(r)
			if err != nil {
				return "", "", err
			}
			defer s.Wake()
			return "The message is dropped.", "/ui/dead-letters", s.DeadLetters.Drop(r.Context(), r.PathValue("id"), cqrs.PrincipalFromContext(r.Context()).Subject, why)
		},
	}
}
