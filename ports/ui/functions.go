package ui

import (
	"fmt"
	"html/template"
	"strings"
	"time"
)

// functions are what templates may call.
var functions = template.FuncMap{
	"labelled": func(label string, messages []KnownMessage) labelled { return labelled{label, messages} },
	"string":   func(v any) string { return fmt.Sprint(v) },
	"short":    short, "mark": mark, "span": span,
	"time":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") },
	"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"words":   func(text string) string { return strings.ReplaceAll(text, "_", " ") },
	"percent": func(rate float64) string { return fmt.Sprintf("%g", rate*100) },
	"millis":  func(d time.Duration) int64 { return d.Milliseconds() },
	"join":    func(parts []string) string { return strings.Join(parts, ", ") },
	"times":   times,
	"age":     func(seconds float64) string { return span(time.Duration(seconds * float64(time.Second))) },
	"after": func(d time.Duration) string {
		return fmt.Sprintf("+%.3f s", d.Seconds())
	},
}

// short is enough of an id to tell it from others on a page: the end, as the beginning of a UUIDv7 is the time.
func short(id string) string {
	if len(id) != 36 {
		return id
	}
	return "…" + id[24:]
}

// labelled are messages under a heading.
type labelled struct {
	Label    string
	Messages []KnownMessage
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprint(n, " times")
}
