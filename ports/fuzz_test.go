package ports

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// desk executes PlaceOrder with the rules of the aggregate and stores nothing.
type desk struct{ placed *command.PlaceOrder }

func (d *desk) Within(ctx context.Context, work func(context.Context) error) error { return work(ctx) }

func (d *desk) Send(context.Context, cqrs.Command) error { return nil }

func (d *desk) Execute(_ context.Context, c cqrs.Command) error {
	place := c.Body.(command.PlaceOrder)
	d.placed = &place
	return order.Rebuild(nil).Place(place.OrderID, place.CustomerID, place.Currency, place.PaymentMethod, place.Lines)
}

// For any body the answer is 202 with an order that obeys the rules, or problem details that say what is wrong; never 500.
func FuzzPlaceOrder(f *testing.F) {
	for _, body := range []string{
		`{"lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}`,
		`{"lines":[],"currency":"EUR","payment_method":"pm_ok"}`, `{"lines":[{"sku":"A","quantity":9223372036854775807,"unit_price":9223372036854775807}],"currency":"EUR","payment_method":"p"}`,
		`{"lines":null}`, `[]`, ``, `{"lines":[{"sku":"A","quantity":1e3,"unit_price":-0}],"currency":"eur","payment_method":"\u0000"}`, `{"a":1}{"b":2}`,
	} {
		f.Add([]byte(body), "key-1")
	}
	f.Fuzz(func(t *testing.T, body []byte, key string) {
		d := &desk{}
		s := &httpapi.Server{Service: Routes(Deps{}), Commands: d, UnitOfWork: d, Log: slog.New(slog.DiscardHandler)}
		handler, err := s.Handler(httpapi.Everything)
		require.NoError(t, err)
		request := httptest.NewRequest(http.MethodPost, "/v1/orders", strings.NewReader(string(body)))
		request.Host = "localhost"
		request.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		switch answer.Code {
		case http.StatusAccepted:
			require.NotNil(t, d.placed)
			require.NotEmpty(t, d.placed.Lines)
		case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
			require.Equal(t, "application/problem+json", answer.Header().Get("Content-Type"))
			var p Problem
			require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &p))
			require.Equal(t, answer.Code, p.Status)
			require.NotEmpty(t, p.Detail)
		default:
			t.Fatalf("%q: %d %s", body, answer.Code, answer.Body)
		}
		if cursor, err := cqrs.ParseCursor(key); err == nil {
			again, err := cqrs.ParseCursor(cursor.String())
			require.NoError(t, err)
			require.True(t, again.At.Equal(cursor.At) && again.ID == cursor.ID)
		}
	})
}
