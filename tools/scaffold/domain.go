package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// literal is the file with the one literal that registers everything.
const literal = "service/service.go"

func makeAggregate(p *piece, args []string, flags map[string]string) error {
	if err := p.aggregate(args[0], flags["plural"]); err != nil {
		return err
	}
	dir := filepath.Join("domain", p.Package)
	if err := p.writeAll(
		"aggregate", filepath.Join(dir, p.Package+".go"), "events", filepath.Join(dir, "events.go"),
		"aggregate_test", filepath.Join(dir, p.Package+"_test.go"),
	); err != nil {
		return err
	}
	domain := p.Module + "/domain/" + p.Package
	return errors.Join(
		edit("app/command/command.go", needs(domain), field("Deps", p.Plurals, "cqrs.Store[*"+p.Package+"."+p.Type+"]")),
		edit(literal, needs(domain), needs(kit+"/postgres/eventstore"),
			variable(p.Plural, fmt.Sprintf("runner.AggregateOf(%[1]s.Category, %[1]s.Types, %[1]s.Rebuild, eventstore.Options{})", p.Package)),
			element("runner.Service", "Aggregates", "[]runner.Aggregate", p.Plural), entry("command.Deps", p.Plurals, p.Plural+".Store(k)")),
	)
}

func makeEvent(p *piece, args []string, _ map[string]string) error {
	if err := errors.Join(p.aggregate(args[0], ""), p.named(args[1])); err != nil {
		return err
	}
	if err := p.there(); err != nil {
		return err
	}
	stored := strconv.Quote(strings.ReplaceAll(p.Noun, " ", "-") + "." + strings.ReplaceAll(snake(p.Name), "_", "-"))
	return errors.Join(
		edit(filepath.Join("domain", p.Package, "events.go"), event(p.Name, p.Package, p.Type, p.ID),
			argument("aggregate.TypesOf", fmt.Sprintf("aggregate.NewType[%s](%s)", p.Name, stored)), branch("apply", p.Name)),
		edit("service/names_test.go", entry("map[string]int", stored, "1")),
	)
}

func makeCommand(p *piece, args []string, flags map[string]string) error {
	if err := errors.Join(p.aggregate(args[0], ""), p.named(args[1])); err != nil {
		return err
	}
	if err := p.there(); err != nil {
		return err
	}
	if flags["calls"] != "" {
		return p.callingCommand(flags["calls"])
	}
	if err := p.withTest("app/command", "command"); err != nil {
		return err
	}
	call := fmt.Sprintf("cqrs.Handle(%q, %s{d.%s}.handle)", p.Name, p.Lower, p.Plurals)
	return edit("app/command/command.go", listed("cqrs.ForAggregate", p.Package+".Category", "slices.Concat[[]cqrs.Handler]", call))
}

// callingCommand makes a command whose handler calls an external service through a gateway.
func (p *piece) callingCommand(gateway string) error {
	if err := checkName("--calls", gateway, "cards", dashed); err != nil {
		return err
	}
	p.Calls, p.CallsName, p.CallsNoun = pascal(gateway), gateway, strings.ReplaceAll(gateway, "-", " ")
	if _, err := os.Stat(filepath.Join("adapters/gateway", snake(p.Calls)+".go")); err != nil {
		return fmt.Errorf("there is no gateway %s yet: go run ./tools/scaffold gateway %s", gateway, gateway)
	}
	if err := errors.Join(p.withTest("app/command", "command_calls"), p.write("gateway_interface.tmpl", filepath.Join("app/command", snake(p.Calls)+".go"))); err != nil {
		return err
	}
	handler := fmt.Sprintf("%s{d.%s, d.%s}", p.Lower, p.Plurals, p.Calls)
	call := fmt.Sprintf("cqrs.WithDestination(%sDestination, cqrs.ForAggregate(%s.Category,\ncqrs.Ask(%q, %s.ask, %s.record),\n))", p.Calls, p.Package, p.Name, handler, handler)
	return errors.Join(
		edit("app/command/command.go", field("Deps", p.Calls, p.Calls), registered(fmt.Sprintf("cqrs.CallThenRecord(%q,", p.Name), argument("slices.Concat[[]cqrs.Handler]", call))),
		edit(literal, needs(p.Module+"/adapters/gateway"), entry("command.Deps", p.Calls, fmt.Sprintf("gateway.New%s(k.GatewayURL(%q))", p.Calls, gateway))),
	)
}

// registered leaves a file that contains a text as it is.
func registered(text string, c change) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		if strings.Contains(source, text) {
			return "", 0, nil
		}
		return c(file, source, at)
	}
}

func makeQuery(p *piece, args []string, _ map[string]string) error {
	if err := p.named(args[0]); err != nil {
		return err
	}
	if err := p.withTest("app/query", "query"); err != nil {
		return err
	}
	return edit("app/query/query.go", returned("All", fmt.Sprintf("cqrs.HandleQuery(%q, %s{}.handle)", p.Name, p.Lower)))
}

