// Scaffold writes the beginning of what a service is made of, in the house's style, and registers it:
//
//	go run ./tools/scaffold aggregate invoice
//	go run ./tools/scaffold event invoice Issued
//	go run ./tools/scaffold command invoice IssueInvoice
//	go run ./tools/scaffold query InvoiceByID
//	go run ./tools/scaffold projection invoice invoices
//	go run ./tools/scaffold consumer shipping --from warehouse.deliveries --on "delivery.left, delivery.lost"
//	go run ./tools/scaffold saga dunning --on invoice.Issued --steps "send reminder, suspend account"
//
// It may be run again: what is there stays, and a saga gets the steps that it lacks. What it writes builds; its tests fail with a sentence that says what is to be filled in.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"unicode"
)

//go:embed templates
var files embed.FS

var templates = template.Must(template.ParseFS(files, "templates/*.tmpl"))

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scaffold:", err)
		os.Exit(1)
	}
}

const usage = `aggregate NAME | event AGGREGATE NAME | command AGGREGATE NAME | query NAME | projection AGGREGATE NAME | consumer NAME --from SERVICE.KIND --on "MESSAGE, MESSAGE" | saga NAME --on AGGREGATE.EVENT --steps "STEP, STEP"`

// piece is what templates are filled with.
type piece struct {
	Module         string
	Package        string // invoice
	Type           string // Invoice
	Plural         string // invoices
	Var            string // i
	ID             string // invoice_id
	Name           string // of what is made: IssueInvoice
	Lower          string // issueInvoice
	File           string // issue_invoice.go
	On, OnPkg      string // the event that starts a saga, and its package
	Steps          []string
	From, Category string // of another service's topic
	Hears          []heard
}

// heard is a message of another service.
type heard struct{ Message, Name, Lower string } // invoice.paid, InvoicePaid, invoicePaid

var (
	dotted        = regexp.MustCompile(`^([a-z][a-z0-9]*)\.([a-z][a-z0-9-]*)$`)
	aggregateName = regexp.MustCompile(`^[a-z][a-z0-9]*$`)
	typeName      = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
	eventOf       = regexp.MustCompile(`^([a-z][a-z0-9]*)\.([A-Z][A-Za-z0-9]*)$`)
)

func run(args []string) error {
	module, err := exec.CommandContext(context.Background(), "go", "list", "-m").Output()
	if err != nil {
		return errors.New("this is to be run in the service's directory, where go.mod is")
	}
	p := piece{Module: strings.TrimSpace(string(module))}
	arg := func(n int, what string, form *regexp.Regexp) string {
		switch {
		case err != nil:
		case len(args) <= n:
			err = fmt.Errorf("%s is missing: %s", what, usage)
		case !form.MatchString(args[n]):
			err = fmt.Errorf("%s: %q must be like %s", what, args[n], form)
		default:
			return args[n]
		}
		return ""
	}
	kind := arg(0, "what to make", regexp.MustCompile(`^[a-z]+$`))
	if err != nil {
		return err
	}
	switch kind {
	case "aggregate":
		p.aggregate(arg(1, "NAME", aggregateName))
		if err == nil {
			err = p.makeAggregate()
		}
	case "event", "command", "projection":
		p.aggregate(arg(1, "AGGREGATE", aggregateName))
		if kind == "projection" {
			p.Lower = arg(2, "NAME", aggregateName)
		} else {
			p.named(arg(2, "NAME", typeName))
		}
		if err == nil {
			if _, missing := os.Stat(filepath.Join("domain", p.Package)); missing != nil {
				return fmt.Errorf("there is no aggregate %s yet: go run ./tools/scaffold aggregate %s", p.Package, p.Package)
			}
			err = map[string]func() error{"event": p.makeEvent, "command": p.makeCommand, "projection": p.makeProjection}[kind]()
		}
	case "query":
		p.named(arg(1, "NAME", typeName))
		if err == nil {
			err = p.makeQuery()
		}
	case "consumer":
		p.Lower = arg(1, "NAME", aggregateName)
		if err == nil {
			err = p.makeConsumer(args[2:])
		}
	case "saga":
		p.Package = arg(1, "NAME", aggregateName)
		if err == nil {
			err = p.makeSaga(args[2:])
		}
	default:
		err = fmt.Errorf("there is nothing called %q to make: %s", kind, usage)
	}
	return err
}

