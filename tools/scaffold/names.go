package main

import (
	"fmt"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// initialisms are words that Go names write in upper case: InvoiceID, not InvoiceId.
var initialisms = strings.Fields("api csv html http https id ip json jwt pdf rpc sql tls uri url utc uuid vat xml")

func capital(s string) string {
	switch {
	case s == "":
		return s
	case slices.Contains(initialisms, s):
		return strings.ToUpper(s)
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// pascal joins words that are separated by dashes or blanks to a Go name: book-trip becomes BookTrip.
func pascal(words string) string {
	parts := strings.FieldsFunc(words, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	for i, p := range parts {
		parts[i] = capital(p)
	}
	return strings.Join(parts, "")
}

// camel converts the first word of a Go name to lower case: URLCheck becomes urlCheck.
func camel(name string) string {
	words := strings.Split(snake(name), "_")
	return words[0] + name[len(words[0]):]
}

// snake separates the words of a Go name: AddURLToPolicy becomes add_url_to_policy.
func snake(name string) string {
	runes, out := []rune(name), []rune{}
	for i, r := range runes {
		next := i+1 < len(runes) && unicode.IsLower(runes[i+1])
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(runes[i-1]) || next) {
			out = append(out, '_')
		}
		out = append(out, unicode.ToLower(r))
	}
	return string(out)
}

// article is a or an, by the sound of the word.
func article(word string) string {
	word = strings.ToLower(word)
	if regexp.MustCompile(`^([aio]|e[^u]|u[^nst]|un[^i]|us[^aeu]|ut[^ei]|hour|hono|heir)`).MatchString(word) && !strings.HasPrefix(word, "one") {
		return "an"
	}
	return "a"
}

// plural is the regular plural of a word. For irregular plurals there is --plural.
func plural(word string) string {
	switch {
	case regexp.MustCompile(`[^aeiou]y$`).MatchString(word):
		return word[:len(word)-1] + "ies"
	case regexp.MustCompile(`(s|x|z|ch|sh)$`).MatchString(word):
		return word + "es"
	default:
		return word + "s"
	}
}

var (
	dashed      = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	underscored = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	typeName    = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
	dotted      = regexp.MustCompile(`^([a-z][a-z0-9]*)\.([a-z][a-z0-9-]*)$`)
	eventOf     = regexp.MustCompile(`^([a-z][a-z0-9]*(?:-[a-z0-9]+)*)\.([A-Z][A-Za-z0-9]*)$`)
	capitals    = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	pathForm    = regexp.MustCompile(`^(/([a-z0-9._-]+|\{[a-z][a-z0-9_]*\}))+$`)
	inBraces    = regexp.MustCompile(`\{([a-z0-9_]+)\}`)
)

// checkName returns an error if a name does not have the required form, or is a keyword or a predeclared identifier of Go.
func checkName(what, name, form string, matches *regexp.Regexp) error {
	word := strings.ReplaceAll(name, "-", "")
	switch {
	case name == "":
		return fmt.Errorf("%s is missing", what)
	case !matches.MatchString(name):
		return fmt.Errorf("%s: %q must be like %s", what, name, form)
	case token.IsKeyword(word) || types.Universe.Lookup(word) != nil:
		return fmt.Errorf("%s: %q is a word of the language Go; choose another name", what, name)
	}
	return nil
}

var category = regexp.MustCompile(`(?m)^const Category = "([^"]+)"$`)

// aggregate sets the names of an aggregate. If many is empty, the plural is that of the existing aggregate or, if there is none, the regular plural.
func (p *piece) aggregate(name, many string) error {
	if err := checkName("AGGREGATE", name, "invoice or booking-request", dashed); err != nil {
		return err
	}
	p.Package, p.Type, p.ID = strings.ReplaceAll(name, "-", ""), pascal(name), strings.ReplaceAll(name, "-", "_")+"_id"
	p.Noun = strings.ReplaceAll(name, "-", " ")
	if err := p.importable(name); err != nil {
		return err
	}
	if p.Var = p.Package[:1]; p.Var == "e" || p.Var == "c" { // the parameter of apply, the command
		p.Var = p.Package[:2]
	}
	file := filepath.Join("domain", p.Package, p.Package+".go")
	if text, err := os.ReadFile(file); err == nil { //nolint:gosec // a file of the service
		if found := category.FindSubmatch(text); found != nil {
			if before := string(found[1]); many != "" && many != before {
				return fmt.Errorf("--plural: %s is there already, and its plural is %s, which names streams and topics and never changes", file, before)
			}
			many = string(found[1])
		}
	}
	if many == "" {
		many = plural(name)
	}
	if err := checkName("--plural", many, "policies", dashed); err != nil {
		return err
	}
	return p.pluralNames(many)
}

// there returns an error if the aggregate does not exist.
func (p *piece) there() error {
	if _, err := os.Stat(filepath.Join("domain", p.Package)); err != nil {
		return fmt.Errorf("there is no aggregate %s yet: go run ./tools/scaffold aggregate %s", p.Package, p.Package)
	}
	return nil
}

// named sets the name of a command, a query, an event or a route.
func (p *piece) named(name string) error {
	if err := checkName("NAME", name, "IssueInvoice", typeName); err != nil {
		return err
	}
	p.Name, p.Lower, p.File = name, camel(name), snake(name)+".go"
	if token.IsKeyword(p.Lower) || types.Universe.Lookup(p.Lower) != nil {
		return fmt.Errorf("NAME: %q is a word of the language Go; choose another name", p.Lower)
	}
	return checkFile(name, p.File)
}