func makeProjection(p *piece, args []string, _ map[string]string) error {
	if err := errors.Join(p.aggregate(args[0], ""), checkName("NAME", args[1], "open-invoices", dashed)); err != nil {
		return err
	}
	if err := p.there(); err != nil {
		return err
	}
	p.Name, p.Stored = pascal(args[1]), args[1]
	p.Lower, p.File, p.Table = camel(p.Name), snake(p.Name)+".go", snake(p.Name)+"_view"
	migration, err := nextMigration(p.Table)
	if err != nil {
		return err
	}
	if err := p.writeAll(
		"projection", filepath.Join("app/projection", p.File), "readmodel", filepath.Join("adapters/views", p.File),
		"readmodel_test", filepath.Join("adapters/views", snake(p.Name)+"_test.go"), "migration", migration,
	); err != nil {
		return err
	}
	return edit("adapters/views/views.go", needs(p.Module+"/app/projection"),
		returned("All", fmt.Sprintf("{Projection: projection.%s(%s{}), Table: %q}", p.Name, p.Name, p.Table)))
}

func makeConsumer(p *piece, args []string, flags map[string]string) error {
	if err := checkName("NAME", args[0], "returns", dashed); err != nil {
		return err
	}
	p.Name = args[0]
	p.Lower, p.File = camel(pascal(args[0])), strings.ReplaceAll(args[0], "-", "_")+".go"
	parts := dotted.FindStringSubmatch(flags["from"])
	if parts == nil {
		return fmt.Errorf("--from: %q must be a service and a kind of its aggregates, like bank.transfers", flags["from"])
	}
	p.From, p.Category = parts[1], parts[2]
	for message := range strings.SplitSeq(flags["on"], ",") {
		parts := dotted.FindStringSubmatch(strings.TrimSpace(message))
		if parts == nil {
			return fmt.Errorf("--on: %q must be messages with commas between them, like transfer.booked", flags["on"])
		}
		name := pascal(parts[0])
		p.Receives = append(p.Receives, received{parts[0], name, camel(name)})
	}
	if err := p.writeAll("consumer", filepath.Join("app/consumer", p.File), "consumer_test", filepath.Join("app/consumer", strings.TrimSuffix(p.File, ".go")+"_test.go")); err != nil {
		return err
	}
	return errors.Join(edit("app/consumer/consumer.go", returned("All", p.Lower+"{d.Commands}.consumer()")),
		exampleSetting(strings.ToUpper(p.From)+"_TOPICS", p.From, "The prefix of the topics of "+p.From+"."))
}

func makeSaga(p *piece, args []string, flags map[string]string) error {
	if err := checkName("NAME", args[0], "dunning or book-trip", dashed); err != nil {
		return err
	}
	parts := eventOf.FindStringSubmatch(flags["on"])
	if parts == nil {
		return fmt.Errorf("--on: %q must be an event, like invoice.Issued", flags["on"])
	}
	p.Name, p.Package, p.Type = args[0], strings.ReplaceAll(args[0], "-", ""), pascal(args[0])
	p.OnPkg, p.OnName = strings.ReplaceAll(parts[1], "-", ""), parts[2]
	p.On = p.OnPkg + "." + p.OnName
	passed := false
	for name := range strings.SplitSeq(flags["steps"], ",") {
		if name = strings.Join(strings.Fields(name), " "); name == "" {
			continue
		}
		pivot := name == flags["pivot"]
		p.Steps = append(p.Steps, sagaStep{name, p.On, !passed && !pivot, pivot, passed})
		passed = passed || pivot
	}
	switch {
	case len(p.Steps) == 0:
		return errors.New("--steps: a saga needs at least one step")
	case flags["pivot"] != "" && !passed:
		return fmt.Errorf("--pivot: %q is none of --steps", flags["pivot"])
	}
	if err := p.eventExists(parts[1]); err != nil {
		return err
	}
	dir := filepath.Join("sagas", p.Package)
	if err := p.writeAll("saga", filepath.Join(dir, p.Package+".go"), "saga_test", filepath.Join(dir, p.Package+"_test.go")); err != nil {
		return err
	}
	var missing []change
	for _, s := range p.Steps {
		missing = append(missing, step(s))
	}
	return errors.Join(edit(filepath.Join(dir, p.Package+".go"), missing...),
		edit("sagas/sagas.go", needs(p.Module+"/sagas/"+p.Package), returned("All", "saga.New("+p.Package+".Definition)")))
}

// eventExists refuses an event that the domain does not have.
func (p *piece) eventExists(aggregate string) error {
	text, err := os.ReadFile(filepath.Join("domain", p.OnPkg, "events.go"))
	if err != nil {
		return fmt.Errorf("there is no aggregate %s yet: go run ./tools/scaffold aggregate %s", aggregate, aggregate)
	}
	if !strings.Contains(string(text), "type "+p.OnName+" struct") {
		return fmt.Errorf("there is no event %s yet: go run ./tools/scaffold event %s %s", p.On, aggregate, p.OnName)
	}
	return nil
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
