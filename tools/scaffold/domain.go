package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// literal is the file with the value of type runner.Service, which registers all parts.
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
		edit("app/command/command.go", needs(domain), field("Deps", p.Plurals, p.storeType())),
		edit(literal, needs(domain), needs(kit+"/postgres/eventstore"),
			variable(p.Plural, fmt.Sprintf("runner.AggregateOf(%[1]s.Category, %[1]s.Types, %[1]s.Rebuild, eventstore.Options{})", p.Package)),
			element("runner.Service", "Aggregates", "[]runner.Aggregate", p.Plural), entry("command.Deps", p.Plurals, p.Plural+".Store(k)")),
	)
}

func makeEvent(p *piece, args []string, flags map[string]string) error {
	if err := errors.Join(p.aggregate(args[0], ""), p.named(args[1]), p.columns(flags["fields"])); err != nil {
		return err
	}
	if err := p.there(); err != nil {
		return err
	}
	file := filepath.Join("domain", p.Package, "events.go")
	if err := errors.Join(p.reservedFields(p.idField()), declares("NAME", p.Name, file, p.Name)); err != nil {
		return err
	}
	made, err := scopeOf(filepath.Dir(file))
	if err != nil {
		return err
	}
	switch p.Name {
	case "Event", "Types":
		return fmt.Errorf("NAME: %q is the name of a declaration in %s; choose another name", p.Name, file)
	}
	if made.declared[p.Name] != "" {
		if err := p.hasColumns(file, p.Name, true); err != nil {
			return err
		}
	}
	stored := strconv.Quote(strings.ReplaceAll(p.Noun, " ", "-") + "." + strings.ReplaceAll(snake(p.Name), "_", "-"))
	changes := []change{
		event(p), argument("aggregate.TypesOf", fmt.Sprintf("aggregate.NewType[%s](%s)", p.Name, stored)), branch("apply", p.Name),
	}
	return errors.Join(
		edit(file, append(changes, p.imports()...)...),
		edit("service/names_test.go", entry("map[string]int", stored, "1")),
	)
}

func makeCommand(p *piece, args []string, flags map[string]string) error {
	if err := errors.Join(p.aggregate(args[0], ""), p.named(args[1]), p.columns(flags["fields"])); err != nil {
		return err
	}
	if err := p.there(); err != nil {
		return err
	}
	p.Decision = flags["decision"]
	if err := p.checkCommand(flags["gateway"]); err != nil {
		return err
	}
	if flags["gateway"] != "" {
		return makeCall(p, flags["gateway"], flags["compensates"])
	}
	if flags["compensates"] != "" {
		return errors.New("--compensates: it undoes a call of an external service, so it needs --gateway")
	}
	if err := makeDecision(p); err != nil {
		return err
	}
	if err := p.useCase("command"); err != nil {
		return err
	}
	call := fmt.Sprintf("cqrs.Handle(%q, %s{d.%s}.handle)", p.Name, p.Lower, p.Plurals)
	return edit("app/command/command.go", registered("", p.Package+".Category", call))
}

// idField is the field with the id, which every event, command and row has.
func (p *piece) idField() map[string]string {
	return map[string]string{p.ID: "it is the id of the " + p.Noun + ", which the scaffold adds itself"}
}

// ofRoot are the names of aggregate.Root, which a decision would hide.
var ofRoot = strings.Fields("Changes Record Replay Root Saved SetVersion Version")

