// Package ports is the HTTP API of this service, which openapi.yaml describes: one file per resource. The kit adds the operations API.
package ports

import (
	"context"
	_ "embed"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/httpapi"
)

//go:generate go tool -modfile=../tools/lint/lint.mod oapi-codegen -config oapi-codegen.yaml openapi.yaml

//go:embed openapi.yaml
var openapi []byte

// Deps has the functions of the service that the handlers call.
type Deps struct {
	// Cancel has the saga of an order compensate, or returns an error if the saga is past its pivot.
	Cancel func(ctx context.Context, orderID string) error

	// ParcelArrived has a parcel arrive at the warehouse. Nil: the sandbox does not run.
	ParcelArrived func(ctx context.Context, number string) error
}

// Routes returns the routes of this service.
func Routes(deps Deps) *httpapi.Service {
	return &httpapi.Service{OpenAPI: openapi, Mount: func(api *httpapi.API) {
		h := &handlers{deps, api}
		HandlerWithOptions(h, ChiServerOptions{BaseRouter: api.Router, ErrorHandlerFunc: api.FailParameter})
		api.WaitFor("POST /v1/orders", httpapi.Wait{
			Streams: func(id string) []string { return []string{order.Category + "/" + id} },
			Outcome: h.decided,
		})
	}}
}

// handlers implements ServerInterface.
type handlers struct {
	Deps
	*httpapi.API
}
