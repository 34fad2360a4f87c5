package ports

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// ReturnOrder implements ServerInterface. It requests the return in the transaction of the request, together with the event that starts the saga of the
// return.
func (h *handlers) ReturnOrder(w http.ResponseWriter, r *http.Request, id Id, _ ReturnOrderParams) {
	var request NewReturn
	var before query.Order // read before, because the request sees its own effect only after its commit
	err := httpapi.DecodeRequired(w, r, &request)
	if err == nil {
		before, err = h.order(r.Context(), id)
	}
	if err == nil {
		c := command.RequestReturn{OrderID: id}
		for _, line := range request.Lines {
			c.Lines = append(c.Lines, order.ReturnLine{Line: order.Line{SKU: line.Sku, Quantity: line.Quantity}, Replace: line.Replace != nil && *line.Replace})
		}
		err = h.Commands.Execute(r.Context(), cqrs.Command{Body: c})
	}
	h.Answer(w, r, http.StatusAccepted, AcceptedReturn{
		OrderId: id, Status: string(cmp.Or(before.Return.Status, order.ReturnIsRequested)), ParcelNumber: order.ParcelNumber(id),
	}, err)
}

// ArriveParcel implements ServerInterface.
func (h *handlers) ArriveParcel(w http.ResponseWriter, r *http.Request, number string, _ ArriveParcelParams) {
	err := httpapi.NoBody(w, r)
	if err == nil {
		err = cqrs.CheckText("number", number, 100)
	}
	switch {
	case err != nil:
	case h.ParcelArrived == nil:
		err = fmt.Errorf("the sandbox does not run here: %w", cqrs.ErrNotFound)
	default:
		err = h.ParcelArrived(r.Context(), number)
	}
	h.Answer(w, r, http.StatusAccepted, ArrivedParcel{ParcelNumber: number}, err)
}

func toReturn(r order.Return) *Return {
	out := &Return{
		Status: ReturnStatus(r.Status), ParcelNumber: r.ParcelNumber, Refund: r.Refund.Amount, Damaged: r.Damaged, Reason: r.Reason, Lines: []ReturnLine{},
	}
	for _, line := range r.Lines {
		out.Lines = append(out.Lines, ReturnLine{Sku: line.SKU, Quantity: line.Quantity, UnitPrice: line.UnitPrice, Replace: line.Replace})
	}
	return out
}
