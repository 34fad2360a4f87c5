package shipment_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

func book(s *shipment.Shipment) error   { return s.Book("s-1", "o-1", "carrier", "track-1") }
func refuse(s *shipment.Shipment) error { return s.Refuse("s-1", "o-1", "too heavy") }
func cancel(s *shipment.Shipment) error { return s.Cancel("s-1", "o-1") }

func TestShipment(t *testing.T) {
	aShipment := aggregatetest.For(shipment.Rebuild)
	booked := shipment.Booked{ShipmentID: "s-1", OrderID: "o-1", Carrier: "carrier", Tracking: "track-1"}
	refused := shipment.Refused{ShipmentID: "s-1", OrderID: "o-1", Reason: "too heavy"}
	cancelled := shipment.Cancelled{ShipmentID: "s-1", OrderID: "o-1"}

	t.Run("booked", aShipment.Given().When(book).Then(booked))
	t.Run("booked once", aShipment.Given(booked).When(book).Nothing())
	t.Run("refused", aShipment.Given().When(refuse).Then(refused))
	t.Run("booked: not refused afterwards", aShipment.Given(booked).When(refuse).Refused(shipment.ErrAnswered))
	t.Run("refused: not booked afterwards", aShipment.Given(refused).When(book).Refused(shipment.ErrAnswered))
	t.Run("cancelled", aShipment.Given(booked).When(cancel).Then(cancelled))
	t.Run("never booked: cancelled all the same", aShipment.Given().When(cancel).Then(cancelled))
	t.Run("cancelled first: never booked", aShipment.Given(cancelled).When(book).Refused(shipment.ErrCancelled))
}

// After any sequence of commands no shipment is booked after it was refused or cancelled, and a rebuild gives the state that recorded the events.
func TestShipmentProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := shipment.Rebuild(nil)
		ended := false
		for range rapid.IntRange(0, 20).Draw(t, "commands") {
			command := rapid.SampledFrom([]func(*shipment.Shipment) error{book, refuse, cancel}).Draw(t, "command")
			_ = command(s)
			if ended && s.Status() == shipment.IsBooked {
				t.Fatal("booked after its end")
			}
			ended = ended || s.Status() == shipment.IsRefused || s.Status() == shipment.IsCancelled
		}
		var history []shipment.Event
		for _, e := range s.Changes() {
			history = append(history, e.(shipment.Event))
		}
		if again := shipment.Rebuild(history); again.Status() != s.Status() {
			t.Fatalf("folded to %s, was %s", again.Status(), s.Status())
		}
	})
}
