package httpapi

import (
	"errors"
	"net/http"
	"reflect"

	"github.com/go-chi/chi/v5"

	"github.com/millrace/millrace/kit/cqrs"
)

// Service has the routes that a service adds to the operations API.
type Service struct {
	// OpenAPI describes the routes of the service. Each operation declares with x-access who may call it: public, customer or operator. Paths and
	// operations are merged with those of operations.yaml; a component that both documents define must be the same in both.
	OpenAPI []byte

	// Mount adds the routes to api.Router. Its handlers may keep api. It is called once for each listener.
	Mount func(api *API)
}

// API gives the handlers of a service access to the Server.
type API struct {
	Router   chi.Router
	Commands cqrs.Commands
	Queries  *cqrs.Queries

	// Fail answers a request with the problem details of an error. For a request with an idempotency key it also rolls back the unit of work.
	Fail func(w http.ResponseWriter, r *http.Request, err error)

	server *Server
	waits  map[string]Wait
}

// Answer answers a request with a JSON body, or, if err is not nil, with the problem details of the error.
func (a *API) Answer(w http.ResponseWriter, r *http.Request, status int, body any, err error) {
	if err != nil {
		a.Fail(w, r, err)
		return
	}
	Respond(w, status, body)
}

// FailParameter answers a request with 400 if the code that oapi-codegen generates cannot parse a parameter. Use it as ErrorHandlerFunc of the
// generated ChiServerOptions.
func (a *API) FailParameter(w http.ResponseWriter, r *http.Request, err error) {
	if name := malformedParameter(err); name != "" {
		a.Fail(w, r, Invalid(http.StatusBadRequest, name, "is not of the form that openapi.yaml gives"))
		return
	}
	a.Fail(w, r, &RequestError{Status: http.StatusBadRequest, Detail: err.Error()})
}

// malformedParameter is the name of the parameter that an InvalidParamFormatError is about; empty for other errors. oapi-codegen generates this type
// into each package, so there is no common type to compare with.
func malformedParameter(err error) string {
	for ; err != nil; err = errors.Unwrap(err) {
		v := reflect.ValueOf(err)
		if v.Kind() != reflect.Pointer || v.IsNil() || v.Type().Elem().Name() != "InvalidParamFormatError" || v.Elem().Kind() != reflect.Struct {
			continue
		}
		if field := v.Elem().FieldByName("ParamName"); field.IsValid() && field.Kind() == reflect.String {
			return field.String()
		}
	}
	return ""
}
