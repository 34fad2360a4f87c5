// Package archtest tests the architecture of the kit: each library has one home, each package says what it is for, and none has the name of a
// package of the standard library or of Watermill.
package archtest

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
	Standard              bool
}

// homes say in which packages of the kit a library may be imported.
var homes = map[string][]string{
	"github.com/IBM/sarama":                       {"kafka", "kittest"},
	"github.com/ThreeDotsLabs/watermill-kafka/v3": {"kafka"},
	"github.com/ThreeDotsLabs/watermill-sql/v3":   {"postgres/outbox", "postgres/topics", "kittest"},
	"github.com/sony/gobreaker":                   {"breaker", "runner"},
	"github.com/go-chi/httprate":                  {"httpapi"},
	"github.com/go-chi/chi/v5":                    {"httpapi"},
	"github.com/golang-jwt/jwt/v5":                {"identity"},
	"github.com/MicahParks/keyfunc/v3":            {"identity"},
	"github.com/xdg-go/scram":                     {"kafka"},
	"github.com/jmoiron/sqlx":                     {"postgres", "broker", "runner", "kittest"},
	"github.com/jackc/pgx/v5":                     {"postgres", "kittest"},
	"database/sql":                                {"postgres", "runner", "kittest"},
	"github.com/twmb/franz-go":                    {"embedded"},
	"github.com/fergusstrange/embedded-postgres":  {"embedded"},
	"github.com/pressly/goose/v3":                 {"postgres/migrations"},
	"github.com/KimMachineGun/automemlimit":       {"runner"},
	"github.com/prometheus/client_golang":         {"telemetry", "runner"},
	"github.com/spf13/cobra":                      {"cli", "runner", "demo"},
	"testing":                                     {"aggregate/aggregatetest", "saga/sagatest", "kittest", "httpclient/httpclienttest"},
	"github.com/stretchr/testify":                 {"kittest"},
}

// pure packages import the standard library and these packages, and nothing else.
var pure = map[string][]string{
	"aggregate": {},
	"saga":      {"aggregate", "cqrs", "github.com/google/uuid"}, // instances have ids that follow from their subject
}

func TestArchitecture(t *testing.T) {
	for _, fault := range faults(load(t, "../..", "./...")) {
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
		for _, imported := range p.Imports {
			to, own := strings.CutPrefix(imported, p.Module.Path+"/")
			if allowed, isPure := pure[from]; isPure && own && !slices.Contains(allowed, to) {
				fault("imports %s: it may import %s only", to, strings.Join(allowed, ", "))
			} else if isPure && !own && strings.Contains(strings.Split(imported, "/")[0], ".") && !slices.Contains(allowed, imported) {
				fault("imports %s: it needs the standard library only", imported)
			}
			for library, allowed := range homes {
				if within(imported, []string{library}) && !within(from, append(allowed, "examples")) {
					fault("imports %s, whose home is %s", imported, strings.Join(allowed, ", "))
				}
			}
		}
	}
	slices.Sort(faults)
	return faults
}

func within(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

func load(t *testing.T, dir, patterns string) (all []pkg) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Name,Doc,Imports,GoFiles,Module,Standard", patterns)
	command.Dir = dir
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

// A package of the kit that is imported beside one of the same name would need an alias everywhere.
func TestNoPackageHasTheNameOfAStandardOne(t *testing.T) {
	standard := map[string]bool{}
	for _, p := range load(t, "../..", "std") {
		standard[p.Name] = true
	}
	for _, p := range load(t, "../..", "./...") {
		if p.Name != "main" && len(p.GoFiles) > 0 && standard[p.Name] {
			t.Errorf("%s: package %s has the name of a package of the standard library", p.ImportPath, p.Name)
		}
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
		"whose home is kafka":                   breach("messaging", "github.com/IBM/sarama"),
		"whose home is aggregate/aggregatetest": breach("cqrs", "testing"),
		"it may import aggregate, cqrs, github": breach("saga", "m/postgres"),
		"it needs the standard library only":    breach("aggregate", "github.com/google/uuid"),
		"has no package comment":                {ImportPath: "m/cqrs", GoFiles: []string{"a.go"}},
	} {
		if found := strings.Join(faults([]pkg{p}), "\n"); !strings.Contains(found, want) {
			t.Errorf("%s importing %v: found %q, want %q", p.ImportPath, p.Imports, found, want)
		}
	}
	if found := faults([]pkg{breach("runner", "m/postgres"), breach("postgres/txn", "github.com/jackc/pgx/v5"), breach("saga", "m/cqrs")}); len(found) > 0 {
		t.Errorf("found what is allowed: %v", found)
	}
}

// SQL reads the time by app_now() and app_clock() only (ADR 8): another function would not follow the one clock.
func TestSQLUsesTheOneClock(t *testing.T) {
	other := regexp.MustCompile(`(?i)(^|[^_.\w])(now\(\)|clock_timestamp\(\)|current_timestamp|statement_timestamp\(\))`)
	err := filepath.WalkDir("../../postgres", func(path string, _ fs.DirEntry, err error) error {
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
