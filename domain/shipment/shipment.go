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

// Statuses of a shipment. A shipment is new until the carrier has answered. Cancelled is final.
const (
	New         Status = ""
	IsBooked    Status = "booked"
	IsRefused   Status = "refused"
	IsCancelled Status = "cancelled"
)

// Shipment is the aggregate of a shipment. Its rule: a cancelled or refused shipment is never booked.
type Shipment struct {
	aggregate.Root[Event]
	status Status
}

// Rebuild rebuilds a Shipment from its history.
func Rebuild(history []Event) *Shipment {
	s := &Shipment{}
	s.Replay(s.apply, history)
	return s
}

// Status is the current status.
func (s *Shipment) Status() Status { return s.status }

// Book records that the carrier has accepted the shipment. Repeating it changes nothing. Errors are ErrAnswered or ErrCancelled.
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

// Refuse records that the carrier has refused the shipment. Repeating it changes nothing. Errors are ErrAnswered or ErrCancelled.
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

// Cancel records that the booking was cancelled. Cancelling a shipment that was never booked succeeds, and makes a later booking fail.
func (s *Shipment) Cancel(id, orderID string) error {
	s.Record(s.apply, Cancelled{id, orderID})
	return nil
}
