package httpapi

import (
	"errors"
	"net/http"
	"reflect"

	"github.com/go-chi/chi/v5"

	"github.com/millrace/millrace/kit/cqrs"
)

// Service is what a service adds to the operations API.
type Service struct {
	// OpenAPI describes the routes of the service. Each operation declares by x-access who may call it: public, customer or operator. Paths and
	// operations are merged with those of operations.yaml; a component that both documents have must be the same in both.
	OpenAPI []byte

	// Mount adds the routes to api.Router and keeps what its handlers need of api. It is called once for each listener.
	Mount func(api *API)
}

// API is what a Server gives to the handlers of a service.
type API struct {
	Router   chi.Router
	Commands cqrs.Commands
	Queries  *cqrs.Queries

	// Fail answers a request with the problem details of an error. Within an idempotent request it also rolls the unit of work back.
	Fail func(w http.ResponseWriter, r *http.Request, err error)

	server *Server
	waits  map[string]Wait
}

// Answer answers a request with a JSON body, or with the problem details of an error.
func (a *API) Answer(w http.ResponseWriter, r *http.Request, status int, body any, err error) {
	if err != nil {
		a.Fail(w, r, err)
		return
	}
	Respond(w, status, body)
}

// FailParameter answers a request whose parameter the code of oapi-codegen cannot read; it is for the ErrorHandlerFunc of the generated
// ChiServerOptions.
func (a *API) FailParameter(w http.ResponseWriter, r *http.Request, err error) {
	if name := malformedParameter(err); name != "" {
		a.Fail(w, r, Invalid(http.StatusBadRequest, name, "is not of the form that openapi.yaml gives"))
		return
	}
	a.Fail(w, r, &RequestError{Status: http.StatusBadRequest, Detail: err.Error()})
}

// malformedParameter is the name of the parameter that an InvalidParamFormatError is about; empty for other errors. oapi-codegen generates
// that type into each package anew, so there is no type to compare with.
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
