package opsui

import (
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"path"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/sandbox"
)

// parse parses every page together with the layout and the partial templates. The key of a page is the name of its file without ".html".
func (s *Server) parse() (map[string]*template.Template, error) {
	base, err := template.New("").Funcs(functions).Funcs(statusFunctions(nil)).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, err
	}
	parsed := map[string]*template.Template{}
	add := func(from fs.FS, pattern string, more ...template.FuncMap) error {
		names, err := fs.Glob(from, pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			page := strings.TrimSuffix(path.Base(name), ".html")
			if parsed[page] != nil {
				return fmt.Errorf("template %s.html: the pages of the kit have one of this name", page)
			}
			t := template.Must(base.Clone()) // fails only after the base was executed
			for _, functions := range more {
				t.Funcs(functions)
			}
			if parsed[page], err = t.ParseFS(from, name); err != nil {
				return fmt.Errorf("template %s.html: %w", page, err)
			}
		}
		return nil
	}
	if err := add(files, "templates/*.html"); err != nil {
		return nil, err
	}
	if x := s.Extension; x.Templates != nil {
		return parsed, errors.Join(add(x.Templates, "*.html", statusFunctions(x.Statuses), x.Functions), add(x.Templates, "templates/*.html", statusFunctions(x.Statuses), x.Functions))
	}
	return parsed, nil
}

// functions are the functions that templates can call.
var functions = template.FuncMap{
	"labelled": func(label string, messages []Message) labelled { return labelled{label, messages} },
	"money":    Money,
	"string":   func(v any) string { return fmt.Sprint(v) },
	"split":    strings.Fields, // splits a heading into words, so that "…e34da5b38264" does not break after the dots
	"short":    Short,
	"span":     span,
	"time":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") },
	"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"words":    func(text string) string { return strings.ReplaceAll(text, "_", " ") },
	"percent":  func(rate float64) string { return fmt.Sprintf("%g", rate*100) },
	"millis":   func(d sandbox.Duration) int64 { return time.Duration(d).Milliseconds() },
	"join":     func(parts []string) string { return strings.Join(parts, ", ") },
	"attempts": attempts,
	"items":    itemsByStatus,
	"all":      func(shown, left int, what string) string { return counted(shown+left, what) },

	"stepStatus": stepStatus,
	"age":        func(seconds float64) string { return span(time.Duration(seconds * float64(time.Second))) },
	"after":      func(d time.Duration) string { return fmt.Sprintf("+%.3f s", d.Seconds()) },
}

// look is the tone and the symbol of a status.
type look struct {
	tone Tone
	mark string
}

var looks = map[string]look{
	"running": {ToneActive, "▶"}, "in_progress": {ToneActive, "▶"}, "half-open": {ToneActive, "▶"},
	"completed": {ToneGood, "✓"}, "closed": {ToneGood, "✓"},
	"skipped": {"", "–"}, "cancelled": {"", "–"},
	"refused": {ToneBad, "✕"}, "open": {ToneBad, "✕"}, "stuck": {ToneBad, "!"},
	"timed_out":    {ToneLate, "⏱"},
	"in_doubt":     {ToneLate, "?"},
	"compensating": {ToneUndone, "◀"}, "compensated": {ToneUndone, "↩"},
}

// marks are symbols that distinguish statuses without colours.
var marks = map[Tone]string{ToneActive: "▶", ToneGood: "✓", ToneBad: "✕", ToneLate: "⏱", ToneUndone: "↩"}

func mark(status string) string { return looks[status].mark }

// statusFunctions returns the functions "tone" and "mark" of a status. A service's own statuses apply only to its own templates: a tone of its own for
// "open" must not change how an open breaker looks.
func statusFunctions(own map[string]Tone) template.FuncMap {
	all := maps.Clone(looks)
	for status, tone := range own {
		all[status] = look{tone, marks[tone]}
	}
	return template.FuncMap{
		"mark": func(status string) string { return all[status].mark },
		"tone": func(status string) string {
			if tone := all[status].tone; tone != "" {
				return "tone-" + string(tone)
			}
			return ""
		},
	}
}

// Short returns the last 12 digits of a UUID, which suffice to tell ids apart on a page; the first digits of a UUIDv7 are a time, which many ids share.
// It returns any other text unchanged.
func Short(id string) string {
	if len(id) != 36 {
		return id
	}
	return "…" + id[24:]
}

// labelled are messages under a heading.
type labelled struct {
	Label    string
	Messages []Message
}

func attempts(n int) string { return counted(n, "attempt") }

// counted is a number with a noun. Unlike plural it does not cut the number off at MaxCount.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprint(n, " ", what, "s")
}

func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	default:
		return strings.TrimSuffix(d.Round(time.Second).String(), "0s")
	}
}
