package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// Access is read from the specification: the service does not start with an operation that does not declare it.
func TestEveryOperationDeclaresItsAccess(t *testing.T) {
	table, err := readAccess(operationsYAML)
	require.NoError(t, err)
	require.Equal(t, operation{access: forOperators}, table["GET /v1/sagas"])
	require.Equal(t, operation{access: forAll, probe: true}, table["GET /readyz"])
	require.Equal(t, operation{access: forAll, always: true}, table["GET /healthz"])

	_, err = readAccess([]byte("paths:\n  /v1/trips:\n    parameters: []\n    get: {operationId: listTrips}\n    post: {x-access: everybody}\n    put: {x-access: customer, x-listener: mine}"))
	require.ErrorContains(t, err, `GET /v1/trips has x-access "": it must be public, customer or operator`)
	require.ErrorContains(t, err, `POST /v1/trips has x-access "everybody"`)
	require.ErrorContains(t, err, `PUT /v1/trips has x-listener "mine"`)
}

func TestServedSpecificationHasAllRoutes(t *testing.T) {
	w := ask(t, things(), Everything, http.MethodGet, "/openapi.yaml")
	require.Equal(t, "application/yaml", w.Header().Get("Content-Type"))
	var document struct {
		Info       struct{ Title string }
		Paths      map[string]map[string]any
		Components map[string]map[string]any
	}
	require.NoError(t, yaml.Unmarshal(w.Body.Bytes(), &document))
	require.Equal(t, "Trips", document.Info.Title)
	require.Contains(t, document.Paths["/v1/trips/{id}"], "delete")
	require.Contains(t, document.Paths["/v1/dead-letters/{id}"], "delete")
	require.Contains(t, document.Components["schemas"], "Saga")

	alone := things()
	alone.Service = nil
	require.YAMLEq(t, string(operationsYAML), ask(t, alone, Everything, http.MethodGet, "/openapi.yaml").Body.String())
	require.Equal(t, http.StatusOK, ask(t, alone, Everything, http.MethodGet, "/v1/outbox").Code)
	require.Equal(t, http.StatusNotFound, ask(t, alone, Everything, http.MethodGet, "/v1/trips/42").Code)
}

func TestSpecificationsThatClashAreRefused(t *testing.T) {
	with := func(paths, components string) error {
		_, err := (&Server{Service: &Service{OpenAPI: []byte("openapi: 3.0.3\ninfo: {title: Trips}\npaths: {" + paths + "}\ncomponents: {" + components + "}\n")}}).Handler(Everything)
		return err
	}
	require.NoError(t, with("", ""))
	require.NoError(t, with("/v1/sagas: {parameters: [], delete: {x-access: operator}}", `parameters: {id: {schema: {type: string}, required: true, in: "path", name: id}}`), "another method; an equal component")
	require.ErrorContains(t, with("/v1/sagas: {get: {x-access: operator}}", ""), "GET /v1/sagas is an operation of the kit")
	require.ErrorContains(t, with("/v1/trips: {get: {}}", ""), `GET /v1/trips has x-access ""`)
	err := with("/v1/outbox: {get: {x-access: public}}", "schemas: {Saga: {type: string}, Trip: {type: string}}")
	require.ErrorContains(t, err, "GET /v1/outbox is an operation")
	require.ErrorContains(t, err, "components/schemas/Saga differs", "all faults are reported")
	require.NotContains(t, err.Error(), "Trip")

	_, err = (&Server{Service: &Service{OpenAPI: []byte("trips")}}).Handler(Everything)
	require.ErrorContains(t, err, "the service's openapi.yaml is not an OpenAPI document")
	_, err = (&Server{Service: &Service{Mount: func(api *API) { api.WaitFor("POST /v1/flights", Wait{}) }}}).Handler(Everything)
	require.ErrorContains(t, err, `"POST /v1/flights"`)
}

// What is generated for a service says which parameter is malformed by a type of its own package.
func TestMalformedParameterIsNamed(t *testing.T) {
	w := ask(t, things(), Everything, http.MethodGet, "/v1/sagas?limit=many")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), `"errors":[{"field":"limit","message":"is not of the form that openapi.yaml gives"}]`)
	require.True(t, strings.HasPrefix(w.Header().Get("Content-Type"), "application/problem+json"))
}
