// Package arch is the law on who may import whom. It reads what the Go tool knows of the module, so that it holds after a
// rename.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath, Name, Doc string
	Imports, GoFiles      []string
	Module                struct{ Path string }
}

// layers from the inside out: each may import those before it.
var layers = []string{"domain", "app", "sagas", "adapters", "ports", "service", ""}

// pieces know nothing of the example; remove-example keeps them. Folders below them are meant too.
var pieces = []string{
	"domain/aggregate", "sagas/saga", "sagas/process", "sagas/sagatest", "adapters/kafka", "adapters/breaker", "adapters/embedded", "adapters/identity", "adapters/telemetry",
	"adapters/postgres/txn", "adapters/postgres/eventstore", "adapters/postgres/inbox", "adapters/postgres/outbox", "adapters/postgres/deadletter",
	"adapters/postgres/keyqueue", "adapters/postgres/audit", "adapters/postgres/topics", "migrations", "ports/messages", "ports/web", ":(glob)app/*.go", ":(glob)adapters/postgres/*.go",
}

// example is what belongs to order fulfilment.
var example = []string{
	"domain/order", "domain/inventory", "domain/payment", "domain/shipment", "domain/money", "app/command", "app/query", "app/projection", "app/reaction",
	"sagas/fulfilment", "adapters/gateway", "adapters/sandbox", "adapters/postgres/readmodel",
}

// homes say where a library may be imported; everywhere else it is foreign.
var homes = map[string][]string{
	"github.com/IBM/sarama":                       {"adapters/kafka"},
	"github.com/ThreeDotsLabs/watermill-kafka/v3": {"adapters/kafka"},
	"github.com/ThreeDotsLabs/watermill-sql/v3":   {"adapters/postgres/outbox", "adapters/postgres/topics"},
	"github.com/sony/gobreaker":                   {"adapters/breaker"},
	"github.com/go-chi/httprate":                  {"ports/httpapi"},
	"github.com/golang-jwt/jwt/v5":                {"adapters/identity"},
	"github.com/MicahParks/keyfunc/v3":            {"adapters/identity"},
	"github.com/xdg-go/scram":                     {"adapters/kafka"},
	"github.com/go-chi/chi/v5":                    {"ports/httpapi", "service"},
	"github.com/jmoiron/sqlx":                     {"adapters", "service"},
	"github.com/jackc/pgx/v5":                     {"adapters/postgres"},
	"github.com/twmb/franz-go":                    {"adapters/embedded"},
	"github.com/fergusstrange/embedded-postgres":  {"adapters/embedded"},
	"github.com/pressly/goose/v3":                 {"migrations"},
	"github.com/KimMachineGun/automemlimit":       {"service"},
	"github.com/prometheus/client_golang":         {"adapters/telemetry", "service"},
	"github.com/ThreeDotsLabs/watermill":          {"adapters", "ports/messages", "service"},
	"database/sql":                                {"adapters", "migrations"},
	"net/http":                                    {"adapters/embedded", "adapters/gateway", "adapters/identity", "adapters/sandbox", "ports/httpapi", "ports/cli", "ports/ui", "ports/web", "service", "tests/books", "examples"},
	"testing":                                     {"domain/aggregate/aggregatetest", "sagas/sagatest", "tests"},
	"github.com/stretchr/testify":                 {"tests"},
}

func TestArchitecture(t *testing.T) {
	for _, fault := range faults(load(t)) {
		t.Error(fault)
	}
}

