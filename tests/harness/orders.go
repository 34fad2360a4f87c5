package harness

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
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
func (o Orders) Place(method string, skus ...string) string {
	o.t.Helper()
	response := o.client.Do(http.MethodPost, "/v1/orders", OrderBody(method, skus...))
	require.Equal(o.t, http.StatusAccepted, response.Status, response.Body)
	var order Order
	response.JSON(o.t, &order)
	require.Equal(o.t, "/v1/orders/"+order.ID, response.Header.Get("Location"))
	o.placed.Add(1)
	return order.ID
}

// Order reads an order.
func (o Orders) Order(id string) (order Order) {
	o.t.Helper()
	response := o.client.Do(http.MethodGet, "/v1/orders/"+id, "")
	require.Equal(o.t, http.StatusOK, response.Status, response.Body)
	response.JSON(o.t, &order)
	return order
}

// Decided waits until an order is decided.
func (o Orders) Decided(id string) (order Order) {
	o.t.Helper()
	kittest.Eventually(o.t, func() error {
		status, body, err := o.client.Get("/v1/orders/" + id)
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
func (o Orders) SagaOf(orderID string) (saga kittest.Saga) {
	o.t.Helper()
	var id string
	kittest.Eventually(o.t, func() error {
		var page struct {
			Sagas []kittest.Saga `json:"sagas"`
			Next  string         `json:"next_cursor"`
		}
		for cursor := ""; ; cursor = page.Next {
			page.Next = ""
			_, body, err := o.client.Get("/v1/sagas?limit=100&cursor=" + cursor)
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
	return o.client.Saga(id)
}

// Stock makes sure that there is at least n of each SKU.
func (o Orders) Stock(n int64, skus ...string) {
	o.t.Helper()
	for _, sku := range skus {
		available := func() (n int64) {
			status, body, err := o.client.Get("/v1/stock/" + sku)
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
		response := o.client.Do(http.MethodPost, "/v1/stock/"+sku+"/receipts", fmt.Sprintf(`{"quantity":%d}`, n))
		require.Equal(o.t, http.StatusAccepted, response.Status, response.Body)
		kittest.Eventually(o.t, func() error {
			if got := available(); got < n {
				return fmt.Errorf("%s: %d available", sku, got)
			}
			return nil
		})
	}
}

// SetFaults sets the fault settings of a stand-in.
func (o Orders) SetFaults(service, settings string) {
	o.t.Helper()
	response := o.client.Do(http.MethodPut, "/v1/sandbox/"+service, settings)
	require.Equal(o.t, http.StatusOK, response.Status, response.Body)
}

// PlaceAt places so many orders a second, for a time, and returns how many were accepted.
func (o Orders) PlaceAt(rate int, duration time.Duration, sku string) (accepted int) {
	o.t.Helper()
	results := make(chan bool, 1000)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	sent := 0
	slots := make(chan struct{}, 100) // more requests at once than that would measure the test's own process
	for end := time.Now().Add(duration); time.Now().Before(end); sent++ {
		<-tick.C
		slots <- struct{}{}
		go func() {
			response, err := o.client.Try("POST", "/v1/orders", OrderBody("pm_ok", sku))
			<-slots
			results <- err == nil && response.Status == 202
		}()
		for len(results) > 0 {
			if <-results {
				accepted++
			}
			sent--
		}
	}
	for range sent {
		if <-results {
			accepted++
		}
	}
	return accepted
}
