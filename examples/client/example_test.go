package client_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/examples/client"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// place places an order and waits until it is decided.
func place(ctx context.Context, c *client.ClientWithResponses, method string) (client.Order, error) {
	wait := "wait=20"
	answer, err := c.PlaceOrderWithResponse(ctx, &client.PlaceOrderParams{Prefer: &wait}, client.NewOrder{
		Currency: "EUR", PaymentMethod: method, Lines: []client.Line{{Sku: "MUG-01", Quantity: 2, UnitPrice: 1250}},
	})
	switch {
	case err != nil:
		return client.Order{}, err
	case answer.JSON200 == nil:
		return client.Order{}, fmt.Errorf("%s: %s", answer.Status(), answer.Body)
	}
	return *answer.JSON200, nil
}

func TestTheGeneratedClient(t *testing.T) {
	i := harness.Shared(t)
	i.Stock(1000, "MUG-01")
	c, err := client.NewClientWithResponses(i.URL, client.WithHTTPClient(&http.Client{Timeout: 30 * time.Second}))
	require.NoError(t, err)
	good, err := place(t.Context(), c, "pm_ok")
	require.NoError(t, err)
	require.EqualValues(t, "confirmed", good.Status)
	bad, err := place(t.Context(), c, "pm_declined")
	require.NoError(t, err)
	require.EqualValues(t, "cancelled", bad.Status)
	history, err := c.GetOrderHistoryWithResponse(t.Context(), good.OrderId)
	require.NoError(t, err)
	require.Len(t, history.JSON200.Events, 2)
}
