// Package inventory is the stock of a SKU and its reservations for orders.
package inventory

import (
	"maps"
	"math"

	"github.com/millrace/millrace/kit/aggregate"
)

// Category names the streams and topics of this aggregate.
const Category = "inventory"

// Refusals of Stock.
var (
	ErrQuantity    = aggregate.Refuse("a quantity is at least 1")
	ErrTooMuch     = aggregate.Refuse("the stock cannot count that many")
	ErrNotReserved = aggregate.Refuse("nothing is reserved for this order")
	ErrSKU         = aggregate.Refuse("a stock needs a SKU")
)

// Stock is the aggregate of one SKU. Its rules: the reserved quantity is at most the quantity on hand; an order has at most one reservation; the quantities
// on hand and reserved are never negative.
type Stock struct {
	aggregate.Root[Event]
	state state
}

// state is the content of a snapshot. It has only the open reservations, so it does not grow with the history of the stock.
type state struct {
	Known        bool             `json:"known"` // the SKU has a receipt
	OnHand       int64            `json:"on_hand"`
	Reserved     int64            `json:"reserved"`
	Reservations map[string]int64 `json:"reservations"`
}

// Rebuild rebuilds a Stock from its history.
func Rebuild(history []Event) *Stock {
	s := &Stock{state: state{Reservations: map[string]int64{}}}
	s.Replay(s.apply, history)
	return s
}

// State returns the content of a snapshot.
func (s *Stock) State() any { return &s.state }

// Continue applies the events after a snapshot.
func (s *Stock) Continue(history []Event) { s.Replay(s.apply, history) }

// OnHand is the quantity in the warehouse.
func (s *Stock) OnHand() int64 { return s.state.OnHand }

// Reserved is the part of OnHand that is reserved.
func (s *Stock) Reserved() int64 { return s.state.Reserved }

// Available is the part of OnHand that is not reserved.
func (s *Stock) Available() int64 { return s.state.OnHand - s.state.Reserved }

// Reservations returns the reserved quantities by the ids of their orders.
func (s *Stock) Reservations() map[string]int64 { return maps.Clone(s.state.Reservations) }

// Receive adds received goods. Errors are ErrSKU, ErrQuantity or ErrTooMuch.
func (s *Stock) Receive(sku string, quantity int64) error {
	switch {
	case sku == "":
		return ErrSKU
	case quantity < 1:
		return ErrQuantity
	case s.state.OnHand > math.MaxInt64-quantity:
		return ErrTooMuch
	}
	s.Record(s.apply, Received{sku, quantity})
	return nil
}

// PutBack adds goods of a returned order. They came from this stock, so they are not received again. Errors are ErrQuantity or ErrTooMuch.
func (s *Stock) PutBack(sku, orderID string, quantity int64) error {
	switch {
	case quantity < 1:
		return ErrQuantity
	case s.state.OnHand > math.MaxInt64-quantity:
		return ErrTooMuch
	}
	s.Record(s.apply, PutBack{sku, orderID, quantity})
	return nil
}

// Lack returns the reason why quantity cannot be reserved, or the empty string if it can be reserved.
func (s *Stock) Lack(sku string, quantity int64) string {
	switch {
	case !s.state.Known:
		return "out of stock: " + sku + ", of which nothing was ever received"
	case quantity > s.Available():
		return "out of stock: " + sku
	}
	return ""
}

// Reserve reserves a quantity for an order. If the stock does not suffice, it records a rejection. A second reservation for an order changes nothing.
func (s *Stock) Reserve(sku, orderID string, quantity int64) error {
	if quantity < 1 {
		return ErrQuantity
	}
	if _, again := s.state.Reservations[orderID]; again {
		return nil
	}
	if reason := s.Lack(sku, quantity); reason != "" {
		s.Record(s.apply, Rejected{sku, orderID, quantity, s.Available(), reason})
		return nil
	}
	s.Record(s.apply, Reserved{sku, orderID, quantity})
	return nil
}

// Release releases the reservation of an order. If there is none, it records a release of quantity 0.
func (s *Stock) Release(sku, orderID string) error {
	s.Record(s.apply, Released{sku, orderID, s.state.Reservations[orderID]})
	return nil
}

// Commit removes the reserved goods of an order from the stock. The error is ErrNotReserved if there is no reservation.
func (s *Stock) Commit(sku, orderID string) error {
	quantity, ok := s.state.Reservations[orderID]
	if !ok {
		return ErrNotReserved
	}
	s.Record(s.apply, Committed{sku, orderID, quantity})
	return nil
}
