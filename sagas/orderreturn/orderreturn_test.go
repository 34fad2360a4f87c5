package orderreturn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/external"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
	"github.com/millrace/millrace/sagas/orderreturn"
)

var (
	mug    = order.Line{SKU: "MUG-01", Quantity: 2, UnitPrice: 1250}
	tee    = order.Line{SKU: "TEE-02", Quantity: 1, UnitPrice: 1999}
	refund = money.Money{Amount: 2500, Currency: "EUR"}

	// The mugs are refunded, the tee is replaced.
	requested = order.ReturnRequested{OrderID: "o", ParcelNumber: "R-o", Refund: refund, Lines: []order.ReturnLine{{Line: mug}, {Line: tee, Replace: true}}}

	reserved  = inventory.Reserved{SKU: "TEE-02", OrderID: "o", Quantity: 1}
	released  = inventory.Released{SKU: "TEE-02", OrderID: "o", Quantity: 1}
	arrived   = external.ParcelArrived{ParcelNumber: "R-o"}
	accepted  = order.GoodsAccepted{OrderID: "o"}
	refunded  = payment.Refunded{PaymentID: "o", OrderID: "o", Amount: refund}
	putBack   = inventory.PutBack{SKU: "MUG-01", OrderID: "o", Quantity: 2}
	takenOut  = inventory.Committed{SKU: "TEE-02", OrderID: "o", Quantity: 1}
	shipped   = shipment.Booked{ShipmentID: "replacement-o-TEE-02", OrderID: "o"}
	fine      = inspected(orderreturn.Inspection{Accepted: true})
	damaged   = inspected(orderreturn.Inspection{Accepted: true, Damaged: true})
	notOurs   = inspected(orderreturn.Inspection{Note: "not our goods"})
	rejected  = order.GoodsRejected{OrderID: "o", Reason: "not our goods"}
	timeOut   = sagatest.TimeOut{}
	reserve   = command.ReserveStock{OrderID: "o", Lines: []order.Line{tee}}
	release   = command.ReleaseStock{OrderID: "o", Lines: []order.Line{tee}}
	remind    = command.RemindReturn{OrderID: "o"}
	accept    = command.AcceptGoods{OrderID: "o"}
	giveBack  = command.RefundPayment{PaymentID: "o", OrderID: "o", Amount: refund}
	putGoods  = command.PutBackStock{OrderID: "o", Lines: []order.Line{mug, tee}}
	takeOut   = command.CommitStock{OrderID: "o", Lines: []order.Line{tee}}
	ship      = command.BookShipment{ShipmentID: "replacement-o-TEE-02", OrderID: "o", Lines: []order.Line{tee}}
	closes    = command.CloseReturn{OrderID: "o"}
	theReturn = sagatest.For(orderreturn.Definition)
)

func inspected(i orderreturn.Inspection) saga.SignalInput {
	return saga.SignalInput{Name: orderreturn.SignalInspection, By: "ada", Payload: i}
}

func reject(reason string) cqrs.Keyed { return command.RejectReturn{OrderID: "o", Reason: reason} }

func given(more ...any) sagatest.Scenario {
	return theReturn.Given(append([]any{requested}, more...)...)
}

func TestForwards(t *testing.T) {
	t.Run("requested", given().When(saga.Start{Event: requested, Subject: "o"}).Then())
	t.Run("replacements are reserved", theReturn.Given().When(requested).Then(reserve))
	t.Run("waits for the parcel", given().When(reserved).Leaves(saga.StatusRunning))
	t.Run("waits for the inspection", given(reserved).When(arrived).Leaves(saga.StatusRunning))
	t.Run("the parcel is faster than the reservation", given(arrived).When(reserved).Leaves(saga.StatusRunning))
	t.Run("inspected", given(reserved, arrived).When(fine).Then(accept))
	t.Run("accepted", given(reserved, arrived, fine).When(accepted).Then(giveBack, putGoods, takeOut))
	t.Run("two of three", given(reserved, arrived, fine, accepted, refunded).When(putBack).Then())
	t.Run("all three", given(reserved, arrived, fine, accepted, refunded, putBack).When(takenOut).Then(ship))
	t.Run("shipped", given(reserved, arrived, fine, accepted, refunded, putBack, takenOut).When(shipped).Then(closes))
	t.Run("closed", given(reserved, arrived, fine, accepted, refunded, putBack, takenOut, shipped).When(order.Returned{}).Ends(saga.StatusCompleted))
}

