package ports

import (
	"net/http"
	"regexp"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

var skuForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// maxReceipt limits one receipt.
const maxReceipt = 1_000_000_000_000

func checkSKU(sku string) error {
	if !skuForm.MatchString(sku) {
		return httpapi.Invalid(http.StatusBadRequest, "sku", "a SKU is 1 to 64 letters, digits, dots, dashes or underscores")
	}
	return nil
}

// GetStock implements ServerInterface.
func (h *handlers) GetStock(w http.ResponseWriter, r *http.Request, sku Sku) {
	err := checkSKU(sku)
	var stock query.Stock
	if err == nil {
		stock, err = cqrs.Execute(r.Context(), h.Queries, query.StockBySKU{SKU: sku})
	}
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	httpapi.Respond(w, http.StatusOK, Stock{
		Sku: stock.SKU, Received: stock.Received, OnHand: stock.OnHand, Reserved: stock.Reserved, Available: stock.Available(),
	})
}

// ReceiveStock implements ServerInterface. The command goes through the outbox, so GetStock shows the receipt a moment later.
func (h *handlers) ReceiveStock(w http.ResponseWriter, r *http.Request, sku Sku, _ ReceiveStockParams) {
	var request struct {
		Quantity *int64 `json:"quantity"`
	}
	err := checkSKU(sku)
	if err == nil {
		err = httpapi.Decode(w, r, &request)
	}
	switch {
	case err != nil:
	case request.Quantity == nil:
		err = httpapi.Invalid(http.StatusBadRequest, "quantity", "is missing")
	case *request.Quantity < 1 || *request.Quantity > maxReceipt:
		err = httpapi.Invalid(http.StatusUnprocessableEntity, "quantity", "must be from 1 to 1000000000000")
	default:
		err = h.Commands.Send(r.Context(), cqrs.Command{Body: command.ReceiveStock{SKU: sku, Quantity: *request.Quantity}})
	}
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	httpapi.Respond(w, http.StatusAccepted, AcceptedReceipt{Sku: sku, Quantity: *request.Quantity})
}
