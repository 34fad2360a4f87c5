package sagatest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// unit is a unit of work: the changes that a commit applies.
type unit struct {
	parent   *unit // the unit of the message that sent the command, if the command is handled inline
	loaded   map[string]loaded
	order    []string
	appended map[string][]cqrs.Event
	sent     []sent
	stopped  []string
	undo     []func()    // reverts changes of the inbox and the waits
	barrier  string      // the barrier that this unit has inserted
	silent   *cqrs.Event // the answer that is published if no event is recorded
	answers  []cqrs.Event
}

type loaded struct {
	aggregate    aggregate
	category, id string
	taken        int // number of changes that are already in the unit's appended events
}

// aggregate is the part of an aggregate that the store needs.
type aggregate interface {
	Version() int
	Changes() []any
}

// all returns the unit and the units that it is nested in, outermost first.
func (u *unit) all() []*unit {
	if u == nil {
		return nil
	}
	return append(u.parent.all(), u)
}

func newUnit() *unit {
	return &unit{loaded: map[string]loaded{}, appended: map[string][]cqrs.Event{}}
}

// Within implements cqrs.UnitOfWork.
func (w *Environment) Within(ctx context.Context, work func(ctx context.Context) error) error {
	if w.unit != nil {
		return work(ctx)
	}
	for {
		w.unit = newUnit()
		err := work(ctx)
		if err == nil {
			w.inline(ctx)
		}
		u := w.unit
		w.unit = nil
		if err == nil {
			err = w.endUnit
		}
		if err == nil && w.fault("the commit", "conflict") == 1 {
			w.rollBack(u)
			continue
		}
		if err != nil {
			w.rollBack(u)
			return err
		}
		return w.commit(ctx, u)
	}
}

func (w *Environment) rollBack(u *unit) {
	for _, undo := range slices.Backward(u.undo) {
		undo()
	}
}

func (w *Environment) commit(ctx context.Context, u *unit) error {
	for _, e := range w.recorded(ctx, u) {
		if stream := e.Meta.Subject; len(w.streams[stream])+1 != e.Meta.Version {
			return fmt.Errorf("%s has %d events, not %d", stream, len(w.streams[stream]), e.Meta.Version-1)
		}
		if e.Meta.Version == 1 && e.Category != saga.Category {
			w.started = append(w.started, e)
		}
		w.streams[e.Meta.Subject] = append(w.streams[e.Meta.Subject], e)
		w.publish(e)
	}
	for _, e := range u.answers {
		w.publish(e)
	}
	for _, m := range u.sent {
		if m.due.IsZero() {
			w.send(m)
		} else {
			w.timers = append(w.timers, m)
		}
	}
	for _, id := range u.stopped {
		for i, t := range w.timers {
			if t.meta.ID == id {
				w.timers = append(w.timers[:i:i], w.timers[i+1:]...)
				break
			}
		}
	}
	return nil
}

func (w *Environment) event(ctx context.Context, category, id string, version int, body any) cqrs.Event {
	at := cqrs.MetaFromContext(ctx)
	return cqrs.Event{Body: body, Category: category, Key: id, Meta: cqrs.Meta{
		ID: w.id(), Type: typeName(body), Subject: category + "/" + id, Version: version, Time: w.now, Correlation: at.Correlation, Causation: at.ID,
		SagaID: at.SagaID, SagaStep: at.SagaStep, Branch: at.Branch,
	}}
}

func (u *unit) touch(stream string) {
	if !slices.Contains(u.order, stream) {
		u.order = append(u.order, stream)
	}
}

// Send implements cqrs.Commands.
func (w *Environment) Send(ctx context.Context, c cqrs.Command) error {
	h, ok := w.handlers[reflect.TypeOf(c.Body)]
	if !ok {
		return fmt.Errorf("nobody handles %T", c.Body)
	}
	at := cqrs.MetaFromContext(ctx)
	c.Meta.Causation, c.Meta.Correlation, c.Meta.Type = at.ID, at.Correlation, h.Type.Name
	if c.Meta.ID == "" {
		c.Meta.ID = w.id()
	}
	m := sent{topic: "commands." + h.Destination, key: c.Body.(cqrs.Keyed).Key(), body: c.Body, meta: c.Meta, due: c.DueAt}
	return w.Within(ctx, func(context.Context) error {
		w.unit.sent = append(w.unit.sent, m)
		return nil
	})
}

// Execute implements cqrs.Commands.
func (w *Environment) Execute(ctx context.Context, c cqrs.Command) error {
	return w.Within(ctx, func(ctx context.Context) error { return w.handlers[reflect.TypeOf(c.Body)].Handle(ctx, c.Body, nil) })
}

// streams is the event store for the manager.
type streams struct{ w *Environment }

var _ manager.Streams = streams{}