// checkCommand checks that a command can be made, or was made before by the same arguments.
func (p *piece) checkCommand(gateway string) error {
	reserved := p.idField()
	reserved["key"] = "a command has the method Key"
	if p.Decision != "" {
		if err := checkName("--decision", p.Decision, "Book", typeName); err != nil {
			return err
		}
		if slices.Contains(ofRoot, p.Decision) {
			return fmt.Errorf("--decision: %q is a name of aggregate.Root, which the aggregate embeds; choose another name", p.Decision)
		}
		reserved["id"] = "the decision " + p.Decision + " has the parameter id"
		reserved[p.Var] = "it is the receiver of the decision " + p.Decision
		reserved["errors"] = "the decision " + p.Decision + " calls the package errors"
	}
	if gateway != "" {
		reserved["id"] = "the request to " + gateway + " has the id of the " + p.Noun + " as id"
	}
	file := filepath.Join("app/command", p.File)
	if err := errors.Join(p.reservedFields(reserved), declares("NAME", p.Name, file, p.Name, p.Lower)); err != nil || !exists(file) {
		return err
	}
	source, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	calls, service := strings.Contains(string(source), "cqrs.CallResult"), ""
	if fields, err := attributesOf(string(source), p.Lower); err == nil {
		if at := slices.IndexFunc(fields, func(f attribute) bool { return f.Go == "service" }); at >= 0 {
			service = fields[at].Type
		}
	}
	switch {
	case p.Decision != "" && !strings.Contains(string(source), "."+p.Decision+"("):
		return fmt.Errorf("--decision: %s is there already and does not call %s: change it by hand", file, p.Decision)
	case gateway == "" && calls:
		return fmt.Errorf("%s is there already and calls an external service: repeat --gateway, or choose another name", file)
	case gateway != "" && !calls:
		return fmt.Errorf("--gateway: %s is there already and calls no external service: choose another name, or delete it and its registration first", file)
	case gateway != "" && service != "" && service != pascal(gateway):
		return fmt.Errorf("--gateway: %s is there already and calls %s: change it by hand", file, service)
	}
	return p.hasColumns(file, p.Name, true)
}

// makeDecision adds the decision of a command to its aggregate, unless the aggregate already has it.
func makeDecision(p *piece) error {
	if p.Decision == "" {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join("domain", p.Package, "*.go"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), " *"+p.Type+") "+p.Decision+"(") { //nolint:gosec // a file of the service
			return nil
		}
	}
	return p.attach("decision", filepath.Join("domain", p.Package, p.Package+".go"), " *"+p.Type+") "+p.Decision+"(", append(p.imports(), needs("errors"))...)
}

// useCase makes the file of a command. A command that calls a decision gets no test, because the decision has one.
func (p *piece) useCase(name string) error {
	if p.Decision != "" {
		return p.write(name+".tmpl", filepath.Join("app/command", p.File))
	}
	return p.withTest("app/command", name)
}

// makeCall makes a command whose handler calls an external service. It adds the call to the interface, the gateway and the stand-in of the service.
func makeCall(p *piece, gateway, compensates string) error {
	if err := checkName("--gateway", gateway, "cards", dashed); err != nil {
		return err
	}
	p.Gateway, p.GatewayName, p.GatewayNoun, p.Compensates = pascal(gateway), gateway, strings.ReplaceAll(gateway, "-", " "), compensates
	offers, implements := filepath.Join("app/command", snake(p.Gateway)+".go"), filepath.Join("adapters/gateway", snake(p.Gateway)+".go")
	test := strings.TrimSuffix(implements, ".go") + "_test.go"
	source, err := os.ReadFile(implements) //nolint:gosec // a file of the service
	if err != nil {
		return fmt.Errorf("there is no gateway %s yet: go run ./tools/scaffold gateway %s", gateway, gateway)
	}
	if compensates != "" && !strings.Contains(string(source), "func (g "+p.Gateway+") "+compensates+"(") {
		return fmt.Errorf("--compensates: %s has no call %s yet: go run ./tools/scaffold command AGGREGATE %s --gateway %s", gateway, compensates, compensates, gateway)
	}
	sent, err := p.sent(string(source))
	if err != nil {
		return fmt.Errorf("%s: %w", implements, err)
	}
	of, err := p.depsField()
	if err != nil {
		return err
	}
	if err := declares("--gateway", gateway, offers, p.Gateway, p.Gateway+"Destination"); err != nil {
		return err
	}
	if err := makeDecision(p); err != nil {
		return err
	}
	if err := p.useCase("call"); err != nil {
		return err
	}
	var operation strings.Builder
	if err := templates.ExecuteTemplate(&operation, "gateway_operation.tmpl", p); err != nil {
		return err
	}
	needed := []change{needs("context"), needs(p.Module + "/app/command"), argument("sandbox.New", strings.TrimSpace(operation.String()))}
	offered := []change{method(p)}
	if compensates == "" {
		needed, offered = append(needed, needs(kit+"/cqrs")), append(offered, needs(kit+"/cqrs"))
	}
	handler := fmt.Sprintf("%s{d.%s, d.%s}", p.Lower, p.Plurals, of)
	return errors.Join(
		p.writeOr("gateway_interface", offers, func() error { return edit(offers, offered...) }),
		p.attach("gateway_call", implements, "func (g "+p.Gateway+") "+p.Name+"(", append(needed, sent...)...),
		p.writeOr("gateway_test", test, func() error { return p.attach("gateway_call_test", test, "func Test"+p.Gateway+p.Name+"(") }),
		edit("app/command/command.go", field("Deps", of, p.Gateway),
			registered(p.Gateway+"Destination", p.Package+".Category", fmt.Sprintf("cqrs.CallThenRecord(%q, %s.call, %s.record)", p.Name, handler, handler))),
		edit(literal, needs(p.Module+"/adapters/gateway"), entry("command.Deps", of, fmt.Sprintf("gateway.New%s(k.GatewayURL(%q))", p.Gateway, gateway))),
	)
}