func (p *piece) aggregate(name string) {
	if name == "" {
		return
	}
	p.Package, p.Type, p.Plural, p.Var, p.ID = name, capital(name), name+"s", name[:1], name+"_id"
}

func (p *piece) named(name string) {
	if name == "" {
		return
	}
	p.Name, p.Lower, p.File = name, strings.ToLower(name[:1])+name[1:], snake(name)+".go"
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func snake(name string) string {
	var out []rune
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 && !unicode.IsUpper(rune(name[i-1])) {
			out = append(out, '_')
		}
		out = append(out, unicode.ToLower(r))
	}
	return string(out)
}

func (p *piece) makeAggregate() error {
	dir := filepath.Join("domain", p.Package)
	for name, path := range map[string]string{
		"aggregate.tmpl": filepath.Join(dir, p.Package+".go"), "events.tmpl": filepath.Join(dir, "events.go"),
		"aggregate_test.tmpl": filepath.Join(dir, p.Package+"_test.go"),
	} {
		if err := p.write(name, path); err != nil {
			return err
		}
	}
	domain := p.Module + "/domain/" + p.Package
	return errors.Join(
		edit("app/command/command.go", needs(domain), field("Deps", p.Type+"s", "app.Store[*"+p.Package+"."+p.Type+"]")),
		edit("service/parts.go", needs(domain),
			entry("kinds", "aggregate.Types", p.Package+".Category", p.Package+".Types"),
			entry("deps", "command.Deps", p.Type+"s", "eventstore.NewRepository(store, "+p.Package+".Category, "+p.Package+".Rebuild, eventstore.Options{})")),
	)
}

func (p *piece) makeEvent() error {
	stored := strconv.Quote(p.Package + "." + strings.ReplaceAll(snake(p.Name), "_", "-"))
	return errors.Join(
		edit(filepath.Join("domain", p.Package, "events.go"), event(p.Name, p.Package, p.ID),
			argument("aggregate.TypesOf", fmt.Sprintf("aggregate.NewType[%s](%s)", p.Name, stored)), branch("apply", p.Name)),
		edit("service/names_test.go", entry("TestStoredNames", "map[string]int", stored, "1")),
	)
}

func (p *piece) makeCommand() error {
	if err := p.withTest("app/command", "command"); err != nil {
		return err
	}
	call := fmt.Sprintf("app.Handle(%q, %s{d.%ss}.handle)", p.Name, p.Lower, p.Type)
	return edit("app/command/command.go", listed("app.For", p.Package+".Category", "slices.Concat[[]app.Handler]", call))
}

func (p *piece) makeQuery() error {
	if err := p.withTest("app/query", "query"); err != nil {
		return err
	}
	return edit("app/query/query.go", element("All", fmt.Sprintf("app.Query(%q, %s{}.handle)", p.Name, p.Lower)))
}

func (p *piece) makeProjection() error {
	p.Name, p.File = capital(p.Lower), p.Lower+".go"
	migration, err := nextMigration(p.Lower + "_rows")
	if err != nil {
		return err
	}
	for _, file := range [][2]string{
		{"projection.tmpl", filepath.Join("app/projection", p.File)}, {"readmodel.tmpl", filepath.Join("adapters/postgres/readmodel", p.File)},
		{"readmodel_test.tmpl", filepath.Join("adapters/postgres/readmodel", p.Lower+"_test.go")}, {"migration.tmpl", migration},
	} {
		if err := p.write(file[0], file[1]); err != nil {
			return err
		}
	}
	return edit("adapters/postgres/readmodel/readmodel.go", needs(p.Module+"/app/projection"),
		element("All", fmt.Sprintf("{projection.%s(%s{}), %q}", p.Name, p.Name, p.Lower+"_rows")))
}

