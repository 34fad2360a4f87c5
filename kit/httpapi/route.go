package httpapi

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"
)

// Serves says which routes a listener serves. /healthz is served on every listener.
type Serves struct {
	API       bool // operations for the public and for customers
	Operators bool // operations for operators, and the pages
	Probes    bool // /readyz and /metrics
}

// Everything is the value for a service with one listener.
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

// routes are the routes of a listener.
type routes struct {
	router     *chi.Mux
	operations map[string]operation
	mounts     map[string]Mount
	serves     Serves
}

// routed is the route that a request matches.
type routed struct {
	pattern string // empty: no route
	access  access
	api     bool // the route is an operation of the specification
}

type routedKey struct{}

func routedOf(ctx context.Context) *routed {
	if at, ok := ctx.Value(routedKey{}).(*routed); ok {
		return at
	}
	return &routed{}
}

// route finds the route of a request before other middleware runs, and checks the text of the request. HEAD uses the route of GET. Only route decides
// about access: a route that the specification does not list, and that is not a Mount, is for operators.
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
				s.fail(w, r, &RequestError{Status: http.StatusNotFound, Detail: "there is nothing at " + r.URL.Path + " on this address"})
				return
			}
			if err := CheckText(r, params); err != nil {
				s.fail(w, r, err)
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

// forOperations applies a middleware only to the operations of the specification.
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

// changeWithin limits the time of a request that changes something. After that time the request is answered with 503, and nothing has changed.
const changeWithin = 30 * time.Second

// finite limits the time of requests that change something, because they may wait for many other requests that change the same data.
func finite(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			ctx, cancel := context.WithTimeout(r.Context(), changeWithin)
			defer cancel()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// find returns the pattern of the route that a request matches, the method of the route, and the parameters of the path. The pattern is empty if no
// route matches.
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

// withoutEmpty removes parameters without a value from a query.
func withoutEmpty(query url.Values) string {
	maps.DeleteFunc(query, func(_ string, values []string) bool { return len(values) == 1 && values[0] == "" })
	return query.Encode()
}
