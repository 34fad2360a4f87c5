package fulfilment_test

import (
	"testing"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
	"github.com/millrace/millrace/sagas/fulfilment"
)

var (
	lines  = []order.Line{{SKU: "MUG-01", Quantity: 2, UnitPrice: 1250}, {SKU: "TEE-02", Quantity: 1, UnitPrice: 1999}}
	total  = money.Money{Amount: 4499, Currency: "EUR"}
	placed = order.Placed{OrderID: "o", CustomerID: "guest", Lines: lines, Total: total, PaymentMethod: "pm_ok"}

	reserved   = inventory.Reserved{SKU: "MUG-01", OrderID: "o", Quantity: 2}
	released   = inventory.Released{SKU: "MUG-01", OrderID: "o", Quantity: 2}
	authorised = payment.Authorised{PaymentID: "o", OrderID: "o", Amount: total}
	voided     = payment.Voided{PaymentID: "o", OrderID: "o"}
	booked     = shipment.Booked{ShipmentID: "o", OrderID: "o"}
	unbooked   = shipment.Cancelled{ShipmentID: "o", OrderID: "o"}
	captured   = payment.Captured{PaymentID: "o", OrderID: "o", Amount: total}
	committed  = inventory.Committed{SKU: "MUG-01", OrderID: "o", Quantity: 2}
	confirmed  = order.Confirmed{OrderID: "o"}
	cancelled  = order.Cancelled{OrderID: "o"}

	reserve   = command.ReserveStock{OrderID: "o", Lines: lines}
	release   = command.ReleaseStock{OrderID: "o", Lines: lines}
	authorise = command.AuthorisePayment{PaymentID: "o", OrderID: "o", Amount: total, Method: "pm_ok"}
	void      = command.VoidPayment{PaymentID: "o", OrderID: "o"}
	book      = command.BookShipment{ShipmentID: "o", OrderID: "o", Lines: lines}
	unbook    = command.CancelShipment{ShipmentID: "o", OrderID: "o"}
	capture   = command.CapturePayment{PaymentID: "o", OrderID: "o", Amount: total}
	commit    = command.CommitStock{OrderID: "o", Lines: lines}
	confirm   = command.ConfirmOrder{OrderID: "o"}

	timeOut = sagatest.TimeOut{}
	byHand  = saga.Cancel{Reason: "cancelled by the customer"}
)

func cancel(reason string) cqrs.Keyed { return command.CancelOrder{OrderID: "o", Reason: reason} }

var theSaga = sagatest.For(fulfilment.Definition)

func TestForwards(t *testing.T) {
	t.Run("placed", theSaga.Given().When(placed).Then(reserve))
	t.Run("placed twice", theSaga.Given(placed).When(saga.Start{Event: placed, Subject: "o"}).Then())
	t.Run("reserved", theSaga.Given(placed).When(reserved).Then(authorise))
	t.Run("authorised", theSaga.Given(placed, reserved).When(authorised).Then(book))
	t.Run("booked", theSaga.Given(placed, reserved, authorised).When(booked).Then(capture))
	t.Run("captured", theSaga.Given(placed, reserved, authorised, booked).When(captured).Then(commit))
	t.Run("committed", theSaga.Given(placed, reserved, authorised, booked, captured).When(committed).Then(confirm))
	t.Run("confirmed", theSaga.Given(placed, reserved, authorised, booked, captured, committed).When(confirmed).Ends(saga.StatusCompleted))
}

func TestRefused(t *testing.T) {
	t.Run("no stock", theSaga.Given(placed).When(inventory.Rejected{Reason: "out of stock"}).Then(cancel("out of stock")))
	t.Run("declined", theSaga.Given(placed, reserved).When(payment.Declined{Reason: "declined"}).Then(release))
	t.Run("carrier says no", theSaga.Given(placed, reserved, authorised).When(shipment.Refused{Reason: "heavy"}).Then(void))
	t.Run("capture refused", theSaga.Given(placed, reserved, authorised, booked).When(payment.CaptureRefused{Reason: "no"}).Then(unbook))
	t.Run("refused without an event", theSaga.Given(placed, reserved).When(saga.Refused{Reason: "no"}).Then(release))
}

func TestBackwards(t *testing.T) {
	refused := []any{placed, reserved, authorised, booked, payment.CaptureRefused{Reason: "no"}}
	t.Run("unbooked", theSaga.Given(refused...).When(unbooked).Then(void))
	t.Run("voided", theSaga.Given(append(refused, unbooked)...).When(voided).Then(release))
	t.Run("released", theSaga.Given(append(refused, unbooked, voided)...).When(released).Then(cancel("no")))
	t.Run("nothing to release", theSaga.Given(append(refused, unbooked, voided)...).When(saga.NothingToCompensate{}).Then(cancel("no")))
	t.Run("cancelled", theSaga.Given(append(refused, unbooked, voided, released)...).When(cancelled).Ends(saga.StatusCompensated))
	t.Run("no answer: asked again", theSaga.Given(refused...).When(timeOut).Then(unbook))
	t.Run("refused: stuck", theSaga.Given(append(refused, unbooked)...).When(saga.Refused{Reason: "captured"}).Ends(saga.StatusStuck))
}