// nextMigration is the file that makes a table, or will.
func nextMigration(table string) (path string, err error) {
	there, err := filepath.Glob("migrations/*.sql")
	if err != nil {
		return "", err
	}
	last := 0
	for _, path := range there {
		if strings.HasSuffix(path, "_"+table+".sql") {
			return path, nil
		}
		if n, err := strconv.Atoi(filepath.Base(path)[:5]); err == nil {
			last = max(last, n)
		}
	}
	return fmt.Sprintf("migrations/%05d_%s.sql", last+1, table), nil
}

func (p *piece) makeConsumer(args []string) error {
	flags := flag.NewFlagSet("consumer", flag.ContinueOnError)
	from, on := flags.String("from", "", "whom it hears, and of what: warehouse.deliveries"), flags.String("on", "", "the messages, by commas: delivery.arrived")
	if err := flags.Parse(args); err != nil {
		return err
	}
	parts := dotted.FindStringSubmatch(*from)
	if parts == nil {
		return fmt.Errorf("--from: %q must be a service and a kind of its aggregates, like warehouse.deliveries", *from)
	}
	p.From, p.Category, p.File = parts[1], parts[2], p.Lower+".go"
	for message := range strings.SplitSeq(*on, ",") {
		parts := dotted.FindStringSubmatch(strings.TrimSpace(message))
		if parts == nil {
			return fmt.Errorf("--on: %q must be messages by commas, like delivery.arrived", *on)
		}
		words := strings.FieldsFunc(parts[0], func(r rune) bool { return r == '.' || r == '-' })
		for i, word := range words {
			words[i] = capital(word)
		}
		name := strings.Join(words, "")
		p.Hears = append(p.Hears, heard{parts[0], name, strings.ToLower(name[:1]) + name[1:]})
	}
	for name, path := range map[string]string{"consumer.tmpl": p.File, "consumer_test.tmpl": p.Lower + "_test.go"} {
		if err := p.write(name, filepath.Join("app/reaction", path)); err != nil {
			return err
		}
	}
	if err := edit("app/reaction/reaction.go", element("All", p.Lower+"{d.Commands}.reaction()")); err != nil {
		return err
	}
	return p.setting(".env.example", strings.ToUpper(p.From)+"_TOPICS", p.From, "TOPIC_PREFIX")
}

func (p *piece) makeSaga(args []string) error {
	flags := flag.NewFlagSet("saga", flag.ContinueOnError)
	on, steps := flags.String("on", "", "the event that starts it: invoice.Issued"), flags.String("steps", "", "its steps, two words each, by commas")
	if err := flags.Parse(args); err != nil {
		return err
	}
	parts := eventOf.FindStringSubmatch(*on)
	if parts == nil {
		return fmt.Errorf("--on: %q must be an event, like invoice.Issued", *on)
	}
	p.OnPkg, p.On = parts[1], *on
	for step := range strings.SplitSeq(*steps, ",") {
		if step = strings.TrimSpace(step); step != "" {
			p.Steps = append(p.Steps, step)
		}
	}
	if len(p.Steps) == 0 {
		return errors.New("--steps: a saga needs at least one step")
	}
	p.Type = capital(p.Package)
	for name, path := range map[string]string{"saga.tmpl": p.Package + ".go", "saga_test.tmpl": p.Package + "_test.go"} {
		if err := p.write(name, filepath.Join("sagas", p.Package, path)); err != nil {
			return err
		}
	}
	var missing []change
	for _, s := range p.Steps {
		missing = append(missing, step(s, p.On))
	}
	if err := edit(filepath.Join("sagas", p.Package, p.Package+".go"), missing...); err != nil {
		return err
	}
	return edit("sagas/sagas.go", needs(p.Module+"/sagas/"+p.Package), element("All", "saga.New("+p.Package+".Definition)"))
}
