package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var methods = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}

func makeRoute(p *piece, args []string, flags map[string]string) error {
	p.Method, p.Path, p.Access = strings.ToUpper(args[0]), args[1], flags["access"]
	if err := p.named(args[2]); err != nil {
		return err
	}
	switch {
	case !slices.Contains(methods, p.Method):
		return fmt.Errorf("METHOD: %q is none of %s", args[0], strings.Join(methods, ", "))
	case !pathForm.MatchString(p.Path):
		return fmt.Errorf("PATH: %q must be like /v1/trips/{id}", p.Path)
	case !slices.Contains([]string{"public", "customer", "operator"}, p.Access):
		return fmt.Errorf("--access: %q is none of public, customer, operator", p.Access)
	}
	for _, found := range parameter.FindAllStringSubmatch(p.Path, -1) {
		p.Parameters = append(p.Parameters, found[1])
	}
	use, kind := filepath.Join("app/command", p.File), "command AGGREGATE"
	if p.Method == "GET" {
		use, kind = filepath.Join("app/query", p.File), "query"
	}
	text, err := os.ReadFile(use) //nolint:gosec // a file of the service
	if err != nil {
		return fmt.Errorf("there is no %s %s yet: go run ./tools/scaffold %s %s", strings.Fields(kind)[0], p.Name, kind, p.Name)
	}
	if err := p.request(string(text)); err != nil {
		return fmt.Errorf("%s: %w", use, err)
	}
	if err := rewrite("ports/openapi.yaml", p.operation); err != nil {
		return err
	}
	if err := p.write("route.tmpl", filepath.Join("ports", p.File)); err != nil {
		return err
	}
	if p.Access == "customer" && !p.Owned && !p.Checked {
		fmt.Printf("note: nothing in %s says whose it is, so every customer may use this route. A field CustomerID would say it.\n", use)
	}
	fmt.Println("next: make generate")
	return nil
}

const owner = "CustomerID"

// request determines how the handler fills in the fields of the command or query: from the parameters of the path, the customer of the request, a new id, or
// the body.
func (p *piece) request(source string) error {
	fields, err := attributesOf(source, p.Name)
	if err != nil {
		return err
	}
	p.Fields = filled(fields, p.Parameters)
	if answer, err := attributesOf(source, p.Name+"Answer"); err == nil {
		p.Checked = p.Access == "customer" && slices.ContainsFunc(answer, isOwner)
	}
	used := slices.Collect(maps.Values(p.Fields))
	p.Owned = slices.ContainsFunc(fields, isOwner) && !slices.Contains(used, owner)
	if key := keyForm.FindStringSubmatch(source); key != nil && p.Method == "POST" && !slices.Contains(used, key[1]) {
		p.NewID = key[1]
		p.By = &fields[slices.IndexFunc(fields, func(a attribute) bool { return a.Go == key[1] })]
	}
	for _, f := range fields {
		if !isOwner(f) && f.Go != p.NewID && !slices.Contains(used, f.Go) {
			p.Body = append(p.Body, f)
		}
	}
	return nil
}

var keyForm = regexp.MustCompile(`\) Key\(\) string \{ return c\.(\w+) \}`)

func isOwner(a attribute) bool { return a.Go == owner && a.Type == "string" }

// BodySchema is the schema of the request body in openapi.yaml.
func (p *piece) BodySchema() string {
	if len(p.Body) == 0 {
		return "{type: object}"
	}
	var names, properties []string
	for _, a := range p.Body {
		names = append(names, a.Name)
		properties = append(properties, a.Name+": "+a.Schema())
	}
	return "{type: object, required: [" + strings.Join(names, ", ") + "], properties: {" + strings.Join(properties, ", ") + "}}"
}

// filled returns the fields that the parameters of a path fill, by parameter. A parameter fills the field with its name in JSON or in Go. If there is none,
// the parameter id fills the first field whose name ends in ID, except the field with the owner.
func filled(fields []attribute, parameters []string) map[string]string {
	by := map[string]string{}
	for _, f := range fields {
		for _, parameter := range parameters {
			if parameter == f.Name || parameter == snake(f.Go) || parameter == "id" && strings.HasSuffix(f.Go, "ID") && !isOwner(f) && by[parameter] == "" {
				by[parameter] = f.Go
			}
		}
	}
	return by
}

var (
	noPaths  = regexp.MustCompile(`(?m)^paths: \{\}$`)
	allPaths = regexp.MustCompile(`(?m)^paths:\n(?:(?: .*)?\n)*`)
)

