package opsui

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
)

const (
	noticeCookie = "millrace_notice"
	maxForm      = 64 << 10
	maxReason    = 500
)

// confirmation is the data of the page that asks for confirmation before an action runs.
type confirmation struct {
	Question, Button string
	Fields           map[string]string // fields of the form, which the confirmation sends again
	Path, Back       string
	Irreversible     bool
}

func (s *Server) act(a Action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			s.fail(w, r, Invalid("form", "cannot be read"))
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
		if a.Confirm != nil && r.PostForm.Get("sure") == "" {
			question, button := a.Confirm(r)
			c := confirmation{question, button, map[string]string{}, r.URL.Path, cmp.Or(back(r), "/ui/"), a.Irreversible}
			for name := range r.PostForm {
				c.Fields[name] = r.PostForm.Get(name)
			}
			s.render(w, http.StatusOK, "confirm", s.view(r, question, "", c))
			return
		}
		notice, next, err := a.Do(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		setCookie(w, r, noticeCookie, encode(notice), 60)
		http.Redirect(w, r, next, http.StatusSeeOther)
	}
}

// reason reads the field "reason" of a form, which operators must fill in.
func reason(r *http.Request) (string, error) {
	text := strings.TrimSpace(r.PostForm.Get("reason"))
	if text == "" || len(text) > maxReason {
		return "", Invalid("reason", "must have 1 to 500 characters")
	}
	return text, nil
}
