package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

func TestCustomersMayPlaceOrders(t *testing.T) {
	table, err := readAccess(openapi)
	require.NoError(t, err)
	require.Equal(t, operation{access: forCustomers}, table["POST /v1/orders"])
	s := things()
	s.Verify = func(token string) (cqrs.Principal, error) {
		if token != "customer" {
			return cqrs.Principal{}, errors.New("bad token")
		}
		return cqrs.Principal{Subject: "ada"}, nil
	}
	require.Equal(t, http.StatusNotFound, ask(t, s, Serves{API: true}, http.MethodGet, "/v1/orders/42", "Authorization", "Bearer customer").Code)
	require.Equal(t, http.StatusUnauthorized, ask(t, s, Serves{API: true}, http.MethodGet, "/v1/orders/42").Code)
	require.Equal(t, http.StatusForbidden, ask(t, s, Everything, http.MethodPost, "/v1/stock/A/receipts", "Authorization", "Bearer customer").Code)
}

func TestTextOfOrdersThatCannotBeStoredNamesTheField(t *testing.T) {
	for target, field := range map[string]string{
		"GET /v1/orders?cursor=%ff": "cursor", "GET /v1/orders?status=%00": "status", "GET /v1/stock/%00": "sku", "GET /v1/orders/%00/history": "id",
		"GET /v1/sandbox/%ff": "service",
	} {
		method, path, _ := strings.Cut(target, " ")
		w := ask(t, things(), Everything, method, path)
		require.Equal(t, http.StatusBadRequest, w.Code, "%s: %s", target, w.Body)
		require.Contains(t, w.Body.String(), `"field":"`+field+`"`, target)
	}
}