func TestReminder(t *testing.T) {
	t.Run("after ten days", given(reserved).When(timeOut).Leaves(saga.StatusRunning, remind))
	t.Run("the parcel arrives after that", given(reserved, timeOut, arrived).When(fine).Then(accept))
	t.Run("after fourteen days: released", given(reserved, timeOut).When(timeOut).Then(release))
	t.Run("and rejected", given(reserved, timeOut, timeOut).When(released).Then(reject("wait for parcel: no answer in time")))
}

func TestSkipped(t *testing.T) {
	t.Run("damaged goods are not put back", given(reserved, arrived, damaged).When(order.GoodsAccepted{Damaged: true}).Then(giveBack, takeOut))
	t.Run("nobody inspects: accepted, and not put back", given(reserved, arrived).When(timeOut).Then(command.AcceptGoods{OrderID: "o", Damaged: true}))

	nothing := requested
	nothing.Lines, nothing.Refund.Amount = requested.Lines[1:], 0
	t.Run("all is replaced: nothing is refunded", theReturn.Given(nothing, reserved, arrived, damaged).When(accepted).Then(takeOut))

	all := requested
	all.Lines = []order.ReturnLine{{Line: mug}}
	t.Run("nothing is replaced: nothing is reserved", theReturn.Given().When(all).Leaves(saga.StatusRunning))
	t.Run("nothing is replaced: nothing is shipped", theReturn.Given(all, arrived, fine, accepted, refunded).When(putBack).Then(closes))
	t.Run("nothing is replaced: rejected at once", theReturn.Given(all, arrived, notOurs).When(rejected).Then(reject("not our goods")))
}

func TestRefused(t *testing.T) {
	t.Run("no replacement", given().When(inventory.Rejected{Reason: "out of stock"}).Then(reject("out of stock")))
	t.Run("the inspector rejects", given(reserved, arrived).When(notOurs).Then(command.AcceptGoods{OrderID: "o", Rejected: "not our goods"}))
	t.Run("rejected: released", given(reserved, arrived, notOurs).When(rejected).Then(release))
	t.Run("released: closed with the reason", given(reserved, arrived, notOurs, rejected).When(released).Then(reject("not our goods")))
	t.Run("closed", given(reserved, arrived, notOurs, rejected, released).When(order.ReturnRejected{}).Ends(saga.StatusCompensated))
	t.Run("the signal comes too early", given(reserved).When(fine).Refused(saga.ErrNotAwaited))
	t.Run("cancelled by an operator", given(reserved).When(saga.Cancel{Reason: "no"}).Then(release))
}

// After the pivot every step is retried until it succeeds.
func TestAfterThePivot(t *testing.T) {
	done := []any{reserved, arrived, fine, accepted}
	t.Run("the pivot is asked again", given(done[:3]...).When(timeOut).Leaves(saga.StatusRunning, accept))
	t.Run("refund refused: stuck", given(done...).When(payment.RefundRefused{Reason: "account closed"}).Ends(saga.StatusStuck))
	t.Run("no carrier: stuck", given(append(done, refunded, putBack, takenOut)...).When(shipment.Refused{Reason: "too heavy"}).Ends(saga.StatusStuck))
	t.Run("cancelled: too late", given(done...).When(saga.Cancel{Reason: "no"}).Refused(saga.ErrTooLate))
}

func TestARejectionNeedsAReason(t *testing.T) {
	require.NoError(t, orderreturn.Inspection{Accepted: true}.Validate())
	require.NoError(t, orderreturn.Inspection{Note: "not our goods"}.Validate())
	require.ErrorContains(t, orderreturn.Inspection{Note: " "}.Validate(), "note")
}