func (s streams) History(_ context.Context, category, id string) ([]cqrs.Event, error) {
	stream := category + "/" + id
	events := s.w.streams[stream]
	for _, u := range s.w.unit.all() {
		events = append(slices.Clip(events), u.appended[stream]...)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("%s: %w", stream, cqrs.ErrNotFound)
	}
	return events, nil
}

func (s streams) Record(ctx context.Context, category, id string, expected int, facts []any) error {
	stream := category + "/" + id
	s.w.unit.touch(stream)
	for i, f := range facts {
		s.w.unit.appended[stream] = append(s.w.unit.appended[stream], s.w.event(ctx, category, id, expected+i+1, f))
	}
	return nil
}

// waits holds the waits of sagas, and the events that arrived before their waits. A test of the PostgreSQL tables shows that they behave the same.
type waits struct {
	world   *Environment
	waiting []awaited
	kept    []keptEvent
}

type awaited struct {
	definition string
	manager.Waiting
}

type keptEvent struct {
	definition string
	manager.KeptEvent
	by []saga.Correlation
	at time.Time
}

var _ manager.Waits = (*waits)(nil)

// change changes the lists, and restores them if the unit is rolled back.
func (w *waits) change(f func()) {
	waiting, kept := slices.Clone(w.waiting), slices.Clone(w.kept)
	w.world.unit.undo = append(w.world.unit.undo, func() { w.waiting, w.kept = waiting, kept })
	f()
}

// Deliver implements manager.Waits.
func (w *waits) Deliver(_ context.Context, definition string, e manager.KeptEvent, by []saga.Correlation) (*manager.Waiting, error) {
	i := slices.IndexFunc(w.waiting, func(a awaited) bool { return a.definition == definition && slices.Contains(by, a.Correlation) })
	if i < 0 {
		w.change(func() { w.kept = append(w.kept, keptEvent{definition, e, by, w.world.now}) })
		return nil, nil
	}
	found := w.waiting[i].Waiting
	w.change(func() { w.waiting = slices.Delete(w.waiting, i, i+1) })
	return &found, nil
}

// Begin implements manager.Waits.
func (w *waits) Begin(_ context.Context, definition string, n manager.Waiting) (*manager.KeptEvent, error) {
	i := slices.IndexFunc(w.kept, func(k keptEvent) bool { return k.definition == definition && slices.Contains(k.by, n.Correlation) })
	if i < 0 {
		w.change(func() { w.waiting = append(w.waiting, awaited{definition, n}) })
		return nil, nil
	}
	found := w.kept[i].KeptEvent
	w.change(func() { w.kept = slices.Delete(w.kept, i, i+1) })
	return &found, nil
}

// End implements manager.Waits.
func (w *waits) End(_ context.Context, _ string, ended []manager.Waiting) error {
	w.change(func() {
		w.waiting = slices.DeleteFunc(w.waiting, func(a awaited) bool {
			return slices.ContainsFunc(ended, func(e manager.Waiting) bool { return e.SagaID == a.SagaID && e.Step == a.Step })
		})
	})
	return nil
}

type timers struct{ w *Environment }

func (t timers) Stop(_ context.Context, ids []string) error {
	t.w.unit.stopped = append(t.w.unit.stopped, ids...)
	return nil
}

// Store is a cqrs.Store for one type of aggregate in an Environment.
type Store[A aggregate, E any] struct {
	world    *Environment
	category string
	rebuild  func([]E) A
}

// NewStore returns the store of the aggregates of a category. Rebuild makes an aggregate from its events, oldest first.
func NewStore[A aggregate, E any](w *Environment, category string, rebuild func([]E) A) *Store[A, E] {
	return &Store[A, E]{w, category, rebuild}
}

// Update implements cqrs.Store.
func (s *Store[A, E]) Update(ctx context.Context, id string, decide func(A) error) error {
	return s.UpdateAll(ctx, []string{id}, func(all []A) error { return decide(all[0]) })
}

// UpdateAll implements cqrs.Store.
func (s *Store[A, E]) UpdateAll(_ context.Context, ids []string, decide func([]A) error) error {
	u := s.world.unit
	if u == nil {
		return fmt.Errorf("update %s: called outside a unit of work", s.category)
	}
	all := make([]A, len(ids))
	for i, id := range ids {
		stream := s.category + "/" + id
		if _, ok := u.loaded[stream]; !ok {
			u.loaded[stream] = loaded{s.Load(id), s.category, id, 0}
			u.touch(stream)
		}
		all[i] = u.loaded[stream].aggregate.(A)
	}
	return decide(all)
}

// Load rebuilds an aggregate from its committed events, for reading.
func (s *Store[A, E]) Load(id string) A {
	history := s.world.streams[s.category+"/"+id]
	events := make([]E, len(history))
	for i, e := range history {
		events[i] = e.Body.(E)
	}
	return s.rebuild(events)
}