// The courier replaces the carrier.
func TestCourier(t *testing.T) {
	bookCourier := command.BookCourier{BookShipment: command.BookShipment{ShipmentID: "courier-o", OrderID: "o", Lines: lines}}
	unbookCourier := command.CancelCourier{CancelShipment: command.CancelShipment{ShipmentID: "courier-o", OrderID: "o"}}
	full := shipment.Refused{Reason: "the carrier has no room"}
	open := theSaga.While(func(c cqrs.Keyed) bool { _, is := c.(command.BookShipment); return is })
	t.Run("the carrier has no room", theSaga.Given(placed, reserved, authorised).When(full).Then(bookCourier))
	t.Run("the carrier's breaker is open", open.Given(placed, reserved).When(authorised).Then(bookCourier))
	t.Run("the carrier does not answer", theSaga.Given(placed, reserved, authorised, timeOut).When(unbooked).Then(bookCourier))
	t.Run("booked: captured", theSaga.Given(placed, reserved, authorised, full).When(booked).Then(capture))
	t.Run("not captured: undone", theSaga.Given(placed, reserved, authorised, full, booked).When(payment.CaptureRefused{Reason: "no"}).Then(unbookCourier))
	t.Run("undone: void", theSaga.Given(placed, reserved, authorised, full, booked, payment.CaptureRefused{Reason: "no"}).When(unbooked).Then(void))
	t.Run("before there was one", sagatest.For(fulfilment.V1).Given(placed, reserved, authorised).When(full).Then(void))
}

// A step that timed out may have taken effect, so it is compensated too.
func TestTimedOut(t *testing.T) {
	t.Run("reserve stock", theSaga.Given(placed).When(timeOut).Then(release))
	t.Run("authorise payment", theSaga.Given(placed, reserved).When(timeOut).Then(void))
	t.Run("book shipment", theSaga.Given(placed, reserved, authorised).When(timeOut).Then(unbook))
	t.Run("why", theSaga.Given(placed, timeOut).When(released).Then(cancel("reserve stock: no answer in time")))
	t.Run("the pivot is asked again", theSaga.Given(placed, reserved, authorised, booked).When(timeOut).Leaves(saga.StatusRunning, capture))
	t.Run("take stock out is asked again", theSaga.Given(placed, reserved, authorised, booked, captured).When(timeOut).Leaves(saga.StatusRunning, commit))
	t.Run("late answer changes nothing", theSaga.Given(placed, reserved, timeOut).
		When(sagatest.Late{Event: authorised, Step: "authorise payment", Branch: cqrs.BranchAction}).Leaves(saga.StatusCompensating))
	t.Run("late refusal changes nothing", theSaga.Given(placed, reserved, timeOut).
		When(sagatest.Late{Event: payment.Declined{}, Step: "authorise payment", Branch: cqrs.BranchAction}).Leaves(saga.StatusCompensating))
}

func TestCustomerCancels(t *testing.T) {
	t.Run("while reserving: in doubt", theSaga.Given(placed).When(byHand).Then(release))
	t.Run("while authorising: in doubt", theSaga.Given(placed, reserved).When(byHand).Then(void))
	t.Run("while booking: in doubt", theSaga.Given(placed, reserved, authorised).When(byHand).Then(unbook))
	t.Run("at the pivot: too late", theSaga.Given(placed, reserved, authorised, booked).When(byHand).Refused(saga.ErrTooLate))
	t.Run("after the pivot: too late", theSaga.Given(placed, reserved, authorised, booked, captured).When(byHand).Refused(saga.ErrTooLate))
	t.Run("cancelled twice: accepted twice, compensated once", theSaga.Given(placed, reserved, byHand).When(byHand).Then())
	t.Run("cancelled and compensated: accepted again", theSaga.Given(placed, byHand, released, cancelled).When(byHand).Ends(saga.StatusCompensated))
	t.Run("compensating for another reason: too late", theSaga.Given(placed, reserved, payment.Declined{Reason: "declined"}).When(byHand).Refused(saga.ErrTooLate))
	t.Run("why", theSaga.Given(placed, byHand).When(released).Then(cancel("cancelled by the customer")))
}

// One command reserves several lines, and each SKU records an event. The first event completes the step.
func TestSecondEventOfACommandIsIgnored(t *testing.T) {
	second := sagatest.Late{Event: inventory.Reserved{SKU: "TEE-02", OrderID: "o", Quantity: 1}, Step: "reserve stock", Branch: cqrs.BranchAction}
	t.Run("nothing", theSaga.Given(placed, reserved).When(second).Leaves(saga.StatusRunning))
}

// The check at the start that every command has a handler covers all commands of this saga.
func TestSagaListsItsCommands(t *testing.T) {
	sends := saga.New(fulfilment.Definition).Sends()
	if len(sends) < 10 {
		t.Errorf("only %d: %+v", len(sends), sends)
	}
}
