package component

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	w := harness.NewEnvironment(t)
	i := w.Start()
	i.Stock(1000, "MUG-01", "TEE-02")
	body := harness.OrderBody("pm_ok", "MUG-01")
	first := i.Do(http.MethodPost, "/v1/orders", body, "Idempotency-Key", "k1")
	require.Equal(t, http.StatusAccepted, first.Status, first.Body)
	require.Empty(t, first.Header.Get("Idempotency-Replayed"))
	same := func(client kittest.Client, body string) {
		t.Helper()
		again := client.Do(http.MethodPost, "/v1/orders", body, "Idempotency-Key", "k1")
		require.Equal(t, http.StatusAccepted, again.Status, again.Body)
		require.Equal(t, first.Body, again.Body)
		require.Equal(t, first.Header.Get("Location"), again.Header.Get("Location"))
		require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	}
	same(i.Client, body)
	same(i.Client, strings.ReplaceAll(body, ":", " : ")) // the same request, written otherwise

	other := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "TEE-02"), "Idempotency-Key", "k1")
	require.Equal(t, http.StatusUnprocessableEntity, other.Status)
	require.Contains(t, other.Body, "Idempotency-Key")

	t.Run("what was refused does not use the key up", func(t *testing.T) {
		refused := i.Do(http.MethodPost, "/v1/orders", `{"lines":[],"currency":"EUR","payment_method":"pm_ok"}`, "Idempotency-Key", "k2")
		require.Equal(t, http.StatusUnprocessableEntity, refused.Status)
		require.Equal(t, http.StatusAccepted, i.Do(http.MethodPost, "/v1/orders", body, "Idempotency-Key", "k2").Status)
	})
	t.Run("at the same time", func(t *testing.T) {
		var mu sync.Mutex
		var sending sync.WaitGroup
		locations, replays := map[string]bool{}, 0
		for range 20 {
			sending.Go(func() {
				response, err := i.Try(http.MethodPost, "/v1/orders", body, "Idempotency-Key", "k3")
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					locations[response.Header.Get("Location")] = true
					if response.Header.Get("Idempotency-Replayed") != "" {
						replays++
					}
				}
			})
		}
		sending.Wait()
		require.Len(t, locations, 1)
		require.Equal(t, 19, replays)
	})
	if kittest.Real() {
		t.Run("between instances", func(t *testing.T) {
			same(w.Start("PAYMENTS_URL="+i.URL+"/sandbox/payments", "CARRIER_URL="+i.URL+"/sandbox/carrier").Client, body)
		})
	}
	t.Run("across a crash", func(t *testing.T) {
		i.Kill()
		i.Restart()
		same(i.Client, body)
	})
	require.Equal(t, 3, i.Consistent().Orders)
}

