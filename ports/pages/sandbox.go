package pages

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/opsui"
)

// Faults are the fault settings of a simulated service.
type Faults struct {
	Down                     bool
	FailureRate, RefusalRate float64 // 0 to 1
	Latency                  time.Duration
}

// SandboxService is a simulated service.
type SandboxService struct {
	Name   string
	Faults func() Faults
	Set    func(Faults)
	Ledger func() []LedgerEntry
}

// LedgerEntry is a figure of the ledger of a simulated service.
type LedgerEntry struct {
	Name  string
	Value int64
}

func (p Pages) sandbox() opsui.Page {
	return opsui.Page{Path: "/ui/sandbox", Title: "Sandbox", Nav: "/ui/sandbox", Template: "sandbox", Streams: opsui.AnyStream, Load: func(*http.Request) (any, error) {
		return p.Sandbox, nil
	}}
}

// setFaults is what the form of a service sends.
func (p Pages) setFaults(r *http.Request) (notice, next string, err error) {
	at := slices.IndexFunc(p.Sandbox, func(b SandboxService) bool { return b.Name == r.PathValue("service") })
	if at < 0 {
		return "", "", fmt.Errorf("the sandbox has no service %q: %w", r.PathValue("service"), cqrs.ErrNotFound)
	}
	f := Faults{Down: r.PostForm.Get("down") != ""}
	for field, target := range map[string]*float64{"failure_rate": &f.FailureRate, "refusal_rate": &f.RefusalRate} {
		percent, err := strconv.ParseFloat(r.PostForm.Get(field), 64)
		if err != nil || percent < 0 || percent > 100 {
			return "", "", opsui.Invalid(strings.ReplaceAll(field, "_", " "), "must be a percentage from 0 to 100")
		}
		*target = percent / 100
	}
	milliseconds, err := strconv.Atoi(r.PostForm.Get("latency"))
	if err != nil || milliseconds < 0 || milliseconds > 600_000 {
		return "", "", opsui.Invalid("latency", "must be 0 to 600000 milliseconds")
	}
	f.Latency = time.Duration(milliseconds) * time.Millisecond
	p.Sandbox[at].Set(f)
	return "The fault settings of " + p.Sandbox[at].Name + " are saved.", "/ui/sandbox#" + url.PathEscape(p.Sandbox[at].Name), nil
}
