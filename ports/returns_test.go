package ports

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

const returnable = "0198c0de-0000-7000-8000-000000000001"

// shop has one confirmed order of the customer ada.
type shop struct {
	desk

	order *order.Order
}

func (s *shop) Execute(_ context.Context, c cqrs.Command) error {
	return s.order.RequestReturn(c.Body.(command.RequestReturn).Lines)
}

// post sends a request in the name of a principal.
func (s *shop) post(t *testing.T, who, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	server := &httpapi.Server{
		Service: Routes(Deps{}), UnitOfWork: s, Commands: s, Log: slog.New(slog.DiscardHandler), Streams: &httpapi.Streams{}, Wake: func() {},
		Verify: func(token string) (cqrs.Principal, error) { return cqrs.Principal{Subject: token}, nil },
		Queries: cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("OrderByID", func(context.Context, query.OrderByID) (query.Order, error) {
			return query.Order{ID: returnable, CustomerID: "ada", Status: s.order.Status(), Return: s.order.Return()}, nil
		})}),
	}
	handler, err := server.Handler(httpapi.Everything)
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
	r.Host = "localhost"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+who)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestReturnOrder(t *testing.T) {
	s := &shop{order: order.Rebuild([]order.Event{
		order.Placed{OrderID: returnable, CustomerID: "ada", Lines: []order.Line{{SKU: "MUG-01", Quantity: 2, UnitPrice: 1250}}}, order.Confirmed{},
	})}
	path, body := "/v1/orders/"+returnable+"/return", `{"lines":[{"sku":"MUG-01","quantity":1}]}`
	for name, c := range map[string]struct {
		who, body, want string
		status          int
	}{
		"another customer": {"bob", body, "not found", http.StatusNotFound},
		"no lines":         {"ada", `{"lines":[]}`, `"field":"lines"`, http.StatusUnprocessableEntity},
		"not ordered":      {"ada", `{"lines":[{"sku":"CAP-03","quantity":1}]}`, `"field":"lines[0].sku"`, http.StatusUnprocessableEntity},
		"too many":         {"ada", `{"lines":[{"sku":"MUG-01","quantity":3}]}`, `"field":"lines[0].quantity"`, http.StatusUnprocessableEntity},
		"unknown field":    {"ada", `{"lines":[{"sku":"MUG-01","quantity":1,"unit_price":1}]}`, "unit_price", http.StatusBadRequest},
	} {
		w := s.post(t, c.who, path, c.body)
		require.Equal(t, c.status, w.Code, "%s: %s", name, w.Body)
		require.Contains(t, w.Body.String(), c.want, name)
	}
	for range 2 { // the repeated request gets the same answer
		w := s.post(t, "ada", path, body)
		require.Equal(t, http.StatusAccepted, w.Code, w.Body)
		require.JSONEq(t, `{"order_id":"`+returnable+`","status":"requested","parcel_number":"R-`+returnable+`"}`, w.Body.String())
	}
	w := s.post(t, "ada", path, `{"lines":[{"sku":"MUG-01","quantity":2}]}`)
	require.Equal(t, http.StatusConflict, w.Code, w.Body)
	require.Contains(t, w.Body.String(), "an order has one return")
}

func TestParcelsArriveByHandOnlyInTheSandbox(t *testing.T) {
	w := (&shop{order: order.Rebuild(nil)}).post(t, "ada", "/v1/sandbox/warehouse/parcels/R-1", "")
	require.Equal(t, http.StatusForbidden, w.Code, w.Body)
	w = ask(t, server(), httpapi.Everything, http.MethodPost, "/v1/sandbox/warehouse/parcels/R-1")
	require.Equal(t, http.StatusNotFound, w.Code, w.Body)
	require.Contains(t, w.Body.String(), "the sandbox does not run here")
}