// IDs returns the ids of all aggregates of the store, sorted.
func (s *Store[A, E]) IDs() (ids []string) {
	for stream := range s.world.streams {
		if id, ok := strings.CutPrefix(stream, s.category+"/"); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// NeedsProcessing implements cqrs.Inbox.
func (w *Environment) NeedsProcessing(_ context.Context, d cqrs.Delivery) (bool, error) {
	return !d.Expired(w.now) && w.peek(d.Consumer, d.InboxMeta()) == cqrs.Processed, nil
}

// Handle implements cqrs.Inbox.
func (w *Environment) Handle(ctx context.Context, d cqrs.Delivery, work func(ctx context.Context) error) (outcome cqrs.Outcome, err error) {
	err = w.Within(cqrs.WithMeta(ctx, d.Meta), func(ctx context.Context) error {
		outcome, err = cqrs.Receive(ctx, inboxUnit{w}, d, w.now, work)
		return err
	})
	return outcome, err
}

// inboxUnit is the table of the inbox. A test of the PostgreSQL inbox shows that it behaves the same.
type inboxUnit struct{ w *Environment }

func barrier(consumer string, m cqrs.Meta, branch cqrs.Branch) string {
	return strings.Join([]string{consumer, m.SagaID, m.SagaStep, string(branch)}, "\x00")
}

func (i inboxUnit) put(table map[string]cqrs.Outcome, key string, o cqrs.Outcome) bool {
	if _, taken := table[key]; taken {
		return false
	}
	table[key] = o
	i.w.unit.undo = append(i.w.unit.undo, func() { delete(table, key) })
	return true
}

func (w *Environment) peek(consumer string, m cqrs.Meta) cqrs.Outcome {
	if _, ok := w.inbox[consumer+"\x00"+m.ID]; ok {
		return cqrs.Duplicate
	}
	if m.SagaID != "" && m.Branch != "" {
		switch w.barriers[barrier(consumer, m, m.Branch)] {
		case cqrs.RejectedLate:
			return cqrs.RejectedLate
		case cqrs.Processed:
			return cqrs.Duplicate
		case cqrs.Duplicate, cqrs.NothingToCompensate, cqrs.Expired, cqrs.Refused, "":
		}
	}
	return cqrs.Processed
}

// TryInsert implements cqrs.InboxUnit.
func (i inboxUnit) TryInsert(ctx context.Context, consumer string, m cqrs.Meta) (cqrs.Outcome, error) {
	if m.Branch == cqrs.BranchCompensation {
		if i.w.peek(consumer, m) != cqrs.Processed {
			return cqrs.Duplicate, nil
		}
		i.put(i.w.inbox, consumer+"\x00"+m.ID, cqrs.Processed)
		i.w.unit.barrier = barrier(consumer, m, cqrs.BranchCompensation)
		i.put(i.w.barriers, i.w.unit.barrier, cqrs.Processed)
		if i.put(i.w.barriers, barrier(consumer, m, cqrs.BranchAction), cqrs.RejectedLate) {
			return cqrs.NothingToCompensate, nil
		}
		return cqrs.Processed, nil
	}
	outcome := i.w.peek(consumer, m)
	switch {
	case outcome == cqrs.RejectedLate:
		return outcome, i.Record(ctx, consumer, m, cqrs.RejectedLate)
	case outcome != cqrs.Processed:
		return outcome, nil
	}
	i.put(i.w.inbox, consumer+"\x00"+m.ID, cqrs.Processed)
	if m.Branch == cqrs.BranchAction {
		i.w.unit.barrier = barrier(consumer, m, cqrs.BranchAction)
		i.put(i.w.barriers, i.w.unit.barrier, cqrs.Processed)
	}
	return cqrs.Processed, nil
}

// Record implements cqrs.InboxUnit.
func (i inboxUnit) Record(_ context.Context, consumer string, m cqrs.Meta, o cqrs.Outcome) error {
	i.put(i.w.inbox, consumer+"\x00"+m.ID, o)
	return nil
}

// Refuse implements cqrs.InboxUnit.
func (i inboxUnit) Refuse(_ context.Context, consumer, messageID string) error {
	i.w.inbox[consumer+"\x00"+messageID] = cqrs.Refused
	delete(i.w.barriers, i.w.unit.barrier)
	return nil
}

// Discard implements cqrs.InboxUnit.
func (i inboxUnit) Discard(context.Context) error {
	u := newUnit()
	u.undo, u.barrier, u.parent = i.w.unit.undo, i.w.unit.barrier, i.w.unit.parent
	i.w.unit = u
	return nil
}

// Publish implements cqrs.InboxUnit.
func (i inboxUnit) Publish(_ context.Context, e cqrs.Event) error {
	i.w.unit.answers = append(i.w.unit.answers, e)
	return nil
}

// AnswerIfSilent implements cqrs.InboxUnit.
func (i inboxUnit) AnswerIfSilent(_ context.Context, e cqrs.Event) error {
	i.w.unit.silent = &e
	return nil
}
