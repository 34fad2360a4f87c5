package ui

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Knobs break a service of the sandbox.
type Knobs struct {
	Down                     bool
	FailureRate, RefusalRate float64
	Latency                  time.Duration
}

// SandboxService is a stand-in of a service outside.
type SandboxService struct {
	Name   string
	Knobs  func() Knobs
	Turn   func(Knobs)
	Ledger func() []Entry
}

// Entry is a line of a ledger.
type Entry struct {
	Name  string
	Value int64
}

func (s *Server) sandbox() page {
	return page{title: "Sandbox", nav: "sandbox", template: "sandbox", streams: func(*http.Request) []string { return nil }, load: func(*http.Request) (any, error) {
		if len(s.Sandbox) == 0 {
			return nil, fmt.Errorf("no sandbox runs here: %w", cqrs.ErrNotFound)
		}
		return s.Sandbox, nil
	}}
}

// turn turns the knobs of a service.
func (s *Server) turn(r *http.Request) (notice, next string, err error) {
	at := slices.IndexFunc(s.Sandbox, func(b SandboxService) bool { return b.Name == r.PathValue("service") })
	if at < 0 {
		return "", "", fmt.Errorf("the sandbox has no %q: %w", r.PathValue("service"), cqrs.ErrNotFound)
	}
	k := Knobs{Down: r.PostForm.Get("down") != ""}
	for field, target := range map[string]*float64{"failure_rate": &k.FailureRate, "refusal_rate": &k.RefusalRate} {
		percent, err := strconv.ParseFloat(r.PostForm.Get(field), 64)
		if err != nil || percent < 0 || percent > 100 {
			return "", "", wrong(strings.ReplaceAll(field, "_", " "), "must be a percentage from 0 to 100")
		}
		*target = percent / 100
	}
	milliseconds, err := strconv.Atoi(r.PostForm.Get("latency"))
	if err != nil || milliseconds < 0 || milliseconds > 600_000 {
		return "", "", wrong("the latency", "must be 0 to 600000 milliseconds")
	}
	k.Latency = time.Duration(milliseconds) * time.Millisecond
	s.Sandbox[at].Turn(k)
	return "The knobs of " + s.Sandbox[at].Name + " are turned.", "/ui/sandbox#" + url.PathEscape(s.Sandbox[at].Name), nil
}
