// Package shipment is the shipment of one order by a carrier.
package shipment

import "github.com/millrace/millrace/kit/aggregate"

// Category names the streams and topics of this aggregate.
const Category = "shipments"

// Refusals of a shipment.
var (
	ErrCancelled = aggregate.Refuse("the shipment is cancelled")
	ErrAnswered  = aggregate.Refuse("the carrier has already given another answer")
)

// Status is the status of a shipment.
type Status string

// A shipment is new until the carrier has answered. Refused and cancelled are final.
const (
	New         Status = ""
	IsBooked    Status = "booked"
	IsRefused   Status = "refused"
	IsCancelled Status = "cancelled"
)

// Shipment is the aggregate. Rules: a cancelled or refused shipment is never booked.
type Shipment struct {
	aggregate.Root[Event]
	status Status
}

// Rebuild folds a history.
func Rebuild(history []Event) *Shipment {
	s := &Shipment{}
	s.Replay(s.apply, history)
	return s
}

// Status is where it stands.
func (s *Shipment) Status() Status { return s.status }

// Book records the carrier's acceptance. Repeating it changes nothing.
func (s *Shipment) Book(id, orderID, carrier, tracking string) error {
	switch s.status {
	case New:
		s.Record(s.apply, Booked{id, orderID, carrier, tracking})
		return nil
	case IsBooked:
		return nil
	case IsRefused:
		return ErrAnswered
	case IsCancelled:
	}
	return ErrCancelled
}

// Refuse records the carrier's refusal.
func (s *Shipment) Refuse(id, orderID, reason string) error {
	switch s.status {
	case New:
		s.Record(s.apply, Refused{id, orderID, reason})
		return nil
	case IsRefused:
		return nil
	case IsBooked:
		return ErrAnswered
	case IsCancelled:
	}
	return ErrCancelled
}

// Cancel records that the booking was cancelled. Cancelling a shipment that was never booked succeeds, and rejects a later booking.
func (s *Shipment) Cancel(id, orderID string) error {
	s.Record(s.apply, Cancelled{id, orderID})
	return nil
}
