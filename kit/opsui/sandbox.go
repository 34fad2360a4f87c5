package opsui

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/sandbox"
)

// sandbox is the page with the fault settings and the ledgers of the stand-ins.
func (s *Server) sandbox() Page {
	return Page{Path: "/ui/sandbox", Title: "Sandbox", Nav: "/ui/sandbox", Template: "sandbox", Streams: AnyStream, Load: func(*http.Request) (any, error) {
		return s.Sandbox.Services(), nil
	}}
}

// setFaults handles the form with the fault settings of a stand-in.
func (s *Server) setFaults(r *http.Request) (notice, next string, err error) {
	service := s.Sandbox.Service(r.PathValue("service"))
	if service == nil {
		return "", "", fmt.Errorf("the sandbox has no service %q: %w", r.PathValue("service"), cqrs.ErrNotFound)
	}
	f := service.Faults()
	f.Down = r.PostForm.Get("down") != ""
	for field, target := range map[string]*float64{"failure_rate": &f.FailureRate, "refusal_rate": &f.RefusalRate} {
		percent, err := strconv.ParseFloat(r.PostForm.Get(field), 64)
		if err != nil || percent < 0 || percent > 100 {
			return "", "", Invalid(strings.ReplaceAll(field, "_", " "), "must be a percentage from 0 to 100")
		}
		*target = percent / 100
	}
	milliseconds, err := strconv.Atoi(r.PostForm.Get("latency"))
	if err != nil || milliseconds < 0 || milliseconds > 600_000 {
		return "", "", Invalid("latency", "must be 0 to 600000 milliseconds")
	}
	f.Latency = sandbox.Duration(time.Duration(milliseconds) * time.Millisecond)
	service.SetFaults(f)
	return "The fault settings of " + service.Name() + " are saved.", "/ui/sandbox#" + url.PathEscape(service.Name()), nil
}