func TestBadInputNamesTheField(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	line := `{"sku":"MUG-01","quantity":1,"unit_price":100}`
	order := func(lines, rest string) string { return `{"lines":[` + lines + `],` + rest + `}` }
	const rest = `"currency":"EUR","payment_method":"pm_ok"`
	var tenThousand []string
	for n := range 10_000 {
		tenThousand = append(tenThousand, fmt.Sprintf(`{"sku":"S-%d","quantity":1,"unit_price":1}`, n))
	}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		field              string
	}{
		"no lines":            {"POST", "/v1/orders", order("", rest), 422, "lines"},
		"lines missing":       {"POST", "/v1/orders", `{` + rest + `}`, 400, "lines"},
		"ten thousand lines":  {"POST", "/v1/orders", order(strings.Join(tenThousand, ","), rest), 422, "lines"},
		"quantity zero":       {"POST", "/v1/orders", order(`{"sku":"A","quantity":0,"unit_price":1}`, rest), 422, "lines[0].quantity"},
		"quantity negative":   {"POST", "/v1/orders", order(line+`,{"sku":"A","quantity":-3,"unit_price":1}`, rest), 422, "lines[1].quantity"},
		"quantity missing":    {"POST", "/v1/orders", order(`{"sku":"A","unit_price":1}`, rest), 400, "lines[0].quantity"},
		"quantity a text":     {"POST", "/v1/orders", order(`{"sku":"A","quantity":"1","unit_price":1}`, rest), 400, "lines[0].quantity"},
		"quantity a fraction": {"POST", "/v1/orders", order(`{"sku":"A","quantity":1.5,"unit_price":1}`, rest), 400, "lines[0].quantity"},
		"quantity huge":       {"POST", "/v1/orders", order(`{"sku":"A","quantity":99999999999999999999,"unit_price":1}`, rest), 400, "lines[0].quantity"},
		"price overflows":     {"POST", "/v1/orders", order(`{"sku":"A","quantity":1000000,"unit_price":9223372036854775807}`, rest), 422, "lines[0].unit_price"},
		"mixed currencies":    {"POST", "/v1/orders", order(`{"sku":"A","quantity":1,"unit_price":1,"currency":"USD"}`, rest), 400, "lines[0].currency"},
		"no currency":         {"POST", "/v1/orders", order(line, `"payment_method":"pm_ok"`), 400, "currency"},
		"odd currency":        {"POST", "/v1/orders", order(line, `"currency":"euro","payment_method":"pm_ok"`), 422, "currency"},
		"no payment method":   {"POST", "/v1/orders", order(line, `"currency":"EUR","payment_method":""`), 422, "payment_method"},
		"unknown field":       {"POST", "/v1/orders", order(line, rest+`,"colour":"red"`), 400, "colour"},
		"not JSON":            {"POST", "/v1/orders", `{"lines":`, 400, ""},
		"an array":            {"POST", "/v1/orders", `[]`, 400, ""},
		"two values":          {"POST", "/v1/orders", order(line, rest) + `{}`, 400, ""},
		"empty":               {"POST", "/v1/orders", ``, 400, ""},
		"too large":           {"POST", "/v1/orders", order(line, rest+`,"x":"`+strings.Repeat("x", 1<<20)+`"`), 413, ""},
		"no id":               {"GET", "/v1/orders/42", "", 404, "id"},
		"unknown id":          {"GET", "/v1/orders/01980000-0000-7000-8000-000000000000", "", 404, ""},
		"no history":          {"GET", "/v1/orders/01980000-0000-7000-8000-000000000000/history", "", 404, ""},
		"no stream":           {"GET", "/v1/orders/01980000-0000-7000-8000-000000000000/stream", "", 404, ""},
		"nothing to cancel":   {"POST", "/v1/orders/01980000-0000-7000-8000-000000000000/cancel", "", 404, ""},
		"cancel no id":        {"POST", "/v1/orders/nope/cancel", "", 404, "id"},
		"no saga's id":        {"GET", "/v1/sagas/42", "", 404, "id"},
		"unknown saga":        {"GET", "/v1/sagas/01980000-0000-7000-8000-000000000000", "", 404, ""},
		"odd status":          {"GET", "/v1/orders?status=lost", "", 400, "status"},
		"odd saga status":     {"GET", "/v1/sagas?status=lost", "", 400, "status"},
		"limit zero":          {"GET", "/v1/orders?limit=0", "", 400, "limit"},
		"limit large":         {"GET", "/v1/orders?limit=101", "", 400, "limit"},
		"limit a word":        {"GET", "/v1/sagas?limit=ten", "", 400, "limit"},
		"odd cursor":          {"GET", "/v1/orders?cursor=%21", "", 400, "cursor"},
		"unknown SKU":         {"GET", "/v1/stock/NOPE-1", "", 404, ""},
		"odd SKU":             {"GET", "/v1/stock/A%20B", "", 400, "sku"},
		"receipt of nothing":  {"POST", "/v1/stock/MUG-01/receipts", `{"quantity":0}`, 422, "quantity"},
		"receipt missing":     {"POST", "/v1/stock/MUG-01/receipts", `{}`, 400, "quantity"},
		"receipt unknown":     {"POST", "/v1/stock/MUG-01/receipts", `{"quantity":1,"x":1}`, 400, "x"},
		"no such letter":      {"GET", "/v1/dead-letters/42", "", 404, ""},
		"no such path":        {"GET", "/v2/orders", "", 404, ""},
		"no such method":      {"DELETE", "/v1/orders", "", 405, ""},
	} {
		t.Run(name, func(t *testing.T) {
			response := i.Do(c.method, c.path, c.body)
			require.Equal(t, c.status, response.Status, response.Body)
			require.Equal(t, "application/problem+json", response.Header.Get("Content-Type"))
			var p kittest.Problem
			response.JSON(t, &p)
			require.Equal(t, c.status, p.Status)
			require.NotEmpty(t, p.Type)
			require.NotEmpty(t, p.Title)
			require.NotEmpty(t, p.Detail)
			if c.field != "" {
				require.NotEmpty(t, p.Errors, response.Body)
				require.Equal(t, c.field, p.Errors[0].Field)
				require.NotEmpty(t, p.Errors[0].Message)
			}
		})
	}
	t.Run("headers", func(t *testing.T) {
		for name, value := range map[string]string{"Idempotency-Key": strings.Repeat("k", 256), "Prefer": "wait=long"} {
			response := i.Do("POST", "/v1/orders", order(line, rest), name, value)
			require.Equal(t, http.StatusBadRequest, response.Status, name)
			require.Contains(t, response.Body, name)
		}
		foreign := i.Do("POST", "/v1/orders", order(line, rest), "Sec-Fetch-Site", "cross-site")
		require.Equal(t, http.StatusForbidden, foreign.Status)
	})
	t.Run("sandbox", func(t *testing.T) {
		for _, knobs := range []string{`{"failure_rate":2}`, `{"latency":"soon"}`, `{"latency":5}`, `{"colour":1}`, `x`} {
			require.Equal(t, http.StatusBadRequest, i.Do("PUT", "/v1/sandbox/payments", knobs).Status, knobs)
		}
		require.Equal(t, http.StatusNotFound, i.Do("GET", "/v1/sandbox/weather", "").Status)
	})
}

