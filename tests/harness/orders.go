package harness

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/stretchr/testify/require"
)

// Order is an order as the API shows it.
type Order struct {
	ID         string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	Status     string    `json:"status"`
	Reason     string    `json:"reason"`
	Total      int64     `json:"total"`
	Currency   string    `json:"currency"`
	PlacedAt   time.Time `json:"placed_at"`
	Version    int       `json:"version"`
	Lines      []Line    `json:"lines"`
}

// Line is a line of an order.
type Line struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

// OrderBody is a request for an order of one unit of each SKU.
func OrderBody(method string, skus ...string) string {
	type line struct {
		SKU       string `json:"sku"`
		Quantity  int    `json:"quantity"`
		UnitPrice int    `json:"unit_price"`
	}
	var lines []line
	for _, sku := range skus {
		lines = append(lines, line{sku, 1, 1000})
	}
	body, _ := json.Marshal(map[string]any{"lines": lines, "currency": "EUR", "payment_method": method}) // plain values
	return string(body)
}

// Place places an order and returns its id.
func (c Client) Place(method string, skus ...string) string {
	c.t.Helper()
	response := c.Do(http.MethodPost, "/v1/orders", OrderBody(method, skus...))
	require.Equal(c.t, http.StatusAccepted, response.Status, response.Body)
	var order Order
	response.JSON(c.t, &order)
	require.Equal(c.t, "/v1/orders/"+order.ID, response.Header.Get("Location"))
	c.placed.Add(1)
	return order.ID
}

// Order reads an order.
func (c Client) Order(id string) (order Order) {
	c.t.Helper()
	response := c.Do(http.MethodGet, "/v1/orders/"+id, "")
	require.Equal(c.t, http.StatusOK, response.Status, response.Body)
	response.JSON(c.t, &order)
	return order
}

// Decided waits until an order is decided.
func (c Client) Decided(id string) (order Order) {
	c.t.Helper()
	Eventually(c.t, func() error {
		status, body, err := c.Get("/v1/orders/" + id)
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(body), &order); err != nil || order.Status == "pending" || status != http.StatusOK {
			return fmt.Errorf("%d: %s", status, body)
		}
		return nil
	})
	return order
}

// SagaOf waits for the saga of an order to show in the list, and reads it.
func (c Client) SagaOf(orderID string) (saga Saga) {
	c.t.Helper()
	var id string
	Eventually(c.t, func() error {
		var page struct {
			Sagas []Saga `json:"sagas"`
			Next  string `json:"next_cursor"`
		}
		for cursor := ""; ; cursor = page.Next {
			page.Next = ""
			_, body, err := c.Get("/v1/sagas?limit=100&cursor=" + cursor)
			if err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(body), &page); err != nil {
				return err
			}
			for _, s := range page.Sagas {
				if s.Subject == orderID {
					id = s.ID
					return nil
				}
			}
			if page.Next == "" {
				return fmt.Errorf("no saga of order %s", orderID)
			}
		}
	})
	return c.Saga(id)
}

// Stock makes sure that there is at least n of each SKU.
func (c Client) Stock(n int64, skus ...string) {
	c.t.Helper()
	for _, sku := range skus {
		available := func() (n int64) {
			status, body, err := c.Get("/v1/stock/" + sku)
			if err != nil || status != http.StatusOK {
				return 0
			}
			var stock struct{ Available int64 }
			_ = json.Unmarshal([]byte(body), &stock) // zero says it
			return stock.Available
		}
		if available() >= n {
			continue
		}
		response := c.Do(http.MethodPost, "/v1/stock/"+sku+"/receipts", fmt.Sprintf(`{"quantity":%d}`, n))
		require.Equal(c.t, http.StatusAccepted, response.Status, response.Body)
		Eventually(c.t, func() error {
			if got := available(); got < n {
				return fmt.Errorf("%s: %d available", sku, got)
			}
			return nil
		})
	}
}

// Knobs turns the knobs of a stand-in.
func (c Client) Knobs(service, knobs string) {
	c.t.Helper()
	response := c.Do(http.MethodPut, "/v1/sandbox/"+service, knobs)
	require.Equal(c.t, http.StatusOK, response.Status, response.Body)
}
