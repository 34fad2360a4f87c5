package pages

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/opsui"
)

// returnOrder handles the form for a return, which has a quantity and a choice for each SKU.
func (p Pages) returnOrder(r *http.Request) (notice, next string, err error) {
	c := command.RequestReturn{OrderID: r.PathValue("id")}
	quantities := r.PostForm["quantity"]
	for i, sku := range r.PostForm["sku"] {
		quantity, err := strconv.ParseInt(append(quantities, "")[min(i, len(quantities))], 10, 64)
		if err != nil {
			return "", "", opsui.Invalid("quantity", "must be a whole number")
		}
		if quantity != 0 {
			c.Lines = append(c.Lines, order.ReturnLine{Line: order.Line{SKU: sku, Quantity: quantity}, Replace: r.PostForm.Get("replace "+sku) != ""})
		}
	}
	err = p.Commands.Execute(r.Context(), cqrs.Command{Body: c})
	return "The return is requested.", "/ui/orders/" + url.PathEscape(c.OrderID), err
}

// arriveParcel simulates the arrival of the parcel of a return while the sandbox runs.
func (p Pages) arriveParcel(r *http.Request) (notice, next string, err error) {
	id := r.PathValue("id")
	if p.ParcelArrived == nil {
		return "", "", cqrs.ErrNotFound
	}
	return "The parcel has arrived at the warehouse.", "/ui/orders/" + url.PathEscape(id), p.ParcelArrived(r.Context(), order.ParcelNumber(id))
}