// sent adds the fields of a command to the request of its gateway.
func (p *piece) sent(source string) (changes []change, err error) {
	request := camel(p.Gateway) + "Request"
	there, err := attributesOf(source, request)
	if err != nil {
		return nil, err
	}
	for _, c := range p.Columns {
		at := slices.IndexFunc(there, func(a attribute) bool { return a.Go == c.Go })
		switch {
		case at < 0:
			changes = append(changes, field(request, c.Go, c.Type+" `json:\""+c.Name+",omitzero\"`"))
		case there[at].Type != c.Type:
			return nil, fmt.Errorf("the field %s of %s has the type %s, not %s", c.Go, request, there[at].Type, c.Type)
		}
	}
	return append(changes, p.imports()...), nil
}

func makeQuery(p *piece, args []string, flags map[string]string) error {
	if err := p.named(args[0]); err != nil {
		return err
	}
	file := filepath.Join("app/query", p.File)
	if err := declares("NAME", p.Name, file, p.Name, p.Lower, p.Name+"Answer", p.Name+"Row", p.Name+"Rows"); err != nil {
		return err
	}
	if flags["projection"] != "" {
		return makeViewQuery(p, flags["projection"], flags["by"])
	}
	if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "type "+p.Name+"Rows interface") { //nolint:gosec // a file of the service
		return fmt.Errorf("%s is there already and selects from a projection: repeat --projection and --by, or choose another name", file)
	}
	if err := p.withTest("app/query", "query"); err != nil {
		return err
	}
	return edit("app/query/query.go", returned("All", fmt.Sprintf("cqrs.HandleQuery(%q, %s{}.handle)", p.Name, p.Lower)))
}

// makeViewQuery makes a query that selects rows of a read model by a column: one row by the first column, which is the key, or a list of rows by another
// column.
func makeViewQuery(p *piece, projection, by string) error {
	if err := checkName("--projection", projection, "open-invoices", dashed); err != nil {
		return err
	}
	p.Type, p.Stored = pascal(projection), snake(pascal(projection))
	p.Table = p.Stored + "_view"
	source, err := os.ReadFile(filepath.Join("app/projection", p.Stored+".go"))
	if err != nil {
		return fmt.Errorf("there is no projection %s yet: go run ./tools/scaffold projection AGGREGATE %s", projection, projection)
	}
	fields, err := attributesOf(string(source), p.Type+"Row")
	if err != nil {
		return err
	}
	p.Columns = slices.DeleteFunc(fields, func(a attribute) bool { return a.Name == "version" })
	var names []string
	for i, c := range p.Columns {
		names = append(names, c.Name)
		if c.Name == by {
			p.By = &p.Columns[i]
		}
	}
	if p.By == nil {
		return fmt.Errorf("--by: %q is no column of %s, which has %s", by, projection, strings.Join(names, ", "))
	}
	if err := p.checkViewQuery(projection); err != nil {
		return err
	}
	if err := p.write("view_query.tmpl", filepath.Join("app/query", p.File)); err != nil {
		return err
	}
	if p.List() {
		migration, err := nextMigration(p.Table + "_by_" + by)
		if err != nil {
			return err
		}
		if err := p.write("migration_index.tmpl", migration); err != nil {
			return err
		}
	}
	return errors.Join(
		edit("app/query/query.go", field("Deps", p.Name, p.Name+"Rows"), returned("All", fmt.Sprintf("cqrs.HandleQuery(%q, %s{d.%s}.handle)", p.Name, p.Lower, p.Name))),
		p.attach("view_select", filepath.Join("adapters/views", p.Stored+".go"), "func (r "+p.Type+") "+p.Name+"(", needs(p.Module+"/app/query")),
		edit(literal, entry("query.Deps", p.Name, "views."+p.Type+"{DB: k.DB()}")),
	)
}

