package sagatest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type (
	Trip          struct{}
	TripRequested struct{}
	SeatReserved  struct{}
	SeatReleased  struct{}
	CardDeclined  struct{}
	CardCharged   struct{}
	TripCancelled struct{}

	ReserveSeat struct{}
	ReleaseSeat struct{}
	ChargeCard  struct{}
	CancelTrip  struct{ Reason string }
)

func (ReserveSeat) Key() string { return "trip-1" }
func (ReleaseSeat) Key() string { return "trip-1" }
func (ChargeCard) Key() string  { return "trip-1" }
func (CancelTrip) Key() string  { return "trip-1" }

var booking = saga.Definition[Trip]{
	Name: "booking", Version: 1, Start: saga.Event[TripRequested, Trip](),
	Steps: []saga.Step[Trip]{
		{
			Name: "reserve seat", Timeout: time.Minute,
			Action: func(Trip) cqrs.Keyed { return ReserveSeat{} }, Completed: saga.Event[SeatReserved, Trip](),
			Compensation: func(Trip) cqrs.Keyed { return ReleaseSeat{} }, Compensated: saga.Event[SeatReleased, Trip](),
		},
		{
			Name: "charge card", Timeout: time.Minute, Pivot: true,
			Action: func(Trip) cqrs.Keyed { return ChargeCard{} }, Completed: saga.Event[CardCharged, Trip](),
			Refused: []saga.Refusal{saga.RefusedBy(func(CardDeclined) string { return "card declined" })},
		},
	},
	OnCompensated: saga.FinalStep[Trip]{
		Name: "cancel trip", Timeout: time.Minute,
		Action: func(_ Trip, reason string) cqrs.Keyed { return CancelTrip{reason} }, Completed: saga.Event[TripCancelled, Trip](),
	},
}

// Given what has happened, when an event comes, then these commands are sent. Each is a test: t.Run("reserve", trip.Given()…).
func ExampleFor() {
	t := new(testing.T)
	trip := sagatest.For(booking)
	trip.Given().When(TripRequested{}).Then(ReserveSeat{})(t)
	trip.Given(TripRequested{}, SeatReserved{}).When(CardDeclined{}).Then(ReleaseSeat{})(t)
	trip.Given(TripRequested{}).When(sagatest.TimeOut{}).Then(ReleaseSeat{})(t)
	trip.Given(TripRequested{}, SeatReserved{}, CardDeclined{}, SeatReleased{}).When(TripCancelled{}).Ends(saga.StatusCompensated)(t)
	fmt.Println("failed:", t.Failed())
	// Output: failed: false
}
