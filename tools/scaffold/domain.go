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
