// Command trips is a service whose saga uses all kinds of steps: a stage of three parallel steps, a step that a condition skips, a delay, a step that is
// repeated until its condition holds, a step that waits for a person's approval, a step that runs once for each traveller, a step that waits for a
// letter, and a step that starts another saga. The participants are in the same program. A request tells how they behave, so that refusals, slow
// answers and compensations can be tried:
//
//	go run ./examples/trips
//	curl localhost:8080/trips -d '{"id":"t-1","luggage":true,"cooling_off":"2s","visa_checks":3,"bookings":{"room":{"takes":"1s"}}}'
package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/settings"
)

func main() { os.Exit(runner.Main(service())) }

// trips, bookings, naps and letters are the types of aggregates. They record events and decide nothing.
var (
	trips = runner.AggregateOf("trips", aggregate.TypesOf(
		aggregate.NewType[TripRequested]("trip.requested"), aggregate.NewType[CardCharged]("trip.card-charged"),
		aggregate.NewType[TripConfirmed]("trip.confirmed"), aggregate.NewType[TripCancelled]("trip.cancelled"),
	), rebuild, eventstore.Options{})
	bookings = runner.AggregateOf("bookings", aggregate.TypesOf(
		aggregate.NewType[Held]("booking.held"), aggregate.NewType[Refused]("booking.refused"), aggregate.NewType[Released]("booking.released"),
		aggregate.NewType[VisaChecked]("booking.visa-checked"), aggregate.NewType[TicketIssued]("booking.ticket-issued"),
		aggregate.NewType[Reminded]("booking.reminded"), aggregate.NewType[ItinerarySent]("booking.itinerary-sent"),
	), rebuild, eventstore.Options{})
	naps    = runner.AggregateOf("naps", aggregate.TypesOf(aggregate.NewType[NapTaken]("nap.taken"), aggregate.NewType[WokenUp]("nap.woken-up")), rebuild, eventstore.Options{})
	letters = runner.AggregateOf("letters", aggregate.TypesOf(aggregate.NewType[DocumentsDelivered]("letter.documents-delivered")), rebuild, eventstore.Options{})
)

// Recorder is an aggregate that counts its events.
type Recorder struct {
	aggregate.Root[any]
	events int
}

func rebuild(history []any) *Recorder {
	r := &Recorder{}
	r.Replay(r.apply, history)
	return r
}

func (r *Recorder) apply(any) { r.events++ }

func service() runner.Service {
	return runner.Service{
		Name: "trips", Title: "Trips", Summary: "Trips that are booked by a saga with parallel steps",
		Settings:   []settings.Setting{settings.Text("REFUSALS", "")}, // a folder: while it has a file t-1.seat, the seat of trip t-1 is not released, and likewise ticket t-1.ticket-2 is not issued
		Aggregates: []runner.Aggregate{trips, bookings, letters, naps},
		Commands: func(k *runner.Kit) []cqrs.Handler {
			return commands(trips.Store(k), bookings.Store(k), letters.Store(k), naps.Store(k), func() string { return k.Text("REFUSALS") })
		},
		Sagas:      []*saga.Saga{saga.New(definition), saga.New(stay), saga.New(itinerary), saga.New(nap)},
		Database:   postgres.Open,
		EventStore: eventstore.New,
		Broker: func(e runner.BrokerEnv) (broker.Broker, error) {
			if e.Config.Broker == runner.InPostgres {
				return broker.OpenPostgres(e.DSN, e.DB, e.Log)
			}
			e.Kafka.Records = kafka.CloudEvents{}
			return broker.Kafka(e.Kafka, e.Options), nil
		},
		Mounts: func(k *runner.Kit) []httpapi.Mount {
			return []httpapi.Mount{{Pattern: "/trips", Handler: request[RequestTrip](k)}, {Pattern: "/letters", Handler: request[DeliverDocuments](k)}, {Pattern: "/naps", Handler: request[TakeNap](k)}}
		},
	}
}

