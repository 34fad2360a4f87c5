package sagatest

import (
	"context"
	"fmt"

	domain "github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// The participants of a run. Each has its own topic and its own message types; the last three call an external service.
type (
	p0 struct{}
	p1 struct{}
	p2 struct{}
	p3 struct{}
	p4 struct{}
	p5 struct{}

	act[P any] struct {
		ID, Step string
		Undo     bool
		Poll     bool // the command has no effect
		Firm     bool // the step is retriable and is not refused permanently
	}
	acted[P any]  struct{ Step string }
	polled[P any] struct {
		Step string
		Yes  bool
	}
	reversed[P any] struct{ Step string }
	declined[P any] struct{ Step, Why string }

	// Events that no command causes. Each is awaited by one step of a definition.
	came[P any] struct{ For string }

	// The second starting event of StartAll, and the event that starts a child.
	also    struct{ ID string }
	toChild struct{ ID, Of string }

	requested struct{ ID string }
	closed    struct{ Why string }
	end       struct{ ID, Why string }

	note struct {
		ID   string   `json:"id"`
		Done []string `json:"done"`
		Yes  []string `json:"yes"`
		Item int      `json:"item,omitempty"` // for which a function is called
		Of   string   `json:"of,omitempty"`   // item of the parent that the child belongs to
	}
)

// item returns the suffix that distinguishes the commands for the items of a step.
func (d note) item() string {
	if d.Item == 0 {
		return d.Of
	}
	return fmt.Sprintf("%s#%d", d.Of, d.Item)
}

func (a act[P]) Key() string { return a.ID }
func (e end) Key() string    { return e.ID }

// participant makes the steps that a participant executes, and its handlers.
type participant struct {
	step    func(name string, firm bool) saga.Step[note]
	poll    func(name string, firm bool) saga.Step[note]
	handler func(w *Environment, b *book) []cqrs.Handler
}

func newParticipant[P any](category string, calls bool) participant {
	return participant{
		step: func(name string, firm bool) saga.Step[note] {
			return saga.Step[note]{
				Name:         name,
				Action:       func(d note) cqrs.Keyed { return act[P]{ID: d.ID, Step: name + d.item(), Firm: firm} },
				Completed:    saga.On(func(d *note, e acted[P]) { d.Done = append(d.Done, e.Step) }),
				Refused:      []saga.Refusal{saga.RefusedBy(func(e declined[P]) string { return e.Why })},
				Compensation: func(d note) cqrs.Keyed { return act[P]{ID: d.ID, Step: name + d.item(), Undo: true} },
				Compensated:  saga.Event[reversed[P], note](),
			}
		},
		poll: func(name string, firm bool) saga.Step[note] {
			return saga.Step[note]{
				Name:   name,
				Action: func(d note) cqrs.Keyed { return act[P]{ID: d.ID, Step: name + d.item(), Poll: true, Firm: firm} },
				Completed: saga.On(func(d *note, e polled[P]) {
					if e.Yes {
						d.Yes = append(d.Yes, e.Step)
					}
				}),
				Refused: []saga.Refusal{saga.RefusedBy(func(e declined[P]) string { return e.Why })},
			}
		},
		handler: func(w *Environment, b *book) []cqrs.Handler {
			store := NewStore(w, category, func(history []any) *ledger {
				l := &ledger{}
				l.Replay(func(any) {}, history)
				return l
			})
			name := "Act" + category
			if calls {
				return cqrs.ForAggregate(category, calling[P](w, b, store, name))
			}
			return cqrs.ForAggregate(category, cqrs.Handle(name, func(ctx context.Context, c act[P]) error {
				return store.Update(ctx, c.ID, func(l *ledger) error { return doLocally(w, category, l, c) })
			}))
		},
	}
}

// awaits makes steps that wait for an event, each for an event type of its own.
var awaits = []struct {
	step func(name string) *saga.Await[note]
	come func(subject string) any
}{newAwait[p0](), newAwait[p1](), newAwait[p2]()}

func newAwait[P any]() (made struct {
	step func(name string) *saga.Await[note]
	come func(subject string) any
}) {
	made.step = func(name string) *saga.Await[note] {
		return &saga.Await[note]{
			Received: saga.On(func(d *note, _ came[P]) { d.Done = append(d.Done, name) }), Key: func(d note) string { return d.ID },
			EventKey: saga.KeyOf(func(e came[P]) string { return e.For }),
		}
	}
	made.come = func(subject string) any { return came[P]{subject} }
	return made
}

// ledger is the aggregate of a participant.
type ledger struct{ domain.Root[any] }

func (l *ledger) add(e any) { l.Record(func(any) {}, e) }

// doLocally relies on the inbox for deduplication: if a command is handled twice, its effect happens twice.
func doLocally[P any](w *Environment, category string, l *ledger, c act[P]) error {
	if c.Poll {
		l.add(answerPoll[P](w, c))
		return nil
	}
	if c.Undo {
		if standing(w, category, c) {
			l.add(reversed[P]{c.Step})
		}
		return nil
	}
	switch w.Choose("business", "refused by an event", "refused because it is full", "refused without an event") {
	case 1, 2:
		if c.Firm {
			break
		}
		l.add(declined[P]{c.Step, "full"})
		return nil
	case 3:
		return domain.Refuse("not now")
	}
	l.add(acted[P]{c.Step})
	return nil
}

// answerPoll returns an answer to a step with Until.
func answerPoll[P any](w *Environment, c act[P]) any {
	switch w.Choose("poll", "not yet", "no") {
	case 1:
		return polled[P]{Step: c.Step}
	case 2:
		if !c.Firm {
			return declined[P]{c.Step, "full"}
		}
	}
	return polled[P]{c.Step, true}
}

// standing tells whether an action took effect and was not compensated.
func standing[P any](w *Environment, category string, c act[P]) bool {
	stands := false
	for _, e := range w.streams[category+"/"+c.ID] {
		switch body := e.Body.(type) {
		case acted[P]:
			stands = stands || body.Step == c.Step
		case reversed[P]:
			stands = stands && body.Step != c.Step
		}
	}
	return stands
}

// calling returns a handler that calls an external service, which executes each id at most once, and rejects an action that was compensated before.
func calling[P any](w *Environment, b *book, store *Store[*ledger, any], name string) cqrs.Handler {
	return cqrs.CallThenRecord(name, func(_ context.Context, c act[P]) (refused string, err error) {
		key := c.ID + "/" + c.Step
		refusal := 0
		if c.Poll {
			return "", w.External("poll "+c.Step, func() {})
		}
		if !c.Firm && !c.Undo {
			refusal = w.Choose("service", "full")
		}
		err = w.External(c.Step, func() {
			switch {
			case c.Undo:
				if b.stands[key] {
					b.log = append(b.log, effect{w.id(), c.ID, c.Step, true})
				}
				b.stands[key], b.undone[key] = false, true
			case b.undone[key]:
				refused = "taken back before"
			case b.stands[key], b.refused[key] != "":
				refused = b.refused[key]
			case refusal > 0:
				refused, b.refused[key] = "full", "full"
			default:
				b.stands[key] = true
				b.log = append(b.log, effect{w.id(), c.ID, c.Step, false})
			}
		})
		return refused, err
	}, func(ctx context.Context, c act[P], refused string) error {
		return store.Update(ctx, c.ID, func(l *ledger) error {
			switch {
			case c.Poll:
				l.add(answerPoll[P](w, c))
			case c.Undo:
				l.add(reversed[P]{c.Step})
			case refused != "":
				l.add(declined[P]{c.Step, refused})
			default:
				l.add(acted[P]{c.Step})
			}
			return nil
		})
	})
}

var participants = []participant{
	newParticipant[p0]("p0", false), newParticipant[p1]("p1", false), newParticipant[p2]("p2", false),
	newParticipant[p3]("p3", true), newParticipant[p4]("p4", true), newParticipant[p5]("p5", true),
}

// effect is an effect of a command at a participant.
type effect struct {
	id, subject, step string
	undo              bool
}

// book holds the state of the external services, and the effects in order.
type book struct {
	stands, undone map[string]bool
	refused        map[string]string
	log            []effect
}
