package main

import (
	"errors"
	"fmt"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	if err := p.checkHandler(filepath.Join("ports", p.File)); err != nil {
		return err
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

// parameter is a parameter of a path, and the field of the command or query that it fills.
type parameter struct {
	Name  string // slot_id
	Var   string // slotID
	Field attribute
}

// inHandlers are the names that a handler uses, so that no parameter can have them.
var inHandlers = strings.Fields("answer body c command cqrs err h http httpapi q query r time w who")

// parameters finds the parameters of the path and the fields that they fill. A parameter fills the field with its name in JSON or in Go. If there is none, the
// parameter id fills the first field whose name ends in ID, except the field with the owner.
func (p *piece) parameters(fields []attribute) error {
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	for _, found := range inBraces.FindAllStringSubmatch(p.Path, -1) {
		name := found[1]
		at := slices.IndexFunc(fields, func(f attribute) bool { return name == f.Name || name == snake(f.Go) })
		if at < 0 && name == "id" {
			at = slices.IndexFunc(fields, func(f attribute) bool { return strings.HasSuffix(f.Go, "ID") && !isOwner(f) })
		}
		if at < 0 {
			return fmt.Errorf("PATH: {%s} of %s fills no field of %s, which has %s: name the parameter like a field, or add the field", name, p.Path, p.Name, strings.Join(names, ", "))
		}
		made := parameter{name, camel(pascal(name)), fields[at]}
		switch {
		case slices.ContainsFunc(p.Parameters, func(q parameter) bool { return q.Field.Go == made.Field.Go }):
			return fmt.Errorf("PATH: two parameters of %s fill the field %s", p.Path, made.Field.Name)
		case made.Field.Schema() == "{}":
			return made.Field.unknown()
		case slices.Contains(inHandlers, made.Var), token.IsKeyword(made.Var), types.Universe.Lookup(made.Var) != nil:
			made.Var += "Parameter"
		}
		p.Parameters = append(p.Parameters, made)
	}
	return nil
}

// unknown is the error about a field of a type that the scaffold has no schema for.
func (a attribute) unknown() error {
	return fmt.Errorf("the scaffold knows no schema for the type %s of %s: describe the operation in ports/openapi.yaml and write its handler by hand", a.Type, a.Go)
}

// Go is the type of the parameter in the handler, which oapi-codegen derives from the schema.
func (q parameter) Go() string { return q.Field.generated() }

// Value is the value of the field.
func (q parameter) Value() string { return q.Field.converted(q.Var) }

// generated is the type that oapi-codegen generates for the field.
func (a attribute) generated() string {
	switch a.Type {
	case "int", "int32":
		return "int64"
	default:
		return a.Type
	}
}

// converted converts a value of the generated type to the type of the field.
func (a attribute) converted(value string) string {
	if a.generated() == a.Type {
		return value
	}
	return a.Type + "(" + value + ")"
}

// Value is the value of a field of the body. oapi-codegen names fields without the initialisms of Go: CustomerId.
func (a attribute) Value() string {
	var name strings.Builder
	for word := range strings.FieldsFuncSeq(a.Name, func(r rune) bool { return strings.ContainsRune("-_. ", r) }) {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return a.converted("body." + name.String())
}

// request determines how the handler fills in the fields of the command or query: from the parameters of the path, the customer of the request, a new id, or
// the body.
func (p *piece) request(source string) error {
	p.Handler = strings.ToUpper(p.Lower[:1]) + p.Lower[1:]
	fields, err := attributesOf(source, p.Name)
	if err != nil {
		return err
	}
	if err := p.parameters(fields); err != nil {
		return err
	}
	filled := func(field string) bool {
		return slices.ContainsFunc(p.Parameters, func(q parameter) bool { return q.Field.Go == field })
	}
	if answer, err := attributesOf(source, p.Name+"Answer"); err == nil {
		p.Checked = p.Access == "customer" && slices.ContainsFunc(answer, isOwner)
	}
	p.Owned = slices.ContainsFunc(fields, isOwner) && !filled(owner)
	if p.Owned && p.Access == "public" {
		return fmt.Errorf("--access: %s has the field CustomerID, which comes from the token, and a public route needs no token: choose customer or operator", p.Name)
	}
	key := keyForm.FindStringSubmatch(source)
	if key != nil && !filled(key[1]) {
		at := slices.IndexFunc(fields, func(a attribute) bool { return a.Go == key[1] })
		switch {
		case at < 0 || fields[at].Type != "string":
		case p.Method == "POST":
			p.NewID, p.By = key[1], &fields[at]
		default:
			return fmt.Errorf("PATH: no parameter of %s fills %s, the key of %s: add {id}; only a POST makes a new id", p.Path, fields[at].Name, p.Name)
		}
	}
	for _, f := range fields {
		if !isOwner(f) && f.Go != p.NewID && !filled(f.Go) {
			p.Body = append(p.Body, f)
		}
	}
	return p.checkBody()
}

// checkBody checks that the request can have a body, and that openapi.yaml can describe it.
func (p *piece) checkBody() error {
	for _, f := range p.Body {
		switch {
		case p.Method == "GET":
			return fmt.Errorf("PATH: no parameter of %s fills %s, which %s needs: add {%s}", p.Path, f.Name, p.Name, f.Name)
		case p.Method == "DELETE":
			return fmt.Errorf("PATH: no parameter of %s fills %s, which %s needs, and a DELETE has no body: add {%s}, or choose another method", p.Path, f.Name, p.Name, f.Name)
		case f.Schema() == "{}":
			return f.unknown()
		}
	}
	return nil
}

var keyForm = regexp.MustCompile(`\) Key\(\) string \{ return c\.(\w+) \}`)

func isOwner(a attribute) bool { return a.Go == owner && a.Type == "string" }

// BodySchema is the schema of the request body in openapi.yaml.
func (p *piece) BodySchema() string {
	var names, properties []string
	for _, a := range p.Body {
		names = append(names, a.Name)
		properties = append(properties, a.Name+": "+a.Schema())
	}
	return "{type: object, required: [" + strings.Join(names, ", ") + "], properties: {" + strings.Join(properties, ", ") + "}}"
}

// ParametersTimed reports whether a parameter of the path is a time.
func (p *piece) ParametersTimed() bool {
	return slices.ContainsFunc(p.Parameters, func(q parameter) bool { return q.Go() == "time.Time" })
}

// Signature are the parameters of the handler behind the writer and the request.
func (p *piece) Signature() string {
	var signature strings.Builder
	for _, q := range p.Parameters {
		signature.WriteString(", " + q.Var + " " + q.Go())
	}
	if p.Method == "POST" {
		signature.WriteString(", _ " + p.Handler + "Params")
	}
	return signature.String()
}

// Location is the expression of the path to which the id of a new resource is appended.
func (p *piece) Location() string {
	if len(p.Parameters) > 0 {
		return "r.URL.EscapedPath()"
	}
	return strconv.Quote(p.Path)
}

// checkHandler checks that a handler can be made, or was made before for the same path and that openapi.yaml has it so.
func (p *piece) checkHandler(file string) error {
	if err := checkOperation(p); err != nil {
		return err
	}
	source, err := os.ReadFile(file) //nolint:gosec // a file of the service
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	found := regexp.MustCompile(`(?s)\) ` + p.Handler + `\(w http\.ResponseWriter, r \*http\.Request(.*?)\) \{\n`).FindSubmatch(source)
	if found == nil {
		return fmt.Errorf("%s is there already and has no handler %s: write it by hand, or choose another name", file, p.Handler)
	}
	location := `"Location", ` + p.Location() + `+"/"+`
	if string(found[1]) == p.Signature() && (p.NewID == "" || strings.Contains(string(source), location)) {
		return nil
	}
	return fmt.Errorf("%s is there already and was made for another path than %s %s: change the handler by hand, or delete it, so that the scaffold writes it anew", file, p.Method, p.Path)
}

var (
	noPaths   = regexp.MustCompile(`(?m)^paths: \{\}$`)
	allPaths  = regexp.MustCompile(`(?m)^paths:\n(?:(?: .*)?\n)*`)
	pathLine  = regexp.MustCompile(`^  (/\S*):$`)
	methodKey = regexp.MustCompile(`^    (get|post|put|patch|delete):$`)
	idKey     = regexp.MustCompile(`^      operationId: (\S+)$`)
	accessKey = regexp.MustCompile(`^      x-access: (\S+)$`)
)

// operation is an operation of openapi.yaml.
type operation struct{ method, path, id, access string }

// operations reads the operations of openapi.yaml.
func operations(text string) (all []operation) {
	var path string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if found := pathLine.FindStringSubmatch(line); found != nil {
			path = found[1]
		} else if found := methodKey.FindStringSubmatch(line); found != nil {
			all = append(all, operation{method: strings.ToUpper(found[1]), path: path})
		} else if found := idKey.FindStringSubmatch(line); found != nil && len(all) > 0 {
			all[len(all)-1].id = found[1]
		} else if found := accessKey.FindStringSubmatch(line); found != nil && len(all) > 0 {
			all[len(all)-1].access = found[1]
		}
	}
	return all
}

// checkOperation checks that openapi.yaml does not have the operation yet, or has it with the same method, path and access.
func checkOperation(p *piece) error {
	const file = "ports/openapi.yaml"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, o := range operations(string(text)) {
		switch same := o.method == p.Method && o.path == p.Path; {
		case o.id == p.Lower && !same:
			return fmt.Errorf("PATH: %s has %s as %s %s, not as %s %s: change the path there and in ports/%s by hand", file, p.Name, o.method, o.path, p.Method, p.Path, p.File)
		case o.id != p.Lower && same:
			return fmt.Errorf("PATH: %s has %s %s already, as the operation %s", file, o.method, o.path, o.id)
		case same && o.access != p.Access:
			return fmt.Errorf("--access: %s has x-access: %s for %s %s, not %s: change it by hand", file, o.access, p.Method, p.Path, p.Access)
		}
	}
	return nil
}

// limit is the limit of the rows of a list, read from the SQL of the query. Empty: the query has none.
func (p *piece) limit() string {
	views, err := filepath.Glob("adapters/views/*.go")
	if err != nil {
		return ""
	}
	for _, path := range views {
		text, err := os.ReadFile(path) //nolint:gosec // a file of the service
		if err != nil {
			continue
		}
		_, method, _ := strings.Cut(string(text), ") "+p.Name+"(ctx context.Context, q query."+p.Name+")")
		method, _, _ = strings.Cut(method, "\n}\n")
		if found := limited.FindStringSubmatch(method); found != nil {
			return found[1]
		}
	}
	return ""
}

var limited = regexp.MustCompile(` LIMIT ([0-9]+)\b`)

// operation adds the operation to openapi.yaml, at the end of its path or, for a new path, of all paths.
func (p *piece) operation(text string) (string, error) {
	text = noPaths.ReplaceAllString(text, "paths:")
	paths := allPaths.FindStringIndex(text)
	if paths == nil {
		return "", errors.New("there is no key paths")
	}
	if slices.ContainsFunc(operations(text), func(o operation) bool { return o.id == p.Lower }) {
		return text, nil
	}
	if p.Method == "GET" {
		p.Limit = p.limit()
	}
	var made strings.Builder
	if err := templates.ExecuteTemplate(&made, "operation.tmpl", p); err != nil {
		return "", err
	}
	block := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(p.Path) + `:\n(?:(?:   .*)?\n)*`).FindStringIndex(text)
	if block == nil {
		return text[:paths[1]] + "  " + p.Path + ":\n" + made.String() + text[paths[1]:], nil
	}
	return text[:block[1]] + made.String() + text[block[1]:], nil
}

func makePage(p *piece, args []string, _ map[string]string) error {
	if err := checkName("NAME", args[0], "trips", dashed); err != nil {
		return err
	}
	p.Package = args[0]
	p.Name = pascal(args[0])
	p.Lower, p.Noun = camel(p.Name), strings.ReplaceAll(args[0], "-", " ")
	dir := "ports/pages"
	if err := errors.Join(checkFile(p.Name, snake(p.Name)+".go"), declares("NAME", args[0], filepath.Join(dir, snake(p.Name)+".go"), p.Lower+"Data")); err != nil {
		return err
	}
	there, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	for _, path := range there {
		text, err := os.ReadFile(path) //nolint:gosec // a file of the service
		if err == nil && filepath.Base(path) != snake(p.Name)+".go" && strings.Contains(string(text), "(p Pages) "+p.Lower+"(") {
			return fmt.Errorf("NAME: %q needs the method %s of Pages, which %s declares; choose another name", args[0], p.Lower, filepath.ToSlash(path))
		}
	}
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
	if err := errors.Join(checkFile(p.Name, p.File), declares("NAME", args[0], filepath.Join("adapters/gateway", p.File),
		p.Name, p.Name+"Service", "New"+p.Name, p.Lower+"Request", p.Lower+"StandIn")); err != nil {
		return err
	}
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
	if err := checkSetting(p.Setting, p.Kind); err != nil {
		return err
	}
	if p.Kind == "" {
		p.Kind = "text"
		if strings.HasSuffix(p.Setting, "_URL") {
			p.Kind = "url"
		}
	}
	return p.setting(p.Setting + " is to be described here.")
}

// environment are names of variables that Go, the shell or OpenTelemetry read.
var environment = regexp.MustCompile(`^(OTEL_.*|GO[A-Z0-9]*|HOME|PATH|PWD|SHELL|TMPDIR|TZ|USER)$`)

// checkSetting returns an error if the kit or an external service has a setting, or if the service has it with another kind.
func checkSetting(name, kind string) error {
	source, err := os.ReadFile(literal)
	if err != nil {
		return err
	}
	if found := regexp.MustCompile(`\bsettings\.(\w+)\("` + name + `"`).FindSubmatch(source); found != nil {
		if is := strings.ToLower(string(found[1])); kind != "" && is != kind {
			return fmt.Errorf("--kind: %s declares %s as %s already, not as %s: change it by hand, there and where it is read", literal, name, is, kind)
		}
		return nil
	}
	described, err := os.ReadFile(".env.example")
	switch {
	case err != nil:
		return err
	case strings.Contains("\n"+string(described), "\n"+name+"="):
		return fmt.Errorf("NAME: %q is a setting already, of the kit or of an external service (.env.example describes it); choose another name", name)
	case environment.MatchString(name):
		return fmt.Errorf("NAME: %q is a variable that other programs or libraries read; choose another name", name)
	}
	return nil
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
