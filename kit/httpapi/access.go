package httpapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// access says who may call an operation. The specification declares it with x-access.
type access string

const (
	forOperators access = "operator" // the default for routes that the specification does not list
	forCustomers access = "customer"
	forAll       access = "public"
)

// operation has the extensions that the specification declares for an operation.
type operation struct {
	access access
	probe  bool // x-listener: ops. The operation is for probes and scrapers, not for clients.
	always bool // x-listener: any. Every listener serves the operation.
}

// methods are the keys of a path item in OpenAPI that are operations.
var methods = []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions, http.MethodHead, http.MethodPatch, http.MethodTrace}

// readAccess reads who may call each operation, by keys such as "GET /v1/orders/{id}". The error names every operation that does not declare it.
func readAccess(spec []byte) (map[string]operation, error) {
	var document struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	if err := yaml.Unmarshal(spec, &document); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	table, faults := map[string]operation{}, []error(nil)
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		for _, name := range slices.Sorted(maps.Keys(document.Paths[path])) {
			method := strings.ToUpper(name)
			if !slices.Contains(methods, method) {
				continue // parameters, a summary
			}
			var said struct {
				Access   access `yaml:"x-access"`
				Listener string `yaml:"x-listener"`
			}
			node := document.Paths[path][name]
			err := node.Decode(&said)
			switch {
			case err != nil:
				faults = append(faults, fmt.Errorf("openapi.yaml: %s %s: %w", method, path, err))
			case said.Access != forOperators && said.Access != forCustomers && said.Access != forAll:
				faults = append(faults, fmt.Errorf("openapi.yaml: %s %s has x-access %q: it must be public, customer or operator", method, path, said.Access))
			case said.Listener != "" && said.Listener != "ops" && said.Listener != "any":
				faults = append(faults, fmt.Errorf("openapi.yaml: %s %s has x-listener %q: it may be ops or any", method, path, said.Listener))
			}
			table[method+" "+path] = operation{said.Access, said.Listener == "ops", said.Listener == "any"}
		}
	}
	return table, errors.Join(faults...)
}
