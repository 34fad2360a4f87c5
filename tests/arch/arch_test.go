// Package arch tests who may import whom in this service. It reads what the Go tool knows of the module, so that it holds after a rename.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath, Name, Doc string
	Imports, GoFiles      []string
	Module                struct{ Path string }
}

// kit is the module path of the kit, which is the same in every service.
const kit = "github.com/millrace/millrace/kit/"

// layers from the inside out: each may import those before it.
var layers = []string{"domain", "app", "sagas", "adapters", "ports", "service", ""}

// kitOf are the packages of the kit that a layer may import; layers that are not listed may import any.
var kitOf = map[string][]string{
	"domain": {"aggregate"},
	"app":    {"aggregate", "cqrs"},
	"sagas":  {"aggregate", "cqrs", "saga"},
}

// homes say where a library may be imported; everywhere else it is foreign.
var homes = map[string][]string{
	"github.com/ThreeDotsLabs/watermill": {"adapters", "service"},
	"github.com/sony/gobreaker":          {"adapters"},
	"github.com/jmoiron/sqlx":            {"adapters", "service"},
	"database/sql":                       {"adapters"},
	"github.com/go-chi/chi/v5":           {"ports", "service"},
	"net/http":                           {"adapters", "ports", "service", "examples"},
	"testing":                            {"tests"},
	"github.com/stretchr/testify":        {"tests"},
}

func TestArchitecture(t *testing.T) {
	for _, fault := range faults(load(t)) {
		t.Error(fault)
	}
}

func faults(all []pkg) (faults []string) {
	for _, p := range all {
		from := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, p.Module.Path), "/")
		fault := func(format string, args ...any) { faults = append(faults, from+" "+fmt.Sprintf(format, args...)) }
		if p.Doc == "" && len(p.GoFiles) > 0 {
			fault("has no package comment: say what it is for")
		}
		if within(from, []string{"tests", "tools", "examples"}) {
			continue
		}
		for _, imported := range p.Imports {
			ofKit, isKit := strings.CutPrefix(imported, kit)
			to, own := strings.CutPrefix(imported, p.Module.Path+"/")
			switch {
			case isKit:
				if allowed, limited := kitOf[layer(from)]; limited && !within(ofKit, allowed) {
					fault("imports the kit's %s: %s may import %s of the kit", ofKit, layer(from), strings.Join(allowed, ", "))
				}
			case own:
				checkOwn(from, to, fault)
			default:
				for library, allowed := range homes {
					if within(imported, []string{library}) && !within(from, allowed) {
						fault("imports %s, whose home is %s", imported, strings.Join(allowed, ", "))
					}
				}
				if layer(from) == "domain" && strings.Contains(strings.Split(imported, "/")[0], ".") {
					fault("imports %s: the domain needs the standard library only", imported)
				}
			}
		}
	}
	faults = append(faults, unlisted(all)...)
	slices.Sort(faults)
	return faults
}

func checkOwn(from, to string, fault func(format string, args ...any)) {
	switch a, b := layer(from), layer(to); {
	case b == "migrations":
	case rank(b) > rank(a):
		fault("imports %s: inner layers know nothing of outer ones (%s)", to, strings.Join(layers[:6], " ← "))
	case a == "adapters" && b == "adapters" && part(from) != part(to):
		fault("imports %s: adapters don't know each other, service introduces them", to)
	case a == "ports" && b == "adapters":
		fault("imports %s: ports don't know adapters, service introduces them", to)
	}
}

// unlisted finds sagas that the list in sagas/ does not name: they would never run.
func unlisted(all []pkg) (faults []string) {
	var listed []string
	for _, p := range all {
		if p.ImportPath == p.Module.Path+"/sagas" {
			listed = p.Imports
		}
	}
	for _, p := range all {
		path := strings.TrimPrefix(p.ImportPath, p.Module.Path+"/")
		if within(path, []string{"sagas"}) && strings.Count(path, "/") == 1 && !slices.Contains(listed, p.ImportPath) {
			faults = append(faults, path+" is not listed in sagas.All, so it would never run")
		}
	}
	return faults
}

func within(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

func layer(path string) string { return strings.Split(path, "/")[0] }

func part(path string) string {
	parts := strings.SplitN(path, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func rank(l string) int { return slices.Index(layers, l) }

func load(t *testing.T) (all []pkg) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Name,Doc,Imports,GoFiles,Module", "./...")
	command.Dir = "../.."
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// The test itself is tested by breaking each rule.
func TestBreachesAreFound(t *testing.T) {
	breach := func(from, imported string) pkg {
		p := pkg{ImportPath: "m/" + from, Doc: "x", Imports: []string{imported}}
		p.Module.Path = "m"
		return p
	}
	for want, p := range map[string]pkg{
		"adapters don't know each other":        breach("adapters/views", "m/adapters/gateway"),
		"ports don't know adapters":             breach("ports/pages", "m/adapters/views"),
		"inner layers know nothing":             breach("app/command", "m/sagas/dunning"),
		"domain may import aggregate of":        breach("domain/invoice", kit+"cqrs"),
		"app may import aggregate, cqrs of":     breach("app/command", kit+"postgres"),
		"the domain needs the standard library": breach("domain/invoice", "github.com/google/uuid"),
		"whose home is adapters":                breach("service", "github.com/sony/gobreaker"),
		"whose home is adapters, service":       breach("app/command", "github.com/jmoiron/sqlx"),
		"whose home is tests":                   breach("app/command", "testing"),
		"has no package comment":                {ImportPath: "m/app/command", GoFiles: []string{"a.go"}},
		"is not listed in sagas.All":            breach("sagas/closing", "time"),
	} {
		if found := strings.Join(faults([]pkg{p}), "\n"); !strings.Contains(found, want) {
			t.Errorf("%s importing %v: found %q, want %q", p.ImportPath, p.Imports, found, want)
		}
	}
	if found := faults([]pkg{breach("service", "m/adapters/views"), breach("adapters/views", kit+"postgres/txn"), breach("domain/invoice", kit+"aggregate")}); len(found) > 0 {
		t.Errorf("found what is allowed: %v", found)
	}
}
