package ports

import (
	"net/http"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// maxReceipt limits the quantity of one receipt.
const maxReceipt = 1_000_000_000_000

func checkSKU(sku string) error {
	if !order.ValidSKU(sku) {
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
	h.Answer(w, r, http.StatusOK, Stock{
		Sku: stock.SKU, Received: stock.Received, OnHand: stock.OnHand, Reserved: stock.Reserved, Available: stock.Available(),
	}, err)
}

// ReceiveStock implements ServerInterface. It sends the command through the outbox, so GetStock shows the receipt a moment later.
func (h *handlers) ReceiveStock(w http.ResponseWriter, r *http.Request, sku Sku, _ ReceiveStockParams) {
	var request Receipt
	err := checkSKU(sku)
	if err == nil {
		err = httpapi.DecodeRequired(w, r, &request)
	}
	if err == nil && (request.Quantity < 1 || request.Quantity > maxReceipt) {
		err = httpapi.Invalid(http.StatusUnprocessableEntity, "quantity", "must be from 1 to 1000000000000")
	}
	if err == nil {
		err = h.Commands.Send(r.Context(), cqrs.Command{Body: command.ReceiveStock{SKU: sku, Quantity: request.Quantity}})
	}
	h.Answer(w, r, http.StatusAccepted, AcceptedReceipt{Sku: sku, Quantity: request.Quantity}, err)
}
