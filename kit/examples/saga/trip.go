package main

import (
	"context"
	"fmt"
	"time"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// The events and commands of a trip.
type (
	TripRequested struct{ ID, To string }
	SeatReserved  struct{ Seat string }
	SeatReleased  struct{}
	CardCharged   struct{}
	TripCancelled struct{}

	ReserveSeat struct{ Trip, To string }
	ReleaseSeat struct{ Trip, Seat string }
	ChargeCard  struct{ Trip string }
	CancelTrip  struct{ Trip, Reason string }
)

// Key returns the message key. Messages with the same key are delivered in order.
func (e TripRequested) Key() string { return e.ID }
func (c ReserveSeat) Key() string   { return c.Trip }
func (c ReleaseSeat) Key() string   { return c.Trip }
func (c ChargeCard) Key() string    { return c.Trip }
func (c CancelTrip) Key() string    { return c.Trip }

// Trip is the data of an instance of the saga.
type Trip struct{ ID, To, Seat string }

// definition reserves a seat, then charges the card. If the card is refused, the seat is released and the trip is cancelled.
var definition = saga.Definition[Trip]{
	Name: "booking", Version: 1,
	Start: saga.On(func(t *Trip, e TripRequested) { t.ID, t.To = e.ID, e.To }),
	Steps: []saga.Step[Trip]{
		{
			Name: "reserve seat", Timeout: time.Minute,
			Action:       func(t Trip) cqrs.Keyed { return ReserveSeat{t.ID, t.To} },
			Completed:    saga.On(func(t *Trip, e SeatReserved) { t.Seat = e.Seat }),
			Compensation: func(t Trip) cqrs.Keyed { return ReleaseSeat{t.ID, t.Seat} },
			Compensated:  saga.Event[SeatReleased, Trip](),
		},
		{
			Name: "charge card", Timeout: time.Minute, Pivot: true,
			Action:    func(t Trip) cqrs.Keyed { return ChargeCard{t.ID} },
			Completed: saga.Event[CardCharged, Trip](),
		},
	},
	OnCompensated: saga.FinalStep[Trip]{
		Name: "cancel trip", Timeout: time.Minute,
		Action:    func(t Trip, reason string) cqrs.Keyed { return CancelTrip{t.ID, reason} },
		Completed: saga.Event[TripCancelled, Trip](),
	},
}

// participants returns the handlers of the saga's commands. Each handler answers with an event, or refuses its command.
func participants(events *wcqrs.EventBus) []wcqrs.CommandHandler {
	return []wcqrs.CommandHandler{
		wcqrs.NewCommandHandler("reserve seat", func(ctx context.Context, c *ReserveSeat) error {
			fmt.Println("reserve a seat to", c.To)
			return events.Publish(ctx, SeatReserved{"12A"})
		}),
		wcqrs.NewCommandHandler("charge card", func(context.Context, *ChargeCard) error {
			return aggregate.Refuse("the card has expired")
		}),
		wcqrs.NewCommandHandler("release seat", func(ctx context.Context, c *ReleaseSeat) error {
			fmt.Println("release seat", c.Seat)
			return events.Publish(ctx, SeatReleased{})
		}),
		wcqrs.NewCommandHandler("cancel trip", func(ctx context.Context, c *CancelTrip) error {
			fmt.Println("cancel the trip:", c.Reason)
			return events.Publish(ctx, TripCancelled{})
		}),
	}
}