func TestListsAreCompleteAndNewestFirst(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01")
	var placed []string
	for range 7 {
		placed = append(placed, i.Place("pm_ok", "MUG-01"))
	}
	placed = append(placed, i.Place("pm_declined", "MUG-01"))
	i.Consistent()
	list := func(path, plural string) (ids []string) {
		for cursor := ""; ; {
			var page map[string]any
			response := i.Do(http.MethodGet, path+"&limit=3&cursor="+cursor, "")
			require.Equal(t, http.StatusOK, response.Status, response.Body)
			response.JSON(t, &page)
			for _, row := range page[plural].([]any) {
				row := row.(map[string]any)
				if subject, ok := row["subject"].(string); ok {
					ids = append(ids, subject)
				} else {
					ids = append(ids, row["order_id"].(string))
				}
			}
			next, more := page["next_cursor"].(string)
			if !more {
				return ids
			}
			cursor = next
		}
	}
	orders := list("/v1/orders?", "orders")
	require.Len(t, orders, 8)
	for n, id := range orders {
		require.Equal(t, placed[len(placed)-1-n], id)
	}
	require.ElementsMatch(t, placed, list("/v1/sagas?", "sagas"))
	require.Len(t, list("/v1/orders?status=confirmed", "orders"), 7)
	require.Equal(t, placed[7:], list("/v1/orders?status=cancelled", "orders"))
	require.Equal(t, placed[7:], list("/v1/sagas?status=compensated", "sagas"))
	require.Empty(t, list("/v1/orders?status=pending", "orders"))
}

// A client reads its own writes: after a 202 and after a wait.
func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	i.Stock(1000, "MUG-01")
	for range 10 {
		require.NotEmpty(t, i.Order(i.Place("pm_ok", "MUG-01")).Status)
		waited := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), "Prefer", "respond-async, wait=30")
		require.Equal(t, http.StatusOK, waited.Status, waited.Body)
		require.Equal(t, "wait=30", waited.Header.Get("Preference-Applied"))
		var order harness.Order
		waited.JSON(t, &order)
		require.Equal(t, "confirmed", order.Status)
		require.Equal(t, order, i.Order(order.ID))
	}
	slow := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_slow", "MUG-01"), "Prefer", "wait=1")
	require.Equal(t, http.StatusAccepted, slow.Status, "it is not decided within a second")
}

func TestOperationsShowTheirState(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "postgres: ok\nkafka: ok\ntopics: ok\nworker: ok\n", "/metrics": "millrace_outbox_pending",
		"/openapi.yaml": "operationId: placeOrder", "/v1/outbox": `"pending"`, "/v1/breakers": `"name":"payments"`,
		"/v1/dead-letters": `"dead_letters"`, "/v1/sandbox/payments": `"held"`, "/v1/sandbox/carrier": `"booked"`,
	} {
		response := i.Do(http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, response.Status, path)
		require.Contains(t, response.Body, want, path)
	}
}
