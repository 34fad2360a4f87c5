package ports

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// server is the service for requests that do not reach the command or the query of a handler.
func server() *httpapi.Server {
	return &httpapi.Server{Service: Routes(Deps{}), UnitOfWork: &desk{}, Log: slog.New(slog.DiscardHandler), Streams: &httpapi.Streams{}, Wake: func() {}}
}

func ask(t *testing.T, s *httpapi.Server, serves httpapi.Serves, method, target string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	handler, err := s.Handler(serves)
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	r.Host = "localhost"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestCustomersMayPlaceOrders(t *testing.T) {
	s := server()
	s.Verify = func(token string) (cqrs.Principal, error) {
		if token != "customer" {
			return cqrs.Principal{}, errors.New("bad token")
		}
		return cqrs.Principal{Subject: "ada"}, nil
	}
	customers := httpapi.Serves{API: true}
	require.Equal(t, http.StatusBadRequest, ask(t, s, customers, http.MethodPost, "/v1/orders", "Authorization", "Bearer customer").Code, "the body is empty")
	require.Equal(t, http.StatusNotFound, ask(t, s, customers, http.MethodGet, "/v1/orders/42", "Authorization", "Bearer customer").Code)
	require.Equal(t, http.StatusUnauthorized, ask(t, s, customers, http.MethodGet, "/v1/orders/42").Code)
	require.Equal(t, http.StatusForbidden, ask(t, s, httpapi.Everything, http.MethodPost, "/v1/stock/A/receipts", "Authorization", "Bearer customer").Code)
}

func TestTextOfOrdersThatCannotBeStoredNamesTheField(t *testing.T) {
	for target, field := range map[string]string{
		"GET /v1/orders?cursor=%ff": "cursor", "GET /v1/orders?status=%00": "status", "GET /v1/stock/%00": "sku", "GET /v1/orders/%00/history": "id",
		"GET /v1/sandbox/%ff": "service",
	} {
		method, path, _ := strings.Cut(target, " ")
		w := ask(t, server(), httpapi.Everything, method, path)
		require.Equal(t, http.StatusBadRequest, w.Code, "%s: %s", target, w.Body)
		require.Contains(t, w.Body.String(), `"field":"`+field+`"`, target)
	}
}

// One document describes the kit's operations and this service's routes.
func TestSpecificationListsAllRoutes(t *testing.T) {
	spec := ask(t, server(), httpapi.Everything, http.MethodGet, "/openapi.yaml").Body.String()
	for _, path := range []string{
		"/v1/orders", "/v1/orders/{id}", "/v1/orders/{id}/cancel", "/v1/orders/{id}/return", "/v1/sandbox/warehouse/parcels/{number}", "/v1/orders/{id}/history", "/v1/orders/{id}/stream", "/v1/stock/{sku}",
		"/v1/stock/{sku}/receipts", "/v1/sagas", "/v1/sagas/{id}", "/v1/sagas/{id}/retry", "/v1/sagas/{id}/skip", "/v1/sagas/{id}/resolve", "/v1/dead-letters",
		"/v1/dead-letters/{id}", "/v1/dead-letters/{id}/redrive", "/v1/breakers", "/v1/outbox", "/v1/sandbox/{service}", "/healthz", "/readyz", "/metrics",
		"/openapi.yaml",
	} {
		require.Contains(t, spec, "\n  "+path+":\n")
	}
	require.Contains(t, spec, "title: Millrace")
}
