package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/kit/httpapi"
)

// access is who may ask for something, as x-access in openapi.yaml says.
type access string

const (
	forOperators access = "operator" // also whatever is not listed
	forCustomers access = "customer"
	forAll       access = "public"
)

// operation is what openapi.yaml says of an operation beside its form.
type operation struct {
	access access
	probe  bool // x-listener: ops. It is for probes and scrapers, not for clients.
	always bool // x-listener: any
}

// readAccess reads who may ask for each operation: "GET /v1/orders/{id}". The error names every operation that does not say.
func readAccess(spec []byte) (map[string]operation, error) {
	var document struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	if err := yaml.Unmarshal(spec, &document); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	methods := []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions, http.MethodHead, http.MethodPatch, http.MethodTrace}
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

// Serves says what a listener answers; it always answers /healthz.
type Serves struct {
	API       bool // what is for customers and for everybody
	Operators bool // what is for operators, and the pages
	Probes    bool // /readyz and /metrics
}

// Everything is for the one listener of a service.
var Everything = Serves{true, true, true}

func (s Serves) operation(o operation) bool {
	switch {
	case o.always:
		return true
	case o.probe:
		return s.Probes
	case o.access == forOperators:
		return s.Operators
	default:
		return s.API
	}
}

func (s Serves) mount(m Mount) bool {
	if m.Operators {
		return s.Operators
	}
	return s.API
}

// routes are what a listener knows.
type routes struct {
	router     *chi.Mux
	operations map[string]operation
	mounts     map[string]Mount
	serves     Serves
}

// routed is what a request is for.
type routed struct {
	pattern string // empty: nothing is there
	access  access
	api     bool // it is an operation of openapi.yaml
}

type routedKey struct{}

func routedOf(ctx context.Context) *routed {
	if at, ok := ctx.Value(routedKey{}).(*routed); ok {
		return at
	}
	return &routed{}
}

// route finds out what a request is for, before anything is done for it, and checks its text. HEAD goes where GET goes. Who may have what
// is decided here and nowhere else: what openapi.yaml does not name, and is not mounted, is for operators.
func (s *Server) route(all *routes) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			at := routedOf(r.Context())
			pattern, method, params := all.find(r)
			at.pattern, at.access = pattern, forOperators
			served := true
			if m, mounted := all.mounts[pattern]; mounted {
				at.access, served = forAll, all.serves.mount(m)
			} else if o, listed := all.operations[method+" "+pattern]; listed {
				at.access, at.api, served = o.access, true, all.serves.operation(o)
			}
			if !served {
				at.pattern = ""
				s.problem(w, r, &httpapi.RequestError{Status: http.StatusNotFound, Detail: "there is nothing at " + r.URL.Path + " on this address"})
				return
			}
			if err := httpapi.CheckText(r, params); err != nil {
				s.problem(w, r, err)
				return
			}
			r.URL.RawQuery = withoutEmpty(r.URL.Query())
			if method != r.Method {
				chi.RouteContext(r.Context()).RouteMethod = method
			}
			next.ServeHTTP(w, r)
		})
	}
}

// forOperations has a middleware see the operations of openapi.yaml and nothing else.
func forOperations(middleware func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		inner := middleware(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if routedOf(r.Context()).api {
				inner.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// find returns the pattern that a request matches, with the method that it is handled as and the parameters of its path.
func (all *routes) find(r *http.Request) (pattern, method string, params map[string]string) {
	path, unescape := r.URL.Path, func(s string) string { return s }
	if r.URL.RawPath != "" {
		path, unescape = r.URL.RawPath, func(s string) string {
			if text, err := url.PathUnescape(s); err == nil {
				return text
			}
			return s
		}
	}
	methods := []string{r.Method}
	if r.Method == http.MethodHead {
		methods = append(methods, http.MethodGet)
	}
	for _, method := range methods {
		at := chi.NewRouteContext()
		if pattern := all.router.Find(at, method, path); pattern != "" {
			params = map[string]string{}
			for i, name := range at.URLParams.Keys {
				if name != "*" {
					params[name] = unescape(at.URLParams.Values[i])
				}
			}
			return pattern, method, params
		}
	}
	return "", r.Method, nil
}

// withoutEmpty has a parameter without a value be as if it were not there.
func withoutEmpty(query url.Values) string {
	maps.DeleteFunc(query, func(_ string, values []string) bool { return len(values) == 1 && values[0] == "" })
	return query.Encode()
}