func faults(all []pkg) (faults []string) {
	for _, p := range all {
		from := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, p.Module.Path), "/")
		say := func(format string, args ...any) { faults = append(faults, from+" "+fmt.Sprintf(format, args...)) }
		if p.Doc == "" && len(p.GoFiles) > 0 {
			say("has no package comment: say what it is for")
		}
		for _, imported := range p.Imports {
			to, own := strings.CutPrefix(imported, p.Module.Path+"/")
			if !own {
				for library, allowed := range homes {
					if within(imported, []string{library}) && !specific(imported, library) && !within(from, append(allowed, "tests")) {
						say("imports %s, whose home is %s", imported, strings.Join(allowed, ", "))
					}
				}
				if layer(from) == "domain" && strings.Contains(strings.Split(imported, "/")[0], ".") {
					say("imports %s: the domain needs the standard library only", imported)
				}
				continue
			}
			switch a, b := layer(from), layer(to); {
			case within(from, []string{"tests"}) || within(to, []string{"migrations"}) || to == "tests/books":
			case within(from, []string{"domain/aggregate/aggregatetest", "sagas/sagatest"}) && within(to, []string{"sagas", "app"}):
			case rank(b) > rank(a):
				say("imports %s: inner layers know nothing of outer ones (%s)", to, strings.Join(layers[:6], " ← "))
			case a != b:
			case a == "adapters" && part(from) != part(to):
				say("imports %s: adapters don't know each other, service introduces them", to)
			case a == "ports" && part(from) != part(to) && part(to) != "ports/web": // which they share
				say("imports %s: ports don't know each other, service introduces them", to)
			}
			if layer(from) == "ports" && layer(to) == "adapters" {
				say("imports %s: ports don't know adapters, service introduces them", to)
			}
			if within(from, pieces) && within(to, example) {
				say("imports %s: it is a piece that knows nothing of the example", to)
			}
		}
	}
	faults = append(faults, unlisted(all)...)
	slices.Sort(faults)
	return faults
}

// unlisted finds sagas that the list in sagas/ does not name: nobody would run them.
func unlisted(all []pkg) (faults []string) {
	var listed []string
	for _, p := range all {
		if p.ImportPath == p.Module.Path+"/sagas" {
			listed = p.Imports
		}
	}
	for _, p := range all {
		path := strings.TrimPrefix(p.ImportPath, p.Module.Path+"/")
		if within(path, []string{"sagas"}) && strings.Count(path, "/") == 1 && !within(path, pieces) && !slices.Contains(listed, p.ImportPath) {
			faults = append(faults, path+" is not listed in sagas.All: nobody would run it")
		}
	}
	return faults
}

// specific tells that another entry of homes names the import more exactly.
func specific(imported, library string) bool {
	for other := range homes {
		if len(other) > len(library) && within(imported, []string{other}) {
			return true
		}
	}
	return false
}

func within(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

func layer(path string) string { return strings.Split(path, "/")[0] }

func part(path string) string { return strings.Join(strings.SplitN(path, "/", 3)[:2], "/") }

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

// The law itself is tested by breaking it.
func TestBreachesAreFound(t *testing.T) {
	breach := func(from, imported string) pkg {
		p := pkg{ImportPath: "m/" + from, Doc: "x", Imports: []string{imported}}
		p.Module.Path = "m"
		return p
	}
	for want, p := range map[string]pkg{
		"adapters don't know each other":        breach("adapters/outbox", "m/adapters/kafka"),
		"ports don't know each other":           breach("ports/cli", "m/ports/httpapi"),
		"ports don't know adapters":             breach("ports/cli", "m/adapters/kafka"),
		"inner layers know nothing":             breach("app/command", "m/sagas/saga"),
		"the domain needs the standard library": breach("domain/order", "github.com/google/uuid"),
		"whose home is adapters/kafka":          breach("ports/messages", "github.com/IBM/sarama"),
		"whose home is adapters/breaker":        breach("service", "github.com/sony/gobreaker"),
		"whose home is domain/aggregate/aggre":  breach("app", "testing"),
		"knows nothing of the example":          breach("adapters/postgres/outbox", "m/domain/order"),
		"has no package comment":                {ImportPath: "m/app", GoFiles: []string{"a.go"}},
		"is not listed in sagas.All":            breach("sagas/dunning", "time"),
	} {
		if found := strings.Join(faults([]pkg{p}), "\n"); !strings.Contains(found, want) {
			t.Errorf("%s importing %v: found %q, want %q", p.ImportPath, p.Imports, found, want)
		}
	}
	if found := faults([]pkg{breach("service", "m/adapters/kafka"), breach("adapters/postgres", "m/adapters/postgres/txn")}); len(found) > 0 {
		t.Errorf("found what is allowed: %v", found)
	}
}

// SQL asks for the time by app_now() and app_clock() only (ADR 8): what asks another way would not follow the one clock.
func TestSQLUsesTheOneClock(t *testing.T) {
	other := regexp.MustCompile(`(?i)(^|[^_.\w])(now\(\)|clock_timestamp\(\)|current_timestamp|statement_timestamp\(\))`)
	err := filepath.WalkDir("../../adapters", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "postgres/clock.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(text), "\n") {
			if code, _, _ := strings.Cut(line, "//"); other.MatchString(code) {
				t.Errorf("%s:%d: %s", path, i+1, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