// checkViewQuery checks that a query of a read model can be made, or was made before by the same arguments.
func (p *piece) checkViewQuery(projection string) error {
	if p.By.Go == "Result" {
		return fmt.Errorf("--by: %q is the name of a field that every query has; choose another column", p.By.Name)
	}
	file := filepath.Join("app/query", p.File)
	if text, err := os.ReadFile(file); err == nil { //nolint:gosec // a file of the service
		fields, err := attributesOf(string(text), p.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !slices.ContainsFunc(fields, func(f attribute) bool { return f.Go == p.By.Go }) {
			return fmt.Errorf("--by: %s is there already, and %s does not select by %s: change it by hand, or choose another name", file, p.Name, p.By.Name)
		}
	}
	view := filepath.Join("adapters/views", p.Stored+".go")
	views, err := filepath.Glob("adapters/views/*.go")
	if err != nil {
		return err
	}
	for _, path := range views {
		text, err := os.ReadFile(path) //nolint:gosec // a file of the service
		if err != nil {
			return err
		}
		if filepath.Clean(path) != view && strings.Contains(string(text), ") "+p.Name+"(ctx context.Context, q query."+p.Name+")") {
			return fmt.Errorf("--projection: %s selects the rows of %s already, not %s: choose another name", filepath.ToSlash(path), p.Name, projection)
		}
	}
	return nil
}

// ByOwner reports whether the query selects by the customer, so that an empty value means the rows of all customers.
func (p *piece) ByOwner() bool { return p.By != nil && isOwner(*p.By) }

// List reports whether the result of the query is a list.
func (p *piece) List() bool { return p.By != nil && p.By.Name != p.Columns[0].Name }

// Selected are the columns of a read model, separated by commas, for SQL.
func (p *piece) Selected() string {
	var names []string
	for _, c := range p.Columns {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

func makeProjection(p *piece, args []string, flags map[string]string) error {
	if err := errors.Join(p.aggregate(args[0], ""), checkName("NAME", args[1], "open-invoices", dashed), p.columns(flags["fields"])); err != nil {
		return err
	}
	if err := p.there(); err != nil {
		return err
	}
	p.Name, p.Stored = pascal(args[1]), args[1]
	p.Lower, p.File, p.Table = camel(p.Name), snake(p.Name)+".go", snake(p.Name)+"_view"
	if err := p.checkProjection(); err != nil {
		return err
	}
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

// checkProjection checks that a projection can be made, or was made before by the same arguments.
func (p *piece) checkProjection() error {
	reserved := p.idField()
	reserved["version"] = "a row has a column version"
	file := filepath.Join("app/projection", p.File)
	if err := errors.Join(p.reservedFields(reserved), p.sqlColumns(), checkFile(p.Name, p.File), declares("NAME", p.Name, file, p.Name, p.Name+"Row", p.Name+"Rows"),
		declares("NAME", p.Name, filepath.Join("adapters/views", p.File), p.Name, p.Lower+"Table")); err != nil || !exists(file) {
		return err
	}
	return p.hasColumns(file, p.Name+"Row", true)
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
	if err := p.checkConsumer(); err != nil {
		return err
	}
	if err := p.writeAll("consumer", filepath.Join("app/consumer", p.File), "consumer_test", filepath.Join("app/consumer", strings.TrimSuffix(p.File, ".go")+"_test.go")); err != nil {
		return err
	}
	return errors.Join(edit("app/consumer/consumer.go", returned("All", p.Lower+"{d.Commands}.consumer()")),
		exampleSetting(strings.ToUpper(p.From)+"_TOPICS", p.From, "The prefix of the topics of "+p.From+"."))
}

// checkConsumer checks that a consumer can be made, or was made before by the same arguments.
func (p *piece) checkConsumer() error {
	file := filepath.Join("app/consumer", p.File)
	made := []string{p.Lower}
	for _, r := range p.Receives {
		if slices.Contains(made, r.Lower) {
			return fmt.Errorf("--on: %q needs the name %s, which the consumer or another message has; choose another name", r.Message, r.Lower)
		}
		made = append(made, r.Lower)
	}
	if err := errors.Join(checkFile(p.Name, p.File), declares("NAME", p.Name, file, made...)); err != nil || !exists(file) {
		return err
	}
	text, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	for _, r := range p.Receives {
		if !strings.Contains(string(text), strconv.Quote(r.Message)) {
			return fmt.Errorf("--on: %s is there already and does not receive %s: add it by hand", file, r.Message)
		}
	}
	for _, name := range []string{p.From, p.Category} {
		if !strings.Contains(string(text), strconv.Quote(name)) {
			return fmt.Errorf("--from: %s is there already and does not consume %s.%s: change it by hand, or choose another name", file, p.From, p.Category)
		}
	}
	return nil
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
	var err error
	if p.Stages, err = stagesOf(flags["steps"], flags["pivot"], p.On); err != nil {
		return err
	}
	if err := p.eventExists(parts[1]); err != nil {
		return err
	}
	dir := filepath.Join("sagas", p.Package)
	if err := p.checkSaga(filepath.Join(dir, p.Package+".go"), flags["pivot"]); err != nil {
		return err
	}
	if err := p.writeAll("saga", filepath.Join(dir, p.Package+".go"), "saga_test", filepath.Join(dir, p.Package+"_test.go")); err != nil {
		return err
	}
	var missing []change
	for _, s := range p.Stages {
		missing = append(missing, addStage(s))
	}
	return errors.Join(edit(filepath.Join(dir, p.Package+".go"), missing...),
		edit("sagas/sagas.go", needs(p.Module+"/sagas/"+p.Package), returned("All", "saga.New("+p.Package+".Definition)")))
}

// stepKinds are the kinds of steps besides the default, a command that is sent once.
var stepKinds = []string{"if", "each", "until", "delay", "signal", "event", "saga"}

// waitKinds are the kinds of steps that send no command.
var waitKinds = []string{"delay", "signal", "event"}

// stagesOf parses --steps: stages are separated by commas, parallel steps of a stage by +, and the kind of a step is before its name.
func stagesOf(steps, pivot, on string) (stages []sagaStage, err error) {
	passed := false
	for stage := range strings.SplitSeq(steps, ",") {
		var made sagaStage
		for one := range strings.SplitSeq(stage, "+") {
			kind, name, has := strings.Cut(one, ":")
			if !has {
				kind, name = "", one
			}
			kind, name = strings.TrimSpace(kind), strings.Join(strings.Fields(name), " ")
			if name == "" {
				continue
			}
			isPivot := name == pivot
			switch {
			case has && !slices.Contains(stepKinds, kind):
				return nil, fmt.Errorf("--steps: the kind %q of %q is none of %s", kind, name, strings.Join(stepKinds, ", "))
			case isPivot && kind != "" && kind != "saga" && kind != "if", isPivot && strings.Contains(stage, "+"):
				return nil, fmt.Errorf("--pivot: %q must stand alone, and be a command that is sent once", name)
			}
			made = append(made, sagaStep{kind, name, on, !passed && !isPivot && kind != "until" && !slices.Contains(waitKinds, kind), isPivot, passed && !slices.Contains(waitKinds, kind), !passed})
		}
		if len(made) == 0 {
			continue
		}
		stages = append(stages, made)
		passed = passed || made[0].Pivot
	}
	switch {
	case len(stages) == 0:
		return nil, errors.New("--steps: a saga needs at least one step")
	case pivot != "" && !passed:
		return nil, fmt.Errorf("--pivot: %q is none of --steps", pivot)
	}
	return stages, nil
}

// eventExists returns an error if the domain does not have the event.
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

// nextMigration is the path of the migration that creates a table: an existing file, or the next free number.
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