// operation adds the operation to openapi.yaml, at the end of its path or, for a new path, of all paths.
func (p *piece) operation(text string) (string, error) {
	text = noPaths.ReplaceAllString(text, "paths:")
	paths := allPaths.FindStringIndex(text)
	if paths == nil {
		return "", errors.New("there is no key paths")
	}
	if regexp.MustCompile(`(?m)^ +operationId: ` + camel(p.Name) + `$`).MatchString(text) {
		return text, nil
	}
	var operation strings.Builder
	if err := templates.ExecuteTemplate(&operation, "operation.tmpl", p); err != nil {
		return "", err
	}
	block := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(p.Path) + `:\n(?:(?:   .*)?\n)*`).FindStringIndex(text)
	if block == nil {
		return text[:paths[1]] + "  " + p.Path + ":\n" + operation.String() + text[paths[1]:], nil
	}
	if strings.Contains(text[block[0]:block[1]], "\n    "+strings.ToLower(p.Method)+":") {
		return "", fmt.Errorf("%s %s is there already, as another operation", p.Method, p.Path)
	}
	return text[:block[1]] + operation.String() + text[block[1]:], nil
}

func makePage(p *piece, args []string, _ map[string]string) error {
	if err := checkName("NAME", args[0], "trips", dashed); err != nil {
		return err
	}
	p.Package = args[0]
	p.Name = pascal(args[0])
	p.Lower, p.Noun = camel(p.Name), strings.ReplaceAll(args[0], "-", " ")
	dir := "ports/pages"
	if err := p.writeAll("page", filepath.Join(dir, snake(p.Name)+".go"), "page_test", filepath.Join(dir, snake(p.Name)+"_test.go"),
		"page_html", filepath.Join(dir, "templates", args[0]+".html")); err != nil {
		return err
	}
	return edit(filepath.Join(dir, "pages.go"), element("opsui.Extension", "Pages", "[]opsui.Page", "p."+p.Lower+"()"))
}

func makeGateway(p *piece, args []string, _ map[string]string) error {
	if err := checkName("NAME", args[0], "cards", dashed); err != nil {
		return err
	}
	p.Package, p.Name = args[0], pascal(args[0])
	p.Lower, p.File, p.Noun = camel(p.Name), snake(p.Name)+".go", strings.ReplaceAll(args[0], "-", " ")
	if err := p.write("gateway.tmpl", filepath.Join("adapters/gateway", p.File)); err != nil {
		return err
	}
	fmt.Printf("next: go run ./tools/scaffold command AGGREGATE NAME --gateway %s, for each call\n", args[0])
	return errors.Join(
		exampleSetting(strings.ToUpper(snake(p.Name))+"_URL", "", "The URL of "+p.Noun+". Empty: the sandbox stands in for it."),
		edit(literal, needs(p.Module+"/adapters/gateway"), element("runner.Service", "Gateways", "[]runner.Gateway", "gateway."+p.Name+"Service")),
	)
}

func makeSetting(p *piece, args []string, flags map[string]string) error {
	if err := checkName("NAME", args[0], "CARDS_URL", capitals); err != nil {
		return err
	}
	p.Setting, p.Kind = args[0], flags["kind"]
	if p.Kind == "" {
		p.Kind = "text"
		if strings.HasSuffix(p.Setting, "_URL") {
			p.Kind = "url"
		}
	}
	return p.setting(p.Setting + " is to be described here.")
}

// kinds are the kinds of settings: the text of their declaration, their default in .env.example, and the method that reads them.
var kinds = map[string]struct{ declared, value, read string }{
	"text": {`settings.Text(%q, "")`, "", "Text"}, "url": {"settings.URL(%q)", "", "Text"},
	"duration": {"settings.Duration(%q, 0)", "0s", "Duration"}, "onoff": {"settings.OnOff(%q, false)", "off", "On"},
}

// setting declares a setting in the service and in .env.example.
func (p *piece) setting(comment string) error {
	kind, ok := kinds[p.Kind]
	if !ok {
		return fmt.Errorf("--kind: %q is none of text, url, duration, onoff", p.Kind)
	}
	err := errors.Join(
		edit(literal, needs(kit+"/settings"), element("runner.Service", "Settings", "[]settings.Setting", fmt.Sprintf(kind.declared, p.Setting))),
		exampleSetting(p.Setting, kind.value, comment),
	)
	if err == nil {
		fmt.Printf("read it by k.%s(%q)\n", kind.read, p.Setting)
	}
	return err
}