// request returns an HTTP handler that executes a command of type C.
func request[C any](k *runner.Kit) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var c C
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&c); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := k.Commands().Execute(r.Context(), cqrs.Command{Body: c}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// commands returns the handlers of all commands. The handler of Hold simulates a slow external service.
func commands(trips, bookings, letters, naps cqrs.Store[*Recorder], refusals func() string) []cqrs.Handler {
	record := func(ctx context.Context, store cqrs.Store[*Recorder], id string, event func(*Recorder) any) error {
		return store.Update(ctx, id, func(r *Recorder) error { r.Record(r.apply, event(r)); return nil })
	}
	always := func(event any) func(*Recorder) any { return func(*Recorder) any { return event } }
	return slices.Concat(
		cqrs.ForAggregate("naps",
			cqrs.Handle("TakeNap", func(ctx context.Context, c TakeNap) error { return record(ctx, naps, c.ID, always(NapTaken(c))) }),
			cqrs.Handle("WakeUp", func(ctx context.Context, c WakeUp) error { return record(ctx, naps, c.ID, always(WokenUp{})) }),
		),
		cqrs.ForAggregate("letters", cqrs.Handle("DeliverDocuments", func(ctx context.Context, c DeliverDocuments) error {
			return record(ctx, letters, c.Letter, always(DocumentsDelivered{c.Trip}))
		})),
		cqrs.ForAggregate("trips",
			cqrs.Handle("RequestTrip", func(ctx context.Context, c RequestTrip) error {
				return record(ctx, trips, c.ID, always(TripRequested(c)))
			}),
			cqrs.Handle("ChargeCard", func(ctx context.Context, c ChargeCard) error { return record(ctx, trips, c.ID, always(CardCharged{})) }),
			cqrs.Handle("ConfirmTrip", func(ctx context.Context, c ConfirmTrip) error {
				return record(ctx, trips, c.ID, always(TripConfirmed{}))
			}),
			cqrs.Handle("CancelTrip", func(ctx context.Context, c CancelTrip) error {
				return record(ctx, trips, c.ID, always(TripCancelled{c.Reason}))
			}),
		),
		cqrs.ForAggregate("bookings",
			cqrs.CallThenRecord("Hold",
				func(ctx context.Context, c Hold) (string, error) {
					select {
					case <-time.After(time.Duration(c.Behaviour.Takes)):
						return c.Behaviour.Refused, nil
					case <-ctx.Done():
						return "", ctx.Err()
					}
				},
				func(ctx context.Context, c Hold, refused string) error {
					if refused != "" {
						return record(ctx, bookings, c.Key(), always(Refused{refused}))
					}
					return record(ctx, bookings, c.Key(), always(Held{c.Name}))
				}),
			cqrs.Handle("Release", func(ctx context.Context, c Release) error {
				if refused(refusals(), c) {
					return aggregate.Refuse("the " + c.Name + " cannot be released now")
				}
				return record(ctx, bookings, c.Key(), always(Released{c.Name}))
			}),
			cqrs.Handle("IssueTicket", func(ctx context.Context, c IssueTicket) error {
				if refused(refusals(), c) {
					return aggregate.Refuse("the ticket cannot be issued now")
				}
				return record(ctx, bookings, c.Key(), always(TicketIssued{c.Number}))
			}),
			cqrs.Handle("RemindOfDocuments", func(ctx context.Context, c RemindOfDocuments) error {
				return record(ctx, bookings, c.Key(), always(Reminded{}))
			}),
			cqrs.Handle("SendItinerary", func(ctx context.Context, c SendItinerary) error {
				return record(ctx, bookings, c.Key(), always(ItinerarySent{}))
			}),
			cqrs.Handle("CheckVisa", func(ctx context.Context, c CheckVisa) error {
				return record(ctx, bookings, c.Key(), func(r *Recorder) any { return VisaChecked{r.events+1 >= c.Checks} })
			}),
		),
	)
}

// refused tells whether the folder of refusals has a file that is named after the key of a command.
func refused(folder string, c cqrs.Keyed) bool {
	_, err := os.Stat(filepath.Join(folder, c.Key()))
	return folder != "" && err == nil
}
