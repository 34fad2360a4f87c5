// Scaffold writes the beginning of a part of the service and registers it. go run ./tools/scaffold lists the parts. It can be run again:
// then it keeps existing code, and adds steps that a saga lacks. The code that it writes builds; its tests fail and say where code is missing.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/template"
)

//go:embed templates
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"lower": strings.ToLower, "goName": func(parameter string) string { return camel(pascal(parameter)) },
	"title": func(words string) string { return strings.ToUpper(words[:1]) + words[1:] },
}).ParseFS(files, "templates/*.tmpl"))

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scaffold:", err)
		os.Exit(1)
	}
}

// kit is the module path of the kit, which is the same in every service.
const kit = "github.com/millrace/millrace/kit"

// piece is the data of the templates.
type piece struct {
	Module, Kit string
	Package     string // invoice
	Type        string // Invoice
	Noun        string // invoice, with blanks between words
	Category    string // invoices
	Plural      string // invoices, as a variable
	Plurals     string // Invoices, as a field
	Var         string // i
	ID          string // invoice_id
	Name        string // of the command, query, event or page: IssueInvoice
	Lower       string // issueInvoice
	File        string // issue_invoice.go
	Table       string // of a projection
	Stored      string // its name: open-invoices

	On, OnPkg, OnName string // the event that starts a saga, its package and its aggregate
	Steps             []sagaStep
	From              string // another service
	Receives          []received

	Method, Path, Access string
	Parameters           []string // of the path
	Fields               map[string]string
	Setting              string // CARDS_URL
	Calls                string // the gateway that a command calls: Cards
	CallsName, CallsNoun string // its name, and as words
	Kind                 string // of a setting
}

// sagaStep is a step and whether it comes before, at or after the pivot.
type sagaStep struct {
	Name, On                      string
	Compensated, Pivot, Retriable bool
}

// received is a message of another service.
type received struct{ Message, Name, Lower string } // invoice.paid, InvoicePaid, invoicePaid

// maker makes a kind of part.
type maker struct {
	kind, usage string
	args        int
	flags       map[string]string // name and default
	make        func(p *piece, args []string, flags map[string]string) error
}

var makers = []maker{
	{"aggregate", "aggregate NAME [--plural NAMES]", 1, map[string]string{"plural": ""}, makeAggregate},
	{"event", "event AGGREGATE NAME", 2, nil, makeEvent},
	{"command", "command AGGREGATE NAME [--calls GATEWAY]", 2, map[string]string{"calls": ""}, makeCommand},
	{"query", "query NAME", 1, nil, makeQuery},
	{"projection", "projection AGGREGATE NAME", 2, nil, makeProjection},
	{"consumer", `consumer NAME --from SERVICE.KIND --on "MESSAGE, MESSAGE"`, 1, map[string]string{"from": "", "on": ""}, makeConsumer},
	{"saga", `saga NAME --on AGGREGATE.EVENT --steps "STEP, STEP" [--pivot STEP]`, 1, map[string]string{"on": "", "steps": "", "pivot": ""}, makeSaga},
	{"route", "route METHOD PATH COMMAND-OR-QUERY [--access public|customer|operator]", 3, map[string]string{"access": "operator"}, makeRoute},
	{"gateway", "gateway NAME", 1, nil, makeGateway},
	{"page", "page NAME", 1, nil, makePage},
	{"setting", "setting NAME [--kind text|url|duration|onoff]", 1, map[string]string{"kind": ""}, makeSetting},
}

func usage() string {
	var b strings.Builder
	b.WriteString("go run ./tools/scaffold PART, where PART is one of")
	for _, m := range makers {
		b.WriteString("\n  " + m.usage)
	}
	return b.String()
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage())
	}
	at := slices.IndexFunc(makers, func(m maker) bool { return m.kind == args[0] })
	if at < 0 {
		return fmt.Errorf("there is no part %q: %s", args[0], usage())
	}
	m := makers[at]
	module, err := exec.CommandContext(context.Background(), "go", "list", "-m").Output()
	if err != nil {
		return errors.New("run it in the directory of the service, where go.mod is")
	}
	words, flags, err := m.parse(args[1:])
	if err != nil {
		return fmt.Errorf("%w; usage: %s", err, m.usage)
	}
	return m.make(&piece{Module: strings.TrimSpace(string(module)), Kit: kit}, words, flags)
}

// parse takes flags before, between and after the words.
func (m maker) parse(args []string) (words []string, flags map[string]string, err error) {
	set := flag.NewFlagSet(m.kind, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	values := map[string]*string{}
	for name, value := range m.flags {
		values[name] = set.String(name, value, "")
	}
	for {
		if err := set.Parse(args); err != nil {
			return nil, nil, err
		}
		if set.NArg() == 0 {
			break
		}
		words, args = append(words, set.Arg(0)), set.Args()[1:]
	}
	switch {
	case len(words) < m.args:
		return nil, nil, fmt.Errorf("%s needs %d words, has %d", m.kind, m.args, len(words))
	case len(words) > m.args:
		return nil, nil, fmt.Errorf("%q is too much", words[m.args])
	}
	flags = map[string]string{}
	for name, value := range values {
		flags[name] = *value
	}
	return words, flags, nil
}
