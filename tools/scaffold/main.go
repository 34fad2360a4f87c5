// Scaffold writes the beginning of a part of the service and registers the part. "go run ./tools/scaffold" lists the parts; "go run ./tools/scaffold -" reads
// parts from its input, one per line. It can run repeatedly: it keeps existing code, adds new steps after the last step of a saga, and refuses other arguments
// than those that a part was made with. The code that it writes builds; its tests fail and say where code is missing.
package main

import (
	"bufio"
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
	"lower": strings.ToLower,
	"camel": camel, "dashes": func(name string) string { return strings.ReplaceAll(snake(name), "_", "-") },
	"spaces": func(name string) string { return strings.ReplaceAll(snake(name), "_", " ") },
	"tag":    tag, "article": article,
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

// piece is the data of the templates. Examples are behind its fields.
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
	Table       string // of the read model of a projection
	Stored      string // name of the projection: open-invoices
	Columns     []attribute

	On, OnPkg, OnName string // the event that starts a saga, its package and its aggregate
	Stages            []sagaStage
	From              string // an external service
	Receives          []received

	Method, Path, Access string
	Handler              string      // the name of its method: IssueInvoice
	Parameters           []parameter // of the path
	Limit                string      // of the rows of the result: 100
	NewID                string      // the field that gets a new id
	Owned, Checked       bool        // whether a field has the customer of the request; whether the result has the owner
	Body                 []attribute // of the request
	Gateway              string      // the gateway that a command calls: CreditCards
	GatewayName          string      // credit-cards
	GatewayNoun          string      // credit cards
	Compensates          string      // the call that the call of this command compensates: HoldRoom
	Decision             string      // Hold
	By                   *attribute  // the column that a query selects by
	Setting              string      // CARDS_URL
	Kind                 string      // of a setting
}

// sagaStep is a step, its kind, and its position before, at or after the pivot.
type sagaStep struct {
	Kind, Name, On                string
	Compensated, Pivot, Retriable bool
	BeforePivot                   bool
}

// Signal is the name of the signal that the step waits for.
func (s sagaStep) Signal() string { return strings.ReplaceAll(s.Name, " ", "-") }

// sagaStage is one step, or several parallel steps.
type sagaStage []sagaStep

// received is a message of an external service.
type received struct{ Message, Name, Lower string } // invoice.paid, InvoicePaid, invoicePaid

// maker makes one kind of part.
type maker struct {
	kind, usage string
	args        int
	flags       map[string]string // name and default
	make        func(p *piece, args []string, flags map[string]string) error
}

var makers = []maker{
	{"aggregate", "aggregate NAME [--plural NAMES]", 1, map[string]string{"plural": ""}, makeAggregate},
	{"event", `event AGGREGATE NAME [--fields "FIELD, FIELD:TYPE"]`, 2, map[string]string{"fields": ""}, makeEvent},
	{"command", "command AGGREGATE NAME [--fields …] [--decision NAME] [--gateway GATEWAY [--compensates COMMAND]]", 2,
		map[string]string{"fields": "", "decision": "", "gateway": "", "compensates": ""}, makeCommand},
	{"query", "query NAME [--projection NAME --by FIELD]", 1, map[string]string{"projection": "", "by": ""}, makeQuery},
	{"projection", "projection AGGREGATE NAME [--fields …]", 2, map[string]string{"fields": ""}, makeProjection},
	{"consumer", `consumer NAME --from SERVICE.KIND --on "MESSAGE, MESSAGE"`, 1, map[string]string{"from": "", "on": ""}, makeConsumer},
	{"saga", `saga NAME --on AGGREGATE.EVENT --steps "STEP, KIND: STEP, STEP + STEP" [--pivot STEP]`, 1, map[string]string{"on": "", "steps": "", "pivot": ""}, makeSaga},
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
	b.WriteString("\nSteps joined by + run in parallel. The KIND of a step is " + strings.Join(stepKinds, ", ") + ".")
	b.WriteString("\nA TYPE is text, int, bool or time; without one it is text. With - for PART, the input has one part a line.")
	return b.String()
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage())
	}
	if args[0] == "-" {
		return runAll(os.Stdin)
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

// runAll makes a part for each line of its input.
func runAll(parts io.Reader) error {
	lines := bufio.NewScanner(parts)
	for n := 1; lines.Scan(); n++ {
		args, err := splitWords(lines.Text())
		if err == nil && len(args) > 0 && args[0] != "-" {
			err = run(args)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return lines.Err()
}

// parse parses the arguments of a part. Flags may be before, between and after the words.
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
